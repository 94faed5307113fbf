"""A page of results: one HTML file that needs nothing else, with tables that sort and charts that tell their values."""

from noiserobust.page.write import write_page

__all__ = ["write_page"]

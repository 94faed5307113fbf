"""Five papers as grids of runs and measurements, what they print, and what they claim."""

PAPERS = ("incorruptible", "rwp", "saf", "rst", "esam")
"""The papers whose tables and figures are regenerated, a module each."""

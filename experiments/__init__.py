"""What was measured, and how to measure it again: the papers' grids, studies, benchmarks."""

PAPERS = ("incorruptible", "rwp", "saf", "rst", "esam")
"""The papers whose tables and figures are regenerated, a module each."""

"""Summaries as text tables (:mod:`.table`) and pictures (:mod:`.plots`).

Only the tables are imported here: matplotlib loads with :mod:`noiserobust.report.plots`.
"""

from noiserobust.report.measures import measure_table
from noiserobust.report.table import paired_table, robustness_table

__all__ = ["measure_table", "paired_table", "robustness_table"]

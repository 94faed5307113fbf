"""Summaries as text tables (:mod:`.table`) and pictures (:mod:`.plots`).

Only the tables are imported here: matplotlib loads with :mod:`noiserobust.report.plots`.
"""

from noiserobust.report.precision import precision_table
from noiserobust.report.table import paired_table, robustness_table

__all__ = ["paired_table", "precision_table", "robustness_table"]

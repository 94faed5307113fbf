"""Summaries as text tables (:mod:`.table`) and pictures (:mod:`.plots`).

Only the tables are imported here: matplotlib loads with :mod:`noiserobust.report.plots`.
"""

from noiserobust.report.design_tables import budget_table, digital_table, sensitivity_table
from noiserobust.report.measures import measure_table
from noiserobust.report.precision import precision_table
from noiserobust.report.table import paired_table, robustness_table

__all__ = [
    "budget_table",
    "digital_table",
    "measure_table",
    "paired_table",
    "precision_table",
    "robustness_table",
    "sensitivity_table",
]

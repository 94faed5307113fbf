"""The metric that a table of rows is about: its task's."""

from __future__ import annotations

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.storage.rows import completed
from noiserobust.tasks import Scorer, Task
from noiserobust.tasks.counts import NAN_ANSWERS
from noiserobust.tasks.quantities import Quantity, quantity


def leading(table: pd.DataFrame) -> str:
    """The metric that rows (or lines of a summary) are shown and judged by: that of their task, or their first one."""
    if "metric" not in table or table.empty:
        return "accuracy"
    there = [name for name in table["metric"].unique() if name != NAN_ANSWERS]
    return metric_of(table) or (there or ["accuracy"])[0]


def metric_of(table: pd.DataFrame) -> str:
    """The metric of the task that these rows name; "" of a task that leaves it to its function, or is known from a file
    only."""
    try:
        task: Task = Task.parse(completed(table)["task"].iloc[0], imports=False)
    except UserError:
        return ""
    return "" if isinstance(task, Scorer) and task.metric not in set(table["metric"]) else task.metric


def quantity_of(table: pd.DataFrame, metric: str) -> Quantity:
    """How ``metric`` of these rows (or lines) is written; the area under the task's metric is written as that."""
    return quantity(metric_of(table) if metric == "area" else metric, completed(table)["task"].iloc[0])


def axis_label(lines: pd.DataFrame) -> str:
    """The metric of ``lines``, which have one, with its unit: ``accuracy (%)``."""
    metric = str(lines["metric"].iloc[0])
    unit = quantity_of(lines, metric).unit
    return f"{metric} ({unit})" if unit else metric

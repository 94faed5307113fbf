"""Yields as text: what share of chips reaches an accuracy, and what accuracy a share of chips reaches."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from noiserobust.report.leading import quantity_of
from noiserobust.report.table import GAP, at_time, titled, variant
from noiserobust.storage.rows import OPERATION, completed

PLACE = ["noise", "strength", "t", *OPERATION]
LINE = [*PLACE, "method", "model"]


def yield_table(yields: pd.DataFrame, percentiles: pd.DataFrame | None = None, markdown: bool = False) -> str:
    """The share of chips that reach an accuracy, as text: a block per noise, a line per model.

    Takes ``summary()`` and ``percentiles()`` of what ``noiserobust.evaluation.yields`` returns.

    The last lines say what a bound means, and of which chips it speaks.
    """
    first = yields.iloc[0]
    metric, above = first["metric"], first["above"]
    kind = quantity_of(yields, metric)
    unit = f" {kind.unit}" if kind.unit == "%" else ""
    blocks = []
    for name, block in places(yields).items():
        lines = block.to_dict("records")
        columns = {"network": networks(block), "chips": [str(line["chips"]) for line in lines]}
        if not math.isnan(above):
            word = "reach" if kind.higher_is_better else "at most"
            columns[f"{word} {above:g}{unit}"] = [_reached(line) for line in lines]
            columns["of all"] = [f"at least {_percent(line['low'])}" for line in lines]
        columns[f"{_percent(first['share'])} of all reach"] = [_bound(line) for line in lines]
        columns |= _percentile_columns(percentiles, lines)
        grid = [list(columns), *map(list, zip(*columns.values(), strict=True))]
        blocks.append(titled(f"noise: {name}", grid, markdown))
    return "\n\n".join([*blocks, _caption(yields, percentiles is not None)])


def places(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The lines by noise, time and what is done around the chip, in words."""
    table = completed(table)
    names = [line["noise"] + at_time(line["t"]) + variant(line) for line in table.to_dict("records")]
    return {str(name): block for name, block in table.groupby(pd.Series(names, table.index), sort=False)}


def networks(block: pd.DataFrame) -> list[str]:
    """What to call each line of a block: its method, with the replicate or the model where there are several."""
    several = block["method"].duplicated(keep=False)
    distinct = not block.duplicated(["method", "replicate"]).any()
    names = block["method"] + (", replicate " + block["replicate"].astype(str) if distinct else ", " + block["model"])
    return list(names.where(several, block["method"]))


def _reached(line: dict[Any, Any]) -> str:
    if math.isnan(line["reached"]):
        return GAP
    return f"{line['reached']:.0f} ({_percent(line['reached'] / line['chips'])})"


def _bound(line: dict[Any, Any]) -> str:
    if not math.isnan(line["bound"]):
        return f"{line['bound']:.2f}"
    short = line["chips"] < line["needed"]
    return f"{GAP} (needs {line['needed']} chips)" if short else GAP


def _percentile_columns(percentiles: pd.DataFrame | None, lines: list[dict[Any, Any]]) -> dict[str, list[str]]:
    if percentiles is None:
        return {}
    intervals = {(*_key(line), line["percent"]): line for line in completed(percentiles).to_dict("records")}
    return {
        _ordinal(percent): [_interval(intervals[(*_key(line), percent)]) for line in lines]
        for percent in percentiles["percent"].unique()
    }


def _key(line: dict[Any, Any]) -> tuple[Any, ...]:
    # NaN (no time named) equals nothing, itself included.
    return tuple(None if line[name] != line[name] else line[name] for name in LINE)


def _interval(line: dict[Any, Any]) -> str:
    ends = (GAP if math.isinf(end) or math.isnan(end) else f"{end:.2f}" for end in (line["low"], line["high"]))
    return GAP if math.isnan(line["value"]) else f"{line['value']:.2f} [{', '.join(ends)}]"


def _ordinal(percent: float) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    if percent == 50:
        return "median"
    if percent != int(percent):
        return f"{percent:g} % point"
    ending = "th" if percent // 10 == 1 else endings.get(int(percent) % 10, "th")
    return f"{percent:g}{ending} perc."


def _percent(share: float) -> str:
    return GAP if math.isnan(share) else f"{100 * share:.3g} %"


def _caption(yields: pd.DataFrame, percentiles: bool) -> str:
    first = yields.iloc[0]
    confidence = f"{100 * first['confidence']:g} %"
    kind = quantity_of(yields, first["metric"])
    unit = f" in {kind.unit}" if kind.unit else ""
    interval = f"; percentiles with their {confidence} intervals" if percentiles else ""
    if (yields["models"] > 1).any():
        about = "Pooled: chips of these networks in equal parts; a network trained again may differ."
    else:
        about = "Each line is about chips of that one network; a network trained again may differ."
    return f"{first['metric']}{unit}; each bound alone with {confidence} confidence{interval}.\n{about}"

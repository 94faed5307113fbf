"""The sections of a page, from summaries to the commands that make the results again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from noiserobust.errors import UserError
from noiserobust.evaluation import Evaluation, area, paired, summarize, yields
from noiserobust.evaluation.design.layers import differences, turned
from noiserobust.page import charts
from noiserobust.page.of_runs import covered, settings, training
from noiserobust.page.parts import Asked, Panel, Section, Table, condition
from noiserobust.page.results import Results, names_of
from noiserobust.report.leading import axis_label, leading, quantity_of
from noiserobust.report.table import at_time, readings, seconds, symbol
from noiserobust.storage.rows import noise_free

SPREADS = ("noise_std", "weight_std")
MOST_PANELS = 12
"""Charts of one section; further conditions are in its table."""


def sections_of(results: Results, asked: Asked | None = None) -> list[Section]:
    """All that there is something to say in."""
    asked = asked or Asked()
    makers: list[Callable[[Results, Asked], Section | None]]
    makers = [summary, strength, time, areas, difference, chips, layers, training, covered, settings]
    return [section for maker in makers if (section := maker(results, asked)) is not None]


def summary(results: Results, asked: Asked) -> Section | None:
    if results.rows.empty:
        return None
    lines = _lines(results.rows, asked)
    if "noise_std" in lines:  # of equal draws a spread is but rounding
        lines["noise_std"] = lines["noise_std"].mask(noise_free(lines))
    body = [
        [
            *(line["method"], condition(line), line["metric"]),
            *(float(line[name]) for name in ("mean", *SPREADS, "low", "high")),
            *(int(line["models"]), int(line["draws"])),
        ]
        for line in lines.to_dict("records")
    ]
    head = [
        "method",
        "condition",
        "metric",
        "mean",
        "std over draws",
        "std over copies",
        "low",
        "high",
        "copies",
        "draws",
    ]
    says = (
        f"Means with their two uncertainties: how far one noise draw lies from its network's mean, and one trained "
        f"copy from the next. Low and high bound the mean at {100 * asked.confidence:g} %."
    )
    return Section("summary", "Summary", says, table=Table(head, body))


def strength(results: Results, asked: Asked) -> Section | None:
    lines = _leading_lines(results, asked)
    panels = []
    for name, block in readings(lines).items() if len(lines) else ():
        for t, part in block.groupby("t", dropna=False):
            if part["strength"].nunique() < 2 or (part["t"].isna().all() and block["t"].notna().any()):
                continue
            data = part.rename(columns={"mean": "y"})[["method", "strength", "y", "low", "high"]]
            title = f"{name or 'noise'}{at_time(float(str(t)))}"
            about = f"{axis_label(part)} against {symbol(name)}, {title}, a line per method"
            titles = (symbol(name), axis_label(part))
            panels.append(
                Panel(
                    title,
                    charts.lines(data, results.methods, "strength", titles, within=_within(part), description=about),
                )
            )
    bound = f"bands bound the mean at {100 * asked.confidence:g} %"
    says = f"Lines are means over copies and draws; {bound}. Hover for values."
    return Section("strength", "Against strength", says, panels[:MOST_PANELS]) if panels else None


def time(results: Results, asked: Asked) -> Section | None:
    lines = _leading_lines(results, asked)
    panels = []
    for name, block in readings(lines[lines["t"] > 0]).items() if len(lines) and (lines["t"] > 0).any() else ():
        for value, part in block.groupby("strength"):
            if part["t"].nunique() < 2:
                continue
            data = part.rename(columns={"mean": "y"})[["method", "t", "y", "low", "high"]].assign(
                time=part["t"].map(seconds)
            )
            title = name if block["strength"].nunique() == 1 else f"{name}, strength {value:g}"
            about = f"{axis_label(part)} against time since programming, {title}, a line per method"
            titles = ("time since programming", axis_label(part))
            spec = charts.lines(
                data, results.methods, "t", titles, log=True, label="time", within=_within(part), description=about
            )
            panels.append(Panel(title, spec))
    says = f"Each panel has an axis of its own. Bands bound the mean at {100 * asked.confidence:g} %."
    return Section("time", "Against time", says, panels[:MOST_PANELS]) if panels else None


def areas(results: Results, asked: Asked) -> Section | None:
    if results.rows.empty or Evaluation(results.rows).to_precision:
        return None
    try:
        lines = _lines(area(results.rows), asked)
    except UserError:  # no noise at several strengths, or not the same for all
        return None
    unit = quantity_of(lines, "area").unit
    head = ["method", "condition", f"area{f' ({unit})' if unit else ''}", "std over draws", "std over copies"]
    body = [
        [line["method"], condition(line), *(float(line[name]) for name in ("mean", *SPREADS, "low", "high"))]
        for line in lines.to_dict("records")
    ]
    says = f"The mean of {leading(results.rows)} over all strengths, by the trapezoid rule: one number per method."
    return Section("area", "Area under the curve", says, table=Table([*head, "low", "high"], body))


def difference(results: Results, asked: Asked) -> Section | None:
    rows = results.rows
    names = list(rows["method"].unique()) if len(rows) else []
    if len(names) < 2 or Evaluation(rows).to_precision:
        return None
    baseline = asked.baseline
    if baseline is None:
        baseline = "plain" if "plain" in names else names[0]
    if baseline not in names:
        raise UserError(f"expected a baseline among {', '.join(map(repr, names))}, got '{baseline}'")
    metric, tables = leading(rows), []
    for method in names:
        if method != baseline:
            try:
                tables.append(paired(rows, method, baseline, asked.confidence, metric, asked.design))
            except UserError:  # no copies or draws in common: nothing to pair
                continue
    if not tables:
        return None
    lines = pd.concat(tables, ignore_index=True)
    body = [
        [
            *(line["method_a"], condition(line), float(line["mean"]), float(line["low"]), float(line["high"])),
            *(_verdict(line), int(line["models"]), int(line["draws"])),
        ]
        for line in lines.to_dict("records")
    ]
    unit = "points" if quantity_of(rows, metric).unit == "%" else metric
    bars = lines.rename(columns={"method_a": "method"}).assign(
        name=[condition(one) for one in lines.to_dict("records")]
    )
    bars = bars[~noise_free(bars)]
    panels = []
    if len(bars) and bars["name"].nunique() <= 2 * MOST_PANELS:
        about = f"difference of {metric} from {baseline} by condition, a bar per method with its interval"
        titles = ("", f"{metric} - {baseline}'s ({unit})")
        data = bars[["method", "name", "mean", "low", "high"]]
        panels = [Panel(f"difference from {baseline}", charts.bars(data, results.methods, titles, about), wide=True)]
    head = [
        "method",
        "condition",
        f"difference ({unit})",
        "low",
        "high",
        f"shown at {100 * asked.confidence:g} %",
        "copies",
        "draws",
    ]
    says = (
        f"Every method minus {baseline}, on the same trained copies and noise draws, so that what both share is gone."
        f" Each interval holds alone at {100 * asked.confidence:g} %."
    )
    form = dict.fromkeys(head[2:5], "+.2f")
    return Section("difference", f"Differences from {baseline}", says, panels, Table(head, body, form))


def chips(results: Results, asked: Asked) -> Section | None:
    rows = results.rows
    if rows.empty or Evaluation(rows).to_precision:
        return None
    metric = leading(rows)
    rows = rows[(rows["metric"] == metric) & ~noise_free(rows)]
    keys = ["noise", "strength", "t", "compensation", "converters", "backend", "recalibration"]
    keys = [key for key in keys if key in rows]
    # Where a value is undefined no share of chips can be told; elsewhere it can.
    undefined = rows["value"].isna().groupby([rows[key] for key in ["method", *keys]], dropna=False).transform("any")
    rows = rows[~undefined]
    if rows.empty:
        return None
    try:
        found = yields(rows, pooled=True)
    except UserError:  # copies whose chips are the same noise are no sample of chips
        return None
    curves, percents = found.distribution(asked.confidence), found.percentiles((1, 5, 50), asked.confidence)
    keys = [key for key in keys if key in curves]
    panels = []
    for _, block in curves.groupby(keys, dropna=False, sort=False):
        title = condition(block.iloc[0].to_dict())
        about = f"share of chips that reach a value of {metric}, {title}, a line per method"
        data = block[["method", "value", "reaching", "low", "high"]]
        titles = (axis_label(rows), "share of chips")
        panels.append(Panel(title, charts.steps(data, results.methods, titles, about)))
    sizes = found.summary(asked.confidence).to_dict("records")

    def chips_of(line: Mapping[Any, Any]) -> int:
        return sum(int(one["chips"]) for one in sizes if all(_equal(one[key], line[key]) for key in ["method", *keys]))

    body = []
    lines = percents.to_dict("records")
    for first in [line for line in lines if line["percent"] == 50]:
        same = [line for line in lines if all(_equal(line[key], first[key]) for key in ["method", *keys])]
        values = {line["percent"]: float(line["value"]) for line in same}
        body.append([first["method"], condition(first), *(values[percent] for percent in (1, 5, 50)), chips_of(first)])
    head = ["method", "condition", "1 % of chips are below", "5 %", "median", "chips"]
    says = (
        "A chip is one noise draw of one trained copy. Curves fall from all chips to none; bands are exact bounds "
        f"(Clopper and Pearson) at {100 * asked.confidence:g} %, each alone."
    ) + " Conditions under which a value is undefined are left out." * bool(undefined.any())
    return Section("yield", "Yield", says, panels[:MOST_PANELS], Table(head, body))


def layers(results: Results, asked: Asked) -> Section | None:
    rows = results.layers
    if rows.empty:
        return None
    metric = leading(rows)
    sign, bodies = quantity_of(rows, metric).sign, []
    for method, block in rows[rows["metric"] == metric].groupby("method", sort=False):
        for noise, noisy in block[block["analog"].fillna("").ne("")].groupby("noise", sort=False):
            whole = block[block["analog"].fillna("") == ""]
            clean, full = whole[whole["strength"] == 0], whole[whole["noise"] == noise]
            kinds = {str(text): part for text, part in noisy.groupby("analog", sort=False)}
            alone = {tuple(names_of(text)): part for text, part in kinds.items() if text.endswith("-*")}
            spared = {tuple(names_of(text)): part for text, part in kinds.items() if not text.endswith("-*")}
            names = [name for name in alone if name in spared]
            if clean.empty or full.empty or not names:
                continue
            for effect, pairs in {
                "alone": [(clean, alone[name]) for name in names],
                "spared": [(spared[name], full) for name in names],
            }.items():
                found = differences(turned(pairs, sign), asked.confidence, metric)
                bodies.append(
                    found.assign(method=method, effect=effect, noise=noise, name=[", ".join(n) for n in names])
                )
    if not bodies:
        return None
    lines = pd.concat(bodies, ignore_index=True)
    order = lines[lines["effect"] == "alone"].groupby("name")["mean"].max().sort_values(ascending=False)
    lines = lines.sort_values(
        "name", key=lambda column: column.map({n: i for i, n in enumerate(order.index)}), kind="stable"
    )
    unit = "points" if quantity_of(rows, metric).unit == "%" else metric
    words = {"alone": "noise on this layer alone costs", "spared": "this layer alone digital gains"}
    panels = []
    for key, shown in lines.groupby(["effect", "noise"], sort=False):
        said, under = words[str(key[0])], str(key[1])
        about = f"{said}, by layer, under {under}"
        data = shown[["method", "name", "mean", "low", "high"]]
        spec = charts.bars(data, results.methods, ("", f"{metric} ({unit})"), about)
        panels.append(Panel(f"{said}, {under}", spec))
    head = ["method", "layer", "effect", "noise", f"{metric} ({unit})", "low", "high"]
    body = [
        [
            one["method"],
            one["name"],
            words[one["effect"]],
            one["noise"],
            *(float(one[n]) for n in ("mean", "low", "high")),
        ]
        for one in lines.to_dict("records")
    ]
    says = "Which layers noise hurts. Single effects do not add up to that of noise on all layers."
    return Section("layers", "Layers", says, panels, Table(head, body, dict.fromkeys(head[4:], "+.2f")))


def _lines(rows: pd.DataFrame, asked: Asked) -> pd.DataFrame:
    result = Evaluation(rows)
    return result.summary() if result.to_precision else summarize(rows, asked.confidence, design=asked.design)


def _leading_lines(results: Results, asked: Asked) -> pd.DataFrame:
    if results.rows.empty:
        return pd.DataFrame()
    lines = _lines(results.rows, asked)
    return lines[lines["metric"] == leading(results.rows)]


def _within(lines: pd.DataFrame) -> tuple[float, float] | None:
    """What values of the lines' metric lie between: 0 and 100 of a percentage."""
    return (0.0, 100.0) if quantity_of(lines, str(lines["metric"].iloc[0])).unit == "%" else None


def _verdict(line: Mapping[Any, Any]) -> str:
    if np.isnan(line["low"]):
        return "no interval"
    return "more" if line["low"] > 0 else "less" if line["high"] < 0 else "not shown"


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))

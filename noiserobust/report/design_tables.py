"""Tables for the design of hardware: sensitive layers, layers to keep digital, noise budgets."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from noiserobust.report.table import GAP, at_time, seconds, titled
from noiserobust.tasks.quantities import in_words, quantity

ALL = "all layers"
Line = dict[Any, Any]


def sensitivity_table(effects: pd.DataFrame, by: str = "alone", markdown: bool = False) -> str:
    """Layers ranked by the accuracy that their noise ``alone`` costs (or that is gained where they are ``spared``).

    Takes the ``effects`` of ``noiserobust.evaluation.sensitivity``. The last lines hold what the single effects
    add up to, and what noise on all layers at once costs.
    """
    paragraphs = []
    for _, table in effects.groupby(["method", "noise", "t"], sort=False, dropna=False):
        header = ["layer", "costs alone", "gains when digital", "loss alone", "weights", "MACs"]
        grid = [header]
        ranked = ranking(table, by)
        for name in ranked:
            alone, spared = effect(table, name, "alone"), effect(table, name, "spared")
            grid.append([name, interval(alone), interval(spared), _loss(table, name), *_shares(alone)])
        sums = [sum(effect(table, name, kind)["mean"] for name in ranked) for kind in ("alone", "spared")]
        whole = effect(table, ALL, "alone")
        grid.append(["single effects, added up", *(f"{total:{_form(whole)}}" for total in sums), "", "", ""])
        grid.append([ALL, interval(whole), interval(whole), _loss(table, ALL), *_shares(whole)])
        paragraphs.append(titled(place(whole), grid, markdown))
    metric = shown(effects)
    losses = "; loss in nats" if metric in ("accuracy", "perplexity", "miou", "f1") else ""
    caption = f"{in_words(metric)}: mean {meaning(effects)}{losses}; weights and MACs as shares of the network's"
    return "\n\n".join([*paragraphs, caption])


def digital_table(steps: pd.DataFrame, within: float | None = None, markdown: bool = False) -> str:
    """Step by step, which layer is kept digital next and what that gives.

    Takes the ``steps`` of ``noiserobust.evaluation.keep_digital``.
    """
    paragraphs = []
    for _, table in steps.groupby(["method", "noise", "t"], sort=False, dropna=False):
        metric = shown(table)
        side = "below" if quantity(metric).higher_is_better else "above"
        header = ["step", "digital, too", "MACs", "weights", metric, f"{side} clean", "gain"]
        grid = [[*header, "singles add up to", "in search"]]
        for line in records(table):
            cells = [str(line["step"]), line["layer"] or "none", *reversed(_shares(line))]
            gains = (f"{line[name]:{_form(line)}}" for name in ("gain", "sum_of_singles", "search_gain"))
            grid.append([*cells, f"{line[metric]:{quantity(metric).form}}", interval(line, "lost"), *gains])
        last = records(table)[-1]
        clean = f"{last['clean']:{quantity(metric).form}} {quantity(metric).unit}".rstrip()
        text = titled(f"{place(last)}; clean {clean}", grid, markdown)
        paragraphs.append(text if within is None else f"{text}\n\n{verdict(last, within)}")
    metric = shown(steps)
    unit = quantity(metric).unit
    measured = f"{metric} in {unit}, the rest in points of it," if unit else f"{metric}, and differences of it,"
    caption = (
        f"{measured} on fresh draws: mean "
        f"{meaning(steps)}; gain over noise on all layers; singles: the gains of the set's layers, each digital alone; "
        "in search: the gain that the search saw on the draws that chose the set"
    )
    return "\n\n".join([*paragraphs, caption])


def budget_table(answers: pd.DataFrame, markdown: bool = False) -> str:
    """One line per method: the noise it can bear, the interval of that, and in words what stands in the way.

    Takes the ``answers`` of ``noiserobust.evaluation.budget``.
    """
    grid = [["method", "clean", "budget", "interval", "remark"]]
    for line in records(answers):
        clean = f"{line['clean']:{quantity(line['metric']).form}}"
        grid.append([line["method"], clean, *_budget(line), _remark(line)])
    first = records(answers)[0]
    what = f"time of {first['vary']}" if first["vary_time"] else f"x of {first['vary']}"
    kind = "least" if first["easy"] > first["hard"] else "largest"
    title = f"{kind} {what} that loses at most {limit(first)}"
    unit = quantity(first["metric"]).unit
    clean = f"clean {first['metric']}" + (f" in {unit}" if unit else "")
    caption = (
        f"{clean}; interval: {100 * first['confidence']:g} % over {over(answers)}; searched from "
        f"{_x(first, first['easy'])} (easy) to {_x(first, first['hard'])}"
    )
    return titled(title, grid, markdown) + f"\n\n{caption}"


def verdict(line: Line, within: float) -> str:
    """Whether a set found by search keeps what it promised on fresh draws, in one sentence."""
    side = "below" if quantity(line["metric"]).higher_is_better else "above"
    of = "points" if quantity(line["metric"]).unit == "%" else line["metric"]
    lost = f"{line['lost']:.2f} {of} {side} clean"
    layers = "1 layer" if len(line["layers"]) == 1 else f"{len(line['layers'])} layers"
    told = f"{layers} digital: {lost} on fresh draws, {within:g} allowed"
    if not math.isnan(line["lost_low"]):
        told += f" (interval {line['lost_low']:.2f} to {line['lost_high']:.2f}: "
        told += "kept)" if line["lost_high"] <= within else "missed)" if line["lost_low"] > within else "open)"
    return told


def ranking(effects: pd.DataFrame, by: str) -> list[str]:
    """The layers of one method, most harmful (``by`` "alone") or most worth sparing ("spared") first."""
    chosen = effects[(effects["effect"] == by) & (effects["metric"] == shown(effects)) & (effects["layer"] != ALL)]
    return list(chosen.sort_values("mean", ascending=False, kind="stable")["layer"])


def shown(table: pd.DataFrame) -> str:
    """The metric of the task, which comes first."""
    return str(table["metric"].iloc[0])


def limit(line: Line) -> str:
    """What may be lost, in words: ``1 points``, ``1 of perplexity``."""
    return f"{line['within']:g} {'points' if quantity(line['metric']).unit == '%' else 'of ' + line['metric']}"


def effect(effects: pd.DataFrame, layer: str, kind: str, metric: str = "") -> Line:
    """One line of one method's effects, on the task's metric if no other is named."""
    metric = metric or shown(effects)
    chosen = (effects["layer"] == layer) & (effects["effect"] == kind) & (effects["metric"] == metric)
    return records(effects[chosen])[0]


def records(table: pd.DataFrame) -> list[Line]:
    return table.to_dict("records")


def interval(line: Line, name: str = "") -> str:
    """``+1.23 [+0.80, +1.66]``; the mean alone where there is no interval."""
    mean, low, high = (
        line[key] for key in ((name, f"{name}_low", f"{name}_high") if name else ("mean", "low", "high"))
    )
    form = _form(line)
    return f"{mean:{form}}" if math.isnan(low) else f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def share(percent: float) -> str:
    """``12.3 %``; a dash where it cannot be told."""
    return GAP if math.isnan(percent) else f"{percent:.1f} %"


def _form(line: Line) -> str:
    """Format of a difference of the line's metric."""
    return f"+{quantity(line['metric']).form}"


def _loss(effects: pd.DataFrame, layer: str) -> str:
    """What noise on a layer alone costs in loss; nothing where there is none."""
    return f"{effect(effects, layer, 'alone', 'loss')['mean']:+.3f}" if "loss" in set(effects["metric"]) else ""


def _shares(line: Line) -> list[str]:
    return [share(line[column]) for column in ("weights_share", "macs_share")]


def place(line: Line) -> str:
    """Method, noise and time in words."""
    return f"{line['method']}, noise: {line['noise']}{at_time(line['t'])}"


def meaning(table: pd.DataFrame) -> str:
    """What the brackets hold, and over how much."""
    first = records(table)[0]
    models, draws = (f"{first[name]} {name if first[name] > 1 else name[:-1]}" for name in ("models", "draws"))
    return f"[{100 * first['confidence']:g} % over {over(table)}]; {models} x {draws}"


def over(table: pd.DataFrame) -> str:
    """What the intervals are over: models, or draws only."""
    kinds = table["interval_over"].unique()
    return " or ".join(f"{kind} only" if kind == "draws" else kind for kind in kinds)


def _budget(line: Line) -> tuple[str, str]:
    ends = [_x(line, line[name]) for name in ("low", "high")]
    return _x(line, line["value"]), GAP if math.isnan(line["low"]) else f"{ends[0]} to {ends[1]}"


def _x(line: Line, x: float) -> str:
    """A value of what is varied: a time in its units, or a number; what lies outside the range says so."""
    if math.isinf(x):
        end = max(line["easy"], line["hard"]) if x > 0 else min(line["easy"], line["hard"])
        return f"{'above' if x > 0 else 'below'} {_x(line, end)}"
    return seconds(x) if line["vary_time"] else f"{x:.4g}"


def _remark(line: Line) -> str:
    if line["state"] == "never":
        return f"never within range: even {_x(line, line['easy'])} loses more than {limit(line)}"
    if line["state"] == "always":
        return f"always within range: even {_x(line, line['hard'])} loses no more than {limit(line)}"
    if line["crossings"] > 1:
        return "the loss is not monotone: this is the first place, from the easy end, where it exceeds the limit"
    return ""

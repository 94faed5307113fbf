"""The charts of a page, as Vega-Lite specifications made by Altair."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

HEIGHT = 260


def lines(
    data: pd.DataFrame,
    methods: list[str],
    x: str,
    titles: tuple[str, str],
    *,
    log: bool = False,
    whole: bool = False,
    within: tuple[float, float] | None = None,
    band: bool = True,
    label: str | None = None,
    description: str = "",
) -> dict[str, Any]:
    """A line per method of ``y`` against ``x``, a band from ``low`` to ``high``, values on hover.

    ``label`` names a column with the words for x, where a number says little (``1 d``); ``whole``: x is a count;
    ``within``: what y lies between, though an interval may end beyond."""
    scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
    across = alt.X(f"{x}:Q", title=titles[0], scale=scale, axis=alt.Axis(tickCount=6))
    across = across.axis(alt.Axis(tickCount=6, tickMinStep=1, format="d")) if whole else across
    if label:
        names = {float(row[x]): row[label] for row in data.to_dict("records")}
        words = " : ".join(f"datum.value == {value} ? '{name}'" for value, name in names.items())
        across = across.axis(alt.Axis(values=list(names), labelExpr=f"{words} : ''", labelOverlap=True))
    hue = alt.Color("method:N", scale=alt.Scale(domain=methods), legend=None)
    shown = [alt.Tooltip("method:N"), alt.Tooltip(f"{label or x}:{'N' if label else 'Q'}", title=titles[0])]
    shown += [alt.Tooltip("y:Q", title=titles[1], format=".4g")]
    if band:
        shown += [alt.Tooltip(f"{name}:Q", format=".4g") for name in ("low", "high")]
    base = alt.Chart(alt.Data(values=_records(data))).encode(x=across, color=hue)
    up = alt.Scale(zero=False)
    if within is not None:
        # Only an interval that ends below the least value holds the axis there: else the curves fill the panel.
        below = band and bool(data["low"].min() < within[0])
        up = alt.Scale(zero=False, domainMax=within[1], domainMin=within[0] if below else alt.Undefined)
    value = alt.Y("y:Q", title=titles[1], scale=up)
    layers = []
    if band:
        layers.append(base.mark_area(opacity=0.18, clip=True).encode(y=alt.Y("low:Q", title=titles[1]), y2="high:Q"))
    layers.append(base.mark_line(strokeWidth=2).encode(y=value))
    layers.append(base.mark_point(filled=True, size=45).encode(y=value, tooltip=shown))
    return _spec(alt.layer(*layers), description)


def steps(data: pd.DataFrame, methods: list[str], titles: tuple[str, str], description: str = "") -> dict[str, Any]:
    """The share of chips that reach a value, a falling staircase per method with its bounds."""
    base = alt.Chart(alt.Data(values=_records(data))).encode(
        x=alt.X("value:Q", title=titles[0], scale=alt.Scale(zero=False)),
        color=alt.Color("method:N", scale=alt.Scale(domain=methods), legend=None),
    )
    reaching = alt.Y("reaching:Q", title=titles[1], axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    shown = [alt.Tooltip("method:N"), alt.Tooltip("value:Q", title=titles[0], format=".4g")]
    shown += [alt.Tooltip(f"{name}:Q", format=".1%") for name in ("reaching", "low", "high")]
    area = base.mark_area(opacity=0.15, interpolate="step-before").encode(y="low:Q", y2="high:Q")
    line = base.mark_line(interpolate="step-before", strokeWidth=2).encode(y=reaching)
    points = base.mark_point(filled=True, size=25).encode(y=reaching, tooltip=shown)
    return _spec(alt.layer(area, line, points), description)


def bars(data: pd.DataFrame, methods: list[str], titles: tuple[str, str], description: str = "") -> dict[str, Any]:
    """A bar per ``name`` with its interval from ``low`` to ``high``, side by side by method."""
    order = list(dict.fromkeys(data["name"]))
    base = alt.Chart(alt.Data(values=_records(data))).encode(
        y=alt.Y("name:N", title=titles[0], sort=order, axis=alt.Axis(labelLimit=260)),
        yOffset=alt.YOffset("method:N", sort=methods),
    )
    shown = [alt.Tooltip("method:N"), alt.Tooltip("name:N", title=titles[0])]
    shown += [alt.Tooltip(f"{name}:Q", format=".3g") for name in ("mean", "low", "high")]
    hue = alt.Color("method:N", scale=alt.Scale(domain=methods), legend=None)
    body = base.mark_bar().encode(x=alt.X("mean:Q", title=titles[1]), color=hue, tooltip=shown)
    rule = base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q", title=titles[1]), x2="high:Q")
    return _spec(alt.layer(body, rule), description, height=max(90, 24 * len(order) * data["method"].nunique() + 40))


def _records(data: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: what is missing or infinite is null."""
    plain = data.astype(object).where(data.notna() & ~data.isin([float("inf"), float("-inf")]), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]


def _spec(chart: Any, description: str, height: int = HEIGHT) -> dict[str, Any]:
    return dict(chart.properties(width="container", height=height, description=description).to_dict())

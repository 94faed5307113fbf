"""The one place where a method gets its colour: the same rule has the same hue in every picture and on every page.

What one picture shows of a rule in several settings is told apart by lightness, from light to dark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

HUES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444"]
"""Okabe and Ito's palette without its yellow, which is lost on white: for names that say no rule, in order."""
RULES = [
    (r"aihwkit", "#444444"),
    (r"\b(arwp|arwp-mixed|mixed rwp|m-rwp)\b", "#8C510A"),
    (r"\brwp\b.*(ramp|quadratic)|(ramp|quadratic).*\brwp\b", "#E69F00"),  # a strength that grows is a recipe of its own
    (r"\brwp\b", "#D55E00"),
    (r"\bswp\b", "#56B4E9"),  # ESAM's two halves
    (r"\bsds\b", "#35978F"),
    (r"\besam\b", "#6A51A3"),
    (r"\bgsam\b", "#7A8500"),
    (r"\b(asam|samson)\b", "#CC79A7"),
    (r"\b(looksam|ssam|f-sam|vasso|amp|lpf-sgd)\b", "#35978F"),
    (r"\bsaf\b", "#A6761D"),
    (r"\bmesa\b", "#C51B7D"),
    (r"\b(g-)?rst\b", "#666666"),
    (r"\bsam\b", "#009E73"),
    (r"\bclip", "#56B4E9"),
    (r"^(plain|sgd|baseline)\b", "#0072B2"),
]
"""Rules by what their names look like, and their hues; the first that fits is taken."""
REACH = 0.36
"""How far lightness goes from a hue to white and to black."""
BRIGHTER = 0.3
"""How much lighter all colours are where the ground is dark."""


def colours_of(methods: Sequence[str], *, dark: bool = False) -> dict[str, str]:
    """The colour of every method of a picture; ``dark``: of the ground.

    >>> colours_of(["plain", "rwp:gaussian(0.1)"])
    {'plain': '#0072b2', 'rwp:gaussian(0.1)': '#d55e00'}
    """
    found = {name: hue for name in methods if (hue := _hue(name))}
    free = [hue for hue in HUES if hue not in found.values()] or HUES
    unnamed = [name for name in methods if name not in found]
    hues = found | {name: free[index % len(free)] for index, name in enumerate(unnamed)}
    colours = {}
    for name in methods:
        alike = [other for other in methods if hues[other] == hues[name]]
        share = alike.index(name) / (len(alike) - 1) if len(alike) > 1 else 0.5
        colours[name] = _mixed(hues[name], (1 - 2 * share) * REACH + (BRIGHTER if dark else 0.0))
    return colours


def _hue(name: str) -> str | None:
    return next((hue for pattern, hue in RULES if re.search(pattern, name.lower())), None)


def _mixed(colour: str, light: float) -> str:
    """``colour`` on its way to white, by a share of it, or to black, by a negative one."""
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    end = 255 if light > 0 else 0
    return "#" + "".join(f"{round(part + abs(light) * (end - part)):02x}" for part in parts)

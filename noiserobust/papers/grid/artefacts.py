"""Artefacts: the tables and figures of a paper, each a list of cells with the quantity that a cell shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from noiserobust.papers.grid.quantity import Quantity
from noiserobust.papers.grid.scale import Grid, Scale

Kind = Literal[
    "table", "epochs", "trajectory", "strengths", "magnitudes", "scatter", "families", "landscape", "image", "histogram"
]
"""How an artefact is drawn. Figures: lines against epochs; a path of epochs, one logged quantity against another; lines
against a number, or against its logarithm; points of two measured quantities; points of one family joined in their
order; contours of a loss; a coloured grid; distributions."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table, or a line of a figure: its place, and the quantity that it shows.

    A table's ``row`` and ``column`` are those of ``papers/published``; a figure's are its line and its panel.
    ``x`` is where on the panel's axis one number is drawn, or the quantity that says it.
    """

    row: str
    column: str
    quantity: Quantity
    x: float | Quantity | None = None


@dataclass(frozen=True)
class Artefact:
    """``table1`` or ``figure3`` of ``paper``; ``cells(grid)`` lists what has to be measured at a scale."""

    paper: str
    name: str
    title: str
    cells: Callable[[Grid], Iterable[Cell]]
    kind: Kind = "table"
    x: str = ""
    y: str = ""
    note: str = ""
    """What a reader of the result must know, such as what the paper does not say."""

    @property
    def says(self) -> str:
        """``incorruptible table 1``."""
        kind = "table" if self.name.startswith("table") else "figure"
        number = self.name.removeprefix(kind)
        return f"{self.paper} {kind} {number}" if number != self.name else f"{self.paper} {self.name}"


_REGISTRY: dict[str, dict[str, Artefact]] = {}

Cells = Callable[[Grid], Iterable[Cell]]


def artefact(
    paper: str, title: str, *, name: str = "", kind: Kind = "table", x: str = "", y: str = "", note: str = ""
) -> Callable[[Cells], Cells]:
    """Registers the function below as the cells of the paper's artefact ``name`` (default: the function's own name)."""

    def register(cells: Cells) -> Cells:
        known = name or cells.__name__
        _REGISTRY.setdefault(paper, {})[known] = Artefact(paper, known, title, cells, kind, x, y, note)
        return cells

    return register


def artefacts_of(paper: str) -> dict[str, Artefact]:
    """All artefacts of ``paper`` by name, in the order of its module."""
    import_module(f"noiserobust.papers.{paper}")
    return _REGISTRY[paper]


def grid_of(paper: str, scale: Scale, place: Mapping[str, Any] | None = None) -> Grid:
    """``paper`` at a scale, with its own recipe; ``place`` as :class:`Grid` takes it."""
    return Grid(scale.of(paper), import_module(f"noiserobust.papers.{paper}").RECIPE, place or {})

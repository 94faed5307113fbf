"""What the papers' tables and figures are made of: scales, cells, quantities, and the plan that computes them."""

from experiments.grid.artefact import Artefact, Cell, artefact, artefacts_of
from experiments.grid.bench import Bench
from experiments.grid.plan import Plan
from experiments.grid.published import Published, published
from experiments.grid.scale import MINI, PAPER, SCALES, SMALL, Grid, Scale

__all__ = [
    "MINI",
    "PAPER",
    "SCALES",
    "SMALL",
    "Artefact",
    "Bench",
    "Cell",
    "Grid",
    "Plan",
    "Published",
    "Scale",
    "artefact",
    "artefacts_of",
    "published",
]

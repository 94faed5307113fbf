"""What the papers' tables and figures are made of: scales, cells, quantities, and the plan that computes them."""

from noiserobust.papers.grid.artefacts import Artefact, Cell, artefacts_of, grid_of
from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.published_values import published
from noiserobust.papers.grid.scale import MINI, PAPER, SCALES, SMALL, Grid, Scale

__all__ = [
    "MINI",
    "PAPER",
    "SCALES",
    "SMALL",
    "Artefact",
    "Bench",
    "Cell",
    "Grid",
    "Scale",
    "artefacts_of",
    "grid_of",
    "published",
]

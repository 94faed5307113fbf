"""Result rows of networks whose weights are sharded: all processes compute them, the first stores them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from noiserobust.noise.sharded import of_first
from noiserobust.storage.files import known_to_write
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.rows import ROWS


class SharedLedger(Ledger):
    """A ledger that all processes of ``mesh`` fill alike. The first of them reads and writes the file.

    What that one finds, all find: they must agree on what is still to be computed, which they compute together.
    """

    def __init__(self, path: str | Path | None, mesh: Any) -> None:
        if path is not None:
            known_to_write(path, ROWS)  # a path that cannot be is refused by all
        self.mesh = mesh
        super().__init__(path if not any(mesh.get_coordinate()) else None)

    def find(self, unit: Mapping[str, Any], metrics: Iterable[str] = ()) -> dict[str, float] | None:
        """What the first process knows of ``unit``."""
        return of_first(super().find(unit, list(metrics)), self.mesh)

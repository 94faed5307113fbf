"""A page that is written again while its runs go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.page.parts import Asked
from noiserobust.page.results import Results, runs_in
from noiserobust.page.write import require_packages, write_results
from noiserobust.sweep import Evaluating, Piece, Training
from noiserobust.sweep.executors import OnPiece
from noiserobust.sweep.grid import rows_of
from noiserobust.training import Run

SHARE = 0.02
"""Of the time, what writing a page may take while something else goes on."""


class LivePage:
    """The file ``path``, brought up to date whenever that has become cheap beside the work.

    Raises :class:`~noiserobust.UserError` at once where pages cannot be made.
    """

    def __init__(self, path: Path) -> None:
        require_packages()
        self.path = path
        self._next = 0.0

    def update(self, results: Callable[[], Results]) -> None:
        """Write what there is by now, unless the page was written a moment ago. What cannot be shown yet waits."""
        if (begun := time.monotonic()) < self._next:
            return
        with suppress(UserError):
            write_results(results(), self.path, Asked())
        ended = time.monotonic()
        self._next = ended + (ended - begun) / SHARE

    def watcher(self, finished: Sequence[Run], current: Run) -> Callable[[object], None]:
        """What :func:`~noiserobust.training.fit` calls after every epoch of ``current``."""
        return lambda line: self.update(lambda: Results.of_runs(finished, [current]))

    def of_pieces(
        self, tell: OnPiece, runs: Sequence[Training], pieces: Sequence[Evaluating], vary: Mapping[str, Sequence[Any]]
    ) -> OnPiece:
        """What a sweep calls after every piece: ``tell``, and the page of what is done of it."""

        def on_piece(piece: Piece, done: int, of: int) -> None:
            tell(piece, done, of)
            self.update(lambda: Results.of_runs(trained(runs), rows=rows_of(pieces, runs, vary)))

        return on_piece

    def finish(self, runs: Sequence[Run], rows: pd.DataFrame | None = None) -> Path:
        """Write all of it."""
        return write_results(Results.of_runs(runs, rows=rows), self.path, Asked())


def trained(runs: Sequence[Training]) -> list[Run]:
    """Those of the runs that are finished."""
    return runs_in([piece.result.parent for piece in runs if piece.result.is_file()])

"""Successive halving: many candidates get little training, the better ones more, the best of all the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from noiserobust.errors import Diverged, UserError
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.sweep.executors import Executor, OnPiece, compute
from noiserobust.sweep.pieces import Training, epoch_cost, read_score, write_score
from noiserobust.training import TrainSettings

KEEP = 2
"""One candidate in this many goes on to the next rung."""
LEFT = 3
"""So many candidates are few enough for the last rung."""


@dataclass(frozen=True)
class Rung:
    """So many candidates, each trained for so many epochs with a whole schedule of its own."""

    candidates: int
    epochs: int


def rungs_of(costs: Sequence[float], epochs: int, budget: float | None = None, kept: float = 0) -> list[Rung]:
    """The rungs of a search over candidates whose epochs cost ``costs`` passes each, best guesses first.

    Of n candidates n / 2 (rounded up) go on, until at most 3 are left, which are trained for ``epochs`` on the last
    rung; each rung before it has half of the next one's epochs. Noise slows a network's first epochs, so that a
    steeper ladder would drop the rules that win at its end. A ``budget`` in passes over the training data is kept by
    fewer epochs on every rung, in the same proportions; :class:`UserError` where not even one is left, beside ``kept``
    passes that are for something else.
    Source: Jamieson, Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization"
    (arXiv 1502.07943); the trainings start anew on each rung, since a learning rate that has fallen cannot go on.

    >>> rungs_of([1.0] * 10, epochs=30)
    [Rung(candidates=10, epochs=8), Rung(candidates=5, epochs=15), Rung(candidates=3, epochs=30)]
    """
    counts = [len(costs)]
    while counts[-1] > LEFT:
        counts.append(math.ceil(counts[-1] / KEEP))
    dearest = sorted(costs, reverse=True)

    def ladder(last: float) -> list[Rung]:
        lengths = [max(1, round(last / KEEP**below)) for below in reversed(range(len(counts)))]
        return [Rung(count, length) for count, length in zip(counts, lengths, strict=True)]

    def price(rungs: list[Rung]) -> float:
        return sum(rung.epochs * sum(dearest[: rung.candidates]) for rung in rungs)

    last = epochs
    while budget is not None and last > 1 and price(ladder(last)) > budget:
        last -= 1
    rungs = ladder(last)
    if budget is not None and price(rungs) > budget:
        raise UserError(
            f"expected a budget of at least {price(rungs) + kept:.0f} passes ({price(rungs):.0f} to search "
            f"{len(costs)} candidates, {kept:.0f} for the final runs), got {budget + kept:g}; raise it, or give fewer "
            "candidates by --vary"
        )
    return rungs


@dataclass(frozen=True)
class Trial:
    """A training run of the search, with its score as a small file; one that diverges has none, and comes last."""

    training: Training

    @property
    def name(self) -> str:
        return self.training.name

    @property
    def result(self) -> Path:
        run = self.training.result.parent
        return run.parent.parent / "trials" / f"{run.name}.json"

    def run(self) -> None:
        task, score = self.training.settings.task, None
        try:
            self.training.run()
        except Diverged:
            pass
        else:
            score = self._reached(f"perturbed_{task.metric}")
        write_score(score, self.result)

    def _reached(self, column: str) -> float:
        """What the checkpoint's own log says of the kept epoch."""
        file = self.training.result
        known = read_checkpoint(file).about.get("log", {}).get(column)
        if isinstance(known, str) or known is None or not math.isfinite(known):
            raise UserError(
                f"expected a run whose log says {column} as a finite number, got {known!r} in {file}; move it away, "
                "and the same command trains it again"
            )
        return float(known)

    @property
    def score(self) -> float:
        """What the kept epoch reached under noise on held-out data, in the task's own metric; NaN where it diverged."""
        score = read_score(self.result)
        return math.nan if score is None else float(score)

    @property
    def merit(self) -> float:
        """The same, turned so that more is better."""
        score = self.training.settings.task.quantity.sign * self.score
        return -math.inf if math.isnan(score) else score


def halve(
    candidates: Sequence[TrainSettings],
    rungs: Sequence[Rung],
    out: Path,
    executor: Executor | None = None,
    on_piece: OnPiece | None = None,
) -> pd.DataFrame:
    """Run the search; one row per candidate and rung, the last rung first and the best of a rung before the others.

    Columns: ``candidate`` (its number), ``method`` (its label), ``rung``, ``epochs``, ``passes`` over the training
    data, ``metric`` and ``score`` (:class:`Trial`).
    """
    going, tables = list(range(len(candidates))), list[pd.DataFrame]()
    for number, rung in enumerate(rungs, 1):
        contenders = {i: replace(candidates[i], epochs=rung.epochs) for i in going[: rung.candidates]}
        tables.insert(0, rated(contenders, number, out, executor, on_piece))
        going = list(tables[0]["candidate"])
    return pd.concat(tables, ignore_index=True)


def rated(
    contenders: Mapping[int, TrainSettings],
    rung: int,
    out: Path,
    executor: Executor | None = None,
    on_piece: OnPiece | None = None,
    seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """Train each in a copy, or in one of each of ``seeds``, and rate them by the mean of their scores: rows as those of
    :func:`halve`, the best first."""
    trials = {
        i: [Trial(Training(replace(one, seed=seed), out / "runs")) for seed in seeds or (one.seed,)]
        for i, one in contenders.items()
    }
    compute([trial for copies in trials.values() for trial in copies], executor, on_piece)
    lines = [
        {
            "candidate": i,
            "method": contenders[i].label,
            "rung": rung,
            "epochs": contenders[i].epochs,
            "passes": len(copies) * contenders[i].epochs * epoch_cost(contenders[i]),
            "metric": contenders[i].task.metric,
            "score": sum(trial.score for trial in copies) / len(copies),
        }
        # Sorting is stable: of equals, the one named first.
        for i, copies in sorted(trials.items(), key=lambda one: sum(trial.merit for trial in one[1]), reverse=True)
    ]
    return pd.DataFrame(lines)

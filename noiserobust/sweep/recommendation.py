"""Which training rule is best for a network and a noise: a small search, and its answer on fresh copies and draws."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from noiserobust.analog.noisy import NoisyWeights, report_stream
from noiserobust.errors import UserError
from noiserobust.evaluation import Evaluation, evaluate
from noiserobust.noise import Gaussian, MeasuredChips, NoiseModel
from noiserobust.report import paired_table
from noiserobust.report.table import titled
from noiserobust.spec.kinds import typed
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.sweep.executors import Executor, OnPiece, compute
from noiserobust.sweep.grid import runs_of
from noiserobust.sweep.halving import Rung, halve, rated, rungs_of
from noiserobust.sweep.pieces import Training, data_of, epoch_cost
from noiserobust.training import Plain, TrainSettings

CHOOSING = 3
"""Copies by which it is chosen whether the winner has a teacher."""
AS_GIVEN = "as given"
"""Method of the checkpoint that a search began with."""


@dataclass(frozen=True)
class Recommendation(Evaluation):
    """The winner of a search beside its rival: ``rows`` are those of the final copies on test data, under draws that
    the search never saw; ``search`` has a row per candidate and rung."""

    search: pd.DataFrame = field(default_factory=pd.DataFrame)
    winner: TrainSettings = field(default_factory=TrainSettings)
    rival: TrainSettings = field(default_factory=TrainSettings)
    """Plain training, or the best other candidate where plain training won."""
    note: str = ""

    @property
    def difference(self) -> pd.DataFrame:
        """Winner - rival, paired by copy and draw (:func:`~noiserobust.evaluation.paired`)."""
        return self.paired(self.winner.label, self.rival.label)

    @property
    def command(self) -> str:
        """What trains the winner."""
        return command_of(self.winner)

    def table(self, markdown: bool = False, confidence: float = 0.95) -> str:
        """The search, the final copies, their paired difference, and the command that trains the winner."""
        metric, (unit, form, _) = self.winner.task.metric, self.winner.task.quantity
        head = ["method", "rung", "epochs", "passes", f"perturbed {metric} {unit}".rstrip()]
        columns = (self.search[name] for name in ("method", "rung", "epochs", "passes", "score"))
        lines = [
            [method, str(rung), str(epochs), f"{passes:.0f}", "diverged" if math.isnan(score) else f"{score:{form}}"]
            for method, rung, epochs, passes, score in zip(*columns, strict=True)
        ]
        title = f"search: {self.search['passes'].sum():.0f} passes over the training data, scored on held-out data"
        searched = titled(title, [head, *lines], markdown)
        difference = self.paired(self.winner.label, self.rival.label, confidence)
        parts = [searched, super().table(markdown, confidence), paired_table(difference)]
        return "\n\n".join([*parts, f"{self._verdict(difference)}{self.note and f'; {self.note}'}", self.command])

    def _verdict(self, difference: pd.DataFrame) -> str:
        sign, line = self.winner.task.quantity.sign, difference.iloc[0]
        least = min(sign * line["low"], sign * line["high"])
        if least > 0:
            return f"recommended: {self.winner.label}"
        return f"recommended, though not shown to be better than {self.rival.label}: {self.winner.label}"


@typed
def recommend(
    noise: NoiseModel | str,
    base: TrainSettings | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    *,
    budget: float | None = None,
    copies: int = 3,
    draws: int = 10,
    out: str | Path = "recommend",
    executor: Executor | None = None,
    on_piece: OnPiece | None = None,
) -> Recommendation:
    """Search for the training rule that keeps a network most accurate under ``noise``.

    Candidates are trained and halved (:func:`~noiserobust.sweep.halving.halve`) by their metric on held-out data under
    draws of the noise; the best is tried with a clean teacher, too (:func:`taught`), in a few copies of both. The
    winner and its rival, plain training, are then trained anew in ``copies`` copies that the search did not see, and
    compared on test data under ``draws`` draws that it did not see either.

    - ``noise``: what the chip does. Measured chips hold the errors of the weights that they were programmed with: with
      them, and the checkpoint ``base.initial`` of these weights, the noise is Gaussian of the same rms error per
      column's largest weight, after each tensor's least-squares gain is taken out.
    - ``base``: data, network, epochs and all else that candidates share. With ``initial`` they are fine-tuned, and the
      checkpoint as it is given is evaluated, too.
    - ``vary``: candidates as a grid of settings, as :func:`~noiserobust.sweep.sweep` takes them; None: plain, clipped,
      RWP under the noise (constant, ramped, clipped), SAM and ASAM (:func:`candidates_for`), and the teacher.
    - ``budget``: passes over the training data for search and final runs together, a forward and backward pass of plain
      training being one; it shortens the search, and one below some 40 epochs tries no teacher. None: what the search
      costs at ``base.epochs``.
    - ``out``: folder of runs and rows; the same call goes on where another one stopped.
    """
    folder, searched, base = Path(out), NoiseModel.parse(noise), base or TrainSettings()
    if copies < 2:
        raise UserError(f"expected copies >= 2, got {copies}: an interval needs several; 3 is little, 10 is good")
    if base.select_on == "none":
        raise UserError("expected select_on validation or test, got none: candidates are compared by it")
    note = ""
    if isinstance(searched, MeasuredChips):
        searched = equivalent(searched, base)
        note = f"searched under {searched}, which has the rms error of {noise}; program the new weights anew"
    base = replace(base, select_noise=searched)
    candidates = (
        list(dict.fromkeys(candidates_for(base))) if vary is None else [p.settings for p in runs_of(base, vary)]
    )
    plain = next((one for one in candidates if _is_plain(one)), replace(base, method=Plain()))
    costs = [epoch_cost(settings) for settings in candidates]
    rungs, teaches = within(budget, costs, base.epochs, copies, teaches=vary is None)

    search = halve(candidates, rungs, folder, executor, on_piece)
    order, last_seed = list(dict.fromkeys(search["candidate"])), base.seed + copies
    winner = candidates[order[0]]
    if teaches and (further := taught(winner)) is not None:
        contenders = {order[0]: winner, len(candidates): further}
        seeds = [base.seed, *range(last_seed + 1, last_seed + CHOOSING)]  # not those of the answer
        last = rated(contenders, len(rungs) + 1, folder, executor, on_piece, seeds)
        search, winner = pd.concat([last, search], ignore_index=True), contenders[last["candidate"].iloc[0]]
    rival = plain if winner != plain else candidates[order[1]] if len(order) > 1 else None
    if rival is None:
        raise UserError("expected at least two candidates, got one; give --vary several values")
    pieces = {
        one: [Training(replace(one, seed=seed), folder / "runs") for seed in range(base.seed + 1, last_seed + 1)]
        for one in (winner, rival)
    }
    if len({one.label for one in pieces}) < 2:
        raise UserError(f"expected candidates with names of their own, got '{winner.label}' twice; vary the method")
    compute([piece for trained in pieces.values() for piece in trained], executor, on_piece)
    models: dict[str, Any] = {one.label: [piece.result for piece in trained] for one, trained in pieces.items()}
    if base.initial is not None:
        models[AS_GIVEN] = [base.initial]
    test = base.normalized(data_of(base)).test
    evaluation = evaluate(models, test, searched, draws, model=base.model, task=base.task, out=folder / "rows.parquet")
    shared = {one.name: getattr(evaluation, one.name) for one in dataclasses.fields(evaluation)}
    return Recommendation(**shared, search=search, winner=winner, rival=rival, note=note)


def within(
    budget: float | None, costs: Sequence[float], epochs: int, copies: int, *, teaches: bool
) -> tuple[list[Rung], bool]:
    """The rungs for candidates whose epochs cost ``costs`` passes, and whether a teacher is tried after them: not where
    that would take more of the ``budget`` than it leaves to them. The final copies come first."""
    if budget is None:
        return rungs_of(costs, epochs), teaches
    left = budget - copies * epochs * (1 + max(costs))
    # The teacher's answers in the final copies, and the copies of the choice with their teachers.
    lesson = epochs * (copies / 3 + CHOOSING * (2 * max(costs) + 4 / 3))
    teaches = teaches and left >= 2 * lesson
    spent = left - lesson if teaches else left
    return rungs_of(costs, epochs, spent, budget - spent), teaches


def candidates_for(base: TrainSettings) -> list[TrainSettings]:
    """Training rules worth trying under ``base.select_noise``, those that are known to be good first."""
    noise = str(base.select_noise)
    nested = noise.replace(":", "(", 1) + ")" if ":" in noise and "+" not in noise else noise
    rwp, limits = f"rwp:{nested}", (1.25, 1.5, 2.5)  # the best limit is narrow, and another in every network
    ramp = f"{rwp},schedule=quadratic(1.0)"
    rules: list[dict[str, Any]] = [
        {"method": "plain"},
        *({"method": "plain", "weight_clip": limit} for limit in limits),
        *({"method": rwp, "weight_clip": limit} for limit in limits),
        {"method": ramp, "weight_clip": 1.5},
        {"method": rwp},
        {"method": ramp},
        {"method": f"{rwp},schedule=quadratic(2.0)"},
        {"method": f"{rwp},schedule=0.5"},
        {"method": "sam:0.2", "weight_clip": 1.25},
        {"method": "sam:0.05"},
        {"method": "sam:0.2"},
        {"method": "asam:1.0"},
    ]
    return [replace(base, **rule) for rule in rules]


def taught(winner: TrainSettings) -> TrainSettings | None:
    """``winner`` with a clean teacher, the checkpoint that it starts from or a plain network; ``None`` where there is
    one already, or nothing to learn from it. Few epochs show nothing of a teacher, so that it is tried last."""
    if winner.teacher is not None or _is_plain(winner) or not winner.task.has_probabilities:
        return None
    return replace(winner, teacher="plain" if winner.initial is None else "initial", teacher_weight=0.9)


def equivalent(chips: MeasuredChips, base: TrainSettings) -> NoiseModel:
    r"""Gaussian noise with the rms error of measured chips.

    .. math:: \sigma^2 = \overline{\left((w' - g w) / \max_{column} |w|\right)^2},\quad g = (w' \cdot w) / (w \cdot w)

    over all chips and all analog weights w of the checkpoint ``base.initial``, w' being what a chip holds of them.
    """
    if base.initial is None:
        raise UserError(
            f"expected the checkpoint that the chips were programmed with beside {chips}, got none; give --initial"
        )
    model = read_checkpoint(base.initial).build(base.model)
    noisy = NoisyWeights(model, **base.where.patterns)
    clean = [weight.as_rows(weight.value()).flatten(1).double() for weight in noisy.weights]
    squares, count = 0.0, 0
    for chip in range(chips.count):
        with noisy.perturbed(chips, report_stream(0, 0, chip)), torch.no_grad():
            for weight, rows in zip(noisy.weights, clean, strict=True):
                read = weight.as_rows(weight.value()).flatten(1).double()
                gain = (read * rows).sum() / rows.square().sum()
                error = (read - gain * rows) / rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
                squares, count = squares + float(error.square().sum()), count + error.numel()
    return Gaussian(float(f"{(squares / count) ** 0.5:.3g}"))


def command_of(settings: TrainSettings) -> str:
    """The command that trains ``settings``: the flags that differ from their defaults."""
    usual, given = TrainSettings().described(), settings.described()
    words = ["noiserobust", "train"]
    for name, value in given.items():
        if value == usual[name]:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, *(map(str, value) if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


def _is_plain(settings: TrainSettings) -> bool:
    return isinstance(settings.method, Plain) and settings.weight_clip is None and settings.teacher is None

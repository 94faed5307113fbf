"""Converters whose ranges training found: which trained copies have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from noiserobust.analog.converters import Converters
from noiserobust.errors import UserError
from noiserobust.evaluation.evaluated_models import TrainedCopy
from noiserobust.evaluation.settings import Chips
from noiserobust.storage.checkpoints import Checkpoint, pass_over


def learnt(converters: Mapping[str, Converters], ranges: object) -> str:
    """The first of the ``converters`` that need ranges of training, as a text; empty where none does, or where the
    ``ranges`` are others."""
    return next((text for text, one in converters.items() if one.learnt and ranges == "trained"), "")


def require_ranges(source: object, converters: str) -> None:
    """:class:`UserError` for a checkpoint without the ranges that ``converters`` need."""
    if isinstance(source, Checkpoint) and _lacks_ranges(source):
        raise UserError(
            f"expected a network with ranges that training found for {converters}, got {source.path} without any; "
            "name the runs that have them, train this one with these converters, or calibrate by percentile=99.9"
        )


def suited(copies: Sequence[TrainedCopy], chips: Chips) -> list[TrainedCopy]:
    """``copies`` without those that a folder of runs holds beside others and that have no ranges, where ``chips`` have
    converters whose ranges training found: plain networks, teachers among them. One line says which they are.

    A folder in which none has ranges, and a run that was named itself, stay: they are refused when their turn comes.
    """
    given = chips.converters
    texts = [given] if isinstance(given, str) or not isinstance(given, Sequence) else given
    wanted = learnt({str(one): one for one in map(Converters.parse, texts)}, chips.ranges)
    if not wanted:
        return list(copies)
    groups: dict[str | None, list[TrainedCopy]] = {}
    for copy in copies:
        groups.setdefault(copy.source.folder if isinstance(copy.source, Checkpoint) else None, []).append(copy)
    left = list(copies)
    for folder, group in groups.items():
        unfit = [(copy, copy.source) for copy in group if isinstance(copy.source, Checkpoint)]
        unfit = [(copy, source) for copy, source in unfit if folder is not None and _lacks_ranges(source)]
        if folder is not None and 0 < len(unfit) < len(group):
            reason = f"training found no ranges for {wanted}"
            pass_over(folder, {source.path.parent.name: reason for _, source in unfit}, len(group))
            left = [copy for copy in left if all(copy is not one for one, _ in unfit)]
    return left


def _lacks_ranges(checkpoint: Checkpoint) -> bool:
    """Whether it is known how a network was trained, and that this found no ranges."""
    return bool(checkpoint.about) and not checkpoint.about.get("ranges")

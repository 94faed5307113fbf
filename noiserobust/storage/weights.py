"""Weights by name into a network, whatever wrapper or implementation they were saved from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.models.wrappers import unwrap

CHECK = "check --model and its width"


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: str | Path,
    aliases: Sequence[tuple[str, str]] = (),
    classes: int | None = None,
    hint: str = "",
) -> None:
    """Copy ``weights`` into ``model``.

    With ``classes``, the number that the network has, layers stay as they are where ``weights`` have another number of
    classes: those that give the logits, in fine-tuning.

    Marks that DDP, DataParallel, torch.compile and adapters leave in names (``module``, ``_orig_mod``,
    ``base_layer``) do not count, on either
    side and at any depth; where names still differ, ``aliases`` (:class:`~noiserobust.models.ModelSpec`) translate
    those of well-known implementations. Counters of batches that an old file lacks stay at 0. Raises
    :class:`~noiserobust.UserError` that names missing, unexpected and misshapen entries, then ``hint``.
    """
    model = unwrap(model)
    state = model.state_dict()
    names, given = _by_plain_name(state), _by_plain_name(weights)
    translated = {_translated(name, aliases): original for name, original in given.items()}
    if len(names.keys() & translated.keys()) > len(names.keys() & given.keys()):
        given = translated
    if classes is not None:
        shared = names.keys() & given.keys()
        heads = {name for name in shared if _of_other_classes(state[names[name]], weights[given[name]], classes)}
        names = {name: original for name, original in names.items() if name not in heads}
        given = {name: original for name, original in given.items() if name not in heads}
    missing = [name for name in names if name not in given and not name.endswith("num_batches_tracked")]
    misshapen = [
        f"{name} {tuple(weights[given[name]].shape)} instead of {tuple(state[names[name]].shape)}"
        for name in names
        if name in given and weights[given[name]].shape != state[names[name]].shape
    ]
    wrong = [
        *_listed("missing", missing),
        *_listed("unexpected", [name for name in given if name not in names]),
        *_listed("of another shape", misshapen),
    ]
    if wrong:
        raise UserError(f"{source} does not fit {type(model).__name__}: {'; '.join(wrong)}; {hint or CHECK}")
    model.load_state_dict(state | {names[name]: weights[original] for name, original in given.items()})


def _of_other_classes(weight: Tensor, given: Tensor, classes: int) -> bool:
    """Whether ``weight`` and ``given`` differ in the number of classes, their first dimension, and in nothing else."""
    same = weight.dim() > 0 and weight.shape[1:] == given.shape[1:]
    return same and len(weight) == classes != len(given)


def _by_plain_name(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names without the marks of wrappers -> names as they are."""
    marks = ("module", "_orig_mod", "base_layer")
    plain = {".".join(p for p in name.split(".") if p not in marks): name for name in weights}
    # Two names that only such a part tells apart: it belongs to the network.
    return plain if len(plain) == len(weights) else {name: name for name in weights}


def _translated(name: str, aliases: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in aliases:
        name = re.sub(pattern, replacement, name)
    return name


def _listed(what: str, names: list[str]) -> list[str]:
    """``3 missing (a, b, c)``, at most six named."""
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return [f"{len(names)} {what} ({shown})"] if names else []

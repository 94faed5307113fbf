"""What a run trains, before its first step: a network with its first weights that fits the task and the data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from noiserobust.analog.coverage import coverage_of
from noiserobust.analog.where import Where
from noiserobust.data import Batch, Labelled, Splits, Streamed
from noiserobust.errors import UserError
from noiserobust.models.lora import adapters_of
from noiserobust.models.sizes import built
from noiserobust.rng import Stream, seeded
from noiserobust.spec.own_code import own_code
from noiserobust.spec.references import digest_of, load
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.identity import code
from noiserobust.storage.weights import load_weights
from noiserobust.tasks import Classification, Task
from noiserobust.tasks.batches import prepare
from noiserobust.tasks.scoring import checked
from noiserobust.training.identity import WITHOUT_EFFECT
from noiserobust.training.learning_rates import functions_of
from noiserobust.training.settings import TrainSettings


@dataclass(frozen=True)
class Network:
    """A network on the CPU, with what is known of it.

    - ``model``: it has its first weights, and was seen to answer the task's way.
    - ``task``: what the answers mean, suited to the data.
    - ``outputs``: how many of them; ``classes``: their names.
    - ``sample``: a batch of one training sample.
    - ``where``: its analog weights, the heads that the task alone knows among them.
    - ``code``: what tells somebody's code, the network's and whatever else the settings name, from another version of
      it; None where all is ours.
    """

    model: nn.Module
    task: Task
    outputs: int
    classes: tuple[str, ...]
    sample: Batch
    where: Where
    code: list[str] | None

    @classmethod
    def of(cls, settings: TrainSettings, splits: Splits, train: Labelled, tells: bool = True) -> Network:
        """The network that ``settings`` make for ``train``, what is trained on of ``splits``; whether it ``tells``
        what of the network no noise reaches. :class:`~noiserobust.UserError` where it does not fit them."""
        task = settings.task.suited(splits.train)
        outputs = len(train.classes)
        if not isinstance(task, Classification):
            outputs = max(task.outputs(part) for part in (splits.train, splits.test))
        with seeded(Stream(settings.seed).child("init")):
            model = built(settings.model, train.channels, outputs)
        if settings.initial is not None:
            start = read_checkpoint(settings.initial)
            weights = adapters_of(model) | dict(start.weights)  # new ones, where it has none
            load_weights(model, weights, start.path, settings.model.aliases, outputs)
        first = train.subset([0])
        first = replace(first, workers=0) if isinstance(first, Streamed) else first  # one image needs no processes
        (sample,) = prepare(first, torch.device("cpu"))
        checked(model, sample, task, outputs, str(settings.model))
        _require_normed(model, len(train), settings)
        # A finished run of somebody's code counts while that is the same.
        few = first if isinstance(first, Streamed) else train.subset(range(min(4, len(train))))
        of_model = code(model, prepare(few, torch.device("cpu"))[0].inputs) if settings.model.names_code else None
        own = code_of(settings, of_model)
        analog = coverage_of(model, settings.where, task.call, sample)
        if analog.warning and tells:
            warnings.warn(analog.warning, stacklevel=3)
        classes = train.classes if len(train.classes) == outputs else tuple(map(str, range(outputs)))
        return cls(model, task, outputs, classes, sample, settings.where.including(analog.heads), own)


def _require_normed(model: nn.Module, samples: int, settings: TrainSettings) -> None:
    """Refuse a last batch of one sample, of which batch norm over single features has no variance."""
    lone = samples % settings.batch_size == 1 and not settings.drop_last
    if lone and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        raise UserError(
            f"expected batches of 2 or more for batch norm, got {samples} training samples in batches of "
            f"{settings.batch_size}: the last is alone; use drop_last or another batch size"
        )


def code_of(settings: TrainSettings, network: Sequence[str] | None) -> list[str] | None:
    """What shows the code from outside the package that a run is made of: that of its ``network``
    (:func:`~noiserobust.storage.identity.code`), and its rule, task and whatever else ``settings`` name."""
    named = {name: value for name, value in vars(settings).items() if name not in (*WITHOUT_EFFECT, "model")}
    functions = [settings.loss] if settings.loss else []
    functions += functions_of(settings.lr_schedule) if settings.lr_schedule else []
    digests = [f"{function}={digest_of(load(function), function)}" for function in functions]
    own = " ".join(filter(None, [own_code(named, settings.where.table.read), *digests]))
    return None if network is None and not own else [*(network or ("", "")), *filter(None, [own])]

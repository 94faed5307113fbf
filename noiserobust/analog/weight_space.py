"""The parameters of a model as one point in weight space, moved for a while and restored bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from noiserobust.analog.backup import Backup
from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.analog.openings import opened
from noiserobust.analog.vectors import Vector, only
from noiserobust.analog.weights import AnalogWeight, analog_weights
from noiserobust.errors import UserError
from noiserobust.models.wrappers import Names, unwrap
from noiserobust.noise.sharded import forget_gathered

Over = Literal["all", "analog"]
"""All trainable parameters, or the analog weights alone."""


class WeightSpace:
    """The trainable parameters of ``model``, their names, and which of them are analog weights.

    - ``parameters``: which parameters, in which order; by default the model's own.
    - ``include``, ``exclude``: which weights are analog (:func:`~noiserobust.analog.weights.analog_weights`).

    ``names`` holds the name of every parameter, ``""`` for one that is not the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Iterable[nn.Parameter] | None = None,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        layers: LayerTable | None = None,
    ) -> None:
        self.model, self._patterns = model, {"include": include, "exclude": exclude, "layers": layers}
        forget_gathered(model)
        named = Names(model)
        names = {id(p): named(path) for path, p in unwrap(model).named_parameters()}
        given = unwrap(model).parameters() if parameters is None else parameters
        self.parameters = [parameter for parameter in given if parameter.requires_grad]
        self.names = [names.get(id(parameter), "") for parameter in self.parameters]
        self._backup = Backup(self.parameters)

    @cached_property
    def noisy(self) -> NoisyWeights:
        """The analog weights, ready for noise; :class:`~noiserobust.UserError` when there is none."""
        return NoisyWeights(self.model, **self._patterns)  # type: ignore[arg-type]

    @cached_property
    def analog(self) -> list[AnalogWeight]:
        """The analog weights, if any: they know which of their dimensions are filters."""
        return analog_weights(self.model, **self._patterns)  # type: ignore[arg-type]

    def chosen(self, over: Over) -> list[bool]:
        """Which of the parameters belong to ``all`` trainable ones or to the ``analog`` weights; never none."""
        analog = set() if over == "all" else {id(latent) for weight in self.analog for latent in weight.latents}
        marks = [over == "all" or id(parameter) in analog for parameter in self.parameters]
        if not any(marks):
            what = "trainable parameter" if over == "all" else "trainable analog weight"
            raise UserError(
                f"expected at least one {what} in {type(unwrap(self.model)).__name__}, found none; unfreeze some, or "
                "name all or analog to be perturbed"
            )
        return marks

    def only(self, vector: Vector, over: Over) -> Vector:
        """``vector`` without the parameters that are not in ``over``."""
        return only(vector, self.chosen(over))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The parameters are as before when the body ends, bit for bit, whatever it did to them or raised."""
        with opened(self.parameters) as opening:
            self._backup.save(opening)
            yield

    @torch.no_grad()
    def add(self, vector: Vector, factor: float = 1.0) -> None:
        """Move the parameters by ``factor`` times ``vector``."""
        pairs = [(p, v) for p, v in zip(self.parameters, vector, strict=True) if v is not None]
        if factor and pairs:
            torch._foreach_add_([p for p, _ in pairs], [v for _, v in pairs], alpha=factor)

    @contextmanager
    def moved(self, step: Vector) -> Iterator[None]:
        """Inside, every parameter stands at w + step; afterwards every bit of w is back.

        ``step`` is emptied, so that while the next gradient is taken only the backup is held on top of plain training.
        """
        with self.restored():
            self.add(step)
            step.clear()
            yield

"""The base of all noise models.

A noise model is a small frozen value. It writes a weight into an array, which makes a :class:`Chip`. A chip is read, at
any time and as often as one likes, and each read gives a noisy weight.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.limits import within
from noiserobust.noise.reference import LARGEST
from noiserobust.noise.sharded import is_sharded
from noiserobust.rng import Stream
from noiserobust.spec import Scalable
from noiserobust.spec.parser import BESIDE, JOIN, split

Per = Literal["chip", "read"]
"""When an error is drawn: once per chip (device to device), or anew for each read (cycle to cycle)."""


class Chip:
    """One weight as it is stored in an array. This base is a perfect array, which gives back what was written."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    tile: tuple[int, int] | None = None
    """Rows and columns of the crossbars that the weight is cut into; ``None``: it lies in one of its own size."""

    scale: Tensor | None = None
    """The weight that is stored as the largest conductance, broadcasting against the weight; ``None``: 1 throughout."""

    def read(self, stream: Stream, t: float | None = None) -> Tensor:
        """The weight seen at time ``t`` (seconds after programming; ``None``: at once), of the clean weight's shape.

        ``stream`` names this read's own noise. The clean weight is never changed in place.
        """
        return self.weight

    def programmed(self) -> Tensor:
        """The weight right after programming, before drift and without read noise."""
        return self.weight


@dataclass(frozen=True)
class NoiseModel(Scalable, family="noise model"):
    """A model of the errors that an array makes in the weights it stores.

    A leaf states its settings as fields, its maths in :meth:`write`, and in ``strength_field`` which field is its
    strength (or else :attr:`strength` and :meth:`scaled`). Weights have their output channel first, ``(outputs,
    inputs...)``.
    """

    def program(self, weight: Tensor, stream: Stream) -> Chip:
        """Write ``weight`` into an array: everything is drawn from ``stream`` that then stays fixed on that chip.

        The chip computes and reads in float32 or better, so that a low-precision weight is rounded once, at the end.
        """
        if is_sharded(weight) and not self.shards:
            raise UserError(
                f"{self}: expected a whole weight, got one that is sharded over processes; gaussian and laplace with "
                "reference filter or layer take those"
            )
        clean = weight.to(torch.promote_types(weight.dtype, torch.float32))
        # Nothing is stored of a weight without entries, which has no maximum either.
        return self.write(Chip(clean), clean, stream) if weight.numel() else Chip(clean)

    def sample(self, weight: Tensor, stream: Stream, t: float | None = None) -> Tensor:
        """Program a chip and read it once: one noisy copy of ``weight``."""
        return self.program(weight, stream.child("program")).read(read_stream(stream, t), t).to(weight.dtype)

    @abstractmethod
    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        """The chip that this stage makes of the chip ``below`` it.

        The scale is taken from ``clean``, the untouched weight, so that stages do not inflate each other's scale (the
        maximum of noisy weights is larger: by 8 % at sigma .1 and 26 % at .2 for filters of 4,608 inputs).
        """

    @property
    def row_std(self) -> Callable[[Tensor], Tensor] | None:
        """The function that gives a weight's standard deviations, one per row or one for all; ``None`` for most models.

        Only for a model that adds std times one field of its stream, :attr:`unit`, and does nothing else. Such noise
        can be added in place.
        """
        return None

    unit: ClassVar[Literal["normal", "laplace"]] = "normal"
    """The field of a :class:`~noiserobust.rng.Stream` that :attr:`row_std` multiplies."""

    @property
    def shards(self) -> bool:
        """Whether weights that are sharded over processes (DTensor) are taken: they get the noise of the whole."""
        return False

    @property
    def measured_chips(self) -> int | None:
        """How many measured chips it has, hence draws at most; ``None`` where chips are simulated, as many as asked."""
        inner = [getattr(self, field.name) for field in fields(self)]
        parts = [part for value in inner for part in (value if isinstance(value, tuple) else (value,))]
        counts = [part.measured_chips for part in parts if isinstance(part, NoiseModel)]
        return min((count for count in counts if count is not None), default=None)

    def changed(self, **settings: Any) -> NoiseModel:
        """The same with other values of these settings, in every stage and inner noise that has them.

        Raises :class:`~noiserobust.UserError` for a setting that none has.
        """
        known: set[str] = set()

        def change(noise: NoiseModel) -> NoiseModel:
            if isinstance(noise, Sum):
                return Sum(tuple(map(change, noise.parts)))
            own = {field.name: getattr(noise, field.name) for field in fields(noise)}
            values = {name: value for name, value in settings.items() if name in own}
            known.update(values)
            if values.get("reference") in ("filter", "layer"):  # which know no crossbars
                values |= {name: LARGEST for name in ("rows", "columns") if name in own}
            values |= {name: change(value) for name, value in own.items() if isinstance(value, NoiseModel)}
            values |= {name: Noises(map(change, value)) for name, value in own.items() if isinstance(value, Noises)}
            return replace(noise, **values) if values else noise

        noise = change(self)
        if missing := sorted(set(settings) - known):
            raise UserError(f"expected a noise with {', '.join(missing)} to set by layer, got {self}, which has none")
        return noise

    def __add__(self, other: NoiseModel) -> NoiseModel:
        """``self``, then ``other``: each in units of the clean weight's scale."""
        return Sum((*self.stages, *other.stages))

    @classmethod
    def parse(cls, text: Any, imports: bool = True) -> Any:
        """The model that is described: ``gaussian:0.05``, or the sum ``gaussian:0.02+laplace:0.01``."""
        stages = split(text, JOIN) if isinstance(text, str) else [text]
        parts = tuple(super(NoiseModel, cls).parse(stage, imports) for stage in stages)
        return parts[0] if len(parts) == 1 else Sum(parts)


class Noises(tuple[NoiseModel, ...]):
    """Several noises, one for each of several things; as text they are separated by semicolons."""

    @classmethod
    def parse(cls, text: Any, imports: bool = True) -> Noises:
        """Those that ``text`` names in their order."""
        return cls(NoiseModel.parse(one, imports) for one in split(text, BESIDE))

    def nested(self) -> str:
        """The text form."""
        return ";".join(noise.nested() for noise in self)


@dataclass(frozen=True)
class Sum(NoiseModel):
    """Noise models one after the other, left to right: each acts on what the one before it holds.

    :meth:`scaled` multiplies each stage's own deviation. The whole is multiplied by the same factor when what each
    stage adds does not depend on the stages below it (Gaussian, Laplace).
    """

    parts: tuple[NoiseModel, ...]

    def __post_init__(self) -> None:
        within("parts of a noise", "parts", len(self.parts))

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        for index, part in enumerate(self.parts):
            below = part.write(below, clean, stream.child(index))
        return below

    @property
    def shards(self) -> bool:
        return all(part.shards for part in self.parts)

    @property
    def strength(self) -> float:
        """The largest part's (all are multiplied by one factor)."""
        return max((part.strength for part in self.parts), default=0.0)

    def scaled(self, factor: float) -> Sum:
        return Sum(tuple(part.scaled(factor) for part in self.parts))

    @property
    def is_identity(self) -> bool:
        return all(part.is_identity for part in self.parts)

    @property
    def stages(self) -> tuple[NoiseModel, ...]:
        return self.parts


class AdditiveChip(Chip):
    """A chip whose error was fixed at programming: every read adds the same ``deviation``."""

    def __init__(self, below: Chip, deviation: Tensor) -> None:
        super().__init__(below.weight)
        self.below, self.deviation, self.tile, self.scale = below, deviation, below.tile, below.scale

    def read(self, stream: Stream, t: float | None = None) -> Tensor:
        return self.below.read(stream.child("below"), t) + self.deviation

    def programmed(self) -> Tensor:
        return self.below.programmed() + self.deviation


class AlteredChip(Chip):
    """A chip that gives back something else than the chip below it holds.

    ``alter(w, stream)`` maps what is read below to what is seen. ``stream`` is the read's own; it is ``None`` right
    after programming, where there is no read noise yet. Gradients pass straight through.
    """

    def __init__(self, below: Chip, alter: Callable[[Tensor, Stream | None], Tensor]) -> None:
        super().__init__(below.weight)
        self.below, self.alter, self.tile, self.scale = below, alter, below.tile, below.scale

    def read(self, stream: Stream, t: float | None = None) -> Tensor:
        return self._seen(self.below.read(stream.child("below"), t), stream.child("own"))

    def programmed(self) -> Tensor:
        return self._seen(self.below.programmed(), None)

    def _seen(self, below: Tensor, stream: Stream | None) -> Tensor:
        seen = self.alter(below.detach(), stream)
        return seen + (below - below.detach()) if below.requires_grad else seen


def read_stream(stream: Stream, t: float | None = None, read: int = 0) -> Stream:
    """The stream of one read's own noise, named by the weight's ``stream``, the time and the number of the read.

    So reads at other times and repeated reads are independent.
    """
    return stream.child("read", read, "" if t is None else repr(float(t)))


def additive(below: Chip, field: Tensor, scale: Tensor) -> Chip:
    """The chip ``below`` plus ``scale * field``."""
    return AdditiveChip(below, field * scale)


def check_strength(
    name: str, symbol: str, value: float, hint: str = "it is a fraction of max|w|, such as 0.05"
) -> None:
    """Refuse a noise strength that is negative or not finite."""
    if not 0 <= value < float("inf"):
        raise UserError(f"{name}: expected a finite {symbol} >= 0, got {value}; {hint}")

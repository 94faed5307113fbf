"""Weight clipping: no weight above a limit: a multiple of the rms, a percentile of the magnitudes, or fixed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from noiserobust.analog.places import Stored, Untied
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.errors import UserError
from noiserobust.noise.sharded import is_sharded, whole
from noiserobust.spec import Described

Per = Literal["layer", "column"]
"""What has a limit of its own: a whole weight, or every output of it, a column of the crossbar."""
ITERATIONS = 40
"""Newton steps to the limit; Gaussian weights need 4 at 2.5 times the rms, and 9 at 1.1 times."""


@dataclass(frozen=True)
class Clip(Described, family="clipping"):
    """How large a weight may be. ``2.5`` is short for ``rms(2.5)``.

    - ``when``: after every ``step``, or at the ``end`` of training: then the network that is kept is clipped (and the
      epoch chosen by its clipped weights).
    """

    when: Literal["step", "end"] = field(default="step", kw_only=True)

    @abstractmethod
    def limit(self, rows: Tensor) -> Tensor:
        """The largest magnitude of a weight (outputs, inputs ...): 0-dimensional, or one per output that broadcasts."""

    @classmethod
    def parse(cls, text: Any, imports: bool = True) -> Any:
        """The clipping that is described, a number being that of rms."""
        try:
            return RMS(float(text))
        except (TypeError, ValueError):
            return super().parse(text, imports)


@dataclass(frozen=True)
class RMS(Clip, name="rms"):
    r"""A multiple of the root mean square, which holds for the clipped weights.

    The limit c solves :math:`c = k\, \mathrm{rms}(\mathrm{clip}(w, c))`, so that afterwards max / rms is k, or less
    where it was. In pruned weights the rms is of those that are not 0, since the largest is never below 1 / sqrt(p)
    times the rms of all, p being the share that is not 0. That begins where :math:`k \sqrt p < (k + 1) / 2`.

    - ``times``: k, above 1 (1.25 to 4 is usual).
    - ``per``: ``layer``, or ``column``, each output on its own.
    """

    example: ClassVar[str] = "rms(2.5,per=column)"

    times: float
    per: Per = "layer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 < self.times <= 1e6:
            raise UserError(
                f"expected weight_clip > 1 (times the rms, below which no largest weight is) and up to 1e6, got "
                f"{self.times:g}; 1.25 to 4 is usual"
            )

    def limit(self, rows: Tensor) -> Tensor:
        squares = _groups(rows.square(), self.per)
        k2, size, alive = self.times**2, squares.shape[1], squares.sign().sum(1)
        count = torch.where(k2 * alive < (self.times + 1) ** 2 / 4 * size, alive.clamp(min=1), float(size))
        # Newton's method from the right on the concave k^2 sum(min(w^2, c^2)) - count c^2, whose pieces are straight:
        # it ends on the root's piece, and so at the root. In one buffer, as floats: memory anew costs more than sums.
        c2, below = k2 * squares.sum(1) / count, torch.empty_like(squares)
        for _ in range(ITERATIONS):
            torch.le(squares, c2[:, None], out=below)
            slope = count - k2 * (size - below.sum(1))
            new = torch.where(slope > 0, k2 * below.mul_(squares).sum(1) / slope, c2)
            new = torch.minimum(c2, new)
            done, c2 = _settled(new, c2), new
            if done:
                break
        return _limits(c2.sqrt(), rows, self.per)


@dataclass(frozen=True)
class Percentile(Clip, name="percentile"):
    """A percentile of the magnitudes, interpolated as numpy does.

    - ``percent``: 99.5 cuts the largest half per cent down.
    - ``per``: ``layer``, or ``column``, each output on its own.
    """

    example: ClassVar[str] = "percentile(99.5,when=end)"

    percent: float
    per: Per = "layer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.percent <= 100:
            raise UserError(f"percentile: expected a percent in (0, 100], got {self.percent:g}; 99.5 is usual")

    def limit(self, rows: Tensor) -> Tensor:
        groups = _groups(rows.abs(), self.per)
        place = self.percent / 100 * (groups.shape[1] - 1)
        below, above = (groups.kthvalue(min(int(place) + k, groups.shape[1]), dim=1).values for k in (1, 2))
        return _limits(torch.lerp(below, above, place - int(place)), rows, self.per)


@dataclass(frozen=True)
class Value(Clip, name="value"):
    """The same number for every weight."""

    example: ClassVar[str] = "value(0.2)"

    largest: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.largest < float("inf"):
            raise UserError(f"value: expected a finite limit > 0, got {self.largest:g}")

    def limit(self, rows: Tensor) -> Tensor:
        return rows.new_tensor(self.largest)


@torch.no_grad()
def clip_weights(space: WeightSpace, clip: Clip) -> None:
    """Clip the analog weights among the parameters of ``space``, in place."""
    for weight in _clipped(space):
        parameter = weight.parameter
        values = parameter.detach()
        if values.element_size() < 4:
            values = values.float()  # a limit of 16 bits is a per cent off, and squares and counts overflow
        sharded = is_sharded(values)
        if sharded and getattr(clip, "per", "layer") == "column":
            raise UserError("expected per=layer for weights sharded over processes (FSDP), got column")
        rows = whole(values) if sharded else weight.as_rows(values)
        limit = clip.limit(rows)
        if limit.dim() == 0:
            parameter.clamp_(-limit, limit)
        else:
            parameter.copy_(weight.from_rows(rows.clamp(-limit, limit)))


def require_clipped(space: WeightSpace) -> None:
    """Refuse to clip where nothing can be: LoRA, say, trains no weight that is in an array."""
    if not any(True for _ in _clipped(space)):
        raise UserError("expected analog weights that training changes to clip, got none; leave weight_clip out")


def _clipped(space: WeightSpace) -> Iterator[Stored | Untied]:
    trained = set(map(id, space.parameters))
    for weight in space.noisy.weights:
        parameter = weight.parameter
        if id(parameter) not in trained or not parameter.requires_grad or not parameter.numel():
            continue  # frozen: nothing here may change it
        if isinstance(weight, (Stored, Untied)):  # else computed: its parameters are no weights
            yield weight


def _groups(rows: Tensor, per: Per) -> Tensor:
    """What shares a limit in one row each."""
    return rows.flatten(1) if per == "column" and rows.dim() > 1 else rows.reshape(1, -1)


def _limits(limits: Tensor, rows: Tensor, per: Per) -> Tensor:
    """One limit per group as it broadcasts against ``rows``."""
    return limits.reshape(-1, *[1] * (rows.dim() - 1)) if per == "column" and rows.dim() > 1 else limits.reshape(())


def _settled(new: Tensor, old: Tensor) -> bool:
    """Whether an iteration is over; only asked on the CPU, where the answer costs nothing."""
    return new.device.type == "cpu" and bool(torch.equal(new, old))

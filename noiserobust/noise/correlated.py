"""Errors that weights of one column, input line, crossbar, layer or die have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip
from noiserobust.noise.reference import check_reference, over_tiles
from noiserobust.noise.wrapper import Assembly, Wrapper, stored
from noiserobust.rng import Stream

Over = Literal["column", "row", "tile", "layer", "die"]


@dataclass(frozen=True)
class Correlated(Wrapper, name="correlated"):
    r"""Errors that weights of one column, crossbar or die share in part; each by itself errs as without this.

    Every standard normal number :math:`z_i` that ``noise`` draws becomes

    .. math:: z'_i = \sqrt{1 - \rho}\, z_i + \sqrt{\rho}\, z_{g(i)}, \qquad \rho = share,

    with one more number :math:`z_g` per group: the variance is kept, and two weights of one group correlate by
    :math:`\rho`. Numbers of another distribution F (of ``laplace``, ``stuck``) become :math:`F^{-1}(\Phi(z'_i))`, a
    Gaussian copula, so that their distribution is kept, too: ``correlated(stuck(0.01),share=0.9)`` has stuck columns.
    The groups are those of ``over``:

    - ``column``: one output; ``row``: one input, with all outputs; ``tile``: a crossbar of at most ``rows`` x
      ``columns``; ``layer``: one weight; ``die``: all weights of a chip (of ``noise.sample`` by itself: that weight)

    Parts that are drawn at programming, as drift and at each read are all correlated, each within itself. Sources:
    Bowman, Duvall, Meindl, "Impact of die-to-die and within-die parameter fluctuations", IEEE JSSC 37, 183 (2002); the
    one-factor copula of Li, "On default correlation", Journal of Fixed Income 9, 43 (2000).

    >>> str(Correlated.parse("correlated(gaussian(0.05),share=0.5,over=column)"))
    'correlated(gaussian(0.05),share=0.5)'
    """

    example: ClassVar[str] = "correlated(gaussian(0.05),share=0.5,over=die)"

    share: float
    over: Over = "column"
    rows: int = 512
    columns: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"correlated: expected a share of the variance from 0 to 1, got {self.share}")
        if self.over not in get_args(Over):
            raise UserError(f"correlated: expected over {', '.join(get_args(Over))}, got {self.over!r}")
        check_reference(self.name, "tile", self.rows, self.columns)
        if self.over != "tile" and (self.rows, self.columns) != (512, 512):
            raise UserError(f"correlated: expected rows and columns only beside over=tile, got over={self.over}")

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity or self.share == 0:
            return below if self.is_identity else self.noise.write(below, clean, stream)
        target = stored(below)
        chip = self.noise.write(Chip(target), clean, shared(self, stream))
        return Assembly(below, target, [CorrelatedReads(chip, self)], lambda read: read[0])

    @property
    def shards(self) -> bool:
        return self.noise.shards and self.over != "tile"

    def groups(self, shape: Sequence[int], stream: Stream, device: torch.device | str) -> Tensor:
        """One standard normal number per group, in a shape that broadcasts against a field of ``shape``."""
        outputs, inputs = (shape[0], shape[1:]) if len(shape) > 1 else (1, shape)
        ones = [1] * len(shape)
        match self.over:
            case "die":
                return stream.of_chip.normal(ones, device=device)
            case "column":  # a vector has no column of its own: it is one group
                return stream.normal([outputs, *ones[1:]], device=device)
            case "row":
                return stream.normal([1, *inputs][-len(ones) :], device=device)
            case "tile":
                tiles = -(-math.prod(inputs) // self.rows) * -(-outputs // self.columns)
                numbers = iter(stream.normal([tiles], device=device))
                return over_tiles(torch.empty(*shape, device=device), self.rows, self.columns, lambda _: next(numbers))
        return stream.normal(ones, device=device)


class CorrelatedReads(Chip):
    """A chip whose reads draw numbers that are correlated."""

    def __init__(self, chip: Chip, how: Correlated) -> None:
        super().__init__(chip.weight)
        self.chip, self.how, self.tile, self.scale = chip, how, chip.tile, chip.scale

    def read(self, stream: Stream, t: float | None = None) -> Tensor:
        return self.chip.read(shared(self.how, stream), t)

    def programmed(self) -> Tensor:
        return self.chip.programmed()


def shared(how: Correlated, stream: Stream) -> Stream:
    """``stream`` with correlated fields; what is correlated around ``how`` acts on its numbers."""
    if isinstance(stream, SharedStream):
        return SharedStream(stream.how, shared(how, stream.base))
    return SharedStream(how, stream)


class SharedStream(Stream):
    """A stream's name with other fields: entries of one group have a number in common."""

    def __init__(self, how: Correlated, base: Stream) -> None:
        super().__init__(base.seed, *base.path)
        self.__dict__.update(how=how, base=base, place=base.place)
        self.__dict__["depth"] = getattr(base, "depth", -1) + 1

    how: Correlated
    base: Stream
    """What is shared among: the plain stream, or another one of this kind."""
    depth: int
    """How many of this kind it is around."""

    def _at(self, path: tuple[str | int, ...]) -> Stream:
        return SharedStream(self.how, self.base._at(path))

    def normal(
        self, shape: Sequence[int], *, rows: tuple[int, int] | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        own = self.base.normal(shape, rows=rows, device=device)
        groups = self.how.groups(shape, super()._at((*self.path, "shared", self.depth)), device)
        if rows is not None and len(groups) == shape[0]:
            groups = groups[slice(*rows)]
        return math.sqrt(1 - self.how.share) * own + math.sqrt(self.how.share) * groups

    def uniform(
        self, shape: Sequence[int], *, rows: tuple[int, int] | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        z = self.normal(shape, rows=rows, device=device).double()
        return torch.special.ndtr(z).float().clamp(max=1 - 2**-24)

    def laplace(
        self, shape: Sequence[int], *, rows: tuple[int, int] | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        z = self.normal(shape, rows=rows, device=device).double()
        return (-z.sign() * (2 * torch.special.ndtr(-z.abs())).log()).float()

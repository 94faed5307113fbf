"""A fixed part of a data set's training images: so many of each class, the same ones for everybody who has the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from noiserobust.data.dataset import Splits
from noiserobust.data.source import DataSource
from noiserobust.errors import UserError
from noiserobust.rng import Stream


@dataclass(frozen=True)
class Subset(DataSource, name="subset"):
    """So many training images of each class of another data set, always the same ones; its test images stay whole.

    Class k's images are put into the order of the permutation that ``Stream(0, "subset", k)`` draws of their places
    among the images *of that class*: the first ``per_class`` of it are trained on, class after class, each in the order
    that the data have. How the data interleave their classes does not matter, and a smaller subset is part of a larger
    one. The last ``validation`` of each class are watched while a run is trained, in place of a part of what it is
    trained on. Nobody sees the rest.

    - ``of``: the data set, such as ``cifar10`` or ``folder(path/to/images)``.
    - ``per_class``: training images a class.
    - ``validation``: images a class that the log and the choice of the epoch see (0: as in the data set itself).

    The normalisation is that of the whole data set. Raises :class:`UserError` where a class has too few images.
    """

    example: ClassVar[str] = "subset:cifar10,per_class=500"
    resizes: ClassVar[bool] = True  # where the data set does, which refuses it otherwise

    of: DataSource
    per_class: int
    validation: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.per_class < 1 or self.validation < 0:
            raise UserError(
                f"expected per_class of 1 or more and validation of 0 or more, got {self.per_class} and "
                f"{self.validation} in {self}"
            )

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        whole = self.of.load(root, image_size)
        labels = whole.train.labels
        if not isinstance(labels, Tensor) or labels.dim() != 1 or not whole.train.classes:
            raise UserError(f"expected data with a class for each sample, got {self.of}: it has no subset by class")
        orders = [_order(labels.cpu(), number) for number in range(len(whole.train.classes))]
        fewest = min(map(len, orders))
        if self.per_class + self.validation > fewest:
            raise UserError(
                f"expected at most {fewest} images a class, as many as the smallest class of {self.of} has, got "
                f"{self.per_class} for training and {self.validation} for validation"
            )
        kept = torch.cat([order[: self.per_class].sort().values for order in orders])
        watched = torch.cat([order[len(order) - self.validation :].sort().values for order in orders])
        validation = whole.train.subset(watched) if self.validation else whole.validation
        return replace(whole, train=whole.train.subset(kept), validation=validation)

    def lies_in(self, root: str | Path) -> bool:
        return self.of.lies_in(root)


def _order(labels: Tensor, number: int) -> Tensor:
    """The positions of a class, in an order that depends on nothing but its number and size."""
    places = (labels == number).nonzero().flatten()
    return places[torch.randperm(len(places), generator=Stream(0, "subset", number).generator())]

"""What a model definition is: settings that build a network for any number of channels and classes."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.spec import Described


class Native(NamedTuple):
    """The problem that a definition was made for: what its published sizes and costs refer to."""

    channels: int
    size: int
    """Pixels a side."""
    classes: int


CIFAR = Native(3, 32, 10)
IMAGENET = Native(3, 224, 1000)


class ModelSpec(Described, family="model"):
    """Base of the model definitions: frozen dataclasses with a text form, such as ``resnet18:32``.

    A definition says what is computed and nothing about training. ``aliases`` are pairs (regular expression,
    replacement) that turn the parameter names of well-known implementations into ours, so that their checkpoints load.
    """

    native: ClassVar[Native] = CIFAR
    aliases: ClassVar[tuple[tuple[str, str], ...]] = ()
    names_code: ClassVar[bool] = False
    """Whether it calls whatever function its text names: out of a file it is built only if a person names it, too."""

    def __post_init__(self) -> None:
        width, dropout = getattr(self, "width", 1), getattr(self, "dropout", 0.0)
        if isinstance(width, int) and width < 1:
            raise UserError(f"{self.name}: expected a width of 1 channel or more, got {width}")
        if isinstance(dropout, float | int) and not 0 <= dropout < 1:
            raise UserError(f"{self.name}: expected dropout in [0, 1), got {dropout}")

    @abstractmethod
    def build(self, channels: int, classes: int) -> nn.Module:
        """A new network from B x ``channels`` x H x W inputs to B x ``classes`` logits, initialised as PyTorch does.

        Its initial weights come from PyTorch's global generator, as all modules' do: seed that around the call.
        """

    def inputs(self, batch: int, channels: int, size: int) -> Tensor:
        """Inputs of the right shape and type, without memory (on the meta device)."""
        return torch.empty(batch, channels, size, size, device="meta")

    def without_weights(self) -> ModelSpec:
        """The same network with random weights: what a checkpoint is loaded into."""
        return self

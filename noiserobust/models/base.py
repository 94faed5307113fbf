"""What a model definition is: settings that build a network for any number of channels and classes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from noiserobust.errors import UserError
from noiserobust.text import Described


class ModelSpec(Described, ABC, family="model"):
    """Base of the model definitions: frozen dataclasses with a text form, such as ``resnet18:32``."""

    @abstractmethod
    def build(self, channels: int, classes: int) -> nn.Module:
        """A new network from B x ``channels`` x H x W inputs to B x ``classes`` logits, initialised as PyTorch does.

        Its initial weights come from PyTorch's global generator, as all modules' do: seed that around the call.
        """


def check_width(spec: Described, width: int) -> None:
    """Raises :class:`UserError` unless ``width`` can be a number of channels."""
    if width < 1:
        raise UserError(f"{spec.name}: expected a width of 1 channel or more, got {width}")

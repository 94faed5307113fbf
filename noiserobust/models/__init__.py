"""Networks: ``build("resnet18", channels=3, classes=10)``."""

from __future__ import annotations

from torch import nn

from noiserobust.errors import UserError
from noiserobust.models.base import ModelSpec
from noiserobust.models.digits import DigitsNet
from noiserobust.models.resnet import ResNet18

__all__ = ["DigitsNet", "ModelSpec", "ResNet18", "build"]


def build(spec: ModelSpec | str, channels: int, classes: int) -> nn.Module:
    """A new network for images of ``channels`` channels and ``classes`` classes; ``spec`` may be its text form."""
    if channels < 1 or classes < 1:
        raise UserError(f"expected 1 channel and 1 class or more, got {channels} and {classes}")
    return (ModelSpec.parse(spec) if isinstance(spec, str) else spec).build(channels, classes)

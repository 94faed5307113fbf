"""Networks: ``build("resnet18", channels=3, classes=10)``."""

from __future__ import annotations

from torch import nn

from noiserobust.errors import UserError
from noiserobust.models.base import ModelSpec, Native
from noiserobust.models.check import checked_forward
from noiserobust.models.costs import Cost, cost
from noiserobust.models.digits import DigitsNet
from noiserobust.models.factory import Factory
from noiserobust.models.lora import LoRA
from noiserobust.models.pretrained import Transformers
from noiserobust.models.pyramidnet import PyramidNet
from noiserobust.models.resnet import ResNet18, ResNet34, ResNet50, ResNet101
from noiserobust.models.resnet9 import ResNet9
from noiserobust.models.sizes import built
from noiserobust.models.torchvision import Torchvision
from noiserobust.models.transformer import Transformer
from noiserobust.models.vgg import VGG16BN
from noiserobust.models.vit import DeiTSmall, ViTCifar, ViTSmall16, ViTSmall32
from noiserobust.models.wide_resnet import WideResNet

__all__ = [
    "VGG16BN",
    "Cost",
    "DeiTSmall",
    "DigitsNet",
    "Factory",
    "LoRA",
    "ModelSpec",
    "Native",
    "PyramidNet",
    "ResNet9",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "Torchvision",
    "Transformer",
    "Transformers",
    "ViTCifar",
    "ViTSmall16",
    "ViTSmall32",
    "WideResNet",
    "build",
    "checked_forward",
    "cost",
]


def build(spec: ModelSpec | str, channels: int, classes: int) -> nn.Module:
    """A new network for images of ``channels`` channels and ``classes`` classes; ``spec`` may be its text form."""
    if channels < 1 or classes < 1:
        raise UserError(f"expected 1 channel and 1 class or more, got {channels} and {classes}")
    return built(ModelSpec.parse(spec) if isinstance(spec, str) else spec, channels, classes)

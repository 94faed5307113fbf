"""ResNet-9, the small fast CIFAR network of the DAWNBench competition."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from noiserobust.models.base import ModelSpec


@dataclass(frozen=True)
class ResNet9(ModelSpec, name="resnet9"):
    """ResNet-9: eight 3 x 3 convolutions, max-pools, two residual pairs, a head: 6,573,130 parameters at width 64.

    The network known by that name (D. Page, How to Train Your ResNet, 2018). Papers that list a "ResNet-9" without
    describing it may mean another one: He et al. define none. width: channels of the first layer.
    """

    example: ClassVar[str] = "resnet9:64"

    width: int = 64

    def build(self, channels: int, classes: int) -> nn.Module:
        w = self.width
        return nn.Sequential(
            OrderedDict(
                stem=_convolution(channels, w),
                stage1=nn.Sequential(_convolution(w, 2 * w), nn.MaxPool2d(2), _residual(2 * w)),
                stage2=nn.Sequential(_convolution(2 * w, 4 * w), nn.MaxPool2d(2)),
                stage3=nn.Sequential(_convolution(4 * w, 8 * w), nn.MaxPool2d(2), _residual(8 * w)),
                pool=nn.AdaptiveMaxPool2d(1),
                flatten=nn.Flatten(),
                head=nn.Linear(8 * w, classes),
            )
        )


class Residual(nn.Sequential):
    """x + f(x), f being its layers one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    from torchvision.ops import Conv2dNormActivation

    return Conv2dNormActivation(inputs, outputs, 3)


def _residual(width: int) -> Residual:
    return Residual(_convolution(width, width), _convolution(width, width))

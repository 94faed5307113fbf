"""The network of the examples and tests."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from noiserobust.models.base import ModelSpec, Native


@dataclass(frozen=True)
class DigitsNet(ModelSpec, name="digits"):
    """A small convolutional network for 8 x 8 digits, which trains in seconds on a CPU.

    Three 3 x 3 convolutions of 1, 2 and 4 times ``width`` channels, a 2 x 2 max-pool before the last, a linear head.
    That sees the average over all positions, so that any image of 2 x 2 pixels or more will do.
    """

    example: ClassVar[str] = "digits:16"

    width: int = 16
    native = Native(1, 8, 10)

    def build(self, channels: int, classes: int) -> nn.Module:
        w = self.width
        return nn.Sequential(
            OrderedDict(
                conv1=_convolution(channels, w),
                conv2=_convolution(w, 2 * w),
                pool=nn.MaxPool2d(2),
                conv3=_convolution(2 * w, 4 * w),
                average=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                head=nn.Linear(4 * w, classes),
            )
        )


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs), relu=nn.ReLU()))

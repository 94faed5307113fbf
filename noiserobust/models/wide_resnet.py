"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016)."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.models.base import ModelSpec


@dataclass(frozen=True)
class WideResNet(ModelSpec, name="wrn"):
    """A wide residual network (WRN-d-k) for 32 x 32 images: ``wrn:28-10``.

    It has three stages of (d - 4) / 6 pre-activation blocks with 16 k, 32 k, 64 k channels. shape: depth and widening
    factor, d-k; dropout: between the two convolutions of a block; width: channels of the stem, and what k multiplies
    (16 in the paper).
    """

    example: ClassVar[str] = "wrn:28-10"

    shape: str = "28-10"
    dropout: float = 0.0
    width: int = 16
    aliases = (
        (r"^conv1\.", "stem."),
        (r"^bn1\.", "norm."),
        *((rf"^block{stage}\.(?:layer\.)?", f"stages.{stage - 1}.") for stage in (1, 2, 3)),
        (r"\.bn([12])\.", r".norm\1."),
        (r"\.(?:convShortcut|shortcut\.0)\.", ".shortcut."),
        (r"^(?:fc|linear)\.", "head."),
    )

    def __post_init__(self) -> None:
        match = re.fullmatch(r"(\d+)-(\d+)", self.shape)
        if match is None or int(match[1]) < 10 or int(match[1]) % 6 != 4 or int(match[2]) < 1:
            raise UserError(
                f"wrn: expected depth-widening such as 28-10, with a depth of 10, 16, 22, 28, ..., got '{self.shape}'"
            )
        super().__post_init__()

    def build(self, channels: int, classes: int) -> nn.Module:
        depth, widening = map(int, self.shape.split("-"))
        w, blocks = self.width * widening, (depth - 4) // 6
        return nn.Sequential(
            OrderedDict(
                stem=nn.Conv2d(channels, self.width, 3, padding=1, bias=False),
                stages=nn.Sequential(
                    _stage(self.width, w, blocks, 1, self.dropout),
                    _stage(w, 2 * w, blocks, 2, self.dropout),
                    _stage(2 * w, 4 * w, blocks, 2, self.dropout),
                ),
                norm=nn.BatchNorm2d(4 * w),
                relu=nn.ReLU(inplace=True),
                average=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                head=nn.Linear(4 * w, classes),
            )
        )


class PreActivationBlock(nn.Module):
    """Normalise, rectify, convolve, twice; a 1 x 1 convolution of the first activation where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.drop = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x).relu()
        out = self.conv2(self.drop(self.norm2(self.conv1(active)).relu()))
        return out + (x if self.shortcut is None else self.shortcut(active))


def _stage(inputs: int, outputs: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = PreActivationBlock(inputs, outputs, stride, dropout)
    return nn.Sequential(first, *(PreActivationBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1)))

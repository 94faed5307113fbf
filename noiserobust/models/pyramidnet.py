"""PyramidNet: Deep Pyramidal Residual Networks (Han, Kim and Kim, CVPR 2017), additive, with basic blocks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from noiserobust.errors import UserError
from noiserobust.models.base import ModelSpec


@dataclass(frozen=True)
class PyramidNet(ModelSpec, name="pyramidnet"):
    """A residual network for 32 x 32 images in which every block is a little wider than the one before.

    Block k of N has floor(width + alpha k / N) channels (Eq. 3 of the paper); its shortcut has no weights: average
    pooling where the stride is 2, and zeros for the channels that the input lacks.

    depth: 6 n + 2 layers; alpha: channels added over all blocks; width: channels of the stem.
    """

    example: ClassVar[str] = "pyramidnet:110,alpha=270"

    depth: int = 110
    alpha: int = 270
    width: int = 16
    aliases = (
        (r"^conv1\.", "stem.conv."),
        (r"^bn1\.", "stem.norm."),
        *((rf"^layer{stage}\.", f"stages.{stage - 1}.") for stage in (1, 2, 3)),
        (r"\.bn([123])\.", r".norm\1."),
        (r"^bn_final\.", "norm."),
        (r"^fc\.", "head."),
    )

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 != 2:
            raise UserError(f"pyramidnet: expected a depth of 8, 14, 20, ..., 110, ..., got {self.depth}")
        if self.alpha < 0:
            raise UserError(f"pyramidnet: expected alpha >= 0, got {self.alpha}")
        super().__post_init__()

    def build(self, channels: int, classes: int) -> nn.Module:
        blocks = (self.depth - 2) // 6
        widths = [self.width + self.alpha * k // (3 * blocks) for k in range(3 * blocks + 1)]
        built = [
            PyramidBlock(widths[k], widths[k + 1], stride=2 if k in (blocks, 2 * blocks) else 1)
            for k in range(3 * blocks)
        ]
        stem = nn.Conv2d(channels, self.width, 3, padding=1, bias=False)
        return nn.Sequential(
            OrderedDict(
                stem=nn.Sequential(OrderedDict(conv=stem, norm=nn.BatchNorm2d(self.width))),
                stages=nn.Sequential(*(nn.Sequential(*built[k * blocks : (k + 1) * blocks]) for k in range(3))),
                norm=nn.BatchNorm2d(widths[-1]),
                relu=nn.ReLU(inplace=True),
                average=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                head=nn.Linear(widths[-1], classes),
            )
        )


class PyramidBlock(nn.Module):
    """norm, 3 x 3, norm, ReLU, 3 x 3, norm (Figure 6d of the paper), plus the input padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm3(self.conv2(self.norm2(self.conv1(self.norm1(x))).relu()))
        shortcut = self.pool(x)
        return out + functional.pad(shortcut, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))

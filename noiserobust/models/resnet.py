"""CIFAR ResNets: Deep Residual Learning for Image Recognition (He et al., 2016), as the noise papers use them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from noiserobust.models.base import ModelSpec


@dataclass(frozen=True)
class CifarResNet(ModelSpec):
    """A ResNet for 32 x 32 images: a 3 x 3 stem of stride 1 and no max-pool, else as the paper's Table 1.

    width: channels of the stem and of the first stage; the later stages have 2, 4 and 8 times as many (and the outputs
    of bottleneck blocks four times that).
    """

    width: int = 64
    depths: ClassVar[tuple[int, ...]]
    """Residual blocks of each stage."""
    bottleneck: ClassVar[bool] = False
    aliases = (
        (r"^conv1\.", "stem.conv."),
        (r"^bn1\.", "stem.norm."),
        *((rf"^layer{stage}\.", f"stages.{stage - 1}.") for stage in (1, 2, 3, 4)),
        (r"\.(?:shortcut|downsample)\.0\.", ".downsample.conv."),
        (r"\.(?:shortcut|downsample)\.1\.", ".downsample.norm."),
        (r"^(?:linear|fc)\.", "head."),
    )

    def build(self, channels: int, classes: int) -> nn.Module:
        return ResNet(channels, classes, self.width, self.depths, self.bottleneck)


@dataclass(frozen=True)
class ResNet18(CifarResNet, name="resnet18"):
    """ResNet-18 for 32 x 32 images: 11,173,962 parameters at width 64."""

    example: ClassVar[str] = "resnet18:16"
    depths = (2, 2, 2, 2)


@dataclass(frozen=True)
class ResNet34(CifarResNet, name="resnet34"):
    """ResNet-34 for 32 x 32 images: 21,282,122 parameters at width 64."""

    example: ClassVar[str] = "resnet34:64"
    depths = (3, 4, 6, 3)


@dataclass(frozen=True)
class ResNet50(CifarResNet, name="resnet50"):
    """ResNet-50 (bottleneck blocks) for 32 x 32 images: 23,520,842 parameters at width 64."""

    example: ClassVar[str] = "resnet50:64"
    depths = (3, 4, 6, 3)
    bottleneck = True


@dataclass(frozen=True)
class ResNet101(CifarResNet, name="resnet101"):
    """ResNet-101 (bottleneck blocks) for 32 x 32 images: 42,512,970 parameters at width 64."""

    example: ClassVar[str] = "resnet101:64"
    depths = (3, 4, 23, 3)
    bottleneck = True


class ResNet(nn.Module):
    """stem, four stages of residual blocks (strides 1, 2, 2, 2), global average, head: B x classes logits."""

    def __init__(self, channels: int, classes: int, width: int, depths: Sequence[int], bottleneck: bool) -> None:
        super().__init__()
        stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(OrderedDict(conv=stem, norm=nn.BatchNorm2d(width), relu=nn.ReLU(inplace=True)))
        stages, inputs = [], width
        for index, depth in enumerate(depths):
            stages.append(_stage(inputs, width * 2**index, depth, 1 if index == 0 else 2, bottleneck))
            inputs = width * 2**index * (4 if bottleneck else 1)
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def _stage(inputs: int, planes: int, depth: int, stride: int, bottleneck: bool) -> nn.Sequential:
    # Imported here because torchvision takes a second that `import noiserobust` need not wait for.
    from torchvision.models.resnet import BasicBlock, Bottleneck

    block = Bottleneck if bottleneck else BasicBlock
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs)))
    first = block(inputs, planes, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, planes) for _ in range(depth - 1)))

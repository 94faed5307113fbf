"""The CIFAR ResNet-18: Deep Residual Learning for Image Recognition (He et al., 2016), as the noise papers use it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from noiserobust.models.base import ModelSpec, check_width


@dataclass(frozen=True)
class ResNet18(ModelSpec, name="resnet18"):
    """ResNet-18 for 32 x 32 images: a 3 x 3 stem of stride 1, no max-pool, 11,173,962 parameters at width 64.

    width: channels of the stem and of the first stage; the later stages have 2, 4 and 8 times as many.
    """

    width: int = 64

    def __post_init__(self) -> None:
        check_width(self, self.width)

    def build(self, channels: int, classes: int) -> nn.Module:
        return ResNet(channels, classes, self.width)


class ResNet(nn.Module):
    """stem, four stages of two basic blocks (strides 1, 2, 2, 2), global average, head: B x classes logits."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(OrderedDict(conv=stem, norm=nn.BatchNorm2d(width), relu=nn.ReLU(inplace=True)))
        self.stages = nn.Sequential(
            _stage(width, width, stride=1),
            _stage(width, 2 * width, stride=2),
            _stage(2 * width, 4 * width, stride=2),
            _stage(4 * width, 8 * width, stride=2),
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    # Imported here because torchvision takes a second that `import noiserobust` need not wait for.
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1 or inputs != outputs:
        conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs)))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))

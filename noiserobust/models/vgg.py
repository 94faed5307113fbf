"""VGG-16 with batch norm for CIFAR: Very Deep Convolutional Networks (Simonyan and Zisserman, ICLR 2015)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from noiserobust.models.base import ModelSpec


@dataclass(frozen=True)
class VGG16BN(ModelSpec, name="vgg16-bn"):
    """VGG-16 with batch norm for 32 x 32 images: 15,253,578 parameters at width 64.

    The thirteen convolutions of configuration D and three linear layers of 512, 512 and ``classes`` outputs, the usual
    reduction of the paper's 4,096. Images need 32 pixels a side or more. width: channels of the first layer.
    """

    example: ClassVar[str] = "vgg16-bn:64"

    width: int = 64
    dropout: float = 0.5

    def build(self, channels: int, classes: int) -> nn.Module:
        from torchvision.models.vgg import cfgs, make_layers

        features = make_layers([v if v == "M" else v // 64 * self.width for v in cfgs["D"]], batch_norm=True)
        if channels != 3:  # what torchvision takes for granted
            features[0] = nn.Conv2d(channels, self.width, 3, padding=1)
        hidden = 8 * self.width
        classifier = [
            part
            for _ in range(2)
            for part in (nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(self.dropout))
        ]
        return nn.Sequential(
            OrderedDict(
                features=features,
                average=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classifier=nn.Sequential(*classifier, nn.Linear(hidden, classes)),
            )
        )

"""Vision transformers: An Image is Worth 16x16 Words (Dosovitskiy et al., ICLR 2021), by torchvision."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from noiserobust.errors import UserError
from noiserobust.models.base import CIFAR, IMAGENET, ModelSpec

# The names of timm, in which DeiT and most ViTs are published.
_TIMM = (
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.norm1\.", ".ln_1."),
    (r"\.norm2\.", ".ln_2."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^norm\.", "encoder.ln."),
    (r"^head\.", "heads.head."),
)


@dataclass(frozen=True)
class ViT(ModelSpec):
    """A vision transformer of torchvision for square images of one size; the defaults are those of ViT-S/16.

    width: of the tokens, a multiple of heads; image_size: pixels a side, a multiple of patch, which fixes the position
    embedding; depth: encoder layers; mlp: hidden units of a layer's MLP in units of width; dropout: after the
    embedding, the attention and the MLP's layers; resize: images of another size are scaled to image_size inside
    the network (bilinear), as fine-tuning on small images does.
    """

    width: int = 384
    image_size: int = 224
    patch: int = 16
    depth: int = 12
    heads: int = 6
    mlp: int = 4
    dropout: float = 0.0
    resize: bool = False
    aliases = _TIMM
    native = IMAGENET

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in fields(self):
            if field.name not in ("dropout", "resize") and getattr(self, field.name) < 1:
                raise UserError(f"{self.name}: expected {field.name} >= 1, got {getattr(self, field.name)}")
        for whole, part in (("width", "heads"), ("image_size", "patch")):
            a, b = getattr(self, whole), getattr(self, part)
            if a % b:
                raise UserError(f"{self.name}: expected {whole} to be a multiple of {part} ({b}), got {a}")

    def build(self, channels: int, classes: int) -> nn.Module:
        from torchvision.models import VisionTransformer

        network = VisionTransformer(
            self.image_size,
            self.patch,
            self.depth,
            self.heads,
            self.width,
            self.mlp * self.width,
            dropout=self.dropout,
            num_classes=classes,
        )
        if channels != 3:  # what torchvision takes for granted
            network.conv_proj = nn.Conv2d(channels, self.width, self.patch, self.patch)
            nn.init.trunc_normal_(network.conv_proj.weight, std=math.sqrt(1 / (channels * self.patch**2)))
            nn.init.zeros_(network.conv_proj.bias)
        if self.resize:
            network.register_forward_pre_hook(partial(_resized, self.image_size))
        return network


def _resized(size: int, _module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return functional.interpolate(inputs[0], (size, size), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class ViTCifar(ViT, name="vit-cifar"):
    """A vision transformer for 32 x 32 images: 9,532,938 parameters.

    Patch 4, 8 heads, dropout 0.1 (RWP, Appendix D). The paper gives no more; width 512, 6 layers and an MLP of 512 are
    those of the widely used CIFAR implementation with these very settings (K. Yoshioka's vision-transformers-cifar10),
    whose projections to queries, keys and values lack the 9,216 biases of torchvision's.
    """

    example: ClassVar[str] = "vit-cifar:512"

    width: int = 512
    image_size: int = 32
    patch: int = 4
    depth: int = 6
    heads: int = 8
    mlp: int = 1
    dropout: float = 0.1
    native = CIFAR


@dataclass(frozen=True)
class ViTSmall16(ViT, name="vit-s16"):
    """The vision transformer ViT-S/16 for 224 x 224 images: 22,050,664 parameters for 1,000 classes."""

    example: ClassVar[str] = "vit-s16:384"


@dataclass(frozen=True)
class ViTSmall32(ViT, name="vit-s32"):
    """The vision transformer ViT-S/32 for 224 x 224 images: 22,878,952 parameters for 1,000 classes."""

    example: ClassVar[str] = "vit-s32:384"

    patch: int = 32


@dataclass(frozen=True)
class DeiTSmall(ViT, name="deit-s"):
    """DeiT-S (Touvron et al., ICML 2021): the network of ViT-S/16, under the names in which DeiT is published."""

    example: ClassVar[str] = "deit-s:384"

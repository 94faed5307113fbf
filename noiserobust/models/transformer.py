"""A small transformer that reads tokens and says what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.models.base import ModelSpec, Native


@dataclass(frozen=True)
class Transformer(ModelSpec, name="transformer"):
    """A small transformer that reads tokens and predicts the next one.

    From B x T tokens to B x ``classes`` logits, by ``layers`` pre-norm blocks of ``heads`` heads. The output layer is
    tied to the embedding unless ``tied`` is false: on a chip it computes with a noisy copy, while the look-up stays
    digital. ``channels`` of :meth:`build` is T, the number of tokens read.
    """

    example: ClassVar[str] = "transformer:64"

    width: int = 64
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    tied: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 1 or self.heads < 1 or self.width % self.heads:
            raise UserError(
                f"transformer: expected a width divisible by the heads, got width {self.width}, {self.heads} heads, "
                f"{self.layers} layers"
            )

    native = Native(32, 1, 20)

    def inputs(self, batch: int, channels: int, size: int) -> Tensor:
        return torch.zeros(batch, channels, dtype=torch.long, device="meta")

    def build(self, channels: int, classes: int) -> nn.Module:
        return TransformerNet(self, channels, classes)


class TransformerNet(nn.Module):
    """The network of :class:`Transformer`."""

    def __init__(self, spec: Transformer, tokens: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, spec.width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, spec.width))
        block = nn.TransformerEncoderLayer(
            spec.width, spec.heads, 4 * spec.width, spec.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, spec.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(spec.width)
        self.head = nn.Linear(spec.width, classes, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.05)
        if spec.tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        seen = self.blocks(self.embedding(tokens) + self.position[: tokens.shape[1]])
        return self.head(self.norm(seen[:, -1]))

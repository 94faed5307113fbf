"""Low-rank adapters (LoRA): small digital layers that learn beside frozen ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.models.base import ModelSpec

ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class LoRA(ModelSpec, name="lora"):
    r"""Any network, frozen, with an adapter that learns beside each of its linear layers and convolutions.

    A layer :math:`W x + b` becomes :math:`W x + b + \frac{\alpha}{rank} B A x`: A has ``rank`` outputs (a convolution's
    has its kernel, B is 1 x 1). B begins at 0, so that the network begins as the one that it adapts. W, b and the
    normalisation's weights are frozen; W is in the array, A and B are digital. Left as they are: grouped convolutions,
    and layers inside nn.MultiheadAttention, which are not called.

    - ``of``: the network. Its weights come from ``--initial``, where its text names none.
    - ``alpha``: by default the rank.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), Eq. 3; over noisy
    arrays: docs/language_model.md.
    """

    example: ClassVar[str] = "lora:digits(16),rank=4"

    of: ModelSpec
    rank: int = 8
    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise UserError(f"lora: expected a rank of 1 or more, got {self.rank}; 4 to 16 is usual")
        if isinstance(self.of, LoRA):
            raise UserError(f"lora: expected a network without adapters, got {self.of}")

    def build(self, channels: int, classes: int) -> nn.Module:
        network = self.of.build(channels, classes)
        network.requires_grad_(False)
        scale = (self.rank if self.alpha is None else self.alpha) / self.rank
        places = list(_places(network))
        if not places:
            raise UserError(f"lora: expected a network with linear layers or convolutions, got {self.of}")
        for parent, name, layer in places:
            parent._modules[name] = Adapted(layer, self.rank, scale)
        return network

    def inputs(self, batch: int, channels: int, size: int) -> Tensor:
        return self.of.inputs(batch, channels, size)

    def without_weights(self) -> ModelSpec:
        return replace(self, of=self.of.without_weights())

    @property
    def has_weights(self) -> bool:
        """Whether the network has weights of its own, and needs no initial ones."""
        return self.of.without_weights() != self.of

    @property
    def native(self) -> Any:  # type: ignore[override]
        return self.of.native

    @property
    def aliases(self) -> Any:  # type: ignore[override]
        return self.of.aliases

    @property
    def names_code(self) -> Any:  # type: ignore[override]
        return self.of.names_code


class Adapted(nn.Module):
    """A layer and its adapter. All else that is asked of it is the layer's."""

    def __init__(self, layer: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        self.base_layer, self.scale = layer, scale
        if isinstance(layer, nn.Linear):
            self.lora_A: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
            self.lora_B: nn.Module = nn.Linear(rank, layer.out_features, bias=False)
        else:
            assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
            kind: Any = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
            shape = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
            shape |= {"padding_mode": layer.padding_mode}
            self.lora_A = kind(layer.in_channels, rank, layer.kernel_size, bias=False, **shape)
            self.lora_B = kind(rank, layer.out_channels, 1, bias=False)
        weight = layer.weight
        self.lora_A.to(weight.device, weight.dtype)
        self.lora_B.to(weight.device, weight.dtype)
        nn.init.zeros_(self.lora_B.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.base_layer(x, *args, **kwargs) + self.scale * self.lora_B(self.lora_A(x))

    @property
    def adapter(self) -> tuple[nn.Module, nn.Module]:
        """A and B."""
        return self.lora_A, self.lora_B

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)


def adapted(model: ModelSpec, lora: str | None, initial: str | None) -> ModelSpec:
    """``model`` with the adapters that ``lora`` says; refused where a frozen network would have no weights."""
    if lora is not None and isinstance(model, LoRA):
        raise UserError(f"expected no lora beside a network that has adapters, got {lora} and {model}")
    model = model if lora is None else LoRA.parse(f"lora:{model.nested()},{lora}")
    if isinstance(model, LoRA) and initial is None and not model.has_weights:
        raise UserError(f"expected a checkpoint of {model.of}, whose layers lora freezes, got none; give --initial")
    return model


def adapters_of(network: nn.Module) -> dict[str, Tensor]:
    """The weights of the adapters, by name."""
    return {name: value for name, value in network.state_dict().items() if ".lora_" in name}


def _places(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Layers that can have an adapter, with where they are; a layer in two places has one of its own in each."""
    for parent in network.modules():
        if isinstance(parent, nn.MultiheadAttention):
            continue
        for name, layer in parent.named_children():
            if isinstance(layer, ADAPTED) and getattr(layer, "groups", 1) == 1:
                yield parent, name, layer

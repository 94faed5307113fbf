"""Any classification network of torchvision by name, with its published weights where asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from noiserobust.errors import UserError, reason_of
from noiserobust.models.base import IMAGENET, ModelSpec

TWO_OUTPUTS = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Torchvision(ModelSpec, name="torchvision"):
    """Any classification network of torchvision, with its published weights where asked.

    ``torchvision:resnet50`` or ``torchvision:resnet50,weights=IMAGENET1K_V2``. network: a name of
    ``torchvision.models``; weights: a name of its published weights, or DEFAULT for the best. With other than 1,000
    classes the layers that give the logits are initialised anew and everything else is as published. Other than 3
    channels exchange the first convolution, and have no published weights. GoogLeNet and Inception-v3 come without the
    second outputs that they have while training, and without published weights.
    """

    example: ClassVar[str] = "torchvision:resnet50"

    network: str
    weights: str | None = None
    native = IMAGENET

    def __post_init__(self) -> None:
        from torchvision import models

        known = models.list_models(module=models)
        if self.network not in known:
            near = ", ".join(get_close_matches(self.network, known, 3)) or "resnet50, vit_b_16, ..."
            raise UserError(f"torchvision: expected a network of torchvision.models ({near}), got '{self.network}'")
        if self.weights is not None:
            object.__setattr__(self, "weights", self._published().name)  # DEFAULT becomes what it stands for

    def build(self, channels: int, classes: int) -> nn.Module:
        from torchvision import models

        if self.weights is not None and channels != 3:
            raise UserError(f"{self}: expected 3 channels with published weights, got {channels}; leave weights out")
        options: dict[str, Any] = {"num_classes": classes, "weights": None}
        if self.network in TWO_OUTPUTS:
            options |= {"aux_logits": False, "init_weights": True}
        network: nn.Module = models.get_model(self.network, **options)
        if channels != 3:
            _exchange_first_convolution(network, channels)
        if self.weights is not None:
            _load_published(network, self._download(), classes)
        return network

    def without_weights(self) -> ModelSpec:
        return replace(self, weights=None)

    def _published(self) -> Any:
        from torchvision import models

        if self.network in TWO_OUTPUTS:
            raise UserError(
                f"torchvision:{self.network}: expected no weights: its published ones scale the input in their own "
                f"way, got '{self.weights}'"
            )
        offered = models.get_model_weights(self.network)
        if self.weights not in offered.__members__:
            names = ", ".join(member.name for member in offered) or "none"
            raise UserError(f"torchvision:{self.network}: expected published weights ({names}), got '{self.weights}'")
        return offered[self.weights]

    def _download(self) -> dict[str, Tensor]:
        published = self._published()
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        try:
            # No code of a file that lies there runs: torch.hub by itself would open any pickle.
            state: dict[str, Tensor] = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # no network, or a file that was cut off or is another: it raises what it likes
            raise UserError(
                f"expected the weights of {self} in {folder}, got none, and no download ({reason_of(error)}): "
                f"put {published.url} there"
            ) from None
        return state


def _exchange_first_convolution(network: nn.Module, channels: int) -> None:
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            owner, _, name = path.rpartition(".")
            new = nn.Conv2d(
                channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                bias=module.bias is not None,
            )
            setattr(network.get_submodule(owner), name, new)
            return


def _load_published(network: nn.Module, state: dict[str, Tensor], classes: int) -> None:
    """Copy what fits. Only layers that give logits, and outputs left out, may not."""
    initial = network.state_dict()
    kept = {name: value for name, value in state.items() if name in initial and initial[name].shape == value.shape}
    fresh = {name for name in initial if name not in kept and not name.endswith("num_batches_tracked")}
    if any(initial[name].shape[0] != classes for name in fresh):
        raise UserError(f"expected published weights of {type(network).__name__}, got others: {', '.join(fresh)}")
    network.load_state_dict(initial | kept)

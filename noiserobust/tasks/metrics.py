"""Metrics by name, beside accuracy and loss."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from torch import Tensor
from torch.nn import functional

from noiserobust.errors import UserError

Metric = Callable[[Tensor, Tensor], Tensor | float]
"""From all logits (N, C), float32, and all labels (N) to one number."""


METRICS: dict[str, Metric] = {
    "perplexity": lambda logits, labels: functional.cross_entropy(logits, labels).exp(),
    "top5": lambda logits, labels: 100 * (logits.topk(5).indices == labels[:, None]).any(1).float().mean(),
}
"""Further metrics by name; ``accuracy`` (percent) and ``loss`` (nats) are always there."""


def known_metrics(names: Mapping[str, Metric] | Sequence[str]) -> dict[str, Metric]:
    """Metrics by name: of :data:`METRICS`, or ``package.module:function``; a mapping is taken as it is."""
    if isinstance(names, Mapping):
        return dict(names)
    return {name: METRICS[name] if name in METRICS else _imported(name) for name in names}


def _imported(name: str) -> Metric:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError):
        raise UserError(
            f"expected a metric ({', '.join(METRICS)}) or package.module:function, got '{name}': not to be imported"
        ) from None
    return cast(Metric, found)

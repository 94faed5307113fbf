"""Metrics by name, beside accuracy and loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from noiserobust.errors import UserError
from noiserobust.spec import Described, OfFunction

MetricFunction = Callable[[Tensor, Tensor], Tensor | float]
"""From all logits (N, C), float32, and all labels (N) to one number."""


@dataclass(frozen=True)
class Metric(Described, family="metric"):
    """A number that is known of a network's answers; ``accuracy`` (percent) and ``loss`` (nats) are always there."""

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor | float:
        """From all logits (N, C), float32, and all labels (N) to one number."""

    @classmethod
    def offered(cls) -> str:
        return f"{super().offered()} or package.module:function"


@dataclass(frozen=True)
class MetricOfFunction(OfFunction, Metric):
    """``package.module:function(k=3)``: what ``function(logits, labels, k=3)`` returns."""

    given: ClassVar[int] = 2

    def __call__(self, logits: Tensor, labels: Tensor) -> Any:
        return self.call("expected a function of logits and labels", logits, labels)


@dataclass(frozen=True)
class Perplexity(Metric, name="perplexity"):
    """The exponential of the mean cross-entropy: how many classes the network hesitates between."""

    example: ClassVar[str] = "perplexity"

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels).exp()


@dataclass(frozen=True)
class Top5(Metric, name="top5"):
    """Percent of the samples whose label is among the five largest logits."""

    example: ClassVar[str] = "top5"

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return 100 * (logits.topk(5).indices == labels[:, None]).any(1).float().mean()


def known_metrics(metrics: Mapping[str, Any] | str | Metric | Sequence[str | Metric]) -> dict[str, Any]:
    """Metrics by the names that result rows call them: one or several of registered ones and ``package.module:Name``,
    or functions of a mapping, which are taken as they are."""
    if not isinstance(metrics, Mapping):
        given = [metrics] if isinstance(metrics, (str, Metric)) else metrics
        metrics = {str(metric): Metric.parse(metric) for metric in given}
    for name in ("accuracy", "loss"):
        if name in metrics:
            raise UserError(f"expected metrics beside accuracy and loss, got one named '{name}'; give it another name")
    return dict(metrics)


def metric_value(name: str, metric: MetricFunction, logits: Tensor, labels: Tensor) -> float:
    """The number that ``metric`` gives; UserError where it gives something else."""
    value: Any = metric(logits, labels)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several elements
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"expected one number from the metric {name}, got {got}") from None

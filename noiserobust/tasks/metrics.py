"""Metrics by name, beside accuracy and loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

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


def known_metrics(metrics: Mapping[str, Any] | Sequence[str | Metric]) -> dict[str, Any]:
    """Metrics by the names that result rows call them: registered ones, ``package.module:Name``, or functions of a
    mapping, which are taken as they are."""
    if isinstance(metrics, Mapping):
        return dict(metrics)
    return {str(metric): Metric.parse(metric) for metric in metrics}

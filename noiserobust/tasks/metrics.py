"""Further metrics, beside those of a task: by name, functions, torchmetrics."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.spec import Described, OfFunction
from noiserobust.spec.references import digest_of, load, one_line
from noiserobust.tasks.base import IGNORED, Task
from noiserobust.tasks.counts import Meter

MetricFunction = Callable[[Tensor, Tensor], Tensor | float]
"""From all logits (N, C), float32, and all labels (N) to one number."""


@dataclass(frozen=True)
class Metric(Described, family="metric"):
    """A number that is known of a network's answers, beside those of its task."""

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor | float:
        """From all logits (N, C), float32, and all labels (N) to one number."""

    def meter(self, name: str, task: Task) -> Meter:
        """A new count of it; by default all logits are kept until the end."""
        return Kept(name, self, task)

    @classmethod
    def offered(cls) -> str:
        return f"{super().offered()} or package.module:function"


@dataclass(frozen=True)
class MetricOfFunction(OfFunction, Metric):
    """``package.module:function(k=3)``: what ``function(logits, labels, k=3)`` returns; or a torchmetrics class with
    its settings, or such an object."""

    given: ClassVar[int] = 2

    @classmethod
    def given_to(cls, function: Any) -> int:
        return 0 if is_torchmetric(function) else cls.given

    def __call__(self, logits: Tensor, labels: Tensor) -> Any:
        return self.call("expected a function of logits and labels", logits, labels)

    def meter(self, name: str, task: Task) -> Meter:
        target = load(self.reference)
        if not is_torchmetric(target):
            return super().meter(name, task)
        return Torchmetric(name, self.call("expected a metric") if isinstance(target, type) else target, task)


@dataclass(frozen=True)
class Perplexity(Metric, name="perplexity"):
    """The exponential of the mean loss in nats: how many classes, or tokens, the network hesitates between."""

    example: ClassVar[str] = "perplexity"

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, labels).exp()

    def meter(self, name: str, task: Task) -> Meter:
        return _Mean(name, task, _exponential)


@dataclass(frozen=True)
class Top5(Metric, name="top5"):
    """Percent of the samples whose label is among the five largest logits; of fewer than five classes, all answered."""

    example: ClassVar[str] = "top5"

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return 100 * _among_five(logits, labels).float().mean()

    def meter(self, name: str, task: Task) -> Meter:
        return _Top5(name, task)


def known_metrics(metrics: Any) -> dict[str, Any]:
    """Metrics by the names that result rows call them: one or several of registered ones and ``package.module:Name``,
    torchmetrics objects and collections, functions, or a mapping of names to such."""
    if isinstance(metrics, Mapping):
        return dict(metrics)
    several = metrics if isinstance(metrics, Iterable) and not isinstance(metrics, (str, Metric)) else [metrics]
    several = [metrics] if is_torchmetric(metrics) else several
    named: dict[str, Any] = {}
    for name, metric in (pair for one in several for pair in _named(one)):
        known = named.setdefault(name, metric)
        if known is not metric and not (isinstance(metric, Metric) and known == metric):
            raise UserError(f"expected metrics with names of their own, got two called '{name}'; give {{name: metric}}")
    return named


def meters(metrics: Mapping[str, Any], task: Task) -> Iterator[Meter]:
    """A new count of each of the ``metrics`` that :func:`known_metrics` gave."""
    for name, metric in metrics.items():
        if name in task.names and not isinstance(metric, Perplexity):  # which is that of the task itself
            own = " and ".join(task.names)
            raise UserError(f"expected metrics beside {own}, got one named '{name}'; give it another name")
        if isinstance(metric, Metric):
            yield metric.meter(name, task)
        elif is_torchmetric(metric):
            yield Torchmetric(name, metric, task)
        else:
            yield Kept(name, metric, task)


def digests(metrics: Mapping[str, Any]) -> str:
    """``name=digest`` of each of the ``metrics`` that is a function or an object of somebody's: what rows stored for
    another one of this name are told apart by."""
    named = {}
    for name, metric in metrics.items():
        if isinstance(metric, MetricOfFunction):
            named[name] = digest_of(load(metric.reference), str(metric))
        elif not isinstance(metric, Metric):
            named[name] = digest_of(metric, name)
    return " ".join(f"{name.replace(' ', '_')}={digest}" for name, digest in named.items())


def is_torchmetric(metric: Any) -> bool:
    """Whether this is a torchmetrics Metric or MetricCollection, or counts as they do."""
    return all(callable(getattr(metric, verb, None)) for verb in ("update", "compute", "reset"))


def _named(metric: Any) -> Iterator[tuple[str, Any]]:
    if not is_torchmetric(metric):
        name = getattr(metric, "__name__", "")
        if isinstance(metric, (str, Metric)) or not callable(metric):
            yield str(metric), Metric.parse(metric)
        elif name.isidentifier():
            yield name, metric
        else:
            raise UserError(f"expected a function with a name as a metric, got {metric!r}; give it one: {{name: it}}")
    elif hasattr(metric, "keys"):  # a collection
        yield from metric.items()
    else:
        yield type(metric).__name__, metric


class Kept:
    """A metric that takes all logits and labels at once: they are kept until the end."""

    def __init__(self, name: str, function: MetricFunction, task: Task) -> None:
        self.name, self.function, self.task = name, function, task
        self.parts: list[tuple[Tensor, Tensor]] = []

    def update(self, predictions: Tensor, batch: Batch) -> None:
        self.parts.append(self.task.pairs(predictions, batch))

    def compute(self) -> dict[str, float]:
        return numbers(self.name, self.function(*(torch.cat(parts) for parts in zip(*self.parts, strict=True))))


class Torchmetric:
    """A torchmetrics object, or a copy of it, that counts batch by batch."""

    def __init__(self, name: str, metric: Any, task: Task) -> None:
        self.name, self.task = name, task
        self.metric = copy.deepcopy(metric)  # a person's own keeps what it has counted
        self.metric.reset()

    def update(self, predictions: Tensor, batch: Batch) -> None:
        answers, labels = self.task.pairs(predictions, batch)
        if answers.dim() == 2 and "text" in type(self.metric).__module__.split("."):  # those want B x T x V
            answers, labels = answers[None], labels[None]
        if hasattr(self.metric, "to"):
            self.metric.to(answers.device)
        with one_line(f"expected a metric of predictions {tuple(answers.shape)} and labels {tuple(labels.shape)}"):
            self.metric.update(answers, labels)

    def compute(self) -> dict[str, float]:
        return numbers(self.name, self.metric.compute())


class _Mean:
    """A number that follows from the mean loss."""

    def __init__(self, name: str, task: Task, change: Callable[[float], float]) -> None:
        self.name, self.change, self.counted = name, change, task.meter()

    def update(self, predictions: Tensor, batch: Batch) -> None:
        self.counted.update(predictions, batch)

    def compute(self) -> dict[str, float]:
        return {self.name: self.change(self.counted.compute()["loss"])}


class _Top5:
    def __init__(self, name: str, task: Task) -> None:
        self.name, self.task, self.count = name, task, 0
        self.right: Tensor | float = 0.0

    def update(self, predictions: Tensor, batch: Batch) -> None:
        logits, labels = self.task.pairs(predictions, batch)
        right = _among_five(logits, labels)
        self.right += right.sum()
        self.count += len(right)

    def compute(self) -> dict[str, float]:
        return {self.name: 100 * float(self.right) / max(self.count, 1)}


def _among_five(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,): whether the label is among the five largest; an answer that is no number is none.

    Logits (B, C, ...), labels (B, ...), of which N are not -100.
    """
    if logits.dim() != labels.dim() + 1 or labels.is_floating_point():
        raise UserError(
            f"top5: expected class numbers, and a logit for every class, got labels {tuple(labels.shape)} and answers "
            f"{tuple(logits.shape)}; leave it out of this task"
        )
    classes, labels = logits.movedim(1, -1).flatten(0, -2), labels.flatten()
    largest, best = classes.topk(min(5, classes.shape[1]))
    return ((best == labels[:, None]).any(1) & largest[:, 0].isfinite())[labels != IGNORED]


def _exponential(loss: float) -> float:
    return float(torch.tensor(loss, dtype=torch.float64).exp())


def numbers(name: str, value: Any) -> dict[str, float]:
    """What a metric gave as numbers by name: one, or ``name/part`` of a dictionary, tuple or tensor of several."""
    if isinstance(value, Mapping):
        several = {str(key): part for key, part in value.items()}
    elif isinstance(value, Tensor) and value.numel() != 1:
        several = dict(zip(map(str, range(value.numel())), value.flatten(), strict=True))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        several = dict(zip(map(str, range(len(value))), value, strict=True))
    else:
        try:
            return {name: float(value)}
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"expected numbers from the metric {name}, got {type(value).__name__}") from None
    return {key: number for part, one in several.items() for key, number in numbers(f"{name}/{part}", one).items()}

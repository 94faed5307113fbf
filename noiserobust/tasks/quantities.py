"""Metrics as quantities: their unit, how they are written, and which way is better."""

from __future__ import annotations

from typing import NamedTuple


class Quantity(NamedTuple):
    """How a metric is written."""

    unit: str = ""
    form: str = ".4g"
    """Format of a value, and of a difference of two."""
    higher_is_better: bool = True

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.higher_is_better else -1


PERCENT = Quantity("%", ".2f")
LESS = Quantity(form=".3f", higher_is_better=False)
QUANTITIES = {
    **dict.fromkeys(("accuracy", "top5", "miou", "f1"), PERCENT),
    **dict.fromkeys(("loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"), LESS),
    **dict.fromkeys(("mse", "mae"), Quantity(higher_is_better=False)),
}
"""Those that this package measures; of others more is better, unless their task says otherwise."""


def quantity(metric: str, task: str = "") -> Quantity:
    """That of ``metric``; where a scoring function, the ``task``, measures what is not known here, it says itself."""
    return QUANTITIES.get(metric.partition("/")[0], Quantity(higher_is_better="less=true" not in task))


def in_words(metric: str) -> str:
    """What a difference of ``metric`` is of: ``points of accuracy``, ``perplexity``."""
    return f"points of {metric}" if quantity(metric).unit == "%" else metric

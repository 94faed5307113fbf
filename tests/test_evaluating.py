"""Evaluation leaves a network as it found it, and no draw depends on those before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noiserobust import Compute, evaluate
from noiserobust.models.modes import evaluating

DATA = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


class Counting(nn.Linear):
    """Its outputs depend on buffers that every pass changes in place, or replaces."""

    def __init__(self, replaces: bool) -> None:
        super().__init__(6, 3)
        self.replaces = replaces
        self.register_buffer("passes", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.replaces:
            self.passes, self.mean = self.passes + 1, self.mean.lerp(x.mean(0), 0.5)
        else:
            self.passes += 1
            self.mean.lerp_(x.mean(0), 0.5)
        return super().forward(x - self.mean) * self.passes


class Drawing(nn.Linear):
    """Dropout that stays on, as in Monte Carlo dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x))


@pytest.mark.parametrize("network", [Counting(False), Counting(True), Drawing(6, 3)], ids=lambda net: str(net))
def test_a_draw_is_what_it_is_alone(network: nn.Module) -> None:
    before, held = [buffer.clone() for buffer in network.buffers()], list(network.buffers())
    both = evaluate(network, DATA, "gaussian:0.1", draws=2).rows
    alone = evaluate(network, DATA, "gaussian:0.1", draws=range(1, 2)).rows
    assert alone["value"].tolist() == both[both["draw"] == 1]["value"].tolist()
    assert all(one is other for one, other in zip(network.buffers(), held, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(network.buffers(), before, strict=True))


def test_a_buffer_that_was_removed_inside_stays_away() -> None:
    network = Counting(False)
    with evaluating(network):
        del network.mean
    assert "mean" not in network._buffers


def test_norms_of_each_batch_need_two_samples_to_be_counted() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))
    (coverage,) = evaluate(network, DATA, "gaussian:0.1", draws=1).coverage.values()
    assert coverage.summary.startswith("45 of 63 weights noisy (71.4 %, 2 tensors), 100.0 % of 45 multiply")


def test_rows_of_norms_of_each_batch_are_those_of_the_batches(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))

    def losses(batch_size: int, **options: Any) -> list[float]:
        compute = Compute(batch_size=batch_size)
        return evaluate(network, DATA, "gaussian:0.1", draws=2, compute=compute, **options).rows["value"].tolist()

    assert losses(4, out=tmp_path / "rows.parquet") == losses(4)
    assert losses(8, out=tmp_path / "rows.parquet") == losses(8) != losses(4)


def test_a_metric_that_nobody_asked_for_in_between_is_not_taken_for_another(tmp_path: Path) -> None:
    network, out = nn.Linear(6, 3), tmp_path / "rows.parquet"

    def halves(factor: float | None) -> list[float]:
        metrics = {} if factor is None else {"half": lambda logits, labels: factor * 0.5}
        rows = evaluate(network, DATA, "gaussian:0.1", draws=2, metrics=metrics, out=out).rows
        return rows.loc[rows["metric"] == "half", "value"].tolist()

    assert halves(1.0) == [0.5, 0.5]
    assert halves(None) == [0.5, 0.5]  # what is known is shown, too
    assert halves(3.0) == [1.5, 1.5]
    assert halves(3.0) == [1.5, 1.5]

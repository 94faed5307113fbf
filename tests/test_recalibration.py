"""Batch norm's statistics learnt anew, in every precision and for every norm that has any."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from noiserobust import Chips, UserError, evaluate
from noiserobust.data import Batch
from noiserobust.models.modes import recalibrated

torch.manual_seed(0)
X, Y = 2 * torch.randn(33, 3, 6, 6) + 1, torch.arange(33) % 3
NORMS: dict[str, Callable[[], nn.Module]] = {
    "usual": lambda: nn.BatchNorm2d(4),
    "no affine": lambda: nn.BatchNorm2d(4, affine=False),
    "cumulative": lambda: nn.BatchNorm2d(4, momentum=None),
    "synchronised": lambda: nn.SyncBatchNorm(4),
    "instance": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_statistics_are_the_mean_over_batches(norm: str, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), NORMS[norm](), nn.Flatten(), nn.Linear(64, 3)).to(dtype)
    model[1].running_mean.add_(1)  # type: ignore[operator]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [Batch(X[i : i + 11], Y[i : i + 11]) for i in (0, 11, 22)]
    with torch.no_grad():
        seen = [model[0](batch.inputs.to(dtype)).double() for batch in batches]
    over, group = ((0, 2, 3), "all") if norm != "instance" else ((2, 3), "each")
    variances = [values.var(over) for values in seen]
    expected = torch.stack([v if group == "all" else v.mean(0) for v in variances]).mean(0)
    with recalibrated(model, batches):
        mean, variance = model[1].running_mean.clone(), model[1].running_var.clone()  # type: ignore[operator,union-attr]
    rtol = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(
        mean.double(), torch.stack([s.mean((0, 2, 3)) for s in seen]).mean(0), rtol=rtol, atol=rtol
    )
    torch.testing.assert_close(variance.double(), expected, rtol=rtol, atol=rtol)
    assert mean.dtype == dtype
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found = evaluate(model, (X, Y), "gaussian:0.1", draws=1, chips=Chips(recalibration=20, calibration=(X, Y)))
    assert found.rows["value"].notna().all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_last_sample_alone_joins_the_batch_before_it() -> None:
    x, y = torch.randn(129, 6), torch.arange(129) % 3
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    seen = model[0](x).detach()
    with recalibrated(model, [Batch(x[:128], y[:128]), Batch(x[128:], y[128:])]):
        torch.testing.assert_close(model[1].running_mean, seen.mean(0))
        torch.testing.assert_close(model[1].running_var, seen.var(0))
    chips = Chips(recalibration=129, calibration=(x, y))
    assert evaluate(model, (x, y), "gaussian:0.1", draws=1, chips=chips).rows["value"].notna().all()
    with pytest.raises(UserError, match="2 or more images"), recalibrated(model, [Batch(x[:1], y[:1])]):
        pass


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)]
)
def test_norms_without_statistics_are_said(norm: nn.Module) -> None:
    with pytest.raises(UserError, match="network with batch norm"), recalibrated(nn.Sequential(norm), []):
        pass

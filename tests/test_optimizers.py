"""Optimizers by their text, and the learning rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from noiserobust.errors import UserError
from noiserobust.training.optimizers import build_optimizer
from noiserobust.training.schedules import learning_rate


def built(text: str, lr: float = 0.1, weight_decay: float = 0.01) -> torch.optim.Optimizer:
    return build_optimizer(text, nn.Linear(3, 2).parameters(), lr, weight_decay)


class TestOptimizers:
    @pytest.mark.parametrize("text", ["SGD", "sgd", "AdamW", "Adam", "RMSprop", "NAdam", "Adagrad"])
    def test_by_name(self, text: str) -> None:
        optimizer = built(text)
        assert type(optimizer).__name__.lower() == text.lower()
        assert len(optimizer.param_groups[0]["params"]) == 2
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 0.01)

    def test_options(self) -> None:
        sgd = built("SGD:momentum=0.9,nesterov=true").defaults
        assert (sgd["momentum"], sgd["nesterov"]) == (0.9, True)
        assert built("AdamW:betas=(0.8,0.95),amsgrad=false").defaults["betas"] == (0.8, 0.95)
        assert built("AdamW(eps=1e-6)").defaults["eps"] == 1e-6

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("Sophia", "expected an optimizer of torch.optim"),
            ("LBFGS", "expected an optimizer of torch.optim"),
            ("Optimizer", "expected an optimizer of torch.optim"),
            ("SGD:0.9", "expected key=value"),
            ("SGD:momentum=fast", "expected a number, true, false or a tuple for momentum"),
            ("SGD:momentum='fast'", "optimizer 'SGD:momentum='fast''"),
            ("SGD:speed=1", "speed"),
            ("SGD:momentum=-1", "momentum"),
            ("SGD:nesterov=true", "momentum"),
            ("SGD:lr=1", "lr"),
            ("SGD:momentum=0.9,momentum=0.8", "momentum is given twice"),
            ("AdamW:betas=0.9", "AdamW:betas=0.9"),
            ("AdamW:betas=(0.9,)", r"AdamW:betas=\(0.9,\)"),
            ("AdamW:fused=true,foreach=true", "fused"),
            ("AdamW:betas=(0.9", "balanced"),
            ("", "expected a.? optimizer"),
        ],
    )
    def test_refused(self, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            built(text)
        assert "\n" not in str(error.value)

    def test_a_negative_rate_is_refused(self) -> None:
        with pytest.raises(UserError, match="learning rate"):
            built("SGD", lr=-1)


class TestLearningRate:
    def test_cosine(self) -> None:
        assert learning_rate(0, 100) == 1
        assert learning_rate(50, 100) == pytest.approx(0.5)
        assert learning_rate(25, 100) == pytest.approx((1 + 2**-0.5) / 2)
        assert learning_rate(100, 100) == 0
        assert learning_rate(101, 100) == 0

    @pytest.mark.parametrize("warmup", [20, 0.2])
    def test_warmup(self, warmup: float) -> None:
        """Up in equal strides, from above 0 to 1 at the warm-up's end, then the cosine over what is left."""
        rates = [learning_rate(step, 100, warmup) for step in range(101)]
        assert rates[:21] == pytest.approx([(step + 1) / 21 for step in range(21)])
        assert rates[60] == pytest.approx(0.5)
        assert rates[100] == 0
        assert rates[20:] == sorted(rates[20:], reverse=True)
        assert all(0 < rate <= 1 for rate in rates[:100])

    def test_a_warmup_without_end(self) -> None:
        assert learning_rate(9, 10, 10) == pytest.approx(10 / 11)
        assert learning_rate(9, 10, 1.0) == pytest.approx(10 / 11)
        assert learning_rate(5, 10, 1000) == pytest.approx(6 / 1001)

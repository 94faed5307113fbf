"""The fast paths of evaluation: chips read once, compiled networks, little memory."""

from __future__ import annotations

import sys

import pandas as pd
import pytest
import torch
from processes import python
from torch import nn
from torch._dynamo.testing import CompileCounter

from noiserobust import Stream, UserError, evaluate
from noiserobust.analog.noisy import NoisyWeights, Programmed, report_stream
from noiserobust.evaluation import Chips, Compute
from noiserobust.models import DigitsNet
from noiserobust.noise import NoiseModel
from noiserobust.rng import seeded

X, Y = Stream(0, "x").normal((120, 1, 8, 8)), torch.arange(120) % 3


def net(seed: int = 0) -> nn.Module:
    with seeded(Stream(seed, "net")):
        return DigitsNet(width=4).build(1, 3).eval()


def accuracies(rows: pd.DataFrame) -> list[float]:
    return rows[rows["metric"] == "accuracy"]["value"].tolist()


def assert_same_rows(fast: pd.DataFrame, plain: pd.DataFrame) -> None:
    """Equal accuracies; losses to rounding; everything else the same, in the same order."""
    assert accuracies(fast) == accuracies(plain)
    assert fast["value"].tolist() == pytest.approx(plain["value"].tolist(), rel=1e-4)
    pd.testing.assert_frame_equal(fast.drop(columns="value"), plain.drop(columns="value"))


class TestDraws:
    @pytest.mark.parametrize("noise", ["gaussian:0.2", "gaussian:0.1,per=read+laplace:0.1", "pcm:0.7"])
    @pytest.mark.parametrize(("t", "read", "compensation"), [(None, 0, "none"), (60.0, 2, "none"), (60.0, 0, "global")])
    def test_a_chip_that_is_read_once_is_the_same_chip(
        self, noise: str, t: float | None, read: int, compensation: str
    ) -> None:
        noisy, model, stream = NoisyWeights(net()), NoiseModel.parse(noise), report_stream(0, 0, 1)
        seen = []
        for read_once in (False, True):
            with Programmed(noisy, model, stream, read_once).read(t, read, compensation):
                seen.append([weight.parameter.detach().clone() for weight in noisy.weights])
        for kept, once in zip(*seen, strict=True):
            assert torch.equal(kept, once)

    @pytest.mark.parametrize("noise", ["pcm:0.7", "gaussian:0.1,per=read+compensate:column"])
    def test_compensations_and_converters_share_a_read(self, noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The twin: every one by itself."""
        from noiserobust.analog import noisy

        model, reads, read_out = net(), [], noisy.read_out
        monkeypatch.setattr(noisy, "read_out", lambda *args: reads.append(args) or read_out(*args))
        times, kinds, converters = ["1h", "1d"], ["none", "global"], ["none", "io:adc=6"]
        together = evaluate(model, (X, Y), noise, 1, chips=Chips(times, 2, kinds, converters)).rows
        layers = len(NoisyWeights(model).weights)
        assert len(reads) == len(times) * 2 * layers
        for kind in kinds:
            for text in converters:
                alone = evaluate(model, (X, Y), noise, 1, chips=Chips(times, 2, kind, text)).rows
                chosen = together["compensation"].eq(kind) & together["converters"].eq(alone["converters"].iloc[0])
                pd.testing.assert_frame_equal(
                    together[chosen].reset_index(drop=True), alone.reset_index(drop=True), check_exact=True
                )


class TestCompiled:
    def test_it_is_compiled_once_for_all_draws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counter, compile = CompileCounter(), torch.compile
        monkeypatch.setattr(torch, "compile", lambda model, **options: compile(model, backend=counter, **options))
        torch._dynamo.reset()
        noises = ["gaussian:0.1", "laplace:0.2", "gaussian:0.3"]
        counts = []
        for draws in (1, 3):
            fast = evaluate(net(), (X, Y), noises, draws=draws, compute=Compute(compile=True, batch_size=60))
            counts.append(counter.frame_count)
            assert_same_rows(
                fast.rows, evaluate(net(), (X, Y), noises, draws=draws, compute=Compute(batch_size=60)).rows
            )
        assert counts[0] == 1
        assert counts[1] <= 2  # another network is another one to compile

    def test_what_would_compile_again_is_refused(self) -> None:
        with pytest.raises(UserError, match="expected backend direct without converters or recalibration with compile"):
            evaluate(net(), (X, Y), "gaussian:0.1", chips=Chips(converters="io:adc=8"), compute=Compute(compile=True))


MEMORY = """
import resource, torch
from torch import nn
from noiserobust import evaluate

torch.set_num_threads(1)
layers, draws, levels = 30, 3, 4
model = nn.Sequential(nn.Flatten(), *(nn.Linear(1000, 1000, bias=False) for _ in range(layers)))
data = torch.randn(4, 1000), torch.arange(4)
evaluate(nn.Sequential(nn.Flatten(), nn.Linear(1000, 4)), data, "gaussian:0.1", draws=1)  # what is loaded once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evaluate(model, data, [f"gaussian:{0.01 * (1 + level)}" for level in range(levels)], draws=draws)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (4e6 * layers))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux gives it")
def test_memory_is_a_copy_of_the_weights() -> None:
    """The clean weights; beside them a few layers' worth (of 30 here), however many draws and levels there are."""
    assert float(python("-c", MEMORY).stdout) < 1.3

"""The fast paths of evaluation: draws and accuracies of their plain twins, nothing made twice, little memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from noiserobust import Stream, UserError, evaluate, perturbed
from noiserobust.analog.noisy import LookedAtOnce, NoisyWeights, report_stream
from noiserobust.evaluation.monte_carlo import sharing
from noiserobust.evaluation.together import Together
from noiserobust.models import DigitsNet
from noiserobust.noise import NoiseModel
from noiserobust.rng import seeded
from noiserobust.tasks.batches import forward_batch

X, Y = Stream(0, "x").normal((120, 1, 8, 8)), torch.arange(120) % 3
SWEEP = ["gaussian:0.1", "gaussian:0.3", "gaussian:0.2,reference=layer", "laplace:0.1"]


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


class TestSweeps:
    def test_one_draw_serves_all_levels_and_rows_keep_their_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        alone = pd.concat([evaluate(net(), (X, Y), noise, draws=3).rows for noise in SWEEP], ignore_index=True)
        made: list[Stream] = []
        original = Stream._made
        monkeypatch.setattr(Stream, "_made", lambda self, *rest: (made.append(self), original(self, *rest))[1])
        rows = evaluate(net(), (X, Y), SWEEP, draws=3).rows
        pd.testing.assert_frame_equal(rows, alone)
        layers = len(NoisyWeights(net()).weights)
        made = [stream for stream in made if stream.path[0] == "report"]
        assert len(made) == 3 * layers * 2  # Gaussian fields and Laplace fields, whatever the number of levels

    def test_noises_that_share_fields(self) -> None:
        texts = [
            "gaussian:0.1",
            "pcm:0.5",
            "laplace:0.1",
            "gaussian:0.2,reference=layer",
            "pcm",
            "gaussian:0.1,per=read",
        ]
        texts += ["gaussian:0.1+laplace:0.1", "gaussian:0.2+laplace:0.3"]
        groups = [[str(noise) for noise in group] for group in sharing([NoiseModel.parse(text) for text in texts])]
        assert [len(group) for group in groups] == [2, 1, 1, 1, 1, 2]
        assert groups[0] == ["gaussian:0.1", "gaussian:0.2,reference=layer"]

    @pytest.mark.parametrize("noise", ["gaussian:0.2", "gaussian:0.1,per=read+laplace:0.1", "pcm:0.7"])
    @pytest.mark.parametrize(("t", "read", "compensation"), [(None, 0, "none"), (60.0, 2, "none"), (60.0, 0, "global")])
    def test_a_chip_that_is_looked_at_once_is_the_same_chip(
        self, noise: str, t: float | None, read: int, compensation: str
    ) -> None:
        pytest.importorskip("aihwkit")
        noisy, model, stream = NoisyWeights(net()), NoiseModel.parse(noise), report_stream(0, 0, 1)
        seen = []
        for chip in (noisy.program(model, stream), LookedAtOnce(noisy, model, stream)):
            with chip.read(t, read, compensation):
                seen.append([weight.parameter.detach().clone() for weight in noisy.weights])
        for kept, once in zip(*seen, strict=True):
            assert torch.equal(kept, once)


class TestTogether:
    @pytest.mark.parametrize("noise", ["gaussian:0.3", "laplace:0.2", "gaussian:0.1,per=read+laplace:0.1"])
    def test_rows_are_those_of_one_draw_at_a_time(self, noise: str) -> None:
        noises = ["gaussian:0", noise]
        options = {"draws": 5, "metrics": ["perplexity"], "first_draw": 2}
        fast = evaluate([net(0), net(1)], (X, Y), noises, together=3, **options)
        plain = evaluate([net(0), net(1)], (X, Y), noises, **options)
        assert_same_rows(fast.rows, plain.rows)
        assert all("3 draws at once" in text for text in fast.speed.values())

    def test_time_and_compensation(self) -> None:
        pytest.importorskip("aihwkit")
        look = {"times": ["1d"], "compensation": "column", "draws": 4}
        assert_same_rows(
            evaluate(net(), (X, Y), "pcm", together=4, **look).rows, evaluate(net(), (X, Y), "pcm", **look).rows
        )

    def test_what_is_stored_is_not_made_again(self, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
        out = f"{tmp_path}/rows.parquet"
        evaluate(net(), (X, Y), "gaussian:0.3", draws=2, first_draw=1, out=out)
        seen: list[int] = []
        original = Together.score

        def counting(self: Together, noise: NoiseModel, streams: Sequence[Stream], **look: object) -> object:
            seen.append(len(streams))
            return original(self, noise, streams, **look)  # type: ignore[arg-type]

        monkeypatch.setattr(Together, "score", counting)
        rows = evaluate(net(), (X, Y), "gaussian:0.3", draws=5, out=out, together=4).rows
        assert seen == [1, 2]  # of draws 0 to 2, and of draws 3 and 4
        assert accuracies(rows) == accuracies(evaluate(net(), (X, Y), "gaussian:0.3", draws=5).rows)

    @pytest.mark.parametrize("alone", [1.0, 3.0])
    def test_a_trial_decides(self, alone: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Together, "_trial", lambda *_: (alone, 2.0))
        result = evaluate(net(), (X, Y), "gaussian:0.3", draws=4, together="trial")
        (text,) = result.speed.values()
        assert text.split("; ")[1].startswith("draws one at a time" if alone < 2 else "4 draws at once")
        assert_same_rows(result.rows, evaluate(net(), (X, Y), "gaussian:0.3", draws=4).rows)
        assert not any("draws" in text for text in evaluate(net(), (X, Y), "gaussian:0.3", draws=4).speed.values())

    def test_a_real_trial_reports_its_times(self) -> None:
        (text,) = evaluate(net(), (X, Y), "gaussian:0.3", draws=4, together="trial").speed.values()
        assert " ms a draw and batch alone, " in text

    def test_networks_that_cannot_be_vectorised_are_run_one_draw_at_a_time(self) -> None:
        class Deciding(nn.Sequential):
            def forward(self, x: Tensor) -> Tensor:
                logits = super().forward(x)
                return logits if logits.sum() > 0 else 2 * logits

        with seeded(Stream(0, "net")):
            model = Deciding(nn.Flatten(), nn.Linear(64, 3))
        result = evaluate(model, (X, Y), "gaussian:0.3", draws=4, together=4)
        assert "draws one at a time (not at once: " in result.speed["Deciding[0]"]
        assert_same_rows(result.rows, evaluate(model, (X, Y), "gaussian:0.3", draws=4).rows)

    def test_none_is_refused(self) -> None:
        with pytest.raises(UserError, match="expected together >= 1, got 0"):
            evaluate(net(), (X, Y), "gaussian:0.3", together=0)


class TestCompiled:
    def test_it_is_compiled_once_for_all_draws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counter, compile = CompileCounter(), torch.compile
        monkeypatch.setattr(torch, "compile", lambda model, **options: compile(model, backend=counter, **options))
        torch._dynamo.reset()
        noises = ["gaussian:0.1", "laplace:0.2", "gaussian:0.3"]
        counts = []
        for draws in (1, 3):
            fast = evaluate(net(), (X, Y), noises, draws=draws, compile=True, batch_size=60)
            counts.append(counter.frame_count)
            assert_same_rows(fast.rows, evaluate(net(), (X, Y), noises, draws=draws, batch_size=60).rows)
        assert counts[0] == 1
        assert counts[1] <= 2  # another network is another one to compile
        assert "compiled" in next(iter(fast.speed.values()))

    def test_what_would_compile_again_is_refused(self) -> None:
        with pytest.raises(UserError, match="expected backend direct without converters or recalibration with compile"):
            evaluate(net(), (X, Y), "gaussian:0.1", compile=True, converters="io:adc=8")


MEMORY = """
import resource, sys, torch
from torch import nn
from noiserobust import evaluate

torch.set_num_threads(1)
layers, draws, levels = 30, int(sys.argv[1]), int(sys.argv[2])
model = nn.Sequential(nn.Flatten(), *(nn.Linear(1000, 1000, bias=False) for _ in range(layers)))
data = torch.randn(4, 1000), torch.arange(4)
evaluate(nn.Sequential(nn.Flatten(), nn.Linear(1000, 4)), data, "gaussian:0.1", draws=1)  # what is loaded once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evaluate(model, data, [f"gaussian:{0.01 * (1 + level)}" for level in range(levels)], draws=draws)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (4e6 * layers))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux gives it")
@pytest.mark.parametrize(("draws", "levels"), [(1, 1), (3, 4)])
def test_memory_is_two_copies_of_the_weights(draws: int, levels: int) -> None:
    """The clean weights and, in a sweep, one draw's fields; beside them a few layers' worth (of 30 here)."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(draws), str(levels)], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < (1 if levels == 1 else 2) + 0.3


def test_draws_are_those_of_perturbed() -> None:
    model = net()
    rows = evaluate(model, (X, Y), SWEEP, draws=2, together=2).rows
    for noise in SWEEP:
        for draw in range(2):
            with perturbed(model, noise, draw=draw), torch.no_grad():
                right = (model(X).argmax(1) == Y).float().mean().item()
            found = rows.query("noise == @noise and draw == @draw and metric == 'accuracy'")["value"].item()
            assert found == pytest.approx(100 * right)


def test_batches_are_as_large_as_the_caches_hold() -> None:
    sizes = {width: forward_batch(DigitsNet(width=width).build(1, 3), X[:2]) for width in (1, 64, 512, 4096)}
    largest = 2 * 4 * 8 * 8  # bytes an image of the second layer's output, in units of the width
    assert sizes == {1: 500, 64: (3 << 20) // (64 * largest), 512: 24, 4096: 8}
    assert forward_batch(nn.Linear(3, 3), X[:2]) == 50  # it does not fit: evaluating will say so

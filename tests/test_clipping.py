"""What clipping promises: the limit of each kind holds for the clipped weights."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from methods import few_digits, normed_net, sgd, train
from torch import Tensor, nn

from noiserobust.analog.weights import analog_weights
from noiserobust.errors import UserError
from noiserobust.models import DigitsNet
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import Engine, Plain, TrainSettings, fit
from noiserobust.training.clipping import RMS, Clip, Percentile, Value


def heavy(shape: tuple[int, ...] = (20, 150)) -> Tensor:
    """Weights with outliers, another scale in every row."""
    normal = Stream(0, "test", "heavy").normal(shape).double()
    return normal**3 * torch.arange(1, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))


def by_sorting(w: Tensor, k: float) -> float:
    """The c of c = k rms(clip(w, c)): with the m largest at c, c^2 n = k^2 (sum of the other squares + m c^2)."""
    squares = w.flatten().square().sort(descending=True).values
    n = len(squares)
    for m in range(n):
        c2 = k * k * squares[m:].sum() / (n - k * k * m)
        if squares[m] <= c2:
            return float(c2.sqrt())
    raise AssertionError


@pytest.mark.parametrize("k", [1.01, 1.2, 2.5, 4.0])
def test_the_limit_is_the_fixed_point(k: float) -> None:
    w = heavy()
    limit = RMS(k).limit(w)
    assert limit.dim() == 0
    torch.testing.assert_close(float(limit), by_sorting(w, k), rtol=1e-9, atol=0)
    columns = RMS(k, "column").limit(w)
    assert columns.shape == (20, 1)
    torch.testing.assert_close(
        columns[:, 0], torch.tensor([by_sorting(row, k) for row in w]).double(), rtol=1e-6, atol=0
    )
    for rows, c in ((w[None], limit), (w[:, None], columns[:, None])):
        ratios = [
            flat.abs().amax(1) / flat.square().mean(1).sqrt()
            for flat in (rows.flatten(1), rows.clamp(-c, c).flatten(1))
        ]
        torch.testing.assert_close(ratios[1], ratios[0].clamp(max=k))


def test_weights_within_the_limit_stay() -> None:
    w = Stream(0, "test").uniform((8, 9)) + 0.5
    assert (w.abs() <= RMS(4.0).limit(w)).all()
    assert (w.abs() <= RMS(4.0, "column").limit(w)).all()
    assert torch.equal(RMS(2.0).limit(torch.zeros(3, 4)), torch.tensor(0.0))


@pytest.mark.parametrize("share", [0.9, 0.6, 0.5, 0.3, 0.1, 0.01])
def test_pruned_weights_are_not_clipped_to_nothing(share: float) -> None:
    """Of n weights, p of them not 0, max / rms is never below 1 / sqrt(p); near that the rms is of the others."""
    w = heavy() * (Stream(0, "test", "mask").uniform((20, 150)) < share)
    limit, pruned = float(RMS(2.0).limit(w)), share < 0.75**2
    torch.testing.assert_close(limit, by_sorting(w[w != 0] if pruned else w, 2.0), rtol=1e-9, atol=0)
    assert limit > 0.05 * by_sorting(heavy(), 2.0)


def test_percentiles_are_numpys() -> None:
    w = heavy()
    for percent in (50.0, 97.3, 99.5, 100.0):
        expected = np.percentile(w.abs().numpy(), percent)
        torch.testing.assert_close(float(Percentile(percent).limit(w)), expected, rtol=1e-12, atol=0)
        columns = Percentile(percent, "column").limit(w)[:, 0]
        expected = np.percentile(w.abs().numpy(), percent, axis=1)
        torch.testing.assert_close(columns, torch.from_numpy(expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("text", ["1.2", "rms(1.2,per=column)", "percentile(90.0,per=column)", "value(0.05)"])
def test_after_every_step(text: str, dtype: torch.dtype) -> None:
    """Also where outputs are not the first dimension, and of weights in half precision; digital ones stay."""
    with seeded(Stream(0, "test", "net")):
        model = nn.Sequential(nn.Flatten(), nn.Linear(25, 12), nn.Unflatten(1, (3, 2, 2)), nn.ConvTranspose2d(3, 6, 2))
        model.append(nn.Flatten()).append(nn.Linear(54, 3)).to(dtype)
    engine = Engine(
        model, torch.optim.SGD(model.parameters(), lr=1.0), lambda out, y: out.float().logsumexp(1), weight_clip=text
    )
    left: list[Tensor] = []
    engine.optimizer.register_step_post_hook(lambda *_: left.extend(p.detach().clone() for p in model.parameters()))
    train(Plain(), engine, steps=1, dtype=dtype)
    places, clip = {id(weight.parameter): weight for weight in analog_weights(model)}, Clip.parse(text)
    assert len(places) == 3
    for parameter, before in zip(model.parameters(), left, strict=True):
        weight = places.get(id(parameter))
        if weight is None:
            assert torch.equal(parameter, before)
            continue
        rows = weight.as_rows(before.float())
        limit = clip.limit(rows)
        expected = weight.from_rows(rows.clamp(-limit, limit)).to(dtype)
        assert not torch.equal(parameter, before)
        torch.testing.assert_close(parameter.detach(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


class TestAtTheEnd:
    def test_training_is_that_without_and_what_is_kept_is_clipped(self, tmp_path: Path) -> None:
        splits = few_digits(60)
        common = {"model": DigitsNet(2), "epochs": 2, "batch_size": 32, "select_on": "none"}
        plain, ended = (
            fit(TrainSettings(**common, weight_clip=clip), tmp_path, splits=splits)
            for clip in (None, "rms(1.5,per=column,when=end)")
        )
        weights = read_checkpoint(plain.checkpoint).weights
        network = copy.deepcopy(plain.network)
        for weight in analog_weights(network):
            rows = weight.as_rows(weight.value())
            limit = RMS(1.5, "column").limit(rows)
            with torch.no_grad():
                weight.parameter.copy_(weight.from_rows(rows.clamp(-limit, limit)))
        kept = read_checkpoint(ended.checkpoint).weights
        assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())
        assert not all(torch.equal(kept[name], value) for name, value in weights.items())
        assert ended.log["max_weight"].iloc[-1] < plain.log["max_weight"].iloc[-1]
        assert list(ended.log["train_loss"]) == list(plain.log["train_loss"])

    def test_in_a_loop_of_ones_own(self) -> None:
        model = normed_net()
        engine = sgd(model, weight_clip="value(0.1,when=end)")
        train(Plain(), engine)
        before = copy.deepcopy(model.state_dict())
        with engine.kept():
            assert all(weight.value().abs().max() <= 0.1 for weight in analog_weights(model))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TestSettings:
    def test_the_number_is_what_it_was(self) -> None:
        for given in (2.5, 2, "2.5", "rms(2.5)", "rms:2.5", RMS(2.5), RMS(2)):
            settings = TrainSettings(weight_clip=given)
            assert settings.weight_clip == (2.0 if given in (2, RMS(2)) else 2.5)
            assert isinstance(settings.weight_clip, float)
            assert settings.label in ("plain, clip 2 rms", "plain, clip 2.5 rms")
        assert TrainSettings(weight_clip=2.5).label == "plain, clip 2.5 rms"
        assert TrainSettings(weight_clip="rms(2,per=column)").label == "plain, clip rms:2.0,per=column"
        assert TrainSettings(weight_clip="rms(2,per=column)").weight_clip == RMS(2.0, "column")
        described = TrainSettings(weight_clip="value(0.2,when=end)").described()
        assert TrainSettings(**described).weight_clip == Value(0.2, when="end")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (1.0, "expected weight_clip > 1"),
            ("0.5", "expected weight_clip > 1"),
            ("rms(nan)", "expected weight_clip > 1"),
            ("rms(2,per=row)", "expected one of layer, column, got 'row'"),
            ("percentile(101)", "expected a percent in"),
            ("value(0)", "expected a finite limit > 0"),
            ("value(0.2,when=never)", "expected one of step, end"),
            ("value(0.2,per=column)", "value has no setting 'per'"),
            ("half", "expected a clipping"),
        ],
    )
    def test_bad_ones_are_refused(self, given: object, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            TrainSettings(weight_clip=given)
        assert "\n" not in str(caught.value)

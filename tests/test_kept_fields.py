"""Fields kept for several strengths of one draw: the same bits as fields made anew, and made once."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from cases import CHANGING, NOISES, STACKED
from methods import same_bits
from torch import Tensor, nn

from noiserobust import rng
from noiserobust.analog.filters import filter_noise
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.noise import Gaussian, Laplace, NoiseModel
from noiserobust.rng import Stream, kept_fields, seeded

STREAM = Stream(3, "test", "kept")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """The streams that really make a field, in order."""
    streams: list[Stream] = []
    original = Stream._made

    def recording(self: Stream, *arguments: object) -> Tensor:
        streams.append(self)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Stream, "_made", recording)
    return streams


def network() -> nn.Module:
    with seeded(STREAM):
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3, groups=2), nn.Linear(5, 4))


def noisy(model: nn.Module, noise: NoiseModel, draw: int, t: float | None = None) -> list[Tensor]:
    with NoisyWeights(model).perturbed(noise, STREAM.child(draw), t):
        return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("noise", [*NOISES, *CHANGING, *STACKED], ids=str)
def test_every_noise_is_as_without_at_every_strength(noise: NoiseModel) -> None:
    model, strengths = network(), (0.5, 1.0, 0.5)
    anew = [noisy(model, noise.scaled(s), draw) for draw in range(2) for s in strengths]
    kept = []
    for draw in range(2):
        with kept_fields():
            kept += [noisy(model, noise.scaled(s), draw) for s in strengths]
    for one, other in zip(anew, kept, strict=True):
        assert same_bits(one, other)


@pytest.mark.parametrize("noise", [Gaussian(0.1), Laplace(0.1), Gaussian(0.1, reference="tile")], ids=str)
def test_a_sweep_makes_each_field_once_a_draw(noise: NoiseModel, made: list[Stream]) -> None:
    model = network()
    with kept_fields():
        for strength in (0.5, 1.0, 2.0):
            noisy(model, noise.scaled(strength), 0)
    assert len(made) == len(set(made)) == 3


def test_filter_noise_leaves_them_alone() -> None:
    model = network()
    weights = WeightSpace(model)
    anew = filter_noise(weights, 0.1, STREAM)
    with kept_fields():
        for _ in range(2):
            again = filter_noise(weights, 0.1, STREAM)
    assert same_bits([e for e in anew if e is not None], [e for e in again if e is not None])


def test_what_differs_is_made_anew(made: list[Stream]) -> None:
    with kept_fields():
        fields = [
            STREAM.normal((4, 5)),
            STREAM.uniform((4, 5)),
            STREAM.laplace((4, 5)),
            STREAM.normal((5, 4)),
            STREAM.normal((4, 5), rows=(1, 3)),
            STREAM.child(0).normal((4, 5)),
        ]
        assert len(made) == len(fields)
        assert STREAM.normal((4, 5)) is fields[0]
        out = torch.empty(4, 5)
        assert STREAM.normal((4, 5), out=out) is out
        assert torch.equal(out, fields[0])
    assert STREAM.normal((4, 5)) is not fields[0]


def test_inner_ones_keep_what_the_outermost_keeps_and_other_threads_their_own(made: list[Stream]) -> None:
    with kept_fields():
        with kept_fields():
            field = STREAM.normal((4, 5))
        assert STREAM.normal((4, 5)) is field
        other = Thread(target=STREAM.normal, args=((4, 5),))
        other.start()
        other.join()
    assert len(made) == 2


def test_changing_one_in_place_is_found_out() -> None:
    with kept_fields():
        STREAM.normal((4, 5)).mul_(2)
        with pytest.raises(RuntimeError, match="changed in place"):
            STREAM.normal((4, 5))
    with torch.inference_mode(), kept_fields():
        assert STREAM.normal((4, 5)) is STREAM.normal((4, 5))


def test_a_failure_forgets_them() -> None:
    with pytest.raises(ValueError, match="x"), kept_fields():
        raise ValueError("x")
    assert rng._kept.get() is None

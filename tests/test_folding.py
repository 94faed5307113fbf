"""Batch norm folded into noisy weights: the plain network to rounding, found where it is right and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noiserobust import Stream, evaluate
from noiserobust.analog.folding import Folding
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.evaluation import Compute, sensitivity
from noiserobust.evaluation.settings import grouped
from noiserobust.models import ModelSpec
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.rng import seeded
from noiserobust.storage.identity import network_digest

X = Stream(0, "x").normal((40, 3, 8, 8))
Y = torch.arange(40) % 10


def learnt(network: nn.Module) -> nn.Module:
    """``network`` in eval mode, with batch norms that have something to fold."""
    for index, norm in enumerate(m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        stream = Stream(1, index)
        if norm.running_var is not None:
            norm.running_mean = stream.child("mean").normal((norm.num_features,))
            norm.running_var = stream.child("var").uniform((norm.num_features,)) + 0.5
        if norm.affine:
            norm.weight.data = stream.child("weight").normal((norm.num_features,))
            norm.bias.data = stream.child("bias").normal((norm.num_features,))
    return network.eval()


def built(text: str) -> nn.Module:
    with seeded(Stream(0, "net")):
        return learnt(ModelSpec.parse(text).build(3, 10))


def both(network: nn.Module, x: Tensor = X, noise: str = "gaussian:0.2") -> tuple[Folding, Tensor, Tensor]:
    """(what was found, the noisy network's outputs, those with norms folded)."""
    noisy = NoisyWeights(network)
    folding = Folding(noisy, x[:2])
    with torch.no_grad(), noisy.perturbed(NoiseModel.parse(noise), Stream(0, "draw")):
        plain = network(x)
        with folding.folded():
            folded = network(x)
    return folding, plain, folded


def assert_equal_to_rounding(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("model", "norms"),
    [
        ("resnet18:width=4", 20),
        ("resnet50:width=4", 53),
        ("resnet9:width=4", 8),
        ("vgg16-bn:width=4", 13),
        ("torchvision:mobilenet_v3_small", 34),
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_all_norms_behind_a_layer_are_folded(model: str, norms: int, channels_last: bool) -> None:
    network = built(model)
    network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    x = torch.nn.functional.interpolate(X[:6], size=32)
    before = network_digest(network)
    folding, plain, folded = both(network, x)
    assert len(folding.pairs) == norms
    assert_equal_to_rounding(folded, plain)
    assert not torch.equal(folded, plain)
    assert network_digest(network) == before
    assert not any("forward" in vars(module) for module in network.modules())


def test_what_follows_no_layer_stays() -> None:
    folding, plain, folded = both(built("wrn:10-1"), X)  # norm, ReLU, convolution, norm, ...
    assert 0 < len(folding.pairs) < sum(isinstance(m, nn.BatchNorm2d) for m in folding.noisy.model.modules())
    assert_equal_to_rounding(folded, plain)


class Net(nn.Module):
    """A convolution, and a way to get from there to what the head sees."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        with seeded(Stream(0, "net")):
            self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), norm or nn.BatchNorm2d(6), nn.Linear(6, 10)
        self.between = between
        learnt(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self, x).mean((2, 3)))


def plainly(net: Net, x: Tensor) -> Tensor:
    return net.norm(net.conv(x))


def beside(net: Net, x: Tensor) -> Tensor:
    made = net.conv(x)
    return net.norm(made) + 0.1 * made


def by_a_view(net: Net, x: Tensor) -> Tensor:
    made = net.conv(x)
    return net.norm(made) + 0.1 * made[:, :1]


def changed_between(net: Net, x: Tensor) -> Tensor:
    return net.norm(net.conv(x).mul_(2))


def twice(net: Net, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) + net.conv(2 * x)


def through_the_function(net: Net, x: Tensor) -> Tensor:
    return net.norm(torch.nn.functional.conv2d(x, net.conv.weight, net.conv.bias))


@pytest.mark.parametrize("between", [beside, by_a_view, changed_between, twice, through_the_function])
def test_a_layer_whose_output_has_another_use_is_left(between: Callable[[Net, Tensor], Tensor]) -> None:
    folding, plain, folded = both(Net(between))
    assert not folding.pairs
    assert torch.equal(plain, folded)


@pytest.mark.parametrize(
    ("norm", "count"),
    [
        (nn.BatchNorm2d(6, affine=False), 1),
        (nn.BatchNorm2d(6, eps=0.3), 1),
        (nn.BatchNorm2d(6, track_running_stats=False), 0),
        (type("Own", (nn.BatchNorm2d,), {})(6), 0),
    ],
)
def test_kinds_of_norms(norm: nn.Module, count: int) -> None:
    folding, plain, folded = both(Net(plainly, norm))
    assert len(folding.pairs) == count
    assert_equal_to_rounding(folded, plain)


def test_hooks_keep_what_they_watch() -> None:
    seen: list[Tensor] = []
    for part in ("conv", "norm"):
        net = Net(plainly)
        getattr(net, part).register_forward_hook(lambda *_: seen.append(X))
        assert not Folding(NoisyWeights(net), X[:2]).pairs


def test_digital_and_shared_layers_are_left() -> None:
    net = Net(plainly)
    assert not Folding(NoisyWeights(net, exclude=["conv.*"]), X[:2]).pairs
    net.between = lambda net, x: net.norm(net.conv(x)) + net.other(x)
    net.other = nn.Conv2d(3, 6, 3)
    net.other.weight = net.conv.weight
    assert not Folding(NoisyWeights(net), X[:2]).pairs


def test_linear_layers_fold_over_their_last_dimension_only() -> None:
    flat = learnt(nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)))
    folding, plain, folded = both(flat)
    assert len(folding.pairs) == 1
    assert_equal_to_rounding(folded, plain)
    rows = learnt(nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3)))
    assert not Folding(NoisyWeights(rows), X[:2, 0, :3]).pairs


def test_the_noise_is_that_of_the_weight_in_the_array() -> None:
    """Folding first would give each filter's noise the scale of its folded maximum, here another one."""
    net = Net(plainly)
    noisy = NoisyWeights(net)
    folding = Folding(noisy, X[:2])
    scale = (net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()).view(-1, 1, 1, 1)
    with torch.no_grad(), noisy.perturbed(Gaussian(0.2), Stream(0, "draw")):
        expected = net.conv.weight * scale
        with folding.folded():
            assert torch.allclose(net.conv.weight, expected)


def test_convolutions_that_round_their_inputs_do_not_hide_a_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's round them to 10 bits by default, W otherwise than a W: the comparison asks for none of that."""
    conv2d, precision = nn.functional.conv2d, torch.backends.cudnn.conv

    def rounding(x: Tensor, weight: Tensor, *others: object) -> Tensor:
        if precision.fp32_precision == "tf32":
            x, weight = ((part.view(torch.int32) & -(1 << 13)).view(torch.float32) for part in (x, weight))
        return conv2d(x, weight, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(nn.functional, "conv2d", rounding)
    network = built("resnet18:width=4")
    assert precision.fp32_precision == "tf32"
    folding, plain, folded = both(network)
    assert precision.fp32_precision == "tf32"
    assert len(folding.pairs) == 20
    assert (folded - plain).abs().max() > 1e-4 * plain.abs().max()  # it does round, and is compared without


def test_an_error_leaves_nothing_folded() -> None:
    net = Net(plainly)
    noisy, before = NoisyWeights(net), network_digest(net)
    folding = Folding(noisy, X[:2])
    with pytest.raises(KeyError), noisy.perturbed(Gaussian(0.2), Stream(0, "draw")), folding.folded():
        raise KeyError
    assert network_digest(net) == before
    assert_equal_to_rounding(both(net)[1], both(Net(plainly))[1])


def test_a_network_that_cannot_be_watched_is_run_as_it_is() -> None:
    net = Net(plainly)
    net.register_forward_pre_hook(lambda *_: 1 / 0)
    folding = Folding(NoisyWeights(net), X[:2])
    assert not folding.pairs


class TestEvaluation:
    @pytest.mark.parametrize("noise", ["gaussian:0.2", "laplace:0.1,reference=layer", "gaussian:0.1,per=read"])
    def test_rows_are_those_of_the_plain_network(self, noise: str) -> None:
        net = built("resnet9:width=4")
        x = torch.nn.functional.interpolate(X, size=32)
        folded, plain = (
            evaluate(net, (x, Y), [noise, "gaussian:0"], draws=3, compute=Compute(fold=fold)) for fold in (True, False)
        )
        accuracies = [one.rows.query("metric == 'accuracy'")["value"].tolist() for one in (folded, plain)]
        assert accuracies[0] == accuracies[1]
        assert folded.rows["value"].tolist() == pytest.approx(plain.rows["value"].tolist(), rel=1e-4)

    def test_compensation_acts_before_it(self) -> None:
        net, conditions = built("resnet9:width=4"), {"times": ["1y"], "compensation": ["none", "column"]}
        folded, plain = (
            evaluate(net, (X, Y), "pcm", draws=2, **grouped(conditions | {"fold": fold})).rows for fold in (True, False)
        )
        assert folded["value"].tolist() == pytest.approx(plain["value"].tolist(), rel=1e-4)

    def test_not_where_something_lies_between_or_statistics_are_learnt(self) -> None:
        net = Net(plainly)
        for options in ({"converters": "io:dac=6,adc=6"}, {"recalibration": 30, "calibration": (X, Y)}):
            folded, plain = (
                evaluate(net, (X, Y), "gaussian:0.2", draws=2, **grouped(options | {"fold": f})).rows
                for f in (True, False)
            )
            assert folded["value"].tolist() == plain["value"].tolist()


def test_factors_are_those_of_the_norms_at_every_draw() -> None:
    """The twin: each norm's factor made anew, bit for bit."""
    network = built("resnet18:width=4")
    noisy = NoisyWeights(network)
    folding = Folding(noisy, X[:2])
    for draw in range(2):
        with torch.no_grad(), noisy.perturbed(Gaussian(0.1), Stream(0, "draw", draw)):
            noise = [pair.layer.weight.clone() for pair in folding.pairs]
            with folding.folded():
                for pair, weight in zip(folding.pairs, noise, strict=True):
                    norm = pair.norm
                    a = torch.rsqrt(norm.running_var + norm.eps) * norm.weight
                    assert torch.equal(pair.layer.weight, weight * a.view(-1, 1, 1, 1))
                    assert torch.equal(pair.layer.bias, -norm.running_mean * a + norm.bias)
        assert not any("forward" in vars(pair.norm) or pair.layer.bias is not None for pair in folding.pairs)


class ByTheBatch(nn.Module):
    """What becomes of the layer's output is chosen by the batch."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.out = nn.Conv2d(3, 6, 3), nn.Linear(6, 10)
        self.day, self.night = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if x.mean() > 0:
            y = self.day(y)
        elif self.way == "another norm":
            y = self.night(y)
        elif self.way == "used again":
            y = self.day(y) + y
        elif self.way == "used before":
            y = y.square() + self.day(y)
        return self.out(y.relu().mean((2, 3)))


@pytest.mark.parametrize("way", ["another norm", "no norm", "used again", "used before"])
@pytest.mark.parametrize("nights", [slice(20, 30), slice(30, 40)])  # between the images that folding looks at, and last
def test_a_network_that_chooses_by_the_batch(way: str, nights: slice) -> None:
    with seeded(Stream(0, "net")):
        network = learnt(ByTheBatch(way))
    x = X.abs()
    x[nights] *= -1
    assert Folding(NoisyWeights(network), x[:2]).pairs  # by these alone it could be folded

    def agree(ask: Callable[..., Any], **options: Any) -> None:
        computes = [Compute(batch_size=10, fold=fold) for fold in (True, False)]
        rows = [ask(network, (x, Y), "gaussian:0.2", compute=one, **options).rows for one in computes]
        assert rows[0]["value"].tolist() == pytest.approx(rows[1]["value"].tolist(), rel=1e-5)

    agree(evaluate, draws=2)
    agree(evaluate, precision_target=5.0)
    agree(sensitivity, draws=2)


def test_watching_changes_nothing() -> None:
    network = built("resnet18:width=4")
    noisy = NoisyWeights(network)
    folding = Folding(noisy, X[:2])

    def outputs(watch: bool) -> Tensor:
        with torch.no_grad(), noisy.perturbed(Gaussian(0.1), Stream(0, "draw")), folding.folded(watch):
            return network(X)

    assert torch.equal(outputs(True), outputs(False))

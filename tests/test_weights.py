"""Which weights are analog, and that moving them leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CHANGING, NOISES, STACKED
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from noiserobust import Stream, UserError, analog_weights, coverage, perturbed
from noiserobust.analog.noisy import NoisyWeights, report_stream
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.rng import seeded

NOISE = Gaussian(0.1)


def small_net() -> nn.Module:
    with seeded(Stream(0, "net")):
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_bits(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        assert torch.equal(value.view(kind), before[name].view(kind)), name


def noisy_values(model: nn.Module, **where: int) -> dict[str, Tensor]:
    with perturbed(model, NOISE, **where):
        return {weight.name: weight.parameter.detach().clone() for weight in analog_weights(model)}


def same_values(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Attention(nn.Module):
    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **sizes)


class Tied(nn.Module):
    """A language model's usual trick: the output layer is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


class TestWhatIsAnalog:
    @pytest.mark.parametrize(
        ("module", "expected"),
        [
            (nn.Linear(3, 2), ["weight"]),
            (nn.Conv1d(2, 4, 3), ["weight"]),
            (nn.Conv3d(2, 4, 3, groups=2), ["weight"]),
            (nn.ConvTranspose2d(4, 6, 3, groups=2), ["weight"]),
            (nn.LSTM(3, 4, proj_size=2), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
            (nn.GRUCell(3, 4), ["weight_ih", "weight_hh"]),
            (Attention(), ["in_proj_weight", "out_proj.weight"]),
            (
                Attention(kdim=3, vdim=4),
                ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
            ),
            (nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm(3), nn.BatchNorm1d(3), nn.GroupNorm(1, 3)), []),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
    )
    def test_by_kind_of_layer(self, module: nn.Module, expected: list[str]) -> None:
        assert [weight.name for weight in analog_weights(module)] == expected

    @pytest.mark.parametrize("groups", [1, 2])
    def test_a_transposed_convolution_has_its_outputs_in_dimension_1(self, groups: int) -> None:
        layer = nn.ConvTranspose2d(4, 6, 3, groups=groups)
        (weight,) = analog_weights(layer)
        rows = weight.as_rows(layer.weight)
        assert torch.equal(weight.from_rows(rows), layer.weight)
        for output in range(6):
            group, within = divmod(output, 6 // groups)
            inputs = slice(group * 4 // groups, (group + 1) * 4 // groups)
            assert torch.equal(rows[output], layer.weight[inputs, within])

    @pytest.mark.parametrize("groups", [1, 2])
    def test_and_its_noise_scale_is_that_of_an_output(self, groups: int) -> None:
        layer = nn.ConvTranspose2d(4, 6, 3, groups=groups).double()
        layer.weight.data *= torch.linspace(0.1, 3, 6 // groups).view(1, -1, 1, 1)
        clean = layer.weight.detach().clone()
        with perturbed(layer, NOISE):
            noisy = layer.weight.detach().clone()
        field = report_stream(0, 0, 0).child("weight", "program").normal((6, 4 // groups, 3, 3))
        for output in range(6):
            group, within = divmod(output, 6 // groups)
            own = (slice(group * 4 // groups, (group + 1) * 4 // groups), within)
            torch.testing.assert_close(noisy[own], clean[own] + 0.1 * clean[own].abs().max() * field[output])

    def test_coverage_says_why(self) -> None:
        found = coverage(
            nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2), nn.LayerNorm(2), weight_norm(nn.Linear(2, 2)))
        )
        assert [(row.name, row.noisy, row.reason) for row in found.rows] == [
            ("0.weight", False, "embedding"),
            ("1.weight", True, ""),
            ("1.bias", False, "bias"),
            ("2.weight", False, "normalisation"),
            ("2.bias", False, "normalisation"),
            ("3.weight", True, ""),
            ("3.bias", False, "bias"),
            ("3.parametrizations.weight.original0", False, "latent of 3.weight"),
            ("3.parametrizations.weight.original1", False, "latent of 3.weight"),
        ]
        assert (found.noisy, found.total) == (10, 12 + 6 + 2 + 4 + 4 + 2)
        assert found.summary.startswith("10 of 30 weights noisy (33.3 %, 2 tensors); digital: 12 in 1 x embedding")
        assert all(row.name in str(found) for row in found.rows)

    def test_a_layer_without_weights_is_listed(self) -> None:
        layer = nn.Linear(1, 3, bias=False)
        layer.weight = nn.Parameter(torch.zeros(3, 0))
        (found,) = coverage(layer).rows
        assert (found.noisy, found.reason, found.weights) == (False, "empty", 0)

    def test_max_over_rms(self) -> None:
        layer = nn.Linear(2, 2, bias=False)
        layer.weight.data = torch.tensor([[3.0, 0.0], [0.0, -4.0]])
        assert coverage(layer).rows[0].max_over_rms == pytest.approx(4 / (25 / 4) ** 0.5)

    def test_patterns(self) -> None:
        net = nn.Sequential(nn.Linear(2, 2), nn.Embedding(3, 2), nn.Linear(2, 2))
        assert [w.name for w in analog_weights(net, exclude=["0.*"])] == ["2.weight"]
        assert [w.name for w in analog_weights(net, exclude=["*"], include=["2.*"])] == ["2.weight"]
        assert [w.name for w in analog_weights(net, include=["1.weight@1"])] == ["0.weight", "1.weight", "2.weight"]
        assert coverage(net, exclude=["0.*"]).rows[0].reason == "excluded by pattern"
        with pytest.raises(UserError, match="pattern that matches a parameter, got '3"):
            analog_weights(net, exclude=["3.*"])

    @pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, while it loads its compiler
    def test_wrappers_leave_no_mark_on_names(self) -> None:
        net = small_net()
        wrapped = nn.DataParallel(torch.compile(net))  # type: ignore[arg-type]
        assert (
            [w.name for w in analog_weights(wrapped)]
            == [w.name for w in analog_weights(net)]
            == ["0.weight", "3.weight"]
        )
        assert same_values(noisy_values(wrapped), noisy_values(net))
        inner = nn.Sequential(torch.compile(nn.Linear(2, 2)), nn.Linear(2, 2))  # type: ignore[arg-type]
        assert [w.name for w in analog_weights(inner)] == ["0.weight", "1.weight"]

    def test_a_parameter_shared_with_an_unknown_module_is_still_analog(self) -> None:
        class Head(nn.Module):
            def __init__(self, weight: nn.Parameter) -> None:
                super().__init__()
                self.kernel = weight

        linear = nn.Linear(3, 2, bias=False)
        net = nn.Sequential(Head(linear.weight), linear)
        assert [w.name for w in analog_weights(net)] == ["1.weight"]
        assert (coverage(net).noisy, coverage(net).total) == (6, 6)

    def test_a_shared_parameter_is_one_array(self) -> None:
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        assert [w.name for w in analog_weights(net)] == ["0.weight"]

    def test_no_analog_weight_is_refused(self) -> None:
        with (
            pytest.raises(UserError, match=r"at least one analog weight .* found none in LayerNorm"),
            perturbed(nn.LayerNorm(3), NOISE),
        ):
            pass


class TestTiedToAnEmbedding:
    def test_the_look_up_stays_digital(self) -> None:
        net, tokens = Tied(), torch.arange(7)
        assert [(w.name, w.tied) for w in analog_weights(net)] == [("head.weight", True)]
        before, looked_up, clean = state(net), net.embed(tokens).detach(), net(tokens).detach()
        with perturbed(net, NOISE):
            assert torch.equal(net.embed(tokens), looked_up)
            noisy = net(tokens)
            assert not torch.allclose(noisy, clean)
            net(tokens).sum().backward()
        expected = NOISE.sample(net.embed.weight.detach(), Stream(0, "report", 0, 0, "head.weight"))
        torch.testing.assert_close(noisy, looked_up @ expected.T)
        # d/dw of sum(w_noisy w^T): through the head (sum of inputs) and through the look-up (sum of noisy outputs).
        by_head = looked_up.sum(0).expand(7, 5)
        torch.testing.assert_close(net.embed.weight.grad, by_head + expected.sum(0))
        assert_same_bits(net, before)
        assert torch.equal(net(tokens), clean)

    def test_nested_draws_and_a_forward_of_ones_own_come_back(self) -> None:
        net, x = Tied(), torch.ones(2, 5)
        with perturbed(net, NOISE, draw=0):
            outer = net.head(x)
            with perturbed(net, NOISE, draw=1):
                assert not torch.equal(net.head(x), outer)
            assert torch.equal(net.head(x), outer)
        own = net.head.forward = lambda x: 7 * nn.functional.linear(x, net.head.weight)  # as other tools put one there
        with perturbed(net, NOISE, draw=0):
            torch.testing.assert_close(net.head(x), 7 * outer)
            assert net.head.forward is own
        assert net.head.weight is net.embed.weight

    def test_an_exception_ends_it_too(self) -> None:
        net, tokens = Tied(), torch.arange(7)
        clean = net(tokens)
        with pytest.raises(ZeroDivisionError), perturbed(net, NOISE):
            1 / 0  # noqa: B018
        assert torch.equal(net(tokens), clean)


class TestRestoring:
    @pytest.mark.parametrize("noise", [*NOISES, *CHANGING, *STACKED], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_every_bit_is_back(self, noise: NoiseModel, dtype: torch.dtype) -> None:
        net = small_net().to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net[0].weight.data[0, 0, 0, 0] = -0.0
        before = state(net)
        with perturbed(net, noise):
            assert not torch.equal(net[0].weight, before["0.weight"])
            assert not torch.equal(net[3].weight, before["3.weight"])
        assert_same_bits(net, before)

    def test_also_after_an_exception_and_with_nan(self) -> None:
        net = small_net()
        net[3].weight.data[0, 0] = float("nan")
        before = state(net)
        with pytest.raises(ZeroDivisionError), perturbed(net, NOISE):
            net[0].weight.data.fill_(1 / 0)
        assert_same_bits(net, before)

    def test_nested_in_one_object(self) -> None:
        net = small_net()
        before, noisy = state(net), NoisyWeights(net)
        for _ in range(2):  # the second time with the memory that the first one kept
            with noisy.perturbed(NOISE, Stream(0)):
                outer = net[0].weight.detach().clone()
                with noisy.perturbed(NOISE, Stream(1)):
                    assert not torch.equal(net[0].weight, outer)
                assert torch.equal(net[0].weight, outer)
            assert_same_bits(net, before)

    @pytest.mark.parametrize("change", [{"dtype": torch.float64}, {"memory_format": torch.channels_last}], ids=str)
    def test_a_model_moved_after_it_was_looked_at(self, change: dict[str, Any]) -> None:
        net = small_net()
        noisy = NoisyWeights(net)
        with noisy.perturbed(NOISE, Stream(0)):
            pass
        net.to(**change)
        net[0].weight.data += 1e-12  # a value that only float64 holds
        before = state(net)
        with noisy.perturbed(NOISE, Stream(0)):
            assert not torch.equal(net[0].weight, before["0.weight"])
        assert_same_bits(net, before)

    def test_no_noise_touches_nothing(self) -> None:
        net = small_net()
        version = net[0].weight._version
        with perturbed(net, Gaussian(0.0)):
            assert net[0].weight._version == version

    def test_an_open_autocast_sees_the_noise_and_then_the_clean_weights(self) -> None:
        """Autocast keeps casts of the weights until it ends; without care they would outlive a move."""
        net, x = small_net().eval(), torch.ones(1, 2, 4, 4)
        with torch.autocast("cpu", torch.bfloat16):
            clean = net(x)
            with perturbed(net, NOISE):
                noisy = net(x)
            assert not torch.equal(noisy, clean)
            assert torch.equal(net(x), clean)

    def test_gradients_are_those_at_the_noisy_weights(self) -> None:
        net = nn.Linear(3, 1, bias=False)
        with perturbed(net, NOISE):
            at = net.weight.detach().clone()
            (net(torch.ones(1, 3)) ** 2).sum().backward()
        assert net.weight.grad is not None
        torch.testing.assert_close(net.weight.grad, 2 * at.sum().expand(1, 3))


class TestNames:
    def test_a_draw_does_not_depend_on_other_layers_or_draws(self) -> None:
        net = small_net()
        values = noisy_values(net, draw=5)
        noisy_values(net, draw=2)
        assert all(torch.equal(values[name], again) for name, again in noisy_values(net, draw=5).items())
        larger = nn.Sequential(*net, nn.Linear(3, 3))
        again = noisy_values(larger, draw=5)
        assert all(torch.equal(values[name], again[name]) for name in values)

    def test_nor_on_the_order_of_layers(self) -> None:
        layers = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Conv1d(4, 4, 3)}
        here, there = (nn.ModuleDict({name: layers[name] for name in order}) for order in ("abc", "cba"))
        assert [w.name for w in analog_weights(here)] != [w.name for w in analog_weights(there)]
        assert same_values(noisy_values(here), noisy_values(there))

    def test_it_does_depend_on_seed_replicate_draw_and_layer(self) -> None:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].load_state_dict(net[0].state_dict())
        found = [noisy_values(net, **where) for where in ({}, {"seed": 1}, {"replicate": 1}, {"draw": 1})]
        tensors = [value for values in found for value in values.values()]
        assert len({tuple(tensor.flatten().tolist()) for tensor in tensors}) == 8

    def test_the_global_generator_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        noisy_values(small_net())
        assert torch.equal(torch.get_rng_state(), before)


def test_an_expanded_weight_is_refused() -> None:
    layer = nn.Linear(6, 5)
    layer.weight = nn.Parameter(torch.randn(1, 6).expand(5, 6))
    with pytest.raises(UserError, match="memory of their own, got weight, which is expanded"):
        analog_weights(layer)


def test_floats_of_eight_bits_are_packed() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    model[0].weight = nn.Parameter(torch.randn(5, 6).to(torch.float8_e4m3fn), requires_grad=False)
    assert [weight.name for weight in analog_weights(model)] == ["1.weight"]
    rows = {row.name: row.reason for row in coverage(model).rows}
    assert rows["0.weight"] == "packed float8_e4m3fn"
    with perturbed(model, "gaussian:0.1"):
        pass

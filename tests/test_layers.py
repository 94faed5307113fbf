"""Layers say where their outputs are: what the registry says is what a forward pass does."""

from __future__ import annotations

import architectures
import pytest
import torch
from torch import Tensor, nn

from noiserobust import analog_weights, coverage, perturbed
from noiserobust.analog.layers import _RULES, Outputs, outputs_of, register_layer
from noiserobust.analog.places import Inside
from noiserobust.analog.tracing import traced_outputs
from noiserobust.errors import UserError

CASES = [
    *(pytest.param("language", name, id=name) for name in architectures.LANGUAGE),
    *(pytest.param("torchvision", name, id=name) for name in architectures.TORCHVISION),
    *(pytest.param("timm", name, id=name) for name in architectures.TIMM),
]


DIGITAL = {
    # Tables whose weight multiplies under another name, that of the head which is tied to them.
    **{name: {"transformer.wte.weight"} for name in ("GPT2",)},
    **{name: {"model.embed_tokens.weight"} for name in ("Gemma2", "JetMoe", "RecurrentGemma")},
    **{name: {"transformer.word_embeddings.weight"} for name in ("Bloom", "Falcon")},
    "OPT": {"model.decoder.embed_tokens.weight"},
    "Bert": {"bert.embeddings.word_embeddings.weight"},
    "DistilBert": {"distilbert.embeddings.word_embeddings.weight"},
    "Albert": {"albert.embeddings.word_embeddings.weight"},
    "DebertaV2": {"deberta.embeddings.word_embeddings.weight"},
    "Mamba": {"backbone.embeddings.weight"},
    "XLNet": {"transformer.word_embedding.weight"},
    "ConvBert": {"convbert.embeddings.word_embeddings.weight"},
    "Funnel": {
        "funnel.embeddings.word_embeddings.weight",
        # Multiplied with queries, segment by segment: a table of two rows a head.
        *(f"funnel.encoder.blocks.{block}.{layer}.attention.seg_embed" for block in range(3) for layer in range(4)),
        *(f"funnel.decoder.layers.{layer}.attention.seg_embed" for layer in range(2)),
    },
}
"""What multiplies and is not analog, name by name."""


@pytest.mark.filterwarnings("default")  # other people's networks warn of other things
@pytest.mark.parametrize(("library", "name"), CASES)
def test_the_registered_axes_are_those_that_compute(library: str, name: str) -> None:
    pytest.importorskip("transformers" if library == "language" else library)
    network, forward = getattr(architectures, library)(name)
    traces = traced_outputs(network, forward)
    analog = {weight.name: weight for weight in analog_weights(network)}
    for weight in analog.values():
        axes = tuple(axis for axis in weight.outputs.axes if weight.parameter.shape[axis] > 1)
        # An expert that no token chose was not multiplied.
        if traces[weight.name].axes or not axes:
            assert traces[weight.name].axes == {axes}, weight.name
    multiplied = {name for name, trace in traces.items() if trace.axes}
    assert multiplied - set(analog) == DIGITAL.get(name, set())


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["nf_resnet26", "resnetv2_50x1_bit"])
def test_standardised_convolutions_multiply_by_the_values_that_are_noisy(name: str) -> None:
    """What each layer gives in the network is its value's convolution, output by output."""
    network, forward = architectures.timm(name, size=64)
    inside = [weight for weight in analog_weights(network) if isinstance(weight, Inside)]
    assert len(inside) > 25
    assert {weight.outputs.axes for weight in inside} == {(0,)}
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    chosen = inside[:: len(inside) // 6]
    for weight in chosen:  # copies, since what follows works in place
        weight.owner.register_forward_hook(
            lambda module, args, out: seen.update({module: (args[0].clone(), out.clone())})
        )
    clean = [weight.value() for weight in chosen]
    with torch.no_grad(), perturbed(network, "gaussian:0.1"):
        forward()
        for weight, value in zip(chosen, clean, strict=True):
            (x, out), layer, noisy = seen[weight.owner], weight.owner, weight.value()
            assert not torch.equal(noisy, value) or not value.any()  # gains that begin at 0
            if not getattr(layer, "same_pad", False):
                expected = layer._conv_forward(x, noisy, layer.bias)
                torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-4)


class TestOutputs:
    @pytest.mark.parametrize(
        ("outputs", "shape", "rows"),
        [
            (Outputs((0,)), (5, 3, 2), 5),
            (Outputs((1,)), (3, 5), 5),
            (Outputs((0, 1)), (4, 5, 3), 20),
            (Outputs((0, 2)), (4, 3, 5), 20),
            (Outputs((1, 2)), (3, 4, 5), 20),
            (Outputs((1,)), (4, 5, 3, 3), 5),
            (Outputs((1,), 2), (4, 5, 3, 3), 10),
        ],
        ids=str,
    )
    def test_rows_and_back(self, outputs: Outputs, shape: tuple[int, ...], rows: int) -> None:
        weight = torch.randn(shape)
        found = outputs.rows(weight)
        assert len(found) == rows == outputs.count(shape)
        assert torch.equal(outputs.weight(found, shape), weight)

    def test_bilinear(self) -> None:
        layer, x, z = nn.Bilinear(3, 4, 5, bias=False), torch.randn(7, 3), torch.randn(7, 4)
        (weight,) = analog_weights(layer)
        pairs = (x[:, :, None] * z[:, None, :]).flatten(1)
        torch.testing.assert_close(pairs @ weight.as_rows(weight.value()).flatten(1).T, layer(x, z))

    def test_every_row_is_one_output(self) -> None:
        """An output is a row times its inputs, whatever the layout."""
        x, stored = torch.randn(7, 3), torch.randn(3, 5)
        torch.testing.assert_close(x @ Outputs((1,)).rows(stored).T, x @ stored)
        experts = torch.randn(4, 3, 5)
        each = torch.einsum("bi,eio->beo", x, experts).flatten(1)
        torch.testing.assert_close(x @ Outputs((0, 2)).rows(experts).T, each)


class InputsFirst(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel


class Gated(nn.Linear):
    """Computes with a weight that depends on its input: no array holds it."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * x.mean())


def deviations(network: nn.Module, weight: Tensor, **where: object) -> Tensor:
    clean = weight.detach().clone()
    with perturbed(network, "gaussian:0.05", **where):  # type: ignore[arg-type]
        return (weight - clean).detach()


class TestUnknownLayers:
    def test_no_axis_is_guessed(self) -> None:
        network = nn.Sequential(InputsFirst(6, 4), nn.Linear(4, 3))
        assert [weight.name for weight in analog_weights(network)] == ["1.weight"]
        assert "no registered layer vouches for it" in coverage(network).rows[0].reason
        expected = r"axis of the outputs of 0.kernel, .* InputsFirst.kernel \(6, 4\); include '\*.kernel@0'"
        with pytest.raises(UserError, match=expected):
            analog_weights(network, include=["*.kernel"])
        for wrong in ("*.kernel@2", "*.kernel@0,1", "*.kernel@x", "*.kernel@1,1"):
            with pytest.raises(UserError, match=r"ax[ie]s"):
                analog_weights(network, include=[wrong])

    def test_the_axis_that_is_named_sets_the_scale(self) -> None:
        network = nn.Sequential(InputsFirst(400, 300))
        kernel = network[0].kernel
        with torch.no_grad():
            kernel[:, 0] *= 20
        found = deviations(network, kernel, include=["*.kernel@1"])
        for output in (0, 1):
            expected = 0.05 * kernel[:, output].abs().max().item()
            assert found[:, output].std().item() == pytest.approx(expected, rel=0.2)

    def test_a_registered_type_is_analog_and_refused_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for kind in list(_RULES):
            monkeypatch.setitem(_RULES, kind, _RULES[kind])
        register_layer(InputsFirst, {"kernel": Outputs((1,))})
        try:
            (weight,) = analog_weights(InputsFirst(6, 4))
            assert weight.outputs == Outputs((1,))
            with pytest.raises(UserError, match="not registered yet"):
                register_layer(InputsFirst, {"kernel": Outputs((0,))})
        finally:
            del _RULES[InputsFirst]

    def test_a_layer_of_which_it_cannot_be_told_what_it_multiplies_by_is_left_digital(self) -> None:
        network = nn.Sequential(Gated(4, 3), nn.Linear(3, 2))
        assert [weight.name for weight in analog_weights(network)] == ["1.weight"]
        assert coverage(network).rows[0].reason.startswith("Gated has a forward of its own: no product with")
        assert [weight.name for weight in analog_weights(network, include=["0.weight@0"])] == ["0.weight", "1.weight"]
        with (
            pytest.warns(UserWarning, match="of Gated stay digital"),
            perturbed(network, "gaussian:0.1"),
        ):
            pass
        for settled in ({"include": ["0.weight@0"]}, {"exclude": ["0.weight"]}):
            with perturbed(network, "gaussian:0.1", **settled):
                pass

    def test_torchs_own_subclasses_are_known(self) -> None:
        assert set(outputs_of(nn.LSTM(3, 4))) == {"weight_ih_l0", "weight_hh_l0"}
        assert outputs_of(nn.MultiheadAttention(4, 2).out_proj) == {"weight": Outputs()}


def test_memory_shared_through_data_is_one_weight() -> None:
    a, b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
    b.weight.data = a.weight.data
    network = nn.Sequential(a, b)
    assert coverage(network).total == 36
    spread = torch.stack([deviations(network, a.weight, draw=draw) for draw in range(200)])
    assert (spread / a.weight.abs().amax(1, keepdim=True)).std().item() == pytest.approx(0.05, rel=0.1)


@pytest.mark.filterwarnings("default")
class TestTransformers:
    """Where a guessed axis was wrong: one scale per input, or one per expert."""

    def test_conv1d(self) -> None:
        pytest.importorskip("transformers")
        network, _ = architectures.language("GPT2")
        weight = network.transformer.h[0].mlp.c_fc.weight  # (inputs, outputs)
        with torch.no_grad():
            weight[:, 0] *= 20
        expected = 0.05 * weight[:, 1].abs().max().item()
        draws = torch.stack([deviations(network, weight, draw=draw)[:, 1] for draw in range(30)])
        assert draws.std().item() == pytest.approx(expected, rel=0.1)

    @pytest.mark.parametrize(("name", "axis"), [("Mixtral", 1), ("GptOss", 2)])
    def test_experts(self, name: str, axis: int) -> None:
        pytest.importorskip("transformers")
        network, _ = architectures.language(name)
        weight = network.model.layers[0].mlp.experts.gate_up_proj
        one = weight.detach().transpose(1, axis)[2, 5]
        expected = 0.05 * one.abs().max().item()
        draws = torch.stack([deviations(network, weight, draw=draw).transpose(1, axis)[2, 5] for draw in range(60)])
        assert draws.std().item() == pytest.approx(expected, rel=0.1)

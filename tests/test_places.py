"""Weights that compute: noise on the value that a layer multiplies by, each kind against a twin made from equations."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune

from noiserobust import Stream, UserError, analog_weights, coverage, evaluate, perturbed
from noiserobust.analog.tracing import traced_outputs
from noiserobust.data import Batch
from noiserobust.noise import Gaussian
from noiserobust.rng import seeded
from noiserobust.training import RWP, Engine, Progress

NOISE = Gaussian(0.1)


def draw(name: str, value: Tensor, stream: Stream | None = None) -> Tensor:
    """What evaluation makes of a weight of that name whose outputs are in dimension 0."""
    return NOISE.sample(value, (stream or Stream(0, "report", 0, 0)).child(name))


class Ternary(nn.Linear):
    """b1.58: y = x Q(w), Q(w) = s round(w / s) clipped to ± s, with the gradient of w."""

    def forward(self, x: Tensor) -> Tensor:
        quantised = ternary(self.weight)
        return functional.linear(x, self.weight + (quantised - self.weight).detach(), self.bias)


def ternary(weight: Tensor) -> Tensor:
    scale = weight.detach().abs().mean()
    return (weight.detach() / scale).round().clamp(-1, 1) * scale


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, standardised(self.weight), self.bias)


def standardised(weight: Tensor) -> Tensor:
    rows = weight.flatten(1)
    return ((rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)).view_as(weight)


class Transposing(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ (2 * self.weight.t())


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)
    with torch.no_grad():
        layer.weight_orig[layer.weight_mask == 0] *= 100  # what the mask hides sets no scale
    return layer


def normed(weight: Tensor, gain: Tensor) -> Tensor:
    return gain.view(-1, *[1] * (weight.dim() - 1)) * weight / weight.flatten(1).norm(dim=1).view(-1, 1)


@pytest.mark.filterwarnings("default")
class TestTheValueThatComputes:
    KINDS: tuple[tuple[str, Callable[[], nn.Module], Callable[[Any], Tensor]], ...] = (
        ("plain", lambda: nn.Linear(6, 4), lambda m: m.weight),
        (
            "weight_norm",
            lambda: parametrizations.weight_norm(nn.Linear(6, 4)),
            lambda m: normed(m.parametrizations.weight.original1, m.parametrizations.weight.original0),
        ),
        ("old weight_norm", lambda: nn.utils.weight_norm(nn.Linear(6, 4)), lambda m: normed(m.weight_v, m.weight_g)),
        ("spectral_norm", lambda: parametrizations.spectral_norm(nn.Linear(6, 4)).eval(), lambda m: m.weight),
        ("old spectral_norm", lambda: nn.utils.spectral_norm(nn.Linear(6, 4)), lambda m: m.weight),
        ("orthogonal", lambda: parametrizations.orthogonal(nn.Linear(6, 4)), lambda m: m.weight),
        ("pruned", lambda: pruned(nn.Linear(6, 4)), lambda m: m.weight_orig * m.weight_mask),
        ("ternary", lambda: Ternary(6, 4), lambda m: ternary(m.weight)),
        ("transposing", lambda: Transposing(6, 4, bias=False), lambda m: 2 * m.weight),
    )

    @pytest.mark.parametrize(("build", "value"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
    def test_output_gradient_and_restoring(
        self, build: Callable[[], nn.Module], value: Callable[[Any], Tensor]
    ) -> None:
        layer, x = seeded_layer(build).eval(), Stream(0, "x").normal((5, 6))
        layer(x)
        before = {name: one.clone() for name, one in layer.state_dict().items()}
        clean, computes = layer(x).detach(), value(layer).detach().clone()
        noisy = draw("weight", computes)
        with perturbed(layer, NOISE):
            out = layer(x)
            for _ in range(2):
                layer(x).square().sum().backward()
            copied = [one.clone() for one in layer.state_dict().values() if one.numel() == noisy.numel()]
        bias = 0 if layer.bias is None else layer.bias.detach()
        torch.testing.assert_close(out.detach(), x @ noisy.T + bias)
        assert torch.equal(layer(x).detach(), clean)
        assert layer.state_dict().keys() == before.keys()
        assert all(torch.equal(one, before[name]) for name, one in layer.state_dict().items())
        copied = [one if one.shape == noisy.shape else one.T for one in copied]
        assert min((one - noisy).abs().max() for one in copied) < 1e-5  # what is saved holds the noise
        # The gradient at the noisy value, through what computes the value.
        reached = latent_of(layer)
        grad = reached.grad.clone()
        layer.zero_grad()
        slope = 2 * (2 * (x @ noisy.T + bias)).T @ x
        through(layer, value).backward(slope.to(computes.dtype))
        torch.testing.assert_close(grad, reached.grad, rtol=1e-4, atol=1e-4)

    def test_evaluate_is_perturbed(self) -> None:
        data = Stream(0, "x").normal((20, 6)), torch.arange(20) % 4
        for kind, build, _ in self.KINDS:
            model = nn.Sequential(seeded_layer(build))
            found = evaluate(model, data, "gaussian:0.1", draws=1).rows
            with perturbed(model.eval(), "gaussian:0.1"):
                loss = functional.cross_entropy(model(data[0]), data[1]).item()
            row = found[(found.metric == "loss") & (found.strength > 0)]
            assert row.value.iloc[0] == pytest.approx(loss, rel=1e-5), kind

    def test_training_steps_at_the_noisy_value(self) -> None:
        for kind in ("weight_norm", "old weight_norm", "pruned", "ternary"):
            build, value = next(one[1:] for one in self.KINDS if one[0] == kind)
            model, twin = (nn.Sequential(seeded_layer(build)) for _ in range(2))
            x, y = Stream(0, "x").normal((8, 6)), torch.arange(8) % 4
            engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.5), seed=3)
            RWP(NOISE).step(engine, Batch(x, y), Progress(2, 9))
            # The step of a twin: its own forward pass at a value that is noisy by a constant.
            computes = value(twin[0])
            (name,) = (weight.name for weight in analog_weights(twin))
            noisy = draw(name, computes.detach(), Stream(3, "train", 2, 0))
            bias = twin[0].bias
            straight = twin[0].weight if kind == "ternary" else computes
            loss = functional.cross_entropy(x @ (noisy + straight - straight.detach()).T + bias, y)
            loss.backward()
            for one, other in zip(model.parameters(), twin.parameters(), strict=True):
                torch.testing.assert_close(one, other - 0.5 * other.grad, rtol=1e-5, atol=1e-6)


def seeded_layer(build: Callable[[], nn.Module]) -> nn.Module:
    with seeded(Stream(0, "places")):
        return build()


def latent_of(layer: Any) -> Tensor:
    names = ("weight_v", "weight_orig", "weight")
    if parametrize.is_parametrized(layer):
        return list(layer.parametrizations.weight.parameters())[-1]
    return next(layer._parameters[name] for name in names if layer._parameters.get(name) is not None)


def through(layer: Any, value: Callable[[Any], Tensor]) -> Tensor:
    if isinstance(layer, Ternary):
        return layer.weight * 1
    if hasattr(layer, "weight_orig"):
        layer(torch.zeros(1, 6))
        return layer.weight
    return value(layer)


@pytest.mark.filterwarnings("ignore::FutureWarning")
class TestConvolutionsAndRecurrentLayers:
    def test_weight_standardisation(self) -> None:
        model, x = Standardised(3, 4, 3, groups=1), torch.randn(2, 3, 8, 8)
        noisy = draw("weight", standardised(model.weight.detach()))
        with perturbed(model, NOISE):
            torch.testing.assert_close(model(x), functional.conv2d(x, noisy, model.bias))

    @pytest.mark.parametrize("new", [True, False])
    def test_a_recurrent_layer_with_weight_norm(self, new: bool) -> None:
        layer, x = nn.LSTM(5, 6), torch.randn(4, 2, 5)
        for name in ("weight_ih_l0", "weight_hh_l0"):
            layer = parametrizations.weight_norm(layer, name) if new else nn.utils.weight_norm(layer, name)
        clean = layer(x)[0]
        twin = nn.LSTM(5, 6)
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(twin, name).data = draw(name, getattr(layer, name).detach())
        for name in ("bias_ih_l0", "bias_hh_l0"):
            getattr(twin, name).data = getattr(layer, name).data
        with perturbed(layer, NOISE):
            torch.testing.assert_close(layer(x)[0], twin(x)[0])
        assert torch.equal(layer(x)[0], clean)
        assert {weight.name for weight in analog_weights(layer)} == {"weight_ih_l0", "weight_hh_l0"}

    def test_a_latent_that_is_included_is_its_value(self) -> None:
        model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)), nn.Linear(2, 2))
        one = analog_weights(model, exclude=["*"], include=["*original1"])
        assert [weight.name for weight in one] == ["0.weight"]
        assert coverage(model).total == 6 + 2 + 4 + 2
        assert [weight.name for weight in analog_weights(model, exclude=["*original1"])] == ["1.weight"]


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(7, 5), nn.Linear(5, 5)
        self.head, self.other = nn.Linear(5, 7, bias=False), nn.Linear(5, 7, bias=False)
        self.head.weight = self.other.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.body(self.embed(tokens))
        return self.head(x) + self.other(x)


class TestCopiesOfATiedNetwork:
    @pytest.mark.filterwarnings("default")  # torch.export warns of its own doings
    def test_whatever_leaves_an_opening_holds_the_noise(self) -> None:
        net, tokens, buffer = Head(), torch.arange(7), io.BytesIO()
        clean = net(tokens).detach()
        with perturbed(net, NOISE):
            noisy = net(tokens).detach()
            assert net.head.weight is net.other.weight is not net.embed.weight
            copied, state = copy.deepcopy(net), {k: v.clone() for k, v in net.state_dict().items()}
            torch.save(net, buffer)
            program = io.BytesIO()
            torch.export.save(torch.export.export(net, (tokens,)), program)
            for _ in range(3):
                net(tokens).sum().backward()
            net.zero_grad()
        assert torch.equal(net(tokens), clean)
        assert net.head.weight is net.other.weight is net.embed.weight
        loaded = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
        exported = torch.export.load(io.BytesIO(program.getvalue())).module()
        for one in (copied, loaded, exported):
            torch.testing.assert_close(one(tokens), noisy)
        assert not torch.equal(state["head.weight"], state["embed.weight"])
        assert type(copied.head.weight) is nn.Parameter
        copied.head.weight.grad = torch.ones_like(copied.head.weight)

    def test_without_gradients(self) -> None:
        net, tokens = Head(), torch.arange(7)
        with torch.no_grad(), perturbed(net, NOISE):
            assert torch.equal(copy.deepcopy(net)(tokens), net(tokens))

    @pytest.mark.filterwarnings("default")
    @pytest.mark.parametrize("grad", [True, False])
    def test_save_pretrained(self, grad: bool, tmp_path: Any) -> None:
        transformers = pytest.importorskip("transformers")
        import architectures

        network, forward = architectures.language("GPT2")
        clean = forward().logits.detach()
        with torch.set_grad_enabled(grad), perturbed(network, NOISE):
            noisy = forward().logits.detach()
            network.save_pretrained(tmp_path)
        network.save_pretrained(tmp_path / "clean")
        again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
        tokens = torch.arange(3, 17).view(2, 7)
        torch.testing.assert_close(again(tokens).logits, noisy)
        assert again.lm_head.weight is not again.transformer.wte.weight
        assert network.config.tie_word_embeddings
        assert torch.equal(forward().logits, clean)
        again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "clean").eval()
        torch.testing.assert_close(again(tokens).logits, clean)
        assert again.lm_head.weight is again.transformer.wte.weight


class TestQuantisation:
    def trained(self) -> nn.Module:
        from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).train()
        model.qconfig = get_default_qat_qconfig("x86")
        prepare_qat(model, inplace=True)
        model(Stream(0, "x").normal((32, 6)))
        return model

    @pytest.mark.filterwarnings("default")
    def test_the_fake_quantised_value_is_noisy_and_observers_rest(self) -> None:
        data = Stream(0, "x").normal((20, 6)), torch.arange(20) % 3
        model = self.trained()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        alone = evaluate(model, data, "gaussian:0.1", draws=range(1, 2)).rows
        both = evaluate(model, data, "gaussian:0.1", draws=range(2)).rows
        assert both[both.draw == 1].value.tolist() == alone[alone.draw == 1].value.tolist()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        layer, x = model[0].eval(), torch.randn(4, 6)
        for module in model.modules():
            if hasattr(module, "observer_enabled"):
                module.observer_enabled.zero_()
        value = layer.weight_fake_quant(layer.weight.detach())
        assert not torch.equal(value, layer.weight)
        with perturbed(model, NOISE):
            expected = functional.linear(x, draw("0.weight", value), layer.bias)
            torch.testing.assert_close(functional.linear(x, value_in(layer), layer.bias), expected)
            torch.testing.assert_close(layer(x), layer.activation_post_process(expected))

    @pytest.mark.filterwarnings("default")
    def test_packed_and_buffered_weights_are_counted(self) -> None:
        model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 3, bias=False))
        packed = torch.ao.quantization.quantize_dynamic(model, {"0": torch.ao.quantization.default_dynamic_qconfig})
        found = coverage(packed)
        assert (found.noisy, found.total) == (18, 54)
        assert "36 in 1 x packed qint8" in found.summary
        data = Stream(0, "x").normal((20, 6)), torch.arange(20) % 3
        assert len(evaluate(packed, data, "gaussian:0.1", draws=1).rows)
        model[0] = Buffered()
        model.append(nn.BatchNorm1d(3))
        found = coverage(model)
        assert (found.noisy, found.total) == (18, 54 + 6 + 18)
        reasons = {row.name: row.reason for row in found.rows}
        assert (reasons["0.kept"], reasons["0.bits"]) == ("buffer", "packed uint8 buffer")
        assert [weight.name for weight in analog_weights(model, include=["0.kept@0"])] == ["0.kept", "weight"]
        assert [weight.name for weight in analog_weights(model, include=["0.*@0"])] == ["0.kept", "weight"]


def value_in(layer: Any) -> Tensor:
    return layer.weight_in_array


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.randn(6, 6))
        self.register_buffer("bits", torch.zeros(18, 1, dtype=torch.uint8))
        self.register_buffer("mask", torch.ones(6, 6))
        self.register_buffer("table", torch.ones(6, 6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.kept)


class TestAdapters:
    @pytest.mark.filterwarnings("default")
    def test_low_rank_adapters(self) -> None:
        peft = pytest.importorskip("peft")
        import architectures

        network, _ = architectures.language("GPT2")
        config = peft.LoraConfig(target_modules=["c_attn"], modules_to_save=["lm_head"], r=4, init_lora_weights=False)
        adapted = peft.get_peft_model(network, config)
        adapted.add_adapter("second", peft.LoraConfig(target_modules=["c_attn"], r=2))
        rows = {row.name: row.reason for row in coverage(adapted).rows}
        layer = "transformer.h.0.attn.c_attn"
        analog = {weight.name: weight for weight in analog_weights(adapted)}
        assert analog[f"{layer}.weight"].outputs.axes == (1,)  # the base, a Conv1D
        assert analog[f"{layer}.lora_A.default.weight"].outputs.axes == (0,)
        assert f"{layer}.lora_B.default.weight" in analog
        assert rows[f"{layer}.lora_A.second.weight"] == "adapter second, not active"
        tokens = torch.arange(3, 17).view(2, 7)
        traces = traced_outputs(adapted, lambda: adapted(tokens))
        for name, weight in analog.items():
            assert traces[name].axes == {weight.outputs.axes}, name
        noise = "gaussian:0.1"
        with perturbed(adapted, noise, include=["*.lora_A.*"], exclude=["*"]), torch.no_grad():
            one = adapted(tokens).logits
        assert not torch.equal(one, adapted(tokens).logits.detach())
        adapted.merge_adapter(["default"])
        rows = {row.name: row.reason for row in coverage(adapted).rows}
        assert rows[f"{layer}.lora_B.default.weight"] == "adapter default, merged into its base layer"

    @pytest.mark.filterwarnings("default")
    @pytest.mark.parametrize("dora", [False, True])
    def test_adapters_of_convolutions_and_embeddings(self, dora: bool) -> None:
        peft = pytest.importorskip("peft")
        bare = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "embed": nn.Embedding(5, 6), "out": nn.Linear(6, 2)})
        config = peft.LoraConfig(target_modules=["conv", "embed", "out"], r=2, use_dora=dora)
        axes = {weight.name: weight.outputs.axes for weight in analog_weights(peft.get_peft_model(bare, config))}
        adapters = ("weight", "lora_A.default.weight", "lora_B.default.weight")
        names = [f"{layer}.{one}" for layer in ("conv", "out") for one in adapters]
        assert axes == dict.fromkeys([*names, "embed.lora_embedding_B.default"], (0,))

    @pytest.mark.filterwarnings("default")
    def test_originals_of_modules_that_are_trained_whole(self) -> None:
        peft = pytest.importorskip("peft")
        bare = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
        adapted = peft.get_peft_model(bare, peft.LoraConfig(target_modules=["0"], modules_to_save=["1"]))
        rows = {row.name: row.reason for row in coverage(adapted).rows}
        assert rows["1.weight"] == ""
        assert sum("original, replaced by adapter default" in reason for reason in rows.values()) == 2


class TestSharedMemory:
    def test_a_transposed_view_is_one_weight(self) -> None:
        a, b = nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)
        b.weight.data = a.weight.data.t()
        network = nn.Sequential(a, b)
        assert coverage(network).total == 24
        expected = draw("0.weight", a.weight.detach())
        with perturbed(network, NOISE):
            assert torch.equal(a.weight, expected)
            assert torch.equal(b.weight, expected.T)

    def test_a_part_of_another_weight_is_refused(self) -> None:
        a, b = nn.Linear(4, 6, bias=False), nn.Linear(4, 3, bias=False)
        b.weight.data = a.weight.data[:3]
        with pytest.raises(UserError, match=r"all of their memory or none, got 0.weight and 1.weight"):
            analog_weights(nn.Sequential(a, b))
        assert len(analog_weights(nn.Sequential(a, b), exclude=["1.weight"])) == 1


def test_a_layer_that_computes_otherwise_in_the_network_is_refused() -> None:
    class Fickle(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x if len(x) == 5 else functional.linear(x, self.weight.sign())

    model = Fickle(4, 4)
    with perturbed(model, NOISE):
        model(torch.ones(2, 4))
        with pytest.raises(UserError, match="did not multiply by it as it does alone"):
            model(torch.ones(5, 4))


class LastState(nn.LSTM):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0][-1]


class SelfAttention(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


class OwnProducts(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        q, k, v = (functional.linear(x, part) for part in self.in_proj_weight.chunk(3))
        return self.out_proj(functional.scaled_dot_product_attention(q, k, v))


class Doubled(nn.GRU):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        weights = [2 * weight for weight in self._flat_weights]
        return torch._VF.gru(x, x.new_zeros(1, x.shape[1], 5), weights, True, 1, 0.0, False, False, False)[0]


class WithLengths(nn.GRU):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0][lengths]


class TestRecurrentAndAttentionLayersOfOnesOwn:
    @pytest.mark.parametrize("layer", [LastState(4, 5), SelfAttention(8, 2), OwnProducts(8, 2)])
    def test_weights_that_are_given_as_they_are(self, layer: nn.Module) -> None:
        matrices = {name: p for name, p in layer.named_parameters() if p.dim() == 2}
        assert {weight.name for weight in analog_weights(layer)} == set(matrices)
        expected = copy.deepcopy(layer)
        with torch.no_grad():
            for name, parameter in expected.named_parameters():
                if name in matrices:
                    parameter.copy_(draw(name, parameter))
        x = Stream(0, "x").normal((3, 2, 4 if isinstance(layer, nn.LSTM) else 8))
        with perturbed(layer, NOISE):
            torch.testing.assert_close(layer(x), expected(x))

    @pytest.mark.parametrize(("layer", "why"), [(Doubled(4, 5), "as it is stored"), (WithLengths(4, 5), "lengths")])
    def test_others_are_digital_and_coverage_says_why(self, layer: nn.Module, why: str) -> None:
        reason = next(row.reason for row in coverage(layer).rows)
        assert "has a forward of its own" in reason
        assert why in reason
        assert "include it by name@0" in reason

    @pytest.mark.parametrize("method", ["the class's", "bound to the layer"])
    @pytest.mark.parametrize("kind", [Doubled, WithLengths, LastState])
    def test_what_was_found_of_a_layer_does_not_keep_it(self, kind: type[nn.Module], method: str) -> None:
        layer = kind(4, 5)
        if method != "the class's":
            layer.forward = layer.forward
        coverage(layer)
        alive = weakref.ref(layer)
        del layer
        gc.collect()
        assert alive() is None


class TestAdaptersThatAreDigital:
    @pytest.mark.filterwarnings("default")
    @pytest.mark.parametrize("kind", ["LoHa", "LoKr", "BOFT", "OFT"])
    def test_the_base_is_noisy_beside_them(self, kind: str) -> None:
        peft = pytest.importorskip("peft")
        size = {"BOFT": {"boft_block_size": 4}, "OFT": {"oft_block_size": 4}}.get(kind, {"r": 2})
        config = getattr(peft, f"{kind}Config")(target_modules=["0"], init_weights=False, **size)
        adapted = peft.get_peft_model(nn.Sequential(nn.Linear(8, 12)), config).eval()
        layer, x = adapted.base_model.model[0], Stream(0, "x").normal((3, 8))
        weight, bias = layer.base_layer.weight, layer.base_layer.bias
        assert [one.parameter is weight for one in analog_weights(adapted)] == [True]
        reasons = {row.reason for row in coverage(adapted).rows if not row.noisy}
        assert reasons == {"bias", *(reason for reason in reasons if f"adapter ({kind.lower()})" in reason)}
        with torch.no_grad():
            adapter, clean = adapted(x) - bias, weight.clone()  # linear in x: what the adapter makes of the weight
            with perturbed(adapted, NOISE):
                noise = weight - clean
                noisy = adapted(x) - bias
            if kind in ("LoHa", "LoKr"):
                torch.testing.assert_close(noisy - adapter, x @ noise.T)
            else:  # the adapter turns the inputs (and scales outputs): the array holds the base
                weight.copy_(noise)
                torch.testing.assert_close(noisy - adapter, adapted(x) - bias)
                weight.copy_(clean)
            merged = adapted.merge_and_unload()
            assert coverage(merged).noisy == coverage(merged).total - 12

    @pytest.mark.filterwarnings("default")
    @pytest.mark.parametrize("kind", ["linear", "conv"])
    def test_the_norms_of_dora_are_the_clean_ones(self, kind: str) -> None:
        peft = pytest.importorskip("peft")
        bare = nn.Linear(8, 12) if kind == "linear" else nn.Conv2d(3, 4, 3)
        config = peft.LoraConfig(target_modules=["0"], r=2, use_dora=True, init_lora_weights=False)
        adapted = peft.get_peft_model(nn.Sequential(bare), config).eval()
        layer = adapted.base_model.model[0]
        base, low, high = (one.weight for one in (layer.base_layer, layer.lora_A.default, layer.lora_B.default))
        magnitude, scaling = layer.lora_magnitude_vector.default.weight.detach().flatten(), layer.scaling["default"]
        product = (high.flatten(1) @ low.flatten(1)).view_as(base)
        norms = (base + scaling * product).detach().flatten(1).norm(dim=1)
        x = Stream(0, "x").normal((3, 8) if kind == "linear" else (3, 3, 5, 5))

        def answer() -> Tensor:
            weight = base + scaling * (high.flatten(1) @ low.flatten(1)).view_as(base)
            weight = weight * (magnitude / norms).view(-1, *[1] * (weight.dim() - 1))
            call = functional.linear if kind == "linear" else functional.conv2d
            return call(x, weight, layer.base_layer.bias)

        clean = adapted(x)
        torch.testing.assert_close(clean, answer())
        with perturbed(adapted, "gaussian:0.3"):
            torch.testing.assert_close(adapted(x), answer())
            assert torch.equal(copy.deepcopy(adapted)(x), adapted(x))
        assert torch.equal(adapted(x), clean)

"""Measures against closed forms on a quadratic, dense Hessians and plain twins; weights stay as they were."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from methods import Failure, Passes, Quadratic, batch, normed_net, output, same_bits, smooth_net, state
from torch import Tensor, nn

import noiserobust
from noiserobust.analog.filters import filter_norms
from noiserobust.analog.noisy import report_stream
from noiserobust.analog.weight_space import Over
from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.minima import Measure, Path, Surface, filter_norms_of, measure
from noiserobust.minima.directions import coordinates, direction, height
from noiserobust.minima.perturbations import Ascent, Training
from noiserobust.noise import NoiseModel
from noiserobust.noise.base import AdditiveChip, Chip
from noiserobust.rng import Stream, seeded

TEXTS = [
    "loss",
    "average_sharpness:gaussian(0.1),draws=2",
    "average_sharpness:gaussian(0.1),draws=2,over=all,m=5",
    "ascent_sharpness:0.05",
    "ascent_sharpness:0.05,over=analog,m=5",
    "first_order_sharpness:0.05,m=4",
    "gradient_sharpness:ascent(0.1,eta=0.01)",
    "perturbed_loss:filters(0.01,draws=2)",
    "perturbation_radius:random(gaussian(0.1),draws=3)",
    "gradient_norm:none",
    "gradient_norm:ascent(0.05,m=5),over=analog",
    "gradient_cosine:random(gaussian(0.1),draws=2)",
    "accuracy",
    "weight_norm:analog",
    "max_over_rms",
    "filter_norms",
    "hessian_top:2",
    "hessian_trace:3,over=analog",
    "esam_subset:0.05,m=6",
]
"""Every measure in its canonical text; what is here keeps the whole contract."""


class Isotropic(NoiseModel):
    """e ~ N(0, sigma^2 I), whatever the weights: the noise that the trace is about."""

    def __init__(self, sigma: float) -> None:
        object.__setattr__(self, "sigma", sigma)

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        return AdditiveChip(below, self.strength * stream.normal(clean.shape).to(clean.dtype))

    @property
    def strength(self) -> float:
        return self.sigma  # type: ignore[attr-defined]

    def scaled(self, factor: float) -> NoiseModel:
        return Isotropic(self.strength * factor)


def draws(draw: int) -> Stream:
    return Stream(0, "test", "measure", draw)


def surface(model: nn.Module, n: int = 12, dtype: torch.dtype = torch.float32) -> Surface:
    """Three batches, so that sums over batches are seen."""
    return Surface(model, batch(n, dtype=dtype).split(3))


def one(text: str, of: Surface) -> list[float]:
    """The values of a measure, one per draw."""
    wanted = Measure.parse(text)
    return [values[""] for values in measure(of, [wanted], draws)[wanted]]


class TestQuadratic:
    """L(w) = 1/2 w'Aw, in float64."""

    @pytest.fixture
    def bowl(self) -> tuple[Surface, Tensor, Tensor]:
        model = Quadratic()
        return Surface(model, [batch(dtype=torch.float64)], loss=output), model.A, model.w.detach()

    @pytest.mark.parametrize(("over", "rows"), [("all", 12), ("analog", 6)])
    def test_average_rise_is_half_the_trace(self, bowl: tuple[Surface, Tensor, Tensor], over: Over, rows: int) -> None:
        """Under N(0, s^2 I) the mean rise is s^2/2 tr A over the noisy block; its draws have the variance
        s^2 |Aw|^2 + s^4/2 tr A^2. 1,000 draws, 5 standard errors: false alarms 6e-7."""
        of, A, w = bowl
        sigma, count, block = 0.3, 1000, slice(0, rows)
        wanted = Measure.registry["average_sharpness"](Isotropic(sigma), draws=count, over=over)
        rises = torch.tensor([v[""] for v in measure(of, [wanted], draws)[wanted]], dtype=torch.float64)
        noisy = A[block, block]
        expected = sigma**2 / 2 * noisy.trace().item()
        variance = sigma**2 * (A @ w)[block].square().sum() + sigma**4 / 2 * (noisy @ noisy).trace()
        assert abs(rises.mean().item() - expected) < 5 * math.sqrt(variance.item() / count)
        assert rises.var().item() == pytest.approx(variance.item(), rel=0.25)

    @pytest.mark.parametrize("over", ["all", "analog"])
    def test_ascent(self, bowl: tuple[Surface, Tensor, Tensor], over: Over) -> None:
        of, A, w = bowl
        g = A @ w
        if over == "analog":
            g = torch.cat([g[:6], torch.zeros(6, dtype=torch.float64)])
        e = 0.5 * g / g.norm()
        rise = (0.5 * (w + e) @ A @ (w + e) - 0.5 * w @ A @ w).item()
        assert one(f"ascent_sharpness:0.5,over={over}", of) == [pytest.approx(rise, rel=1e-12)]
        assert one(f"first_order_sharpness:0.5,over={over}", of) == [pytest.approx(0.5 * g.norm().item(), rel=1e-12)]
        assert one(f"perturbation_radius:ascent(0.5,over={over})", of) == [pytest.approx(0.5, rel=1e-12)]
        there, here = A @ (w + e), A @ w
        cosine = (here @ there / here.norm() / there.norm()).item()
        assert one(f"gradient_cosine:ascent(0.5,over={over})", of) == [pytest.approx(cosine, rel=1e-12)]
        assert one(f"gradient_norm:ascent(0.5,over={over})", of) == [pytest.approx(there.norm().item(), rel=1e-12)]

    @pytest.mark.parametrize(("over", "rows"), [("all", 12), ("analog", 6)])
    def test_curvature(self, bowl: tuple[Surface, Tensor, Tensor], over: Over, rows: int) -> None:
        of, A, _ = bowl
        block = A[:rows, :rows]
        found = measure(of, [wanted := Measure.parse(f"hessian_top:3,over={over},tolerance=1e-9")], draws)[wanted][0]
        eigenvalues = torch.linalg.eigvalsh(block).flip(0)[:3].tolist()
        assert [found[part] for part in ("", "2", "3")] == pytest.approx(eigenvalues, rel=1e-8)
        trace = Measure.parse(f"hessian_trace:400,over={over}")
        found = measure(of, [trace], draws)[trace][0]
        off = 2 * (block.square().sum() - block.diag().square().sum()).item()
        # The variance of v'Av over Rademacher v is 2 sum_{i!=j} A_ij^2; 5 standard errors: false alarms 6e-7.
        assert abs(found[""] - block.trace().item()) < 5 * math.sqrt(off / 400)
        assert found["standard_error"] == pytest.approx(math.sqrt(off / 400), rel=0.25)


class TestDenseHessian:
    @pytest.mark.parametrize("over", ["all", "analog"])
    def test_of_a_tiny_net(self, over: Over) -> None:
        """Products and Lanczos against the dense Hessian of the same loss, in float64, over three batches."""
        model, data = smooth_net(), batch(dtype=torch.float64)
        of = surface(model, dtype=torch.float64)
        names = [name for name, mark in zip(of.names, of.chosen(over), strict=True) if mark]
        chosen = {name: p.detach() for name, p in model.named_parameters() if name in names}

        def loss(flat: Tensor) -> Tensor:
            pieces = flat.split([chosen[name].numel() for name in names])
            weights = {name: piece.view(chosen[name].shape) for name, piece in zip(names, pieces, strict=True)}
            return nn.functional.cross_entropy(torch.func.functional_call(model, weights, (data.inputs,)), data.labels)

        dense = torch.autograd.functional.hessian(loss, torch.cat([chosen[name].flatten() for name in names]))
        found = measure(of, [wanted := Measure.parse(f"hessian_top:4,over={over},tolerance=1e-8")], draws)[wanted][0]
        expected = torch.linalg.eigvalsh(dense).flip(0)[:4].tolist()
        assert list(found.values()) == pytest.approx(expected, rel=1e-6)
        trace = measure(of, [wanted := Measure.parse(f"hessian_trace:200,over={over}")], draws)[wanted][0]
        # 5 standard errors, as reported: false alarms 6e-7.
        assert abs(trace[""] - dense.trace().item()) < 5 * trace["standard_error"]


class Sequences(nn.Module):
    """Layers whose fused kernels have no second derivatives, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(Stream(0, "test")):
            self.memory = nn.LSTM(5, 2, batch_first=True)
            self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
            self.head, self.unused = nn.Linear(2, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.memory(x.flatten(1, 2))
        x, _ = self.attention(x, x, x, need_weights=False)
        return self.head(x[:, -1])


class TestHardHessians:
    def test_attention_recurrence_and_an_unused_layer(self) -> None:
        """Against differences of gradients, in float64."""
        of = surface(Sequences().double(), dtype=torch.float64)

        def slope(column: int) -> Tensor:
            h, ends = 1e-5, []
            for sign in (1, -1):
                flat = torch.zeros(sum(sizes), dtype=torch.float64).index_fill(0, torch.tensor([column]), sign * h)
                with of.moved([part.view_as(p) for part, p in zip(flat.split(sizes), of.parameters, strict=True)]):
                    parts = zip(of.gradient()[1], of.parameters, strict=True)
                    ends.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in parts]))
            return (ends[0] - ends[1]) / (2 * h)

        sizes = [p.numel() for p in of.parameters]
        dense = torch.stack([slope(column) for column in range(sum(sizes))])
        top = measure(of, [wanted := Measure.parse("hessian_top:3,tolerance=1e-9")], draws)[wanted][0]
        assert list(top.values()) == pytest.approx(torch.linalg.eigvalsh(dense).flip(0)[:3].tolist(), abs=1e-7)
        trace = measure(of, [wanted := Measure.parse("hessian_trace:200")], draws)[wanted][0]
        assert abs(trace[""] - dense.trace().item()) < 5 * trace["standard_error"]  # false alarms 6e-7

    def test_a_loss_without_curvature(self) -> None:
        of = Surface(nn.Sequential(nn.Flatten(), nn.Linear(25, 3)), [batch()], loss=lambda out, labels: out.sum(1))
        assert one("hessian_top:2", of) == [0.0]
        assert one("hessian_trace:3", of) == [0.0]

    def test_layers_without_second_derivatives_are_said(self) -> None:
        of = surface(nn.Sequential(nn.Flatten(), nn.Linear(25, 3), nn.Hardsigmoid()))
        with pytest.raises(UserError, match=r"expected layers with second derivatives .*hardsigmoid"):
            one("hessian_trace:3", of)


class TestContract:
    @pytest.mark.parametrize("text", TEXTS)
    def test_text(self, text: str) -> None:
        assert str(Measure.parse(text)) == text

    def test_every_measure_is_here(self) -> None:
        assert {text.split(":")[0] for text in TEXTS} | {"path_length"} == set(Measure.registry)

    @pytest.mark.parametrize("text", TEXTS)
    def test_nothing_is_changed(self, text: str) -> None:
        """Parameters, buffers, .grad, modes, torch's global generator."""
        model = normed_net()
        model[1].eval()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        before, modes, generator = state(model), [m.training for m in model.modules()], torch.get_rng_state()
        first = measure(surface(model), [wanted := Measure.parse(text)], draws)[wanted]
        assert same_bits(state(model), before)
        assert [m.training for m in model.modules()] == modes
        assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
        assert torch.equal(torch.get_rng_state(), generator)
        again = measure(surface(model), [wanted], draws)[wanted]
        assert first == again
        assert len(first) == wanted.draws
        assert all(math.isfinite(value) for values in first for value in values.values())

    @pytest.mark.parametrize("text", [text for text in TEXTS if Measure.parse(text).needs_data])
    def test_weights_come_back_after_a_failure(self, text: str) -> None:
        wanted = Measure.parse(text)
        for number in range(6):
            model = normed_net()
            before = state(model)
            passes = Passes(model, 12, fail=("forward", number))
            try:
                measure(surface(model), [wanted], draws)
            except Failure:
                assert same_bits(state(model), before)
            else:
                break
            finally:
                passes.remove()

    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            (["loss"], (1, 0)),
            (["accuracy", "loss"], (2, 0)),
            (["average_sharpness:gaussian(0.1),draws=3"], (4, 0)),
            (
                ["loss", "average_sharpness:gaussian(0.1),draws=3", "perturbed_loss:random(gaussian(0.1),draws=3)"],
                (4, 0),
            ),
            (["ascent_sharpness:0.1"], (2, 1)),
            (["ascent_sharpness:0.1,m=4"], (2, 1)),
            (["first_order_sharpness:0.1"], (1, 1)),
            (["perturbed_loss:ascent(0.1)", "gradient_cosine:ascent(0.1)", "gradient_norm"], (2, 2)),
            (["ascent_sharpness:0.0"], (1, 1)),
            (["esam_subset:0.1,m=4"], (3, 3)),
            (["hessian_trace:5"], (5, 10)),
            (["max_over_rms", "filter_norms", "weight_norm"], (0, 0)),
        ],
    )
    def test_cost(self, texts: list[str], expected: tuple[int, int]) -> None:
        """The passes that the page states, as the surface counts them and as the network's own hooks do."""
        model = normed_net()
        of, passes = surface(model), Passes(model, 12)
        measure(of, [Measure.parse(text) for text in texts], draws)
        passes.remove()
        assert tuple(of.passes.values()) == pytest.approx(expected)
        if "hessian" not in texts[0]:
            assert passes.counted == pytest.approx(expected)

    def test_the_draws_are_those_of_evaluate(self) -> None:
        from noiserobust import evaluate

        model, data = normed_net(), batch()
        rows = evaluate(model, (data.inputs, data.labels), ["gaussian:0", "gaussian:0.1"], draws=2, seed=3).rows
        losses = rows[rows["metric"] == "loss"].set_index(["noise", "draw"])["value"]
        wanted = Measure.parse("average_sharpness:gaussian(0.1),draws=2")
        found = measure(Surface(model, [data]), [wanted], lambda draw: report_stream(3, 0, draw))[wanted]
        expected = [losses["gaussian:0.1", draw] - losses["gaussian:0.0", draw] for draw in range(2)]
        assert [values[""] for values in found] == pytest.approx(expected, abs=1e-6)

    def test_m_sharpness_is_the_mean_over_micro_batches(self) -> None:
        model, data = smooth_net(), batch(10, dtype=torch.float64)
        rises = [
            one("ascent_sharpness:0.3", Surface(model, [data[rows]]))[0]
            for rows in (slice(0, 4), slice(4, 8), slice(8, 10))
        ]
        expected = (4 * rises[0] + 4 * rises[1] + 2 * rises[2]) / 10
        assert one("ascent_sharpness:0.3,m=4", Surface(model, [data])) == [pytest.approx(expected, rel=1e-10)]

    def test_batch_normalisation_is_that_of_the_training_step_and_learns_nothing(self) -> None:
        model, data = normed_net(), batch(9)
        before = state(model)
        of = Surface(model, [data], normalisation="batch")
        (gradient,) = one("gradient_norm", of)
        # A lone last sample has no statistics: it joins the part before.
        assert [len(part) for parts in of.parts(4) for part in parts] == [4, 5]
        assert [len(part) for parts in Surface(model, [data]).parts(4) for part in parts] == [4, 4, 1]
        assert same_bits(state(model), before)
        model.train()
        nn.CrossEntropyLoss()(model(data.inputs), data.labels).backward()
        norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        assert gradient == pytest.approx(torch.stack(norms).norm().item(), rel=1e-4)

    def test_eval_mode_uses_frozen_statistics(self) -> None:
        """The loss of a part does not depend on which samples are beside it."""
        of = surface(normed_net())
        whole = of.losses()
        alone = torch.cat([of.losses([batch()[slice(i, i + 1)]]) for i in range(12)])
        torch.testing.assert_close(whole, alone, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("ascent_sharpness:-1", "expected a finite rho >= 0"),
            ("ascent_sharpness:0.1,over=some", "expected one of all, analog"),
            ("average_sharpness:gaussian(0.1),draws=0", "expected draws >= 1"),
            ("ascent_sharpness:0.1,m=0", "expected micro-batches of m >= 1"),
            ("hessian_top:0", "expected k >= 1"),
            ("hessian_trace:1", "expected 2 or more probes"),
            ("esam_subset:0.1,gamma=1.0", r"expected gamma in \(0, 1\)"),
            ("flatness", "expected a measure"),
            ("gradient_norm:sideways(1)", "expected a perturbation"),
        ],
    )
    def test_refusals(self, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            Measure.parse(text)

    @pytest.mark.parametrize("text", ["gradient_sharpness", "path_length"])
    def test_what_only_training_knows(self, text: str) -> None:
        with pytest.raises(UserError, match="which only a training log knows"):
            measure(surface(normed_net()), [Measure.parse(text)], draws)

    def test_no_gradients_in_fp16(self) -> None:
        with pytest.raises(UserError, match="expected precision fp32 or bf16"):
            measure(Surface(normed_net(), [batch()], precision="fp16"), [Measure.parse("gradient_norm")], draws)

    def test_training_is_replaced(self) -> None:
        bound = Measure.parse("gradient_cosine:training,over=analog").at_training(Ascent(0.2))
        assert str(bound) == "gradient_cosine:ascent(0.2),over=analog"
        assert isinstance(Measure.parse("gradient_cosine").at, Training)  # type: ignore[attr-defined]
        assert Measure.parse("gradient_norm").at_training(Ascent(0.2)) == Measure.parse("gradient_norm")

    def test_swept(self) -> None:
        assert (
            str(Measure.parse("perturbed_loss:random(gaussian(1.0))").swept(0.2))
            == "perturbed_loss:random(gaussian(0.2))"
        )
        assert str(Measure.parse("ascent_sharpness:1.0,m=4").swept(0.5)) == "ascent_sharpness:0.5,m=4"
        with pytest.raises(UserError, match="expected a measure with a strength to sweep"):
            Measure.parse("max_over_rms").swept(0.1)


def test_accuracy_is_that_of_the_logits() -> None:
    model, data = normed_net().eval(), batch(12)
    with torch.no_grad():
        right = (model(data.inputs).argmax(1) == data.labels).sum().item()
    of = surface(model)
    assert one("accuracy", of) == [pytest.approx(100 * right / 12)]
    assert one("loss", of) == [pytest.approx(of.loss())]  # the usual loss is back


class TestWeights:
    def test_ratios_and_filters(self) -> None:
        model = normed_net()
        of = surface(model)
        found = measure(of, [ratio := Measure.parse("max_over_rms"), norms := Measure.parse("filter_norms")], draws)
        weights = {f"{layer}.weight": model[layer].weight.detach() for layer in (0, 4, 7)}
        ratios = {name: float(w.abs().max() / w.square().mean().sqrt()) for name, w in weights.items()}
        assert found[ratio][0] == pytest.approx(
            {"": sum(ratios.values()) / 3, "largest": max(ratios.values())} | ratios
        )
        own = torch.cat([w.flatten(1).norm(dim=1) for w in weights.values()])
        torch.testing.assert_close(filter_norms_of(of), own)
        assert found[norms][0][""] == pytest.approx(float(own.mean()))
        assert found[norms][0]["q50"] == pytest.approx(float(own.double().quantile(0.5)))

    def test_path_length_adds_steps(self) -> None:
        """There and back is twice the way, not none."""
        model = normed_net()
        path = Path(surface(model))
        for sign in (1, -1):
            with torch.no_grad():
                model[0].weight.add_(sign * 0.5)
            length = path.step()
        assert length == pytest.approx(2 * 0.5 * math.sqrt(model[0].weight.numel()), rel=1e-6)


class TestESAMSubset:
    def test_by_hand(self) -> None:
        """One micro-batch: groups, losses and cosines from separate gradients, B-'s too."""
        model, data = smooth_net(), batch(10, dtype=torch.float64)
        of = Surface(model, [data])
        found = measure(of, [wanted := Measure.parse("esam_subset:0.4,gamma=0.3,m=10")], draws)[wanted][0]
        parameters = list(model.parameters())

        def look(rows: list[int]) -> tuple[Tensor, Tensor]:
            losses = nn.functional.cross_entropy(model(data.inputs[rows]), data.labels[rows], reduction="none")
            return losses.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(losses.mean(), parameters)])

        everything = list(range(10))
        before, g = look(everything)
        shift, start = 0.4 * g / g.norm(), nn.utils.parameters_to_vector(parameters).detach().clone()
        nn.utils.vector_to_parameters(start + shift, parameters)
        after, g_there = look(everything)
        chosen = sorted((after - before).argsort(descending=True)[:3].tolist())
        rest = [row for row in everything if row not in chosen]
        expected = {"": float(after[chosen].mean() - after.mean())}
        for name, rows in (("selected", chosen), ("other", rest)):
            expected[f"{name}_loss"] = float(before[rows].mean())
            expected[f"{name}_perturbed_loss"] = float(after[rows].mean())
            own = look(rows)[1]
            expected[f"{name}_perturbed_cosine"] = float(own @ g_there / own.norm() / g_there.norm())
        nn.utils.vector_to_parameters(start, parameters)
        for name, rows in (("selected", chosen), ("other", rest)):
            own = look(rows)[1]
            expected[f"{name}_cosine"] = float(own @ g / own.norm() / g.norm())
        assert found == pytest.approx(expected, rel=1e-9)
        assert found[""] >= 0


class TestLandscape:
    @pytest.fixture
    def model(self) -> Iterator[nn.Module]:
        model = normed_net()
        before = state(model)
        yield model
        assert same_bits(state(model), before)

    @pytest.mark.parametrize("over", ["all", "analog"])
    def test_directions_are_as_long_as_the_filters(self, model: nn.Module, over: Over) -> None:
        of = surface(model)
        found = direction(of, Stream(0, "test", "direction"), over)
        for step, parameter in zip(found, of.parameters, strict=True):
            if parameter.dim() < 2:
                assert step is None
            else:
                torch.testing.assert_close(filter_norms(step), filter_norms(parameter.detach()))

    def test_the_middle_is_the_network(self, model: nn.Module) -> None:
        of = surface(model)
        first, second = (direction(of, Stream(0, "test", axis)) for axis in range(2))
        assert height(of, first, second, 0.0, 0.0) == of.loss()
        with torch.no_grad():
            saved = [p.clone() for p in of.parameters]
            for parameter, a, b in zip(of.parameters, first, second, strict=True):
                if a is not None:
                    parameter.add_(a, alpha=0.3).add_(b, alpha=-0.2)
            expected = of.loss()
            for parameter, value in zip(of.parameters, saved, strict=True):
                parameter.copy_(value)
        assert height(of, first, second, 0.3, -0.2) == pytest.approx(expected, rel=1e-6)
        assert expected != of.loss()

    def test_coordinates(self) -> None:
        assert coordinates(0.7, 5) == pytest.approx([-0.7, -0.35, 0.0, 0.35, 0.7])
        assert coordinates(0.7, 5)[2] == 0.0
        for points in (1, 4):
            with pytest.raises(UserError, match="expected an odd number of points"):
                coordinates(1.0, points)


def test_a_network_without_analog_weights_is_measured_where_it_can_be() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * self.scale

    of = Surface(Scale(), [batch()])
    assert one("gradient_norm", of)[0] > 0
    for text, message in (
        ("average_sharpness", "expected at least one analog weight"),
        ("gradient_norm:none,over=analog", "expected at least one trainable analog weight"),
        ("max_over_rms", "expected at least one analog weight"),
    ):
        with pytest.raises(UserError, match=message):
            one(text, of)
    with pytest.raises(UserError, match="expected a weight of two or more dimensions"):
        direction(of, Stream(0))


def test_a_model_that_gives_no_logits_is_said() -> None:
    class Nothing(nn.Linear):
        def forward(self, x: Tensor) -> None:  # type: ignore[override]
            return None

    with pytest.raises(UserError, match="expected a model that gives a tensor"):
        Surface(Nothing(2, 2), [Batch(torch.zeros(2, 2), torch.zeros(2).long())]).loss()


def test_a_hessian_that_is_no_number_is_nan() -> None:
    """The distance of a point from itself has a first derivative, and no second one."""

    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.layer(x)
            return torch.cdist(h, h)[:, :3] + h

    x, y = torch.randn(30, 6), torch.arange(30) % 3
    rows = noiserobust.sharpness(Distances(), (x, y), ["hessian_top:2", "hessian_trace"]).rows.set_index("metric").value
    assert rows[["hessian_top", "hessian_top/2", "hessian_trace"]].isna().all()


def test_weights_that_are_all_zero_have_no_ratio() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    nn.init.zeros_(model[0].weight)
    w = model[2].weight.detach()
    rows = noiserobust.sharpness(model, (torch.randn(12, 6), torch.arange(12) % 3), "max_over_rms").rows
    values = rows.set_index("metric").value
    ratio = (w.abs().max() / w.square().mean().sqrt()).item()
    assert values["max_over_rms"] == pytest.approx(ratio)
    assert values["max_over_rms/largest"] == pytest.approx(ratio)
    assert values.isna().sum() == 1

"""The engine in loops that are not ours: what the optimizer trains changes, gradients lie about, batches are odd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods import METHODS, ON, batch, close, committed, full_strength, same_bits, sgd, smooth_net, weights
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.rng import Stream, seeded
from noiserobust.tasks import Classification
from noiserobust.training import Engine, Method

every_method = pytest.mark.parametrize("text", METHODS)
RULES = ["plain", "sam:0.1", "rwp:gaussian(0.2)", "looksam:0.1,k=2", "esam:0.1", "ssam:0.2", "mesa:0.5,start=0"]
OF_SAMPLES = ("esam", "saf", "mesa", "lpf-sgd")
"""Rules that choose, remember or average whole samples, or cut a batch between them."""
some_rules = pytest.mark.parametrize("text", RULES)


class TestWhatIsTrained:
    @some_rules
    @pytest.mark.parametrize("how", ["unfrozen", "added", "frozen"])
    def test_a_step_is_that_of_a_new_engine(self, text: str, how: str) -> None:
        """Whatever changed since the engine was made: ratio 1.0 to the step of an engine made now."""
        models = [smooth_net(), smooth_net()]
        engines = []
        for old, model in zip((True, False), models, strict=True):
            layer = model[1]
            if how == "unfrozen" and old:
                layer.requires_grad_(False)
            given = [*model[3].parameters(), *layer.parameters()] if how == "added" else list(model.parameters())
            optimizer = torch.optim.SGD(given[: 2 if how == "added" and old else None], lr=0.1)
            if how == "added" and old:
                engine = Engine(model, optimizer)
                optimizer.add_param_group({"params": given[2:]})
            else:
                engine = Engine(model, optimizer) if old else None
            layer.requires_grad_(how != "frozen")
            engines.append(engine or Engine(model, optimizer))
        for engine in engines:
            Method.parse(text).step(engine, batch(dtype=torch.float64), ON)
        assert same_bits(*map(weights, models))
        assert same_bits(weights(models[0][1]), weights(smooth_net()[1])) == (how == "frozen")

    @pytest.mark.parametrize("text", ["looksam:0.1,k=9", "ssam:0.2,every=9"])
    def test_what_a_rule_remembers_stays_with_its_layer(self, text: str) -> None:
        """A layer frozen for a step leaves what is remembered of it and of the others."""
        engine, method = sgd(smooth_net()), Method.parse(text)
        name = {"looksam": "direction", "ssam": "masks"}[method.name]
        method.step(engine, batch(dtype=torch.float64), full_strength(0))
        before = list(engine.memory[method.name][name])
        engine.model[1].requires_grad_(False)
        method.step(engine, batch(dtype=torch.float64), full_strength(1))
        assert [kept is None for kept in engine.recalled(before)] == [False, False]
        engine.model[1].requires_grad_(True)
        method.step(engine, batch(dtype=torch.float64), full_strength(2))
        after = engine.memory[method.name][name]
        assert [id(kept) for kept in after] == [id(kept) for kept in before]

    @some_rules
    def test_engines_of_two_parts_do_not_add_up(self, text: str) -> None:
        """Each step is that of an engine alone; the gradients of the other part are as they were."""
        model, alone = smooth_net(), smooth_net()
        first, second = (Engine(model, torch.optim.SGD(model[i].parameters(), lr=0.1)) for i in (1, 3))
        Method.parse(text).step(first, batch(dtype=torch.float64), ON)
        assert all(p.grad is None for p in model.parameters())
        with torch.no_grad():
            for own, other in zip(alone.parameters(), model.parameters(), strict=True):
                own.copy_(other)
        Method.parse(text).step(second, batch(dtype=torch.float64), ON)
        single = Engine(alone, torch.optim.SGD(alone[3].parameters(), lr=0.1))
        Method.parse(text).step(single, batch(dtype=torch.float64), ON)
        assert same_bits(weights(model), weights(alone))

    def test_gradients_of_others_are_left_alone(self) -> None:
        model = smooth_net()
        engine = Engine(model, torch.optim.SGD(model[1].parameters(), lr=0.1))
        model(batch(dtype=torch.float64).inputs).sum().backward()
        theirs = [p.grad for p in model[3].parameters()]
        before = [g.clone() for g in theirs if g is not None]
        engine.optimizer.zero_grad()
        Method.parse("sam:0.1").step(engine, batch(dtype=torch.float64), ON)
        assert all(p.grad is g for p, g in zip(model[3].parameters(), theirs, strict=True))
        assert same_bits(before, [g for g in theirs if g is not None])

    @every_method
    def test_nothing_to_train_is_refused(self, text: str) -> None:
        engine = sgd(smooth_net().requires_grad_(False))
        with pytest.raises(UserError, match="expected a parameter to train, got none"):
            Method.parse(text).step(engine, batch(dtype=torch.float64), ON)


class TestGradientsThatLieAbout:
    @every_method
    def test_they_are_refused_in_one_line(self, text: str) -> None:
        model = smooth_net()
        engine = sgd(model)
        model(batch(dtype=torch.float64).inputs).sum().backward()
        before = weights(model)
        with pytest.raises(UserError, match=r"got one in 1.weight of an earlier backward\(\).*zero_grad"):
            Method.parse(text).step(engine, batch(dtype=torch.float64), ON)
        assert same_bits(weights(model), before)
        engine.optimizer.zero_grad()
        Method.parse(text).step(engine, batch(dtype=torch.float64), ON)

    def test_zeros_are_none(self) -> None:
        model, untouched = smooth_net(), smooth_net()
        engine = sgd(model)
        model(batch(dtype=torch.float64).inputs).sum().backward()
        engine.optimizer.zero_grad(set_to_none=False)
        Method.parse("sam:0.1").step(engine, batch(dtype=torch.float64), ON)
        Method.parse("sam:0.1").step(sgd(untouched), batch(dtype=torch.float64), ON)
        assert same_bits(weights(model), weights(untouched))

    def test_a_rule_that_fails_between_its_passes_leaves_none(self) -> None:
        class Broken(Method):
            def whole_step(self, engine, batch, progress):  # type: ignore[no-untyped-def]
                engine.gradient(batch)
                raise KeyboardInterrupt

        model = smooth_net()
        engine = sgd(model)
        with pytest.raises(KeyboardInterrupt):
            Broken().step(engine, batch(dtype=torch.float64), ON)
        assert all(p.grad is None for p in model.parameters())


class TestBatches:
    @every_method
    def test_a_generator_is_its_list(self, text: str) -> None:
        parts = batch(dtype=torch.float64).split(3)
        listed = committed(text, sgd(smooth_net()), parts)
        assert same_bits(committed(text, sgd(smooth_net()), iter(parts)), listed)  # type: ignore[arg-type]

    @pytest.mark.parametrize("given", [{"x": torch.ones(2)}, (torch.ones(2, 25), torch.zeros(2)), []])
    def test_what_is_no_batch_is_refused(self, given: Any) -> None:
        with pytest.raises(UserError, match=r"use Batch\(inputs, labels\)"):
            Method.parse("sam:0.1").step(sgd(smooth_net()), given, ON)


class Named(nn.Sequential):
    """:func:`smooth_net` on the sum of two inputs, with an output of a kind."""

    def forward(self, left: Tensor, right: Tensor | None = None) -> Any:
        logits = super().forward(left if right is None else left + right)
        hidden = torch.zeros(len(logits), 7)
        if self.gives == "ModelOutput":
            return ModelOutput(loss=logits.sum(), logits=logits, states=hidden)
        return (logits, hidden) if self.gives == "tuple" else {"logits": logits, "hidden": hidden}


class PerUnit(nn.Sequential):
    """:func:`smooth_net` on every unit of a sample."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self)[1:]:
            x = layer(x)
        return x


def as_kind(kind: type[nn.Sequential], **settings: Any) -> nn.Module:
    model = kind(*smooth_net())
    vars(model).update(settings)
    return model


def several(data: Batch, kind: str) -> Batch:
    """The same images as two inputs that add up to them."""
    half = 0.5 * data.inputs
    inputs: Any = {"left": half, "right": half} if kind == "dict" else (half, half)
    return Batch(inputs, data.labels, data.indices)


class TestTasks:
    @every_method
    @pytest.mark.parametrize(("inputs", "outputs"), [("dict", "ModelOutput"), ("tuple", "dict"), ("dict", "tuple")])
    def test_several_inputs_and_any_output(self, text: str, inputs: str, outputs: str) -> None:
        """The step of the network that takes and gives one tensor, whole and in micro-batches."""
        data = batch(dtype=torch.float64)
        named = several(data, inputs)
        for parts, other in ((data, named), (data.split(3), named.split(3))):
            expected = committed(text, sgd(smooth_net()), parts)
            found = committed(text, sgd(as_kind(Named, gives=outputs)), other)
            close(found, expected, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("text", [text for text in METHODS if not any(rule in text for rule in OF_SAMPLES)])
    def test_units_of_unequal_number_weigh_alike(self, text: str) -> None:
        """Samples of 1 to 4 units: the step is that of the data with every unit a sample of its own."""

        class Units(Classification):
            def losses(self, predictions: Tensor, batch: Batch) -> Tensor:
                each = nn.functional.cross_entropy(predictions.mT, batch.labels, reduction="none")
                return each.sum(1) / self.counts(batch).clamp(min=1)

            def counts(self, batch: Batch) -> Tensor:
                return (batch.labels != -100).sum(1)

        single = batch(24, dtype=torch.float64)
        length = torch.tensor([4, 1, 0, 3, 2, 2])
        ignored = torch.arange(4) >= length[:, None]
        labels = single.labels.view(6, 4).masked_fill(ignored, -100)
        grouped = Batch(single.inputs.view(6, 4, 25), labels)
        alone = single[~ignored.flatten()]
        expected = committed(text, sgd(smooth_net()), alone)
        for parts in (grouped, [grouped[:1], grouped[1:3], grouped[3:]]):
            out = committed(text, sgd(as_kind(PerUnit), task=Units()), parts)
            close(out, expected, rtol=1e-10, atol=1e-13)


SCALES = {5e-4: ("saf",), 1.2e5: ("saf", "g-rst")}  # SAF's past is random; G-RST steps with twice the gradient
SCALED = [(text, scale) for scale, out in SCALES.items() for text in METHODS if not text.startswith(out)]


@pytest.mark.parametrize(("text", "scale"), SCALED)
def test_float16_weights_step_as_float64_ones_do(text: str, scale: float) -> None:
    """Gradients so small that products of them vanish, and so large that their norm is beyond float16."""
    gradients = []
    for dtype in (torch.float16, torch.float64):

        def loss(out: Tensor, labels: Tensor) -> Tensor:
            precise = torch.promote_types(out.dtype, torch.float32)
            return scale * nn.functional.cross_entropy(out.to(precise), labels, reduction="none")

        data = batch(dtype=torch.float16)
        data = Batch(data.inputs.to(dtype), data.labels, data.indices)
        engine = sgd(smooth_net().half().to(dtype), loss=loss, clip_norm=1.0 if scale > 1 else None)
        gradients.append(torch.cat([g.flatten().double() for g in committed(text, engine, data)]))
        assert all(w.isfinite().all() for w in weights(engine.model))
    half, full = gradients
    assert (half - full).norm() < 0.1 * full.norm()


class TextNet(nn.Module):
    """A bag of words with an embedding whose gradients may be sparse."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        with seeded(Stream(0, "test", "text")):
            self.words, self.hidden, self.out = nn.Embedding(12, 5, sparse=sparse), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(self.words(x).mean(1))))


@every_method
def test_sparse_embeddings_step_as_dense_ones(text: str) -> None:
    generator = Stream(1, "test", "words").generator()
    data = [Batch(torch.randint(9, (12, 4), generator=generator), batch().labels, torch.arange(12)) for _ in range(3)]
    ends = []
    for sparse in (False, True):
        engine = sgd(TextNet(sparse).double(), clip_norm=0.5)
        for step, one in enumerate(data):
            Method.parse(text).step(engine, one, full_strength(step))
        ends.append(weights(engine.model))
    close(*ends, rtol=1e-10, atol=1e-13)


def test_an_optimizer_of_sparse_gradients_gets_sparse_ones() -> None:
    """Two engines on one network, as such optimizers want."""
    model = TextNet(sparse=True).double()
    before = weights(model)
    engines = [
        Engine(model, torch.optim.SparseAdam(model.words.parameters())),
        Engine(model, torch.optim.Adam([*model.hidden.parameters(), *model.out.parameters()])),
    ]
    data = Batch(torch.arange(8).view(4, 2), torch.tensor([0, 1, 2, 0]))
    for engine in engines:
        for text in ("gsam:0.1", "sam:0.1,alpha=0.3", "looksam:0.1"):
            Method.parse(text).step(engine, data, ON)
    assert not any(map(torch.equal, before, weights(model)))


class Checkpointed(nn.Sequential):
    """:func:`smooth_net`, whose hidden part is computed again in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_() if self.reentrant else x
        hidden = checkpoint(lambda values: self[2](self[1](self[0](values))), x, use_reentrant=self.reentrant)
        return self[3](hidden)


@every_method
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(text: str, reentrant: bool) -> None:
    """What is computed again is computed at the moved weights, and no parameter is left out (ESAM chooses some)."""
    for step in range(3 if "esam" in text else 1):
        at, data = full_strength(step), batch(dtype=torch.float64)
        found = committed(text, sgd(as_kind(Checkpointed, reentrant=reentrant)), data, at)
        close(found, committed(text, sgd(smooth_net()), data, at), rtol=1e-12, atol=1e-14)


class TestWhatCannotTrain:
    @pytest.mark.parametrize("text", ["plain", "rwp:gaussian(0.1)", "sam:0.1", "esam:0.1"])
    def test_a_batch_without_samples(self, text: str) -> None:
        engine = sgd(smooth_net())
        whole = batch(dtype=torch.float64)
        with pytest.raises(UserError, match="expected a batch with at least one sample, got none"):
            Method.parse(text).step(engine, Batch(whole.inputs[:0], whole.labels[:0]), ON)

    @pytest.mark.parametrize("text", ["sam:0.1,m=1", "esam:0.1,gamma=0.01"])
    def test_one_sample_for_batch_norm(self, text: str) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
        engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.1))
        with pytest.raises(UserError, match="expected 2 or more samples for batch norm in training, got 1"):
            Method.parse(text).step(engine, Batch(torch.randn(8, 6), torch.arange(8) % 3), ON)
        assert all(p.grad is None for p in model.parameters())

    def test_an_optimizer_of_another_network(self) -> None:
        other = smooth_net()
        with pytest.raises(UserError, match="expected an optimizer of the model's parameters, got one that has none"):
            Engine(smooth_net(), torch.optim.SGD(other.parameters(), lr=0.1))

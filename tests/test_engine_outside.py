"""The engine in loops that are not ours: what the optimizer trains changes, gradients lie about, batches are odd."""

from __future__ import annotations

import pytest
import torch
from methods import METHODS, ON, batch, committed, full_strength, same_bits, sgd, smooth_net, weights

from noiserobust.errors import UserError
from noiserobust.training import Engine, Method

every_method = pytest.mark.parametrize("text", METHODS)
RULES = ["plain", "sam:0.1", "rwp:gaussian(0.2)", "looksam:0.1,k=2", "esam:0.1", "ssam:0.2", "mesa:0.5,start=0"]
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

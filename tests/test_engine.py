"""The contract that every training method keeps: each test runs for all of tests/methods.py's registry.

What differs between methods (which gradients they take) is tested against closed forms in their own files.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from methods import (
    METHODS,
    OFF,
    ON,
    SIZES,
    Failure,
    Passes,
    batch,
    close,
    committed,
    normed_net,
    same_bits,
    sgd,
    smooth_net,
    state,
    train,
    twin,
    weights,
)
from torch import Tensor, nn

from noiserobust.analog.weight_space import WeightSpace
from noiserobust.analog.weights import analog_weights
from noiserobust.errors import UserError
from noiserobust.minima import Perturbation
from noiserobust.rng import Stream, seeded
from noiserobust.training import Engine, Method, Plain
from noiserobust.training.micro_batches import only_rows

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters, lr=0.1: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "adamw": lambda parameters, lr=0.1: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0),
}

every_method = pytest.mark.parametrize("text", METHODS)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def backward_passes(text: str) -> int:
    passes = Passes(model := normed_net(), 12)
    Method.parse(text).step(sgd(model), batch(), ON)
    return passes.calls["backward"]


@every_method
def test_text_round_trip(text: str) -> None:
    method = Method.parse(text)
    assert str(method) == text
    assert Method.parse(str(method)) == method
    assert method.strength(ON) > 0 or text == "plain"
    assert Method.parse(METHODS[text].off).strength(OFF) == 0


class TestWeightsComeBack:
    @every_method
    @every_optimizer
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_steps_at_rate_0_change_no_bit(self, text: str, optimizer: str, precision: Any) -> None:
        model = normed_net()
        before = weights(model)
        frozen = OPTIMIZERS[optimizer](model.parameters(), lr=0.0)
        train(Method.parse(text), Engine(model, frozen, precision=precision, **SIZES))
        assert same_bits(weights(model), before)

    @every_method
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_in_other_types(self, text: str, dtype: torch.dtype) -> None:
        model = smooth_net().to(dtype)
        before = weights(model)
        train(Method.parse(text), sgd(model, lr=0.0), dtype=dtype)
        assert same_bits(weights(model), before)
        train(Method.parse(text), sgd(model), dtype=dtype)
        assert not same_bits(weights(model), before)

    @every_method
    @pytest.mark.parametrize("kind", ["forward", "backward"])
    def test_after_a_failure_in_any_pass(self, text: str, kind: str) -> None:
        """A pass that raises leaves the weights, and nothing that would leak into the next step."""
        undisturbed = normed_net()
        Method.parse(text).step(sgd(undisturbed), batch(), ON)
        failures = 0
        while True:
            model = normed_net()
            before, engine, method = weights(model), sgd(model), Method.parse(text)
            passes = Passes(model, 12, fail=(kind, failures))
            try:
                method.step(engine, batch(), ON)
            except Failure:
                failures += 1
            else:
                break
            assert same_bits(weights(model), before)
            passes.remove()
            method.step(engine, batch(), ON)
            assert same_bits(weights(model), weights(undisturbed))
        assert failures == passes.calls[kind] > 0

    @every_method
    def test_the_optimizer_steps_from_the_clean_weights(self, text: str) -> None:
        """Three steps of AdamW and of SGD with momentum are the optimizer's own on the gradients handed to it."""
        for build in OPTIMIZERS.values():
            model = normed_net()
            alone = [nn.Parameter(w) for w in weights(model)]
            engine, by_hand = Engine(model, build(model.parameters()), **SIZES), build(alone)
            for step in range(3):
                gradients = committed(text, engine, batch(step=step), ON._replace(step=step + 6))
                for parameter, gradient in zip(alone, gradients, strict=True):
                    parameter.grad = gradient
                by_hand.step()
            assert same_bits(weights(model), [p.detach() for p in alone])


class TestStatistics:
    @every_method
    @pytest.mark.parametrize("parts", [1, 3])
    def test_they_learn_from_one_pass(self, text: str, parts: int) -> None:
        """Counters advance once per micro-batch; statistics and output are those of one pass, made here apart."""
        model = normed_net()
        alone, case = twin(model), METHODS[text]
        micro = batch().split(parts)
        out = Method.parse(text).step(sgd(model, seed=5), micro if parts > 1 else micro[0], ON)
        at, seen_by = Perturbation.parse(case.learns_at or "none"), []
        for draw, rows in enumerate(torch.arange(12).tensor_split(case.parts)):
            stream = Stream(5, "train", *case.name, ON.step)
            stream = stream.child(draw) if case.parts > 1 or not case.name else stream
            with at.moved(WeightSpace(alone), [], stream), torch.no_grad():
                seen_by += [alone(part.inputs) for part in only_rows(micro, rows)]
        logits = torch.cat(seen_by)
        for (name, seen), expected in zip(model.named_buffers(), alone.buffers(), strict=True):
            torch.testing.assert_close(seen, expected, msg=f"{name}: {seen} instead of {expected}")
            assert "num_batches" not in name or seen == len(seen_by)
        assert len(seen_by) == parts or case.parts > 1
        torch.testing.assert_close(out.logits, logits)
        torch.testing.assert_close(out.losses, nn.functional.cross_entropy(logits, batch().labels, reduction="none"))
        assert not out.logits.requires_grad
        assert not out.losses.requires_grad


class TestCost:
    @every_method
    def test_passes_are_those_announced(self, text: str) -> None:
        model = normed_net()
        passes, engine, method = Passes(model, 12), sgd(model), Method.parse(text)
        coin = METHODS[text].coin
        steps = range(6, 406) if coin else range(6, 9)
        announced = [method.cost(ON._replace(step=step, steps=steps.stop)) for step in steps]
        for step in steps:
            method.step(engine, batch(step=step), ON._replace(step=step, steps=steps.stop))
        # A coin saves one or two passes of each kind a step or none: std at most 1/2 sqrt(400) = 10; 5 std, 6e-7.
        bound = {"abs": 50.0} if coin else {"rel": 1e-6}
        assert passes.counted == pytest.approx(tuple(map(sum, zip(*announced, strict=True))), **bound)
        assert (engine.passes["forward"], engine.passes["backward"]) == tuple(passes.calls.values())

    @every_method
    def test_strength_0_is_a_plain_step(self, text: str) -> None:
        method, model, plain = Method.parse(METHODS[text].off), normed_net(), normed_net()
        passes, engine, reference = Passes(model, 12), sgd(model), sgd(plain)
        assert method.cost(OFF) == (1, 1)
        method.step(engine, batch(), OFF)
        Plain().step(reference, batch(), OFF)
        assert passes.counted == (1, 1)
        assert same_bits(state(model), state(plain))
        if text != "plain":
            assert not same_bits(committed(text, sgd(normed_net()), batch()), committed("plain", sgd(plain), batch()))


class TestPrecision:
    @every_method
    def test_bf16_autocast(self, text: str) -> None:
        full = committed(text, sgd(normed_net()), batch())
        model = normed_net()
        half = committed(text, sgd(model, precision="bf16"), batch())
        out = Method.parse(text).step(sgd(normed_net(), precision="bf16"), batch(), ON)
        assert out.logits.dtype == torch.bfloat16
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        gap = torch.cat([(a - b).flatten() for a, b in zip(full, half, strict=True)]).norm()
        # bfloat16 keeps 8 bits: relative errors of 2^-9 per operation, a few per cent after all layers.
        assert 0 < gap < 0.05 * torch.cat([a.flatten() for a in full]).norm()

    @every_method
    def test_an_autocast_around_the_step_changes_nothing(self, text: str) -> None:
        """autocast keeps casts of the weights until it ends: a pass at moved weights must not read the old ones."""
        inside = committed(text, sgd(normed_net(), precision="bf16"), batch())
        with torch.autocast("cpu", torch.bfloat16):
            around = committed(text, sgd(normed_net(), precision="bf16"), batch())
        assert same_bits(inside, around)


class TestLossScaling:
    """The mechanics of fp16's loss scaling, in fp32 on the CPU."""

    def scaled(self, **settings: Any) -> tuple[nn.Module, Engine, torch.amp.GradScaler]:
        model, scaler = normed_net(), torch.amp.GradScaler("cpu", init_scale=1024.0)
        return model, sgd(model, scaler=scaler, **settings), scaler

    @every_method
    def test_the_update_is_the_unscaled_one(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        unscaled = []
        original = torch.amp.GradScaler.unscale_
        monkeypatch.setattr(
            torch.amp.GradScaler, "unscale_", lambda self, o: (unscaled.append(o), original(self, o))[1]
        )
        plain = normed_net()
        model, engine, _ = self.scaled(clip_norm=0.1)
        train(Method.parse(text), engine)
        assert len(unscaled) == 3
        train(Method.parse(text), sgd(plain, clip_norm=0.1))
        close(state(model), state(plain), rtol=1e-4, atol=1e-5)

    @every_method
    @pytest.mark.parametrize("weight_clip", [None, 1.2])
    def test_inf_in_any_pass_skips_the_step(self, text: str, weight_clip: float | None) -> None:
        for number in range(backward_passes(text)):
            model, engine, scaler = self.scaled(weight_clip=weight_clip)
            for _ in range(METHODS[text].period):
                Method.parse(text).step(engine, batch(), ON)
            before = weights(model)
            passes = Passes(model, 12, spoil=number)
            Method.parse(text).step(engine, batch(), ON)
            assert passes.calls["backward"] > number
            assert same_bits(weights(model), before)
            assert scaler.get_scale() == 512
            passes.remove()
            Method.parse(text).step(engine, batch(), ON)
            assert not same_bits(weights(model), before)
            assert all(w.isfinite().all() for w in weights(model))


class TestAccumulation:
    @every_method
    def test_uneven_micro_batches_give_the_same_update(self, text: str) -> None:
        data = batch(12, dtype=torch.float64)
        parts = [data[0:1], data[1:8], data[8:12]]
        close(
            committed(text, sgd(smooth_net()), parts),
            committed(text, sgd(smooth_net()), data),
            rtol=1e-10,
            atol=1e-13,
        )


class TestClipping:
    @every_method
    @pytest.mark.parametrize("share", [0.5, 2.0])
    def test_clip_norm_scales_the_final_gradient(self, text: str, share: float) -> None:
        raw = committed(text, sgd(smooth_net()), batch(dtype=torch.float64))
        norm = float(torch.cat([g.flatten() for g in raw]).square().sum().sqrt())
        clipped = committed(text, sgd(smooth_net(), clip_norm=share * norm), batch(dtype=torch.float64))
        # torch divides by the norm plus 1e-6.
        close(clipped, [g * min(1.0, share) for g in raw], rtol=1e-4, atol=0.0)

    @every_method
    def test_weight_clip_after_every_step(self, text: str) -> None:
        """What the optimizer left is cut at c times the layer's rms afterwards, on analog weights only."""
        model, method = normed_net(), Method.parse(text)
        engine = sgd(model, weight_clip=1.2)
        left: list[Tensor] = []
        engine.optimizer.register_step_post_hook(lambda *_: left.extend(weights(model)))
        analog = {id(weight.parameter) for weight in analog_weights(model)}
        assert 0 < len(analog) < len(list(model.parameters()))
        for step in range(3):
            left.clear()
            method.step(engine, batch(step=step), ON)
            for parameter, before in zip(model.parameters(), left, strict=True):
                if id(parameter) not in analog:
                    assert torch.equal(parameter, before)
                    continue
                # With the rms before clipping it was 1.31 and 1.45.
                limit = parameter.detach().abs().max()
                assert limit / parameter.detach().square().mean().sqrt() == pytest.approx(1.2, rel=1e-6)
                torch.testing.assert_close(parameter.detach(), before.clamp(-limit, limit))


class TestState:
    @every_method
    def test_a_resumed_method_goes_on_as_before(self, text: str) -> None:
        """Six steps in one go, and three, saved to a file that runs no code, then three."""
        whole, first, second = normed_net(), normed_net(), normed_net(seed=1)
        train(Method.parse(text), sgd(whole), steps=6)

        method, engine, file = Method.parse(text), sgd(first), io.BytesIO()
        train(method, engine, steps=3)
        torch.save([first.state_dict(), engine.optimizer.state_dict(), engine.state_dict()], file)

        file.seek(0)
        saved = torch.load(file, weights_only=True)
        method, engine = Method.parse(text), sgd(second)
        for part, values in zip((second, engine.optimizer, engine), saved, strict=True):
            part.load_state_dict(values)
        train(method, engine, steps=3, first=3)
        assert same_bits(state(second), state(whole))

    @every_method
    def test_the_global_generator_is_neither_moved_nor_read(self, text: str) -> None:
        ends = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            model = normed_net()
            train(Method.parse(text), sgd(model))
            assert torch.equal(torch.get_rng_state(), before)
            ends.append(state(model))
        assert same_bits(*ends)


class TestVerbs:
    def test_take_and_put(self) -> None:
        engine = sgd(smooth_net())
        engine.gradient(batch(dtype=torch.float64))
        taken = engine.take()
        expected = [3.5 * g for g in taken if g is not None]
        assert all(p.grad is None for p in engine.parameters)
        engine.put([None if g is None else g.clone() for g in taken], weight=0.5)
        engine.put(taken, weight=3.0)
        close([p.grad for p in engine.parameters if p.grad is not None], expected)

    def test_moved_leaves_out_what_has_no_step(self) -> None:
        engine = sgd(model := smooth_net())
        before = weights(model)
        steps: list[Tensor | None] = [torch.ones_like(p) for p in model.parameters()]
        steps[1] = None
        with engine.moved(steps):
            moved = weights(model)
        assert steps == []
        close(moved, [w + (index != 1) for index, w in enumerate(before)])
        assert same_bits(weights(model), before)

    @every_method
    @pytest.mark.parametrize("since", [False, True])
    def test_frozen_parameters_stay(self, text: str, since: bool) -> None:
        """Also those that were frozen when the engine was there."""
        model = normed_net()
        model[0].weight.requires_grad_(since)
        engine = sgd(model, weight_clip=1.1)
        model[0].weight.requires_grad_(False)
        before = model[0].weight.clone()
        train(Method.parse(text), engine, steps=6)
        assert torch.equal(model[0].weight, before)

    @every_method
    def test_a_zero_gradient_in_float16_leaves_finite_weights(self, text: str) -> None:
        """1e-12 is 0 in float16."""
        model = smooth_net().half()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        engine = sgd(model, loss=lambda out, labels: 0 * out.sum(1))
        train(Method.parse(text), engine, dtype=torch.float16)
        assert all(w.isfinite().all() for w in weights(model))

    @pytest.mark.parametrize("name", ["clip_norm", "weight_clip"])
    def test_bad_settings(self, name: str) -> None:
        for value in (0.0, -1.0, float("nan")):  # test_clipping.py has more
            with pytest.raises(UserError, match=name):
                sgd(smooth_net(), **{name: value})

    def test_a_loss_must_be_per_sample(self) -> None:
        engine = sgd(smooth_net(), loss=nn.CrossEntropyLoss())
        with pytest.raises(UserError, match="reduction='none'"):
            engine.gradient(batch(dtype=torch.float64))

    def test_analog_only_needs_analog_weights(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(25))
        with pytest.raises(UserError, match="at least one trainable analog weight"):
            Method.parse("sam:0.1,perturb=analog").step(sgd(model), batch(), ON)

    def test_what_would_silently_be_another_rule_is_refused(self) -> None:
        model = smooth_net()
        with pytest.raises(UserError, match="LBFGS; use SGD or AdamW"):
            Engine(model, torch.optim.LBFGS(model.parameters()))
        flattened = type("FullyShardedDataParallel", (nn.Linear,), {})(25, 3)
        with pytest.raises(UserError, match=r"got FullyShardedDataParallel.* use fully_shard or DDP"):
            sgd(nn.Sequential(nn.Flatten(), flattened))

    def test_a_part_of_the_rows(self) -> None:
        """The mean over the rows alone, wherever in the micro-batches they lie."""
        data, engine = batch(dtype=torch.float64), sgd(smooth_net())
        rows = torch.tensor([1, 2, 7, 11])
        engine.gradient(data.split(3), rows=rows)
        found = engine.take()
        engine.gradient(data[rows])
        close([g for g in found if g is not None], [g for g in engine.take() if g is not None])

    def test_state_is_copied_when_it_is_taken_up(self) -> None:
        first, second = sgd(normed_net()), sgd(normed_net())
        train(Method.parse("looksam:0.1"), first)
        second.load_state_dict(first.state_dict())
        train(Method.parse("looksam:0.1"), second, first=3)
        assert first.memory["looksam"]["calls"] == 3
        assert second.memory["looksam"]["calls"] == 6

    @pytest.mark.parametrize("method", ["rwp-mixed:0.1", "sam:0.1,batches=different"])
    def test_the_batch_of_the_step_before_outlives_its_buffer(self, method: str) -> None:
        """A loader may fill one buffer again and again."""

        def trained(one_buffer: bool) -> list[Tensor]:
            model = smooth_net()
            engine, held = sgd(model), batch()
            for step in range(3):
                given = batch(step=step)
                if one_buffer:
                    held.inputs.copy_(given.inputs)
                    held.labels.copy_(given.labels)
                    given = held
                Method.parse(method).step(engine, given, ON._replace(step=step))
            return [parameter.detach().clone() for parameter in model.parameters()]

        assert all(map(torch.equal, trained(True), trained(False)))


@pytest.mark.parametrize("normed", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_learns_from_the_clean_pass_only(normed: Callable[[nn.Module], nn.Module]) -> None:
    def vectors(method: str) -> list[Tensor]:
        model = smooth_net()
        with seeded(Stream(0, "vectors")):
            normed(next(m for m in model.modules() if isinstance(m, nn.Linear)))
        model.double()
        engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.0))
        Method.parse(method).step(engine, batch(dtype=torch.float64), ON)
        return [buffer.clone() for buffer in model.buffers()]

    for plain, sam in zip(vectors("plain"), vectors("sam:0.5"), strict=True):
        assert torch.equal(plain, sam)

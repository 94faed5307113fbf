"""Rules in the loops of other libraries: equal to the same rule in a loop of one's own, to rounding."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from methods import batch, close, normed_net, same_bits, smooth_net, state, weights
from torch import Tensor, nn

from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.training import Engine, Method, Progress

RULES = ["plain", "sam:0.1,alpha=0.3", "rwp:gaussian(0.2)", "asam:0.3", "gsam:0.1", "looksam:0.1,k=2", "rwp-mixed:0.1"]
every_rule = pytest.mark.parametrize("text", RULES)


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def by_hand(text: str, model: nn.Module, batches: list[Any], steps: int, **settings: Any) -> nn.Module:
    """The same in a plain loop: ``batches`` are those, or lists of micro-batches, of each step."""
    engine = Engine(model, optimizer(model), **settings)
    for step, one in enumerate(batches):
        Method.parse(text).step(engine, one, Progress(step, steps))
    return model


class TestAccelerate:
    @pytest.fixture(autouse=True)
    def alone(self) -> Iterator[None]:
        from accelerate.state import AcceleratorState, GradientState

        for when in ("before", "after"):
            AcceleratorState._reset_state(True)
            GradientState._reset_state()
            if when == "before":
                yield

    def trained(
        self, text: str, model: nn.Module, batches: list[Batch], *, precision: str = "no", **settings: Any
    ) -> Any:
        from accelerate import Accelerator

        from noiserobust.integrations.accelerate import AcceleratedEngine

        accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
        prepared, sgd = accelerator.prepare(model, optimizer(model))
        engine = AcceleratedEngine(accelerator, prepared, sgd, **settings)
        for step, one in enumerate(batches):
            with accelerator.accumulate(prepared):
                out = engine.step(Method.parse(text), one, Progress(step // 2, 3))
                assert (out is None) == (step % 2 == 0)
        return accelerator, engine

    @every_rule
    def test_accumulated_micro_batches_are_one_batch(self, text: str) -> None:
        data = [batch(step=step, dtype=torch.float64) for step in range(6)]
        model = smooth_net()
        self.trained(text, model, data, clip_norm=0.5)
        pairs = [[data[i], data[i + 1]] for i in (0, 2, 4)]
        close(weights(model), weights(by_hand(text, smooth_net(), pairs, 3, clip_norm=0.5)), rtol=1e-12, atol=1e-14)

    def test_plain_is_accelerates_own_loop(self) -> None:
        from accelerate import Accelerator

        data = [batch(step=step, dtype=torch.float64) for step in range(4)]
        ours, theirs = smooth_net(), smooth_net()
        self.trained("plain", ours, data)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        prepared, sgd = accelerator.prepare(theirs, optimizer(theirs))
        for one in data:
            with accelerator.accumulate(prepared):
                accelerator.backward(nn.functional.cross_entropy(prepared(one.inputs), one.labels))
                sgd.step()
                sgd.zero_grad()
        close(weights(ours), weights(theirs), rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("text", ["sam:0.1", "rwp:gaussian(0.2)"])
    def test_bf16_is_the_engines(self, text: str) -> None:
        data = [batch(step=step) for step in range(4)]
        model = normed_net()
        self.trained(text, model, data, precision="bf16")
        hand = by_hand(text, normed_net(), [data[:2], data[2:]], 3, precision="bf16")
        close(state(model), state(hand), rtol=1e-6, atol=1e-7)

    def test_what_a_rule_remembers_is_saved(self, tmp_path: Path) -> None:
        data = [batch(step=step, dtype=torch.float64) for step in range(6)]
        accelerator, engine = self.trained("looksam:0.1,k=9", smooth_net(), data)
        accelerator.register_for_checkpointing(engine)
        accelerator.save_state(str(tmp_path))
        kept, engine.memory = engine.memory, {}
        accelerator.load_state(str(tmp_path))
        assert engine.memory["looksam"]["calls"] == 3
        close(engine.memory["looksam"]["direction"], kept["looksam"]["direction"], rtol=0, atol=0)

    def test_a_bare_engine_inside_accumulate_is_refused(self) -> None:
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        net = smooth_net()
        model, sgd = accelerator.prepare(net, optimizer(net))
        engine = Engine(model, sgd)
        with accelerator.accumulate(model), pytest.raises(UserError, match="use AcceleratedEngine"):
            Method.parse("sam:0.1").step(engine, batch(dtype=torch.float64), Progress(0, 1))


class TestLightning:
    def module(self, text: str, model: nn.Module, **settings: Any) -> Any:
        from noiserobust.integrations.lightning import RuleTraining

        class Net(RuleTraining):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.rule, self.engine_settings = model, text, settings

            def forward(self, x: Tensor) -> Tensor:
                return self.net(x)

            def configure_optimizers(self) -> Any:
                sgd = optimizer(self)
                scheduler = torch.optim.lr_scheduler.StepLR(sgd, 1, gamma=0.5)
                return [sgd], [{"scheduler": scheduler, "interval": "epoch"}]

        return Net()

    def fit(
        self, module: Any, data: list[Batch], tmp_path: Path, epochs: int, resume: Any = None, **trainer: Any
    ) -> Any:
        from lightning.pytorch import Trainer

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = Trainer(
                accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False,
                enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path, **trainer,
            )  # fmt: skip
            loader = torch.utils.data.DataLoader([(b.inputs, b.labels) for b in data], batch_size=None)
            fitted.fit(module, loader, ckpt_path=resume)
        return fitted

    def hand(self, text: str, model: nn.Module, data: list[Batch], epochs: int, **settings: Any) -> nn.Module:
        wrapped = nn.Module()
        wrapped.net = model
        sgd = optimizer(model)
        engine = Engine(model, sgd, **settings)
        for epoch in range(epochs):
            for step, one in enumerate(data):
                at = Progress(epoch * len(data) + step, epochs * len(data), epoch, epochs)
                Method.parse(text).step(engine, one, at)
            sgd.param_groups[0]["lr"] *= 0.5
        return model

    @every_rule
    def test_a_fit_is_the_loop(self, text: str, tmp_path: Path) -> None:
        data = [batch(step=step, dtype=torch.float64) for step in range(3)]
        module = self.module(text, smooth_net(), clip_norm=0.5)
        fitted = self.fit(module, data, tmp_path, 2)
        assert fitted.global_step == 6
        hand = self.hand(text, smooth_net(), data, 2, clip_norm=0.5)
        close(weights(module.net), weights(hand), rtol=1e-12, atol=1e-14)

    def test_accumulation(self, tmp_path: Path) -> None:
        data = [batch(step=step, dtype=torch.float64) for step in range(3)]
        module = self.module("sam:0.1", smooth_net())
        module.accumulate = 2
        assert self.fit(module, data, tmp_path, 1).global_step == 2
        hand = by_hand("sam:0.1", smooth_net(), [data[:2], data[2]], 2)
        close(weights(module.net), weights(hand), rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("text", ["sam:0.1", "rwp:gaussian(0.2)", "mesa:0.5,start=0"])
    def test_bf16_mixed_is_the_engines(self, text: str, tmp_path: Path) -> None:
        data = [batch(step=step) for step in range(3)]
        module = self.module(text, normed_net())
        self.fit(module, data, tmp_path, 1, precision="bf16-mixed")
        hand = self.hand(text, normed_net(), data, 1, precision="bf16")
        close(state(module.net), state(hand), rtol=1e-6, atol=1e-7)
        assert not same_bits(state(module.net), state(self.hand(text, normed_net(), data, 1)))

    def test_loss_scaling_is_the_plugins(self, tmp_path: Path) -> None:
        from lightning.pytorch.plugins import MixedPrecision

        data = [batch(step=step) for step in range(3)]
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        plugin.precision = "bf16-mixed"  # type: ignore[assignment]  # the mechanics, at what the CPU computes in
        module = self.module("sam:0.1", normed_net(), clip_norm=0.5)
        fitted = self.fit(module, data, tmp_path, 1, plugins=[plugin])
        assert fitted.global_step == 3
        hand = self.hand("sam:0.1", normed_net(), data, 1, precision="bf16", clip_norm=0.5)
        close(state(module.net), state(hand), rtol=1e-2, atol=1e-3)

    def test_a_checkpoint_resumes_exactly(self, tmp_path: Path) -> None:
        data = [batch(step=step, dtype=torch.float64) for step in range(3)]
        whole, first, second = (self.module("rst:looksam(0.1,k=4),p=0.9", smooth_net()) for _ in range(3))
        self.fit(whole, data, tmp_path, 2)
        self.fit(first, data, tmp_path, 1).save_checkpoint(tmp_path / "at.ckpt")
        with torch.no_grad():
            second.net[1].weight.zero_()
        fitted = self.fit(second, data, tmp_path, 2, resume=tmp_path / "at.ckpt")
        assert fitted.global_step == 6
        assert second.engine.memory["looksam"]["calls"] == whole.engine.memory["looksam"]["calls"]
        assert same_bits(weights(second.net), weights(whole.net))


TEXTS = [torch.randint(20, (4 + index % 3,), generator=torch.Generator().manual_seed(index)) for index in range(8)]


class TestTransformers:
    def model(self) -> nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = GPT2Config(
                vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16, resid_pdrop=0.0, embd_pdrop=0.0,
                attn_pdrop=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            )  # fmt: skip
            return GPT2LMHeadModel(config).double()

    def collate(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        labels = nn.utils.rnn.pad_sequence([row["ids"] for row in rows], True, -100)
        return {"input_ids": labels.clamp(min=0), "labels": labels, "attention_mask": (labels >= 0).long()}

    def trained(self, kind: Any, tmp_path: Path, resume: bool = False, **settings: Any) -> Any:
        from transformers import TrainingArguments

        own = {name: settings.pop(name) for name in ("rule", "engine") if name in settings}
        defaults: dict[str, Any] = {"num_train_epochs": 2, "save_strategy": "no"}
        arguments = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=0.1,
            optim="sgd", remove_unused_columns=False, use_cpu=True, report_to=[], disable_tqdm=True, seed=1,
            **(defaults | settings),
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self.model()
            trainer = kind(
                model=model, args=arguments, data_collator=self.collate,
                train_dataset=[{"ids": one} for one in TEXTS], **own,
            )  # fmt: skip
            trainer.train(resume_from_checkpoint=resume)
        return trainer

    @pytest.mark.parametrize("settings", [{"label_smoothing_factor": 0.1, "max_grad_norm": 0.01}, {"bf16": True}])
    def test_plain_is_the_trainers_own(self, settings: dict[str, Any], tmp_path: Path) -> None:
        from transformers import Trainer

        from noiserobust.integrations.transformers import RuleTrainer

        theirs = self.trained(Trainer, tmp_path, **settings)
        ours = self.trained(RuleTrainer, tmp_path, rule="plain", **settings)
        assert same_bits(weights(ours.model), weights(theirs.model))
        assert ours.state.global_step == theirs.state.global_step == 4

    @pytest.mark.parametrize("text", ["sam:0.1", "rwp:gaussian(0.1),draws=2", "gsam:0.1", "looksam:0.1,k=2"])
    def test_it_is_the_engine_with_the_mean_over_tokens(self, text: str, tmp_path: Path) -> None:
        """The update of both micro-batches is that of the mean loss of all their tokens, also that of ranges."""
        from noiserobust.integrations.transformers import RuleTrainer

        seen: list[Any] = []

        class Spying(RuleTrainer):
            def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
                seen.append((dict(inputs), self._get_learning_rate()))
                return super().training_step(model, inputs, num_items_in_batch)

        converters = (
            {"converters": "io:dac=20,learnt=true", "input_ranges": "learnt:batches=1"} if "rwp" in text else {}
        )
        ours = self.trained(Spying, tmp_path, rule=text, max_grad_norm=0.05, engine=converters)
        model = self.model()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            each = nn.functional.cross_entropy(logits[:, :-1].mT.float(), labels[:, 1:], reduction="none")
            return each.sum(1)

        engine = Engine(model, sgd, loss, clip_norm=0.05, **converters)
        for step in range(4):
            pair = seen[2 * step : 2 * step + 2]
            tokens = sum(int((one["labels"] != -100).sum()) for one, _ in pair)  # as a Trainer counts them
            samples = sum(len(one["labels"]) for one, _ in pair)
            sgd.param_groups[0]["lr"] = pair[-1][1]
            parts = [
                Batch(
                    {name: one[name] for name in ("input_ids", "attention_mask")}, one["labels"], share=samples / tokens
                )
                for one, _ in pair
            ]
            Method.parse(text).step(engine, parts, Progress(step, 4))
        close(weights(ours.model), weights(model), rtol=1e-5, atol=1e-9)  # their loss is in float32
        mine, theirs = ([r.inputs.detach() for r in one.periphery.ranges] for one in (ours._engine, engine))
        close(mine, theirs, rtol=1e-5, atol=1e-9)

    def test_a_checkpoint_resumes_exactly(self, tmp_path: Path) -> None:
        from noiserobust.integrations.transformers import RuleTrainer

        settings: dict[str, Any] = {"rule": "looksam:0.1,k=9", "save_strategy": "epoch", "engine": {"weight_clip": 2.0}}
        whole = self.trained(RuleTrainer, tmp_path / "a", **settings)
        resumed = self.trained(RuleTrainer, tmp_path / "a", resume=str(tmp_path / "a" / "checkpoint-2"), **settings)  # type: ignore[arg-type]
        assert resumed._engine.memory["looksam"]["calls"] == 4
        assert same_bits(weights(resumed.model), weights(whole.model))

    def test_a_rule_that_asks_for_more_is_refused(self, tmp_path: Path) -> None:
        from noiserobust.integrations.transformers import RuleTrainer

        for text in ("esam:0.1", "mesa:0.3,start=0"):
            with pytest.raises(UserError, match=r"use Engine\(task="):
                self.trained(RuleTrainer, tmp_path, rule=text)

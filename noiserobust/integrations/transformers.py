"""Training rules in transformers' Trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.models.modes import kept_norm_stats
from noiserobust.storage.states import read_state, write_state
from noiserobust.training.engine import Engine
from noiserobust.training.micro_batches import AnyBatch, as_list
from noiserobust.training.objective import Output, Penalty
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress

if TYPE_CHECKING:
    Base = Trainer
else:
    Base = object


class TrainerEngine(Engine):
    """An :class:`Engine` whose gradients a Trainer's ``training_step`` takes, and whose optimizer the Trainer steps:
    accumulation, label smoothing, mixed precision and ``max_grad_norm`` are what the Trainer makes of them."""

    def __init__(self, trainer: Any, model: nn.Module, **settings: Any) -> None:
        self.trainer = trainer
        super().__init__(model, trainer.optimizer, scaler=trainer.accelerator.scaler, **settings)

    def _find_heads(self, batch: Batch) -> None:
        self._trained.find_heads(lambda model, part: model(**part.inputs), Batch(batch.inputs["inputs"], None))

    def gradient(
        self,
        batch: AnyBatch,
        *,
        sync: bool = True,
        norm_stats: bool = True,
        weight: float | Tensor = 1.0,
        wrt: Sequence[bool] | None = None,
        rows: Tensor | None = None,
        penalty: Penalty | None = None,
    ) -> Output:
        if rows is not None or penalty is not None:
            _refuse()
        held = self._lifted() if self._holding else None
        micro, losses = as_list(batch), []
        try:
            kept = nullcontext() if norm_stats else kept_norm_stats(self.model)
            converters = self.periphery.passing(self.stream(), self.ranks.rank, norm_stats, weight, times=weight)
            with self._trained.alone(), kept, converters:
                for index, part in enumerate(micro):
                    with self._ranks_apart(apart=not sync or index < len(micro) - 1):
                        losses.append(self.trainer.own_training_step(self.model, **part.inputs))
                    self.passes["forward"] += 1
                    self.passes["backward"] += 1
        except BaseException:
            self.take()
            raise
        gradients = self._lifted()
        if wrt is not None:
            gradients = [g if wanted else None for g, wanted in zip(gradients, wrt, strict=True)]
        self.put(gradients, weight)
        if held is not None:
            self.put(held)
        return Output(torch.stack(losses), None)

    def forward(self, *_: Any, **__: Any) -> Output:
        return _refuse()

    def commit(self) -> bool:
        """The gradients stay: the Trainer clips them and steps."""
        self._holding = False
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        steps = self.scaler is None or all(bool(gradient.isfinite().all()) for gradient in gradients)
        self.periphery.update(steps, self.loss_scale, float(self.optimizer.param_groups[0]["lr"]), self.ranks)
        return steps

    def _require_own_loop(self) -> None:
        """The Trainer says when."""


def _refuse() -> Any:
    raise UserError(
        "expected a rule of gradients of whole batches (sam, f-sam, rwp, arwp, rst, ...), got one that "
        "asks for single samples' losses or logits, which a Trainer's loss does not give; use Engine(task=...)"
    )


class ByRule(Base):
    """Makes any Trainer train by a rule: ``class SAMTrainer(ByRule, Trainer)``; :class:`RuleTrainer` is one.

    - ``rule``: a method or its text, such as ``sam:0.1``.
    - ``engine``: settings of :class:`Engine`: ``weight_clip``, ``seed``.

    A step with several micro-batches takes every pass of the rule over all of them when the last one is there; noise is
    named by ``state.global_step``; checkpoints hold what the rule remembers (``noiserobust_0.pt``).
    """

    def __init__(self, *args: Any, rule: Method | str = "plain", engine: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rule: Method = Method.parse(rule)
        self.engine_settings = engine or {}
        self._engine: TrainerEngine | None = None
        self._engine_state: dict[str, Any] | None = None
        self._waiting: list[Batch] = []
        self.add_callback(_ClipWeights(self))

    def own_training_step(self, model: nn.Module, inputs: dict[str, Any], items: Any) -> Tensor:
        """One forward and backward pass as the Trainer takes it."""
        return super().training_step(model, dict(inputs), items)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        inputs = self._prepare_inputs(inputs)
        self._waiting.append(Batch({"inputs": inputs, "items": num_items_in_batch}, None))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)  # its loss is part of the last micro-batch's
        parts, self._waiting = self._waiting, []
        return self.rule.step(self.engine_of(model), parts, self._progress()).losses.sum()

    def engine_of(self, model: nn.Module) -> TrainerEngine:
        """The engine of this training, made when it is first asked for."""
        if self._engine is None or self._engine.optimizer is not self.optimizer or self._engine.model is not model:
            self._engine = TrainerEngine(self, model, **self.engine_settings)
            if self._engine_state is not None:
                self._engine.load_state_dict(self._engine_state)
        return self._engine

    def _progress(self) -> Progress:
        state, epochs = self.state, max(math.ceil(self.args.num_train_epochs), 1)
        return Progress(state.global_step, max(state.max_steps, 1), min(int(state.epoch or 0), epochs - 1), epochs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._engine is not None:
            write_state(self._file(output_dir), self._engine.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._file(checkpoint).is_file():
            self._engine_state = read_state(self._file(checkpoint))

    def _file(self, folder: str) -> Path:
        return Path(folder) / f"noiserobust_{self.args.process_index}.pt"


class _ClipWeights(TrainerCallback):
    """Clips analog weights when the Trainer's optimizer has stepped."""

    def __init__(self, trainer: ByRule) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        engine = self.trainer._engine
        skipped = self.trainer.accelerator.optimizer_step_was_skipped
        if engine is not None and not skipped:
            engine.kept.after_step(None)


class RuleTrainer(ByRule, Trainer):
    """transformers' Trainer, training by a rule; see :class:`ByRule`."""

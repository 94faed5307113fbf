"""Training rules in Lightning, by manual optimisation."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.training.engine import Engine
from noiserobust.training.objective import Output
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress


class LightningEngine(Engine):
    """An :class:`Engine` over a LightningModule and its ``self.optimizers()``.

    Precision and loss scaling are the Trainer's; its steps are counted, so that ``global_step`` goes on.
    """

    def __init__(self, module: LightningModule, optimizer: Any, **settings: Any) -> None:
        if not isinstance(optimizer, LightningOptimizer):
            raise UserError("expected one optimizer from configure_optimizers, got several or none")
        if module.trainer.world_size > 1:
            raise UserError(
                f"expected one process, got {module.trainer.world_size}: Lightning's ranks do not average a rule's "
                "gradients; use Engine with DistributedDataParallel (docs/own_loop.md)"
            )
        scaler = getattr(module.trainer.precision_plugin, "scaler", None)
        given: Any = optimizer
        super().__init__(module, given, scaler=scaler, **settings)

    def _update(self) -> bool:
        # The plugin unscales within its step: the last moment to clip is just before the optimizer's own.
        raw: torch.optim.Optimizer = self.optimizer.optimizer  # type: ignore[attr-defined]
        clipping = raw.register_step_pre_hook(lambda *_: self._clip_gradients())
        scale = self.loss_scale
        try:
            self.optimizer.step()
        finally:
            clipping.remove()
        return self.loss_scale >= scale


class RuleTraining(LightningModule):
    """A LightningModule whose training step is that of a rule: ``class Net(RuleTraining)``.

    Set in ``__init__``, after ``super().__init__()``:

    - ``rule``: a method or its text, such as ``sam:0.1``.
    - ``engine_settings``: those of :class:`Engine`: ``loss``, ``task``, ``clip_norm``, ``seed``, ...
    - ``accumulate``: how many batches make one update (the Trainer's own accumulation is for automatic optimisation).

    The network is the module's ``forward``. Noise is named by ``global_step``; checkpoints hold what the rule
    remembers; learning-rate schedulers of :meth:`configure_optimizers` are stepped (but for ReduceLROnPlateau).
    """

    rule: Method | str = "plain"
    accumulate: int = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False
        self.engine_settings: dict[str, Any] = {}
        self._engine: LightningEngine | None = None
        self._engine_state: dict[str, Any] | None = None
        self._waiting: list[Batch] = []

    def as_batch(self, batch: Any) -> Batch:
        """What the loader gives as a :class:`Batch`, here ``(inputs, labels)`` or a dictionary with ``labels``."""
        if isinstance(batch, dict):
            return Batch({name: value for name, value in batch.items() if name != "labels"}, batch["labels"])
        return Batch(*batch)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        out = self.rule_step(batch)
        if out is not None:
            self.log("train_loss", out.loss, prog_bar=True, batch_size=len(out.losses))

    def rule_step(self, batch: Any) -> Output | None:
        """The rule's step, once there are batches enough for it; None until then."""
        self._waiting.append(self.as_batch(batch))
        last = self.trainer.is_last_batch
        if len(self._waiting) < self.accumulate and not last:
            return None
        parts, self._waiting = self._waiting, []
        out = Method.parse(self.rule).step(self.engine, parts if len(parts) > 1 else parts[0], self._progress())
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                continue
            count = self.trainer.global_step if config.interval == "step" else self.trainer.current_epoch + 1
            if (config.interval == "step" or last) and count % config.frequency == 0:
                config.scheduler.step()
        return out

    @property
    def engine(self) -> LightningEngine:
        """The engine of this fit, made when it is first asked for."""
        optimizer = self.optimizers()
        if self._engine is None or self._engine.optimizer is not optimizer:
            self._engine = LightningEngine(self, optimizer, **self.engine_settings)
            if self._engine_state is not None:
                self._engine.load_state_dict(self._engine_state)
        return self._engine

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._engine is not None:
            checkpoint["noiserobust"] = self._engine.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._engine, self._engine_state = None, checkpoint.get("noiserobust")

    def _progress(self) -> Progress:
        trainer = self.trainer
        batches = trainer.num_training_batches
        epochs = max(trainer.max_epochs or 1, 1)
        whole = math.ceil(batches / self.accumulate) * epochs if batches < math.inf else trainer.global_step + 1
        steps = int(whole if trainer.max_steps < 0 else min(whole, trainer.max_steps))
        return Progress(trainer.global_step, max(steps, 1), trainer.current_epoch, epochs)

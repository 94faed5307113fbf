"""Training rules in a loop of accelerate's."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from torch import nn

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.training.engine import Engine
from noiserobust.training.micro_batches import Batches
from noiserobust.training.objective import Output
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress


class AcceleratedEngine(Engine):
    """An :class:`Engine` over a model and an optimizer that ``accelerator.prepare`` gave.

    Mixed precision, loss scaling and ranks are the accelerator's. Inside ``accelerator.accumulate(model)`` call
    :meth:`step`, which waits for all micro-batches of an update. ``accelerator.register_for_checkpointing(engine)``
    saves what the rules remember with ``save_state``.

    - ``settings``: those of :class:`Engine` (``task``, ``clip_norm``, ``seed``, ...) but precision and scaler.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: Any, loss: Any = None, **settings: Any):
        self.accelerator = accelerator
        self._waiting: list[Batch] = []
        super().__init__(model, optimizer, loss, scaler=accelerator.scaler, **settings)

    def step(self, method: Method, batch: Batches, progress: Progress) -> Output | None:
        """The step of ``method`` over all micro-batches since the last one; None while more are to come.

        Every pass of the rule sees all of them, and the gradient is the mean over all their samples (accelerate's own
        divides by the number of micro-batches that it was promised, and is the same where all are there and alike).
        """
        self._waiting += [batch] if isinstance(batch, Batch) else batch
        if not self.accelerator.sync_gradients:
            return None
        parts, self._waiting = self._waiting, []
        return method.step(self, parts, progress)

    def _require_own_loop(self) -> None:
        if not self.accelerator.sync_gradients:
            raise UserError(
                "expected engine.step(method, batch, progress) inside accumulate(), which waits for all micro-batches, "
                "got method.step of one of them"
            )

    def _update(self) -> bool:
        self.accelerator.unscale_gradients(self.optimizer)
        self._clip_gradients()
        self.optimizer.step()
        return not self.optimizer.step_was_skipped  # type: ignore[attr-defined]

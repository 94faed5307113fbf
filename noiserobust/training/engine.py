"""How gradients are taken, written once; which are taken is a method's business."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.inference import Precision, autocast, device_of
from noiserobust.noise.base import NoiseModel
from noiserobust.rng import Stream
from noiserobust.weights import Backup, NoisyWeights

Gradients = list[Tensor | None]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Output:
    """What a gradient pass saw: per-sample ``losses`` (B,) and ``logits`` (B, classes), detached."""

    losses: Tensor
    logits: Tensor


class Engine:
    """A model, an optimizer and the mechanics between them.

    The verbs: :meth:`gradient` takes a gradient, :meth:`take` and :meth:`put` hand gradients out and back in,
    :meth:`moved` and :meth:`noisy` move the weights for a while, :meth:`commit` makes the optimizer's step.
    Everything else that a training step needs happens inside them: autocast and loss scaling, micro-batches,
    ``no_sync``, normalisation buffers, gradient clipping, weight clipping, exact restore.

    - ``optimizer``: any ``torch.optim`` optimizer over the model's parameters.
    - ``loss(logits, labels)``: one value per sample (cross-entropy by default).
    - ``precision``: ``fp32``, ``bf16`` or ``fp16`` autocast; ``scaler``: a ``torch.amp.GradScaler`` for fp16.
      When either pass of a step is inf or NaN the scaler skips the whole step.
    - ``clip_norm``: largest norm of the final gradient.
    - ``weight_clip``: after each step analog weights are clipped to this many times their layer's rms, the field's
      first remedy against outliers that set the noise's scale.
    - ``seed`` names the training noise.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss | None = None,
        *,
        precision: Precision = "fp32",
        scaler: torch.amp.GradScaler | None = None,
        clip_norm: float | None = None,
        weight_clip: float | None = None,
        seed: int = 0,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise UserError(f"expected clip_norm > 0, got {clip_norm}; leave it out for no gradient clipping")
        if weight_clip is not None and not weight_clip > 0:
            raise UserError(f"expected weight_clip > 0 (times the layer's rms), got {weight_clip}; 2 to 4 is usual")
        self.model, self.optimizer = model, optimizer
        self.loss: Loss = loss if loss is not None else nn.CrossEntropyLoss(reduction="none")
        self.precision, self.scaler = precision, scaler
        self.clip_norm, self.weight_clip, self.seed = clip_norm, weight_clip, seed
        self.device = device_of(model)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.passes = {"forward": 0, "backward": 0}
        self._backup = Backup(self.parameters)

    @cached_property
    def analog(self) -> NoisyWeights:
        """The model's analog weights."""
        return NoisyWeights(self.model)

    def gradient(
        self,
        batch: Batch | Sequence[Batch],
        *,
        sync: bool = True,
        norm_stats: bool = True,
        weight: float = 1.0,
    ) -> Output:
        """Add ``weight`` times the gradient of the mean loss at the present weights to the gradients held.

        ``batch`` may be a list of micro-batches: the mean is over all their samples. With ``sync=False`` ranks do not
        average (forward *and* backward run under ``no_sync``); with ``norm_stats=False`` normalisation statistics and
        counters stay as they were. When a pass raises, the gradients held are dropped: half a step must not leak into
        the next one.
        """
        try:
            return self._gradient(batch, sync, norm_stats, weight)
        except BaseException:
            self.take()
            raise

    def _gradient(self, batch: Batch | Sequence[Batch], sync: bool, norm_stats: bool, weight: float) -> Output:
        micro = [batch] if isinstance(batch, Batch) else list(batch)
        total = sum(len(part) for part in micro)
        losses, logits = [], []
        # Inside a caller's autocast the casts of the weights as they stood before they were moved are still kept.
        torch.clear_autocast_cache()
        with nullcontext() if norm_stats else kept_norm_stats(self.model):
            for index, part in enumerate(micro):
                # Ranks average once, with the last micro-batch.
                with self._ranks_apart(apart=not sync or index < len(micro) - 1):
                    with autocast(self.device, self.precision):
                        out = self.model(part.inputs)
                        loss = self.loss(out, part.labels)
                    if loss.shape != part.labels.shape[:1]:
                        raise UserError(
                            f"expected a loss with one value per sample, shape ({len(part)},), "
                            f"got {tuple(loss.shape)}; use reduction='none'"
                        )
                    mean = loss.sum() * (weight / total)
                    (mean if self.scaler is None else self.scaler.scale(mean)).backward()
                self.passes["forward"] += 1
                self.passes["backward"] += 1
                losses.append(loss.detach())
                logits.append(out.detach())
        return Output(torch.cat(losses), torch.cat(logits))

    def take(self) -> Gradients:
        """The gradients held, one per parameter (``None`` where there is none); the engine holds none afterwards."""
        gradients: Gradients = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        return gradients

    def put(self, gradients: Gradients, weight: float = 1.0) -> None:
        """Add ``weight`` times ``gradients`` to those held. The tensors are the engine's from here on."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is None:
                continue
            if weight != 1.0:
                gradient.mul_(weight)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def only_analog(self, gradients: Gradients) -> Gradients:
        """``gradients`` without those of parameters that are not analog."""
        analog = {id(weight.parameter) for weight in self.analog.weights}
        return [g if id(p) in analog else None for p, g in zip(self.parameters, gradients, strict=True)]

    @contextmanager
    def moved(self, steps: Gradients) -> Iterator[None]:
        """Inside, every parameter stands at w + step; afterwards every bit of w is back.

        ``steps`` is emptied, so that while the next gradient is taken only the backup is held on top of plain training.
        """
        with self._backup.moved():
            with torch.no_grad():
                pairs = [(p, s) for p, s in zip(self.parameters, steps, strict=True) if s is not None]
                torch._foreach_add_([p for p, _ in pairs], [s for _, s in pairs])
                pairs.clear()
                steps.clear()
            yield

    @contextmanager
    def noisy(self, noise: NoiseModel, *name: str | int) -> Iterator[None]:
        """Inside, the analog weights are a draw of ``noise`` named by the engine's seed and ``name``."""
        with self.analog.perturbed(noise, Stream(self.seed, "train", *name)):
            yield

    def commit(self) -> None:
        """Unscale, clip and step once with the gradients held, then hold none."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        if self.scaler is not None:
            scale = None if self.weight_clip is None else self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            # A skipped step lowers the scale. Clipping after it would still move weights: it takes the rms anew.
            skipped = scale is not None and self.scaler.get_scale() < scale
        else:
            self.optimizer.step()
            skipped = False
        self.optimizer.zero_grad(set_to_none=True)
        if self.weight_clip is not None and not skipped:
            self._clip_weights(self.weight_clip)

    @torch.no_grad()
    def _clip_weights(self, times_rms: float) -> None:
        for weight in self.analog.weights:
            limit = times_rms * weight.parameter.square().mean().sqrt()
            weight.parameter.clamp_(-limit, limit)

    @contextmanager
    def _ranks_apart(self, apart: bool) -> Iterator[None]:
        model = self.model
        with model.no_sync() if apart and isinstance(model, DistributedDataParallel) else nullcontext():
            yield


@contextmanager
def kept_norm_stats(model: nn.Module) -> Iterator[None]:
    """Normalisation statistics and their counters are as before when the body ends.

    The usual trick of momentum 0 still advances ``num_batches_tracked``, so the buffers themselves are kept.
    """
    kept = [
        (buffer, buffer.clone())
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer in module.buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)

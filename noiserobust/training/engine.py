"""How gradients are taken, written once; which are taken is a method's business."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from noiserobust.analog.backup import Backup
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.analog.weights import AnalogWeight, analog_weights
from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.minima.vectors import Gradients
from noiserobust.models.compute import Precision, autocast, device_of
from noiserobust.models.modes import evaluating, kept_norm_stats
from noiserobust.models.wrappers import canonical, unwrap
from noiserobust.noise.base import NoiseModel
from noiserobust.rng import Stream
from noiserobust.training.parts import as_list, moved_to, only_rows, require_supported
from noiserobust.training.ranks import Ranks

Loss = Callable[[Tensor, Tensor], Tensor]
Penalty = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class Output:
    """What a pass saw: per-sample ``losses`` (B,) and ``logits`` (B, classes), detached."""

    losses: Tensor
    logits: Tensor


class Engine:
    """A model, an optimizer and the mechanics between them.

    The verbs: :meth:`gradient` takes a gradient, :meth:`forward` only looks, :meth:`take`, :meth:`put` and
    :meth:`average` hand gradients out, back in and between ranks, :meth:`moved` and :meth:`noisy` move the weights for
    a while, :meth:`commit` makes the optimizer's step. Everything else that a training step needs happens inside them:
    autocast and loss scaling, micro-batches, ``no_sync``, normalisation buffers, gradient clipping, weight clipping,
    exact restore.

    - ``optimizer``: any ``torch.optim`` optimizer over the model's parameters.
    - ``loss(logits, labels)``: one value per sample (cross-entropy by default).
    - ``precision``: ``fp32``, ``bf16`` or ``fp16`` autocast; ``scaler``: a ``torch.amp.GradScaler`` for fp16.
      When either pass of a step is inf or NaN the scaler skips the whole step.
    - ``clip_norm``: largest norm of the final gradient.
    - ``weight_clip``: after each step analog weights are clipped to this many times their layer's rms, the field's
      first remedy against outliers that set the noise's scale.
    - ``seed`` names the training noise, masks and coins; it must be the same on every rank.
    - ``samples``, ``classes``: size of the training data, for the rules that remember single samples.

    ``memory`` is what the rules keep from step to step (:meth:`state_dict` saves it): a method itself is settings only.
    It is the same on every rank; what a rank alone remembers, such as its last batch, lies in ``own_memory``.
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
        samples: int | None = None,
        classes: int | None = None,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise UserError(f"expected clip_norm > 0, got {clip_norm}; leave it out for no gradient clipping")
        if weight_clip is not None and not weight_clip > 0:
            raise UserError(f"expected weight_clip > 0 (times the layer's rms), got {weight_clip}; 2 to 4 is usual")
        self.model, self.optimizer = model, optimizer
        self.loss: Loss = loss if loss is not None else nn.CrossEntropyLoss(reduction="none")
        self.precision, self.scaler = precision, scaler
        self.clip_norm, self.weight_clip, self.seed = clip_norm, weight_clip, seed
        self.samples, self.classes = samples, classes
        self.device = device_of(model)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._given = sum(len(group["params"]) for group in optimizer.param_groups)
        require_supported(model, optimizer)
        self._first_lr = float(optimizer.param_groups[0]["lr"])
        self.passes = {"forward": 0, "backward": 0}
        self.memory: dict[str, Any] = {}
        self.own_memory: dict[str, Any] = {}
        self.ranks = Ranks(model)
        self.ranks.require_same_seed(seed)
        self._backup = Backup(self.parameters)

    @cached_property
    def analog(self) -> NoisyWeights:
        """The model's analog weights."""
        return NoisyWeights(self.model)

    @cached_property
    def filters(self) -> list[AnalogWeight]:
        """The analog weights, if any: they know which of their dimensions are filters."""
        return analog_weights(self.model)

    @cached_property
    def names(self) -> list[str]:
        """The canonical name of every parameter; ``""`` for one that is not the model's."""
        known = {id(p): canonical(name) for name, p in unwrap(self.model).named_parameters()}
        return [known.get(id(parameter), "") for parameter in self.parameters]

    def stream(self, *name: str | int) -> Stream:
        """The training randomness of that name."""
        return Stream(self.seed, "train", *name)

    @property
    def lr_share(self) -> float:
        """The learning rate in units of its peak: schedulers' ``initial_lr``, else what it was at first."""
        group = self.optimizer.param_groups[0]
        peak = float(group.get("initial_lr", self._first_lr))
        return float(group["lr"]) / peak if peak else 0.0

    @property
    def loss_scale(self) -> float:
        """What gradients are multiplied by until :meth:`commit`."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def gradient(
        self,
        batch: Batch | Sequence[Batch],
        *,
        sync: bool = True,
        norm_stats: bool = True,
        weight: float = 1.0,
        wrt: Sequence[bool] | None = None,
        rows: Tensor | None = None,
        penalty: Penalty | None = None,
    ) -> Output:
        """Add ``weight`` times the gradient of the mean loss at the present weights to the gradients held.

        ``batch`` may be a list of micro-batches: the mean is over all their samples. It weighs its
        :attr:`Batch.share`, so that ranks' parts of unequal size give the whole batch's gradient. With ``sync=False``
        ranks do not average (forward *and* backward run under ``no_sync``); with ``norm_stats=False`` normalisation
        statistics and counters stay as they were. ``wrt`` says which parameters the gradient is taken for (the rest of
        the backward pass is skipped; needs ``sync=False``), ``rows`` which samples of the whole batch.
        ``penalty(logits, span)`` gives a value per sample that is added to the loss, ``span`` being the samples' place
        in the batch.
        """
        micro = as_list(batch) if rows is None else only_rows(as_list(batch), rows)
        inputs = None if wrt is None else [p for p, wanted in zip(self.parameters, wrt, strict=True) if wanted]
        total = sum(len(part) for part in micro)
        weight *= micro[0].share
        losses, logits, start = [], [], 0
        try:
            with nullcontext() if norm_stats else kept_norm_stats(self.model):
                for index, part in enumerate(micro):
                    # Ranks average once, with the last micro-batch.
                    with self._ranks_apart(apart=not sync or index < len(micro) - 1):
                        with self._autocast():
                            out = self.model(part.inputs)
                            loss = self._losses(out, part)
                            span = slice(start, start := start + len(part))
                            added = loss if penalty is None else loss + penalty(out, span)
                        self.passes["forward"] += 1
                        mean = added.sum() * (weight / total)
                        mean = mean if self.scaler is None else self.scaler.scale(mean)
                        torch.autograd.backward(mean, inputs=inputs)
                        self.passes["backward"] += 1
                    losses.append(loss.detach())
                    logits.append(out.detach())
        except BaseException:
            self.take()  # half a gradient must not leak into the next step
            raise
        return Output(torch.cat(losses), torch.cat(logits))

    @torch.no_grad()
    def forward(self, batch: Batch | Sequence[Batch], twin: Mapping[str, Tensor] | None = None) -> Output:
        """Losses and logits without gradient, on this rank alone; normalisation statistics stay as they were.

        At the present weights and in the model's present mode; or, with the parameters and buffers of a ``twin`` by
        name, in eval mode.
        """
        model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        losses, logits = [], []
        if twin is not None:
            live = unwrap(model).state_dict(keep_vars=True)
            # A twin may be kept in more precision than the network computes in.
            twin = {name: value.to(live[name].dtype) if name in live else value for name, value in twin.items()}
        with ExitStack() as stack:
            stack.enter_context(kept_norm_stats(model) if twin is None else evaluating(model))
            for part in as_list(batch):
                with self._autocast():
                    if twin is None:
                        out = model(part.inputs)
                    else:
                        out = torch.func.functional_call(unwrap(model), twin, (part.inputs,))
                    losses.append(self._losses(out, part))
                self.passes["forward"] += 1
                logits.append(out)
        return Output(torch.cat(losses), torch.cat(logits))

    def take(self) -> Gradients:
        """The gradients held, one per parameter (``None`` where there is none); the engine holds none afterwards."""
        # As views into DDP's buckets they would change under their holder's hands with the next backward pass.
        views = getattr(self.model, "gradient_as_bucket_view", False)
        gradients: Gradients = [p.grad.clone() if views and p.grad is not None else p.grad for p in self.parameters]
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

    def average(self, gradients: Gradients) -> Gradients:
        """The mean of ``gradients`` over ranks, in their own memory."""
        return self.ranks.average(gradients, self.parameters)

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
                if pairs:
                    torch._foreach_add_([p for p, _ in pairs], [s for _, s in pairs])
                pairs.clear()
                steps.clear()
            yield

    @contextmanager
    def noisy(self, noise: NoiseModel, *name: str | int) -> Iterator[None]:
        """Inside, the analog weights are a draw of ``noise`` named by the engine's seed and ``name``."""
        with self.analog.perturbed(noise, self.stream(*name)):
            yield

    def commit(self) -> bool:
        """Unscale, clip and step once with the gradients held, then hold none; whether the scaler let it step."""
        if sum(len(group["params"]) for group in self.optimizer.param_groups) != self._given:
            raise UserError(
                "expected the optimizer's parameters as they were when the Engine was made, got others since; "
                "make a new Engine after add_param_group, else rules, clipping and restoring would miss them"
            )
        stepped = True
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        if self.scaler is not None:
            scale = self.loss_scale
            self.scaler.step(self.optimizer)
            self.scaler.update()
            stepped = self.loss_scale >= scale
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # Clipping after a skipped step, which lowers the scale, would still move weights: it takes the rms anew.
        if self.weight_clip is not None and stepped:
            self._clip_weights(self.weight_clip)
        if getattr(self.model, "broadcast_buffers", False):
            self.ranks.share_buffers()
        return stepped

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beyond the states of model, optimizer and schedule (no copy, as torch's are)."""
        scaler = {} if self.scaler is None else self.scaler.state_dict()
        return {"memory": self.memory, "own_memory": self.own_memory, "scaler": scaler}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a copy of a state that :meth:`state_dict` gave."""
        self.memory, self.own_memory = (moved_to(self.device, state[name]) for name in ("memory", "own_memory"))
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])

    def _losses(self, out: Tensor, part: Batch) -> Tensor:
        loss = self.loss(out, part.labels)
        if loss.shape != part.labels.shape[:1]:
            raise UserError(
                f"expected a loss with one value per sample, shape ({len(part)},), "
                f"got {tuple(loss.shape)}; use reduction='none'"
            )
        return loss

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        # An autocast around the whole step keeps casts of the weights until it ends: those of weights since moved.
        if torch.is_autocast_enabled(self.device.type):
            torch.clear_autocast_cache()
        with autocast(self.device, self.precision):
            yield

    @torch.no_grad()
    def _clip_weights(self, times_rms: float) -> None:
        trained = {id(parameter) for parameter in self.parameters}
        for weight in self.analog.weights:
            if id(weight.parameter) not in trained:
                continue  # frozen: nothing here may change it
            limit = times_rms * weight.parameter.square().mean().sqrt()
            weight.parameter.clamp_(-limit, limit)

    @contextmanager
    def _ranks_apart(self, apart: bool) -> Iterator[None]:
        model = self.model
        with model.no_sync() if apart and isinstance(model, DistributedDataParallel) else nullcontext():
            yield

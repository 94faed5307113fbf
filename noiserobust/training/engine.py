"""How gradients are taken, written once; which are taken is a method's business."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from noiserobust.analog.vectors import Vector
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.analog.where import Where
from noiserobust.data import Batch, nests
from noiserobust.errors import UserError
from noiserobust.minima import Perturbation
from noiserobust.models.compute import Precision, autocast, device_of
from noiserobust.models.modes import evaluating, kept_norm_stats
from noiserobust.models.wrappers import unwrap
from noiserobust.noise.sharded import mesh_of
from noiserobust.rng import Stream
from noiserobust.spec.kinds import typed
from noiserobust.tasks import Task
from noiserobust.training.averages import Average
from noiserobust.training.clipping import Clip
from noiserobust.training.ddp import Processes
from noiserobust.training.kept import KeptWeights
from noiserobust.training.micro_batches import AnyBatch, as_list, only_rows
from noiserobust.training.objective import Loss, Objective, Output, Penalty, joined
from noiserobust.training.periphery import Periphery
from noiserobust.training.schedules import Progress
from noiserobust.training.settings import check_clipping
from noiserobust.training.teacher import Teacher
from noiserobust.training.trained_weights import TrainedWeights, require_own_loop


class Engine:
    """A model, an optimizer and the mechanics between them.

    The verbs: :meth:`gradient` takes a gradient, :meth:`forward` only outputs, :meth:`take`, :meth:`put` and
    :meth:`average` hand gradients out, back in and between ranks, :meth:`perturbed` and :meth:`moved` move the weights
    for a while, :meth:`commit` makes the optimizer's step. Everything else that a training step needs happens inside
    them: autocast and loss scaling, micro-batches, ``no_sync``, normalisation buffers, gradient clipping, weight
    clipping, exact restore.

    - ``optimizer``: any ``torch.optim`` optimizer over the model's parameters.
    - ``task``: how the network is called, what its outputs mean and which loss a sample has: an object or a text
      (``classification``, cross-entropy, by default). ``loss(predictions, labels)`` is a loss of your own, one value
      per sample. The gradient is that of the mean over all units of a task (tokens, say) of all micro-batches and
      ranks.
    - ``precision``: ``fp32``, ``bf16`` or ``fp16`` autocast, by default whatever is around the step; ``scaler``: a
      ``torch.amp.GradScaler`` for fp16. When either pass of a step is inf or NaN the scaler skips the whole step.
    - ``clip_norm``: largest norm of the final gradient.
    - ``weight_clip``: after each step analog weights are clipped to this many times their layer's rms, the field's
      first remedy against outliers that set the noise's scale; or any :class:`Clip` or its text, such as
      ``rms(2.5,per=column)``.
    - ``average``: weights averaged over steps, ``ema:0.999`` or ``swa:0.75``; ``with engine.kept(): ...`` puts what is
      kept of a training into the model (:class:`KeptWeights`).
    - ``seed`` names the training noise, masks and coins; it must be the same on every rank.
    - ``samples``, ``classes``: size of the training data, for the rules that remember single samples.
    - ``where``: which weights are analog: what noise, weight clipping, filters and ``perturb="analog"`` are about.
    - ``converters``: DAC, ADC and output noise around analog layers in every pass, ``io:dac=8,adc=8,noise=0.06``;
      ``input_ranges``: how their ranges are learnt (:class:`~noiserobust.training.periphery.Periphery`).
    - ``teacher``: a :class:`~noiserobust.training.Teacher`, whose answers the loss keeps the network's near.

    ``memory`` is what the rules keep from step to step (:meth:`state_dict` saves it): a method itself is settings only.
    It is the same on every rank; what a rank alone remembers, such as its last batch, lies in ``own_memory``.
    ``weights`` are the parameters that the optimizer trains, ``ranks`` the processes of a DDP model.
    """

    @typed
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss | None = None,
        *,
        task: Task | str | None = None,
        precision: Precision | None = None,
        scaler: torch.amp.GradScaler | None = None,
        clip_norm: float | None = None,
        weight_clip: Clip | str | float | None = None,
        average: Average | str | None = None,
        seed: int = 0,
        samples: int | None = None,
        classes: int | None = None,
        where: Where = Where(),
        converters: Any = "none",
        input_ranges: Any = None,
        teacher: Teacher | None = None,
    ) -> None:
        check_clipping(clip_norm)
        if teacher is not None and {*map(id, teacher.model.parameters())} & {*map(id, model.parameters())}:
            raise UserError("expected a teacher with weights of its own, got those being trained; give a copy.deepcopy")
        self.model, self.optimizer = model, optimizer
        self.objective = Objective(task, loss, teacher)
        self.precision, self.scaler = precision, scaler
        self.clip_norm, self.seed = clip_norm, seed
        self.samples, self.classes = samples, classes
        self.device = device_of(model)
        self._trained = TrainedWeights(model, optimizer, where)
        self.periphery = Periphery(model, converters, input_ranges, where, optimizer)
        self._stepping = self._holding = self._heads_found = False
        self._first_lr, self._peak_lr = float(optimizer.param_groups[0]["lr"]), 0.0
        self.passes = {"forward": 0, "backward": 0}
        self.memory: dict[str, Any] = {}
        self.own_memory: dict[str, Any] = {}
        self.sharded = mesh_of(model) is not None
        self.kept = KeptWeights(self, weight_clip, average)
        self._at: Progress | None = None
        self.ranks = Processes.of(model)
        self.ranks.require_same_seed(seed, self.device)

    @property
    def task(self) -> Task:
        """What the network is for."""
        return self.objective.task

    @property
    def weights(self) -> WeightSpace:
        """The parameters that the optimizer trains, as it holds them now; they do not change within a step."""
        return self._trained.space if self._stepping or self._holding else self._trained.read()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of :attr:`weights`, in the optimizer's order."""
        return self.weights.parameters

    @property
    def names(self) -> list[str]:
        """The canonical names of :attr:`parameters`."""
        return self.weights.names

    def find_heads(self, batch: AnyBatch) -> None:
        """See, once, which matrices a pass looks up *and* multiplies by (:class:`~noiserobust.analog.heads.Head`)."""
        if not self._heads_found:
            self._heads_found = True
            self._find_heads(as_list(batch)[0])

    def _find_heads(self, batch: Batch) -> None:
        self._trained.find_heads(self.task.call, batch)

    @contextmanager
    def stepping(self, at: Progress | None = None) -> Iterator[None]:
        """Inside is one step of a rule: it begins with no gradients, and leaves none behind when it fails."""
        if self._stepping:  # the step of a rule inside another
            yield
            return
        self._begin(None if at is None else at.step)
        self._stepping, self._at = True, at
        try:
            yield
        except BaseException:
            self.take()  # half a gradient must not leak into the next step
            raise
        finally:
            self._stepping, self._at = False, None

    def remembered(self, vector: Vector) -> Vector:
        """``vector`` as it is kept in ``memory``: it stays right when layers are frozen, unfrozen or added."""
        return self._trained.remembered(vector)

    def recalled(self, vector: Vector) -> Vector:
        """What :meth:`remembered` gave, one tensor per parameter of now; ``None`` for those that were not there."""
        return self._trained.recalled(vector)

    def stream(self, *name: str | int) -> Stream:
        """The training randomness of that name."""
        return Stream(self.seed, "train", *name)

    @property
    def ranges(self) -> dict[str, Any]:
        """The ranges of converters that training has found, by layer, for ``Chips(ranges=)``."""
        return self.periphery.described

    @property
    def lr_share(self) -> float:
        """The learning rate in units of its peak: a scheduler's ``max_lr`` or ``initial_lr``, else the first rate; or,
        where rates have been larger than that, the largest of any step so far. Never above 1."""
        group = self.optimizer.param_groups[0]
        rate = float(group["lr"])
        peak = max(float(group.get("max_lr", group.get("initial_lr", self._first_lr))), self._peak_lr, rate)
        return rate / peak if peak else 0.0

    @property
    def loss_scale(self) -> float:
        """What gradients are multiplied by until :meth:`commit`."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

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
        """Add ``weight`` times the gradient of the mean loss at the present weights to the gradients held.

        ``batch`` may be a list of micro-batches: the mean is over all their samples. It weighs its
        :attr:`Batch.share`, so that ranks' parts of unequal size give the whole batch's gradient. With ``sync=False``
        ranks do not average (forward *and* backward run under ``no_sync``); with ``norm_stats=False`` normalisation
        statistics and counters stay as they were. ``wrt`` says which parameters the gradient is taken for (the rest of
        the backward pass is skipped; needs ``sync=False``), ``rows`` which samples of the whole batch.
        ``penalty(predictions, part, number)`` gives values that are added to the losses of micro-batch ``number``.
        """
        if not (self._stepping or self._holding):
            self._begin()
        whole = as_list(batch)
        micro = whole if rows is None else only_rows(whole, rows)
        inputs = None
        if wrt is not None:
            inputs = [p for p, wanted in zip(self.parameters, wrt, strict=True) if wanted and p.requires_grad]
        factor = weight * self.objective.share(whole, self.ranks, self.device) / self.objective.units(micro)
        outputs = []
        try:
            kept = nullcontext() if norm_stats else kept_norm_stats(self.model)
            converters = self.periphery.passing(self.stream(), self.ranks.rank, norm_stats, weight)
            with self._trained.alone(), kept, converters:
                for index, part in enumerate(micro):
                    # Ranks average once, with the last micro-batch.
                    with self._ranks_apart(apart=not sync or index < len(micro) - 1):
                        with self._autocast():
                            answer = self.objective.answer(self.model, part)
                            losses = answer.losses
                            if penalty is not None:
                                losses = losses + penalty(answer.predictions, part, index)
                            if answer.counts is not None:
                                losses = losses * answer.counts
                        self.passes["forward"] += 1
                        mean = losses.sum() * factor
                        mean = mean if self.scaler is None else self.scaler.scale(mean)
                        if inputs != []:  # else all that is wanted was frozen since
                            self._trained.backward(mean, inputs)
                            self.passes["backward"] += 1
                    outputs.append(answer.kept())
        except BaseException:
            self.take()  # half a gradient must not leak into the next step
            raise
        self._holding = True
        return joined(outputs)

    @torch.no_grad()
    def forward(self, batch: AnyBatch, twin: Mapping[str, Tensor] | None = None) -> Output:
        """Losses and logits without gradient, on this rank alone; normalisation statistics stay as they were.

        At the present weights and in the model's present mode; or, with the parameters and buffers of a ``twin`` by
        name, in eval mode. ``logits`` of any shape are kept of a single micro-batch.
        """
        model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        outputs = []
        if twin is not None:
            live = unwrap(model).state_dict(keep_vars=True)
            # A twin may be kept in more precision than the network computes in.
            twin = {name: value.to(live[name].dtype) if name in live else value for name, value in twin.items()}
        with ExitStack() as stack:
            stack.enter_context(kept_norm_stats(model) if twin is None else evaluating(model))
            stack.enter_context(self.periphery.passing(self.stream(), self.ranks.rank))
            for part in (micro := as_list(batch)):
                with self._autocast():
                    answer = self.objective.answer(model if twin is None else unwrap(model), part, twin)
                self.passes["forward"] += 1
                outputs.append(answer.kept() if len(micro) > 1 else replace(answer.kept(), logits=answer.predictions))
        return joined(outputs)

    def take(self, share: float | None = None) -> Vector:
        """The gradients held, one per parameter (``None`` where there is none); the engine holds none afterwards.

        They are dense; :meth:`put` makes those of sparse embeddings sparse again. Ranges of converters learn of their
        loss by its ``share`` in the step's, by default not at all if a pass follows.
        """
        self.periphery.hand_out(share)
        return self._lifted()

    def _lifted(self) -> Vector:
        self._holding = False
        return self._trained.lifted()

    def put(self, gradients: Vector, weight: float | Tensor = 1.0) -> None:
        """Add ``weight`` times ``gradients`` to those held. The tensors are the engine's from here on."""
        self._trained.add(self.parameters, gradients, weight)
        self._holding = True

    def average(self, gradients: Vector) -> Vector:
        """The mean of ``gradients`` over ranks, in their own memory."""
        return self.ranks.average(gradients, self.parameters)

    def perturbed(
        self, perturbation: Perturbation, *name: str | int, gradient: Vector | None = None
    ) -> AbstractContextManager[None]:
        """Inside, the weights are w + e of ``perturbation``; afterwards every bit of w is back.

        What is random in e is named by the engine's seed and ``name``. An e that follows the gradient is made of
        ``gradient``, which is used up: the list is empty afterwards.
        """
        return perturbation.moved(self.weights, [] if gradient is None else gradient, self.stream(*name))

    def moved(self, step: Vector) -> AbstractContextManager[None]:
        """Inside, the weights are w + ``step``, whatever that is; :meth:`WeightSpace.moved`, which empties the list."""
        return self.weights.moved(step)

    def commit(self) -> bool:
        """Unscale, clip and step once with the gradients held, then hold none; whether the scaler let it step."""
        scale, rate = self.loss_scale, float(self.optimizer.param_groups[0]["lr"])
        stepped = self._update()
        self.periphery.update(stepped, scale, rate, self.ranks)
        self.optimizer.zero_grad(set_to_none=True)
        self._holding = False
        if getattr(self.model, "broadcast_buffers", False):
            self.ranks.share_buffers(unwrap(self.model))
        if stepped:  # a skipped step, which lowers the scale, changes nothing else
            self.kept.after_step(self._at)
        return stepped

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beyond the states of model, optimizer and schedule (no copy, as torch's are)."""
        scaler = {} if self.scaler is None else self.scaler.state_dict()
        memories = {"memory": self.memory, "own_memory": self.own_memory}
        return {**memories, "scaler": scaler, "peak_lr": self._peak_lr, **self.periphery.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a copy of a state that :meth:`state_dict` gave."""
        self.memory, self.own_memory = (nests.copied_to(self.device, state[name]) for name in ("memory", "own_memory"))
        self._peak_lr = state.get("peak_lr", self._peak_lr)  # younger than the first states
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.periphery.load_state_dict(state)

    def _begin(self, step: int | None = None) -> None:
        """Read what is trained, and refuse gradients that this engine did not take."""
        self.kept.require_outside()
        self._require_own_loop()
        self._trained.read()
        self._trained.require_ready()
        self._peak_lr = max(self._peak_lr, float(self.optimizer.param_groups[0]["lr"]))
        self.objective.begin()
        self.periphery.begin(step)
        self._holding, self.device = False, device_of(self.model)

    def _require_own_loop(self) -> None:
        """Refuse an optimizer that would not step when it is told to."""
        require_own_loop(self.optimizer, self.scaler)

    def _update(self) -> bool:
        """Unscale, clip and step; whether the scaler let it step."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self._clip_gradients()
        if self.scaler is None:
            self.optimizer.step()
            return True
        scale = self.loss_scale
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.loss_scale >= scale

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        # An autocast around the whole step keeps casts of the weights until it ends: those of weights since moved.
        if torch.is_autocast_enabled(self.device.type):
            torch.clear_autocast_cache()
        with nullcontext() if self.precision is None else autocast(self.device, self.precision):
            yield

    def _clip_gradients(self) -> None:
        if self.clip_norm is not None:
            self._trained.clip(self.clip_norm)

    def _ranks_apart(self, apart: bool) -> AbstractContextManager[None]:
        model = self.model
        return model.no_sync() if apart and isinstance(model, DistributedDataParallel) else nullcontext()

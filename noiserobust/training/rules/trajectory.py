"""Sharpness-aware training for free: SAF against the network's own past, MESA against its average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.minima import Perturbation, Unperturbed
from noiserobust.models.wrappers import unwrap
from noiserobust.training.engine import Engine, Output, Penalty
from noiserobust.training.parts import as_list
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress, Schedule, strength_at

NEVER = -(2**30)
"""The epoch of what was never recorded: no run is that many epochs old."""


@dataclass(frozen=True)
class Trajectory(Method):
    """Rules that add ``lam tau^2 KL(softmax(past / tau) || softmax(logits / tau))`` to the loss of every sample.

    - ``lam``: weight of that term, a number or a schedule.
    - ``tau``: temperature. ``start``: epochs without the term (E_start).
    - ``scaling``: ``released`` as above, from the authors' code; ``paper`` as printed, without tau^2, 25 times weaker
      at tau 5.
    """

    every_step: ClassVar[bool] = True

    lam: float | Schedule = 0.3
    tau: float = 5.0
    start: int = 5
    scaling: Literal["released", "paper"] = "released"

    def __post_init__(self) -> None:
        if not isinstance(self.lam, Schedule) and not 0 <= self.lam < float("inf"):
            raise UserError(f"{self.name}: expected a finite lam >= 0, got {self.lam}")
        if not 0 < self.tau < float("inf"):
            raise UserError(f"{self.name}: expected a finite temperature tau > 0, got {self.tau}; 5 is usual")
        if self.start < 0:
            raise UserError(f"{self.name}: expected start >= 0 epochs, got {self.start}")
        if self.scaling not in ("released", "paper"):
            raise UserError(f"{self.name}: expected scaling released or paper, got {self.scaling!r}")

    def strength(self, progress: Progress) -> float:
        return strength_at(self.lam, progress) if progress.epoch >= self.start else 0.0

    def perturbation(self, progress: Progress, m: int) -> Perturbation:
        return Unperturbed(m)

    def require_epochs(self, progress: Progress) -> None:
        """Refuse a run in which the term would never be active: it would be plain training under another name."""
        if progress.epochs <= self.start:
            raise UserError(
                f"{self.name}: expected more than start={self.start} epochs, got {progress.epochs}: its term would "
                "never be active; lower start, or give epoch and epochs to Progress(step, steps, epoch, epochs)"
            )


@dataclass(frozen=True)
class SAF(Trajectory, name="saf"):
    r"""Loss + :math:`\lambda \tau^2 \mathrm{KL}(\hat y^{(e - \tilde E)} / \tau,\; f(x) / \tau)`, the past logits being
    those of the same sample ``back`` epochs ago.

    - ``lam``, ``tau``, ``start``: see :class:`Trajectory`; 10 epochs for a ResNet on ImageNet, 150 for a ViT.
    - ``scaling``: ``paper`` has lambda twice, as printed (Eq. 9 and Algorithm 1), and no tau^2.
    - ``back``: E~, how many epochs ago the logits were recorded.

    Logits are recorded in every epoch, as the training pass gave them; what is read at a step was recorded exactly
    ``back`` epochs before for that very sample (a sample that was not seen then has no term). The memory,
    back x samples x classes, is the same on every rank. Needs ``Engine(samples=..., classes=...)``, batches that
    carry their samples' indices and labels that are class numbers: mixup and cutmix mix samples, and a mixture has no
    past.

    Source: "Sharpness-Aware Training for Free", Eq. 9 and Algorithm 1.
    """

    example: ClassVar[str] = "saf:0.3"

    back: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.back < 1:
            raise UserError(f"saf: expected back >= 1 epochs, got {self.back}; 3 is usual")

    def remembered(self, engine: Engine) -> dict[str, Tensor]:
        """The memory, made when it is first asked for."""
        if self.name not in engine.memory:
            if engine.samples is None or engine.classes is None:
                raise UserError(
                    "saf: expected the size of the training data, got none; use Engine(..., samples=N, classes=C)"
                )
            shape = (self.back, engine.samples, engine.classes)
            dtype = torch.promote_types(engine.parameters[0].dtype, torch.float32)
            logits = torch.zeros(shape, dtype=dtype, device=engine.device)
            # When a slot was written, so that nothing is ever read but what was recorded exactly `back` epochs ago.
            epochs = torch.full(shape[:2], NEVER, dtype=torch.int32, device=engine.device)
            size = (logits.nbytes + epochs.nbytes) / 2**20
            print(f"saf: remembers {self.back} epochs x {shape[1]:,} samples x {shape[2]:,} classes: {size:.1f} MiB")
            engine.memory[self.name] = {"logits": logits, "epochs": epochs}
        return engine.memory[self.name]

    def prepare(self, engine: Engine) -> None:
        self.remembered(engine)

    def step(self, engine: Engine, batch: Batch | Sequence[Batch], progress: Progress) -> Output:
        memory, indices = self.remembered(engine), _indices(as_list(batch))
        self.require_epochs(progress)
        slot, lam = progress.epoch % self.back, self.strength(progress)
        term = None
        if lam:
            seen = memory["epochs"][slot, indices] == progress.epoch - self.back
            factor = lam**2 if self.scaling == "paper" else lam * self.tau**2
            past = memory["logits"][slot, indices]
            term = penalty(past, self.tau, factor * seen.to(past.dtype))
        out = engine.gradient(batch, penalty=term)
        engine.commit()
        # Read before write: one slot serves for both. Every rank records what all ranks saw.
        logits = engine.ranks.gather(out.logits.to(memory["logits"].dtype))
        written = engine.ranks.gather(indices)
        # An overflow is no past to compare with.
        sound = logits.isfinite().all(1)
        memory["logits"][slot, written] = torch.where(sound[:, None], logits, 0.0)
        memory["epochs"][slot, written] = torch.where(sound, progress.epoch, NEVER).to(torch.int32)
        return out


@dataclass(frozen=True)
class MESA(Trajectory, name="mesa"):
    r"""Loss + :math:`\lambda \tau^2 \mathrm{KL}(f_v(x) / \tau,\; f_w(x) / \tau)`, v being the weights' moving average
    :math:`v \leftarrow \beta v + (1 - \beta) w`.

    - ``lam``, ``tau``, ``start``, ``scaling``: see :class:`Trajectory`; lam 0.3 and beta 0.9998 on ImageNet.
    - ``beta``: decay of the average, in [0, 1).
    - ``update``: ``after`` the step, as released, or ``before`` the forward pass, as in Algorithm 1.

    The average starts at the initial weights and is kept up from the first step on; the network with it runs in eval
    mode, its buffers being averaged too, and only after ``start`` epochs.

    Source: "Sharpness-Aware Training for Free", Eq. 10 and 13, Algorithm 1.
    """

    example: ClassVar[str] = "mesa:0.8"

    lam: float | Schedule = 0.8
    beta: float = 0.9995
    update: Literal["after", "before"] = "after"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < 1:
            raise UserError(f"mesa: expected beta in [0, 1), got {self.beta}; 0.9995 is usual")
        if self.update not in ("after", "before"):
            raise UserError(f"mesa: expected update after or before, got {self.update!r}")

    def prepare(self, engine: Engine) -> None:
        self.average(engine)

    def average(self, engine: Engine) -> dict[str, Tensor]:
        """v and the averaged buffers by name: the network's own when it is first asked for."""
        if self.name not in engine.memory:
            engine.memory[self.name] = {name: _precise(value).clone() for name, value in _tensors(engine).items()}
        return engine.memory[self.name]

    def step(self, engine: Engine, batch: Batch | Sequence[Batch], progress: Progress) -> Output:
        self.require_epochs(progress)
        average, lam = self.average(engine), self.strength(progress)
        if self.update == "before":
            # In copies, so that a step that fails leaves no trace.
            parameters = dict(unwrap(engine.model).named_parameters())
            average = average | {name: average[name].clone() for name in parameters}
            self._follow(average, parameters)
        term = None
        if lam:
            targets = engine.forward(batch, twin=average).logits
            factor = lam if self.scaling == "paper" else lam * self.tau**2
            dtype = torch.promote_types(targets.dtype, torch.float32)
            term = penalty(targets, self.tau, targets.new_full(targets.shape[:1], factor, dtype=dtype))
        out = engine.gradient(batch, penalty=term)
        engine.commit()
        # Buffers follow after the step in either case: before the next one they are the same.
        if self.update == "after":
            self._follow(average, _tensors(engine))
        else:
            self._follow(average, dict(unwrap(engine.model).named_buffers()))
            engine.memory[self.name] = average
        return out

    @torch.no_grad()
    def _follow(self, average: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
        """Move ``average`` a step towards ``values``."""
        for name, value in values.items():
            if value.is_floating_point():
                average[name].lerp_(_precise(value.detach()), 1 - self.beta)
            else:
                average[name].copy_(value)  # counters are taken as they are

    def cost(self, progress: Progress) -> tuple[float, float]:
        return (2.0, 1.0) if self.strength(progress) else (1.0, 1.0)


def penalty(past: Tensor, tau: float, factors: Tensor) -> Penalty:
    """``factor KL(softmax(past / tau) || softmax(logits / tau))`` per sample, in float32 or better.

    A sample with factor 0 has none, whatever its ``past``.
    """

    def term(logits: Tensor, span: slice) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        now, then = (log_softmax(side.to(dtype) / tau, 1) for side in (logits, past[span]))
        return factors[span].to(dtype) * (then.exp() * (then - now)).sum(1)

    return term


def _tensors(engine: Engine) -> dict[str, Tensor]:
    model = unwrap(engine.model)
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}


def _precise(value: Tensor) -> Tensor:
    """In float32 or better: in bfloat16 a step of 1 - beta of the way would be rounded away."""
    return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value


def _indices(parts: list[Batch]) -> Tensor:
    """The samples' indices, after a look at whether these are samples at all."""
    found = []
    for part in parts:
        if part.labels.dim() != 1 or part.labels.is_floating_point():
            raise UserError(
                f"saf: expected one class number per sample, got labels {tuple(part.labels.shape)} "
                f"{part.labels.dtype}: mixup and cutmix leave no past to compare with; use mesa"
            )
        if part.indices is None:
            raise UserError("saf: expected a batch with its samples' indices, got none; use Batch(x, y, indices)")
        found.append(part.indices)
    return torch.cat(found)

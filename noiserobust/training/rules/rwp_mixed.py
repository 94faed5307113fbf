"""Filter-wise random weight perturbation, mixed with the clean gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from noiserobust.errors import UserError
from noiserobust.minima import Filters
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch, as_list, previous
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress, Schedule, check_strength, strength_at


@dataclass(frozen=True)
class MixedRWP(Method, name="rwp-mixed"):
    r"""A mixture of the clean gradient and one at weights under filter-wise Gaussian noise.

    The step is :math:`\alpha\, \nabla L_1(w) + (1 - \alpha) \nabla L_2(w + e)`.

    e is drawn filter by filter (output channels k): :math:`e_k \sim N(0, (\gamma \lVert w_k \rVert_2)^2)`.

    - ``gamma``: size of the noise, a number or a schedule, such as ``cosine(0.02)``; 0.01 on CIFAR, 0.005 on ImageNet,
      0.001 for a ViT. It perturbs every parameter; one of a single dimension is one filter.
    - ``alpha``: weight of the *clean* gradient.
    - ``batches``: the batch of the noisy gradient is a ``different`` one, that of the step before (the first step takes
      one batch for both), or the ``same``.
    - ``parallel``: under DDP the first ranks take the clean gradient and the others the noisy one, each of its own
      batch: one forward-backward of wall time. Each rank's mean loss is weighted so that the average over ranks is
      exactly alpha times the mean over all clean samples plus 1 - alpha times the mean over all noisy ones.
    - ``clean_ranks``: how many ranks are clean (default: half, rounded down).

    All noisy ranks share one e, named by the step. Normalisation statistics learn from the clean pass; with parallel
    halves every rank takes them from rank 0, a clean one.

    Cost: two forward and two backward passes; with parallel halves one of each on every rank.
    Source: Li et al., "Efficient Generalization Improvement Guided by Random Weight Perturbation" (arXiv 2211.11489),
    Eq. 4, section 3.2 and Algorithm 1 (its "N(0, gamma ||w_k||)" read as a standard deviation, as its code does).
    """

    example: ClassVar[str] = "rwp-mixed:cosine(0.01)"

    gamma: float | Schedule = 0.01
    alpha: float = 0.5
    batches: Literal["different", "same"] = "different"
    parallel: bool = False
    clean_ranks: int | None = None

    def __post_init__(self) -> None:
        check_strength(self.name, "gamma", self.gamma)
        if not 0 <= self.alpha <= 1:
            raise UserError(f"rwp-mixed: expected alpha in [0, 1], got {self.alpha}; it weighs the clean gradient")
        if self.parallel and self.batches == "same":
            raise UserError("rwp-mixed: expected batches=different with parallel: each rank has a batch of its own")
        if self.clean_ranks is not None and not (self.parallel and self.clean_ranks >= 1):
            raise UserError(f"rwp-mixed: expected clean_ranks >= 1 with parallel=true, got {self.clean_ranks}")

    def perturbation(self, progress: Progress) -> Filters:
        return Filters(strength_at(self.gamma, progress), draws=1)

    @property
    def passes(self) -> tuple[float, float]:
        return (1.0, 1.0) if self.parallel else (2.0, 2.0)

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Filters) -> Output:
        if self.parallel:
            return self._half(engine, batch, progress, perturbation)
        other = previous(engine.own_memory, self.name, batch) if self.batches == "different" else batch
        out = engine.gradient(batch, weight=self.alpha, sync=False)
        with engine.perturbed(perturbation, "filters", progress.step):
            engine.gradient(other, weight=1 - self.alpha, norm_stats=False)
        engine.commit()
        return out

    def _half(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Filters) -> Output:
        """This rank's share of the step: clean or noisy."""
        ranks = engine.ranks
        clean = ranks.count // 2 if self.clean_ranks is None else self.clean_ranks
        if not 0 < clean < ranks.count:
            raise UserError(
                f"rwp-mixed: expected clean and noisy ranks for parallel halves, got {clean} clean of {ranks.count}; "
                "start 2 or more processes with torchrun and DDP, or leave parallel out"
            )
        if any(isinstance(module, nn.SyncBatchNorm) for module in engine.model.modules()):
            raise UserError(
                "rwp-mixed: expected batch norm per rank, got SyncBatchNorm: it would normalise clean activations with "
                "noisy ones; leave out convert_sync_batchnorm, or parallel"
            )
        size = sum(len(part) for part in as_list(batch))
        sizes = ranks.gather_numbers(size, engine.device)
        is_clean = ranks.rank < clean
        share, half = (self.alpha, sizes[:clean]) if is_clean else (1 - self.alpha, sizes[clean:])
        # DDP divides by the number of ranks; what is left is share * (this rank's samples / its half's samples).
        weight = ranks.count * share * size / sum(half) / as_list(batch)[0].share
        if is_clean:
            out = engine.gradient(batch, weight=weight)
        else:
            with engine.perturbed(perturbation, "filters", progress.step):
                out = engine.gradient(batch, weight=weight, norm_stats=False)
        engine.commit()
        ranks.share_buffers(engine.model)
        return out

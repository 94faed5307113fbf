"""Sparse sharpness-aware minimisation."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from noiserobust.analog.vectors import Vector, multiply, precise
from noiserobust.errors import UserError
from noiserobust.minima import Ascent
from noiserobust.minima.subset import count_of
from noiserobust.training.engine import Engine
from noiserobust.training.rules.sam import Climbing


@dataclass(frozen=True)
class SSAM(Climbing, name="ssam"):
    r"""SAM that perturbs only the weights that a mask keeps.

    The ascent step is :math:`e = \rho\, m \odot g / \lVert g \rVert_2`, m being the mask.

    - ``rho``, ``perturb``, ``sync``: see :class:`Climbing`. The norm is the whole gradient's.
    - ``fraction``: share of all perturbable elements that the mask keeps, max(1, floor(fraction n)) of n.
    - ``mask``: ``fisher`` keeps those with the largest Fisher information, here the squared gradient of the batch at
      which the mask is made (averaged over ranks); ``random`` keeps a random choice named by the seed.
    - ``every``: steps between new masks (inside RST, of the steps that the coin chooses).

    Cost: two forward and two backward passes.
    Source: Mi et al., "Make Sharpness-Aware Minimization Stronger: A Sparsified Perturbation Approach" (arXiv
    2210.05177), Eq. 6 and Algorithm 1 (whose Fisher information sums single samples' squared gradients, an extra
    pass per sample).
    """

    example: ClassVar[str] = "ssam:0.1,fraction=0.5"

    fraction: float = 0.5
    mask: Literal["fisher", "random"] = "fisher"
    every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise UserError(f"ssam: expected fraction in (0, 1], got {self.fraction}; it is the share perturbed")
        if self.every < 1:
            raise UserError(f"ssam: expected every >= 1 steps between masks, got {self.every}")

    @property
    def visitable(self) -> bool:
        return False  # the mask is the run's

    def climb(self, engine: Engine, gradient: Vector, perturbation: Ascent) -> AbstractContextManager[None]:
        chosen = engine.weights.only(gradient, self.perturb)
        gradient.clear()
        masks = self._masks(engine, chosen)
        return engine.moved(multiply(perturbation.step(engine.weights, chosen, engine.stream()), masks))

    def _masks(self, engine: Engine, gradient: Vector) -> Vector:
        """The present masks, made anew at every :attr:`every`-th call."""
        memory = engine.memory.get(self.name, {"calls": 0, "masks": []})
        masks, kept, known = engine.recalled(memory["masks"]), memory["masks"], True
        unmasked = any(g is not None and mask is None for g, mask in zip(gradient, masks, strict=True))
        if memory["calls"] % self.every == 0 or unmasked:  # unfrozen since the masks were made
            scores = self._scores(engine, gradient, memory["calls"] // self.every)
            masks = _largest(scores, self.fraction)
            kept = engine.remembered(masks)
            # A mask made of an overflow would outlive it: that step is skipped, and the next one makes a new mask.
            known = all(bool(score.isfinite().all()) for score in scores if score is not None)
        if known:
            engine.memory[self.name] = {"calls": memory["calls"] + 1, "masks": kept}
        return masks

    def _scores(self, engine: Engine, gradient: Vector, renewal: int) -> Vector:
        if self.mask == "fisher":
            # Averaged, so that every rank keeps the same mask and any rank's state resumes all of them.
            return engine.average([None if g is None else g.square() for g in precise(gradient)])
        return [
            None if g is None else engine.stream("mask", renewal, index).uniform(g.shape, device=g.device)
            for index, g in enumerate(gradient)
        ]


def _largest(scores: Vector, fraction: float) -> Vector:
    """Masks that keep exactly the share of largest scores over all tensors."""
    flat = torch.cat([score.reshape(-1) for score in scores if score is not None])
    keep = torch.zeros_like(flat, dtype=torch.bool)
    keep[flat.topk(count_of(fraction, flat.numel()), sorted=False).indices] = True
    pieces = iter(keep.split([score.numel() for score in scores if score is not None]))
    return [None if score is None else next(pieces).view(score.shape) for score in scores]

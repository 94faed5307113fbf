"""LookSAM: climb every k-th step, and in between re-use what the climb had changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from noiserobust.analog.vectors import Vector, add, along, clones, divisor, norm, precise, scale
from noiserobust.errors import UserError
from noiserobust.minima import Ascent
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch
from noiserobust.training.rules.sam import Climbing, check_m, climbed_apart
from noiserobust.training.schedules import Progress


@dataclass(frozen=True)
class LookSAM(Climbing, name="looksam"):
    r"""SAM at every k-th step only; the steps in between re-use what it changed about the gradient.

    The k-th step keeps :math:`g_v = g_p - \mathrm{proj}_g\, g_p`; in between the step is
    :math:`g + \alpha (\lVert g \rVert / \lVert g_v \rVert)\, g_v`.

    - ``rho``, ``perturb``, ``sync``: see :class:`Climbing`. :math:`g_v` is made of gradients averaged over ranks.
    - ``alpha``: size of the re-used part in units of the clean gradient.
    - ``k``: steps from one climb to the next (inside RST, of the steps that the coin chooses).
    - ``layerwise``: every tensor takes its own projection and norms; by default they are those of all tensors at once.
    - ``m``: at a climb every m samples climb their own gradient, as in :class:`SAM`; :math:`g_v` is made of the means.

    Cost: two forward and two backward passes at a climb, one of each in between: 1 + 1/k of plain training's.
    Source: Liu et al., "Towards Efficient and Scalable Sharpness-Aware Minimization" (arXiv 2203.02714), Eq. 7 and
    Algorithm 1.
    """

    example: ClassVar[str] = "looksam:0.1,k=5"

    alpha: float = 0.7
    k: int = 5
    layerwise: bool = False
    m: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_m("looksam", self.m)
        if self.k < 1:
            raise UserError(f"looksam: expected k >= 1 steps from climb to climb, got {self.k}; 5 is usual")
        if not 0 <= self.alpha < float("inf"):
            raise UserError(f"looksam: expected a finite alpha >= 0, got {self.alpha}; 0.7 is usual")

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Ascent) -> Output:
        memory = engine.memory.get(self.name, {"calls": 0, "direction": []})
        climbs = memory["calls"] % self.k == 0
        if climbs:
            out, direction = self._climb(engine, batch, perturbation)
        else:
            out, direction = engine.gradient(batch), engine.recalled(memory["direction"])
            gradients = precise(engine.take())
            for part, axis in self._parts(gradients, direction):
                part[:] = add(part, axis, self.alpha * norm(part) / divisor(axis))
            engine.put(gradients)
        # What an overflow left is not re-used: that step is skipped, and the next one climbs again.
        if engine.commit() or not climbs:
            kept = engine.remembered(direction) if climbs else memory["direction"]
            engine.memory[self.name] = {"calls": memory["calls"] + 1, "direction": kept}
        return out

    def _climb(self, engine: Engine, batch: AnyBatch, perturbation: Ascent) -> tuple[Output, Vector]:
        """One step of SAM without its commit, and the g_v it leaves."""
        gradients: Vector = []

        def gradient(part: AnyBatch, weight: float | Tensor) -> Output:
            nonlocal gradients
            out = engine.gradient(part, sync=self.sync)
            own = precise(engine.take())
            with engine.perturbed(perturbation, gradient=clones(own)):
                engine.gradient(part, norm_stats=False, weight=weight)
            own = own if self.m is None else scale(own, weight)
            gradients = add(gradients, own) if gradients else own
            return out

        out = climbed_apart(engine, batch, self.m, gradient)
        clean = gradients if self.sync else engine.average(gradients)
        perturbed = precise(engine.take())
        direction = clones(perturbed)
        for part, axis in self._parts(direction, clean):
            part[:] = add(part, axis, -along(part, axis))
        engine.put(perturbed)
        return out, direction

    def _parts(self, gradients: Vector, others: Vector) -> list[tuple[Vector, Vector]]:
        """All tensors that both have, as one part or each as its own; they are the tensors themselves, not copies."""
        pairs: list[tuple[Tensor | None, Tensor | None]] = [
            (g, o) for g, o in zip(gradients, others, strict=True) if g is not None and o is not None
        ]
        if self.layerwise or not pairs:
            return [([g], [o]) for g, o in pairs]
        return [([g for g, _ in pairs], [o for _, o in pairs])]

    def cost(self, progress: Progress) -> tuple[float, float]:
        # Climbs are counted by the steps the rule itself took: exact when its strength is never 0 and no coin skips it.
        return super().cost(progress) if progress.step % self.k == 0 else (1.0, 1.0)

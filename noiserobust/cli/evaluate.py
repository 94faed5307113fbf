"""``noiserobust evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from noiserobust.cli.flags import Groups
from noiserobust.cli.options import RARE, OnChips, swept
from noiserobust.cli.output import Part
from noiserobust.errors import UserError


@dataclass(frozen=True)
class Evaluate(OnChips):
    """Evaluate trained networks under weight noise: one row per network, noise and draw, and the table of their
    summary."""

    study = "evaluation"
    examples = (
        "noiserobust evaluate runs --noise gaussian:1 --strengths 0 0.05 0.1",
        "noiserobust evaluate runs --noise pcm --times 25s 1d 1y --compensation global",
    )
    rare: ClassVar[Groups] = {
        "to a precision": ("precision_target", "by_bf16", "max_images", "noise_std_draws"),
        **RARE,
        "metrics": ("metrics",),
    }

    noise: tuple[str, ...] = ("gaussian:0.05",)
    """Weight noise, such as gaussian:0.05 (sigma) or gaussian:0.1,reference=layer."""
    strengths: tuple[float, ...] = ()
    """Every noise at each of these strengths in place of its own: of gaussian:1 at 0.1 the sigma is 0.1."""
    precision_target: float | None = None
    """Accuracy to ± this many points at 95 %, per network and noise, instead of a number of draws."""
    by_bf16: bool = False
    """Most answers in bf16, some again in fp32, which corrects the first: fp32's accuracy sooner."""
    max_images: int = 1_000_000
    """Images' forward passes after which a network and noise is given up."""
    noise_std_draws: int = 0
    """Draws of a fixed design that measures the noise's standard deviation too, such as 150."""
    metrics: tuple[str, ...] = ()
    """Further metrics, such as perplexity, top5, or package.module:function of all logits and labels."""
    dry_run: bool = False
    """Only say about how long it takes."""

    def run(self) -> Iterator[Part]:
        from noiserobust.evaluation import Target, evaluate

        target = None
        if self.precision_target is not None:
            given = {name: getattr(self, name) for name in ("max_images", "noise_std_draws", "by_bf16")}
            target = Target(self.precision_target, **given)
        elif self.by_bf16:
            raise UserError("expected --precision-target beside --by-bf16; of a number of draws choose --precision")
        elif self.noise_std_draws:
            raise UserError("expected --precision-target beside --noise-std-draws; whole passes give it anyway")
        if self.dry_run:
            yield self._planned()
            return
        result = evaluate(
            noises=swept(self.noise, self.strengths), precision_target=target, metrics=self.metrics, **self.options()
        )
        digital: dict[str, list[str]] = {}
        for name, reason in {pair for missing in result.uncovered.values() for pair in missing.items()}:
            digital.setdefault(reason, []).append(name)
        coverage = {name: found.summary for name, found in result.coverage.items()}
        notes = [f"coverage: {line}" for line in dict.fromkeys(coverage.values())]
        notes += [f"without converters: {', '.join(sorted(names))}: {reason}" for reason, names in digital.items()]
        for what, lines in {"backend": result.conversion, "ranges": result.ranges}.items():
            notes += [f"{what}: {line}" for line in filter(None, dict.fromkeys(lines.values()))]
        shown = self.show(result)
        about = {"coverage": coverage, "backend": result.conversion, "ranges": result.ranges}
        yield Part(shown.text, [*shown.notes, *notes], {**shown.values, **about})

    def _planned(self) -> Part:
        """About how long it takes: a few draws of the first network are timed."""
        from noiserobust.evaluation.estimates import expected_seconds
        from noiserobust.report.durations import spoken

        if self.precision_target is not None:
            raise UserError("expected a number of draws to time, got --precision-target, which finds it; leave it out")
        seconds = expected_seconds(noises=swept(self.noise, self.strengths), **self.options())
        known = f", less what {self.rows} holds already" if self.rows.is_file() else ""
        return Part(f"about {spoken(seconds)}{known}", values={"seconds": seconds})

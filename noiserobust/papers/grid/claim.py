"""What a paper claims, as differences that must be positive: measured with intervals, and a verdict that follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.finished import missing
from noiserobust.papers.grid.quantity import Logged, Quantity, table
from noiserobust.papers.grid.scale import Grid, Scale
from noiserobust.papers.grid.step_time import StepTime
from noiserobust.report.table import as_markdown
from noiserobust.storage.rows import read_rows
from noiserobust.sweep import Piece
from noiserobust.training import TrainSettings

CONFIDENCE = 0.95
POWER = 0.8
MOST = 50  # trained copies of a run that are looked for


@dataclass(frozen=True)
class Contrast:
    """The claim that ``a - b`` is positive; with ``within`` that it lies between minus and plus that.

    The two are compared copy by copy (the same seeds, and the same noise draws, of which a copy's value is the mean).
    ``published`` is the difference that the paper prints, if any.
    """

    says: str
    a: Quantity
    b: Quantity | None = None
    within: float | None = None
    published: float | None = None
    unit: str = "points"

    def pieces(self, bench: Bench) -> list[Piece]:
        return [piece for quantity in (self.a, self.b) if quantity is not None for piece in quantity.pieces(bench)]

    def measured(self, bench: Bench, confidence: float) -> Measured:
        """The difference with its two-sided t interval over trained copies."""
        a = _copies(self.a, bench)
        differences = (a if self.b is None else a - _copies(self.b, bench)).dropna().to_numpy()
        n, mean = len(differences), float(differences.mean())
        if n < 2:
            return Measured(self, n, mean, math.nan, math.nan, math.nan, confidence)
        std = float(differences.std(ddof=1))
        half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * std / math.sqrt(n)
        return Measured(self, n, mean, mean - half, mean + half, std, confidence)


@dataclass(frozen=True)
class Cost:
    """The claim that a step of ``run`` costs at most ``at_most`` plain steps, by the upper quartile of paired times."""

    says: str
    run: TrainSettings
    at_most: float
    published: float | None = None
    unit: str = "plain steps"
    timed: type[StepTime] = StepTime

    def _piece(self, bench: Bench) -> StepTime:
        return self.timed(bench.training(self.run, 0), bench.pieces)

    def pieces(self, bench: Bench) -> list[Piece]:
        return [self._piece(bench)]

    def measured(self, bench: Bench, confidence: float) -> Measured:
        """The median ratio with its quartiles."""
        line = read_rows(self._piece(bench).result).iloc[0]
        return Measured(self, 1, float(line["value"]), float(line["low"]), float(line["high"]), math.nan, confidence)


@dataclass(frozen=True)
class Measured:
    """A measured difference: mean, interval (of that confidence) and standard deviation over ``n`` trained copies."""

    of: Contrast | Cost
    n: int
    mean: float
    low: float
    high: float
    std: float
    confidence: float = CONFIDENCE

    @property
    def verdict(self) -> str:
        """``yes`` or ``no`` where the interval says so, else ``open``."""
        if isinstance(self.of, Cost):
            return "yes" if self.high <= self.of.at_most else "no" if self.low > self.of.at_most else "open"
        if math.isnan(self.low):
            return "open"
        within = self.of.within
        if within is None:
            return "yes" if self.low > 0 else "no" if self.high < 0 else "open"
        if -within < self.low and self.high < within:
            return "yes"
        return "no" if self.low > within or self.high < -within else "open"

    @property
    def detectable(self) -> float:
        """The smallest true difference that so many copies would have shown with a power of 80 %."""
        return _factor(self.n, self.confidence, POWER) * self.std if self.n > 1 else math.nan

    @property
    def needed(self) -> float:
        """Copies that would show the published difference (or the measured one, if it is on the claimed side) with a
        power of 80 %; of two that shall be equal, that they are, if they differ as measured. ``inf``: none would."""
        target, power = abs(self.of.published) if self.of.published else self.mean, POWER
        if isinstance(self.of, Contrast) and self.of.within is not None:
            # Two bounds have to be kept, each with half of the risk.
            target, power = self.of.within - abs(self.mean), 1 - (1 - POWER) / 2
        if not target > 0 or math.isnan(self.std):
            return math.inf
        return next((n for n in range(2, 2000) if _factor(n, self.confidence, power) * self.std <= target), math.inf)


Contrasts = Callable[[Grid], Sequence[Contrast | Cost]]


@dataclass(frozen=True)
class Claim:
    """What a paper claims, in our words, and what must then be seen; it holds when all of that is."""

    paper: str
    says: str
    source: str
    contrasts: Contrasts

    def pieces(self, grid: Grid, bench: Bench) -> list[Piece]:
        """Everything that it rests on."""
        return [piece for one in self.contrasts(grid) for piece in one.pieces(bench)]

    def copies(self, grid: Grid, bench: Bench) -> int:
        """How many trained copies of all its runs are computed, from those of ``bench`` on; 0 if those are not."""
        count = bench.scale.seeds
        while not missing(self.pieces(grid, bench.with_seeds(count))):
            count += 1
            if count > MOST:
                break
        return count - 1 if count > bench.scale.seeds else 0

    def judged(self, grid: Grid, bench: Bench) -> Judgement:
        """The claim's differences; their intervals hold together with 95 % (Bonferroni)."""
        contrasts = self.contrasts(grid)
        confidence = 1 - (1 - CONFIDENCE) / max(1, sum(isinstance(one, Contrast) for one in contrasts))
        return Judgement(self, tuple(one.measured(bench, confidence) for one in contrasts))


@dataclass(frozen=True)
class Judgement:
    """A claim with what was measured."""

    claim: Claim
    measured: tuple[Measured, ...]

    @property
    def verdict(self) -> str:
        verdicts = {one.verdict for one in self.measured}
        return "does not hold here" if "no" in verdicts else "cannot tell" if "open" in verdicts else "holds"

    def lines(self) -> list[str]:
        """One line per difference, in words."""
        return list(map(_line, self.measured))


@dataclass(frozen=True)
class Change(Logged):
    """The last value of a logged column minus that at ``since`` of all epochs."""

    since: float = 1 / 3
    falls: bool = False
    """How much it falls instead."""

    def values(self, bench: Bench) -> pd.DataFrame:
        lines = super().values(bench)
        logs = [lines[lines["replicate"] == seed].set_index("epoch")["value"] for seed in bench.seeds]
        # Where some epochs alone are measured: the nearest of them.
        near = [np.abs(log.index - self.since * log.index[-1]).argmin() for log in logs]
        changes = np.array([log.iloc[-1] - log.iloc[place] for log, place in zip(logs, near, strict=True)])
        return table(bench.seeds, 0, np.nan, -changes if self.falls else changes)


@dataclass(frozen=True)
class OverEpochs(Logged):
    """The mean of a logged column over all epochs."""

    def values(self, bench: Bench) -> pd.DataFrame:
        means = super().values(bench).groupby("replicate", as_index=False)["value"].mean()
        return means.assign(draw=0, x=np.nan)


def claims_text(judged: Sequence[Judgement], open_claims: Sequence[Claim], scale: Scale) -> str:
    """The judgements at one scale as Markdown: a summary, then every claim with its differences."""
    lines = [f"## Scale {scale.name}", "\n".join(f"- {line}" for line in scale.says)]
    summary = [["paper", "claim", "verdict"]]
    summary += [[one.claim.paper, f"{one.claim.says} ({one.claim.source})", one.verdict] for one in judged]
    lines.append(as_markdown(summary))
    for one in judged:
        lines.append(f"**{one.claim.paper}: {one.claim.says}** — {one.verdict}")
        lines.append("\n".join(f"- {line}" for line in one.lines()))
    if open_claims:
        missing = "; ".join(f"{claim.paper}: {claim.says}" for claim in open_claims)
        lines.append(f"Not computed at this scale: {missing}.")
    return "\n\n".join(lines)


def _copies(quantity: Quantity, bench: Bench) -> pd.Series:
    return quantity.values(bench).groupby("replicate")["value"].mean()


def _factor(n: int, confidence: float, power: float) -> float:
    """Detectable difference in units of the standard deviation of differences: (t + t_power) / sqrt(n)."""
    t = stats.t(n - 1)
    return float(t.ppf(0.5 + confidence / 2) + t.ppf(power)) / math.sqrt(n)


def _line(measured: Measured) -> str:
    of = measured.of
    digits = 2 if of.unit in ("points", "plain steps") else 3
    number = f"{measured.mean:+.{digits}f}" if isinstance(of, Contrast) else f"{measured.mean:.{digits}f}"
    interval = f"[{measured.low:.{digits}f}, {measured.high:.{digits}f}]"
    interval += f", {measured.n} copies" if isinstance(of, Contrast) else ""
    what = f"{of.says}: {number} {of.unit} {interval}"
    if isinstance(of, Cost):
        what += f" (median and quartiles of paired steps; at most {of.at_most:g} expected)"
    elif of.within is not None:
        what += f" (equal within {of.within:g}?)"
    if of.published is not None:
        what += f"; published {of.published:{f'+.{digits}f' if isinstance(of, Contrast) else 'g'}}"
    what += {"yes": " — as claimed", "no": " — the other way", "open": " — open"}[measured.verdict]
    if measured.verdict == "open" and isinstance(of, Contrast) and not math.isnan(measured.std):
        what += ": " + _could_have_been_seen(measured, of, digits)
    return what


def _could_have_been_seen(measured: Measured, of: Contrast, digits: int) -> str:
    copies = f"{measured.needed:g} copies" if measured.needed < math.inf else "more than 2,000 copies"
    if of.within is not None:
        if abs(measured.mean) >= of.within:
            return "no number of copies would show them equal, if they differ as measured"
        return f"{copies} would show them equal (power 80 %), if they differ as measured"
    seen = f"so many would have shown {measured.detectable:.{digits}f} (power 80 %)"
    if of.published is None and measured.mean <= 0:
        return f"{seen}; the measured difference is on the other side"
    return f"{seen}; {copies} would show {'the published difference' if of.published else 'this one'}"

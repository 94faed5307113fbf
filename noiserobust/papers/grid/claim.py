"""What a paper claims, as differences that must be positive: measured with intervals, and a verdict that follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, stats

from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.finished import complete
from noiserobust.papers.grid.quantity import Logged, Quantity, table
from noiserobust.papers.grid.scale import Grid
from noiserobust.sweep import Piece

CONFIDENCE = 0.95
POWER = 0.8
MOST = 20
"""Trained copies of a run that are looked for."""
STEPS = Path(__file__).parent.parent / "full_width_steps.csv"
"""Steps of ResNet-18 at its full width in units of plain ones, from the rows of docs/speed.md."""


@dataclass(frozen=True)
class Contrast:
    """The claim that ``a - b`` is positive; with ``within`` that it lies between minus and plus that.

    The two are compared copy by copy (the same seeds, and the same noise draws, of which a copy's value is the mean).
    ``published`` is the difference that the paper prints, if any. That two are equal within a margin says something
    only where there is more than the margin to lose: ``lost`` is the difference that would be gone if one of them
    did nothing (of "as good as SAM": SAM's gain), which must be shown to exceed it.
    """

    says: str
    a: Quantity
    b: Quantity | None = None
    within: float | None = None
    published: float | None = None
    unit: str = "points"
    lost: Contrast | None = None

    def pieces(self, bench: Bench) -> list[Piece]:
        own = [piece for quantity in (self.a, self.b) if quantity is not None for piece in quantity.pieces(bench)]
        return own + (self.lost.pieces(bench) if self.lost else [])

    def values(self, bench: Bench) -> pd.DataFrame:
        """Both sides, a line per copy (without ``b``: 0)."""
        a = _copies(self.a, bench)
        b = pd.Series(0.0, a.index) if self.b is None else _copies(self.b, bench)
        return pd.DataFrame({"a": a, "b": b}).dropna()

    def measured(self, bench: Bench, parts: int = 1) -> Measured:
        """The difference over trained copies, one of so many ``parts`` of a claim."""
        values = self.values(bench)
        differences = (values["a"] - values["b"]).to_numpy()
        n = len(differences)
        std = float(differences.std(ddof=1)) if n > 1 else math.nan
        if std <= 1e-12 * float(values.abs().to_numpy().max(initial=0.0)):  # 80.4 - 80.2 is not quite 70.4 - 70.2
            std = 0.0
        # A choice that is the very run which it is compared with: no difference was measured.
        same = self.b is not None and n > 1 and not differences.any()
        lost = None if self.lost is None else self.lost.measured(bench)
        return Measured(self, n, float(differences.mean()), std, parts, same, lost)


@dataclass(frozen=True)
class Cost:
    """The claim that a step costs at most ``at_most`` plain steps, judged at full width: by the quartiles of paired
    steps of ResNet-18 (docs/speed.md), whatever the scale. ``rule``: its row there."""

    says: str
    rule: str
    at_most: float
    published: float | None = None
    unit: str = "plain steps"

    def pieces(self, bench: Bench) -> list[Piece]:
        return []

    def measured(self, bench: Bench, parts: int = 1) -> Measured:
        """The median ratio with its quartiles; NaN of a rule that was not timed."""
        timed = pd.read_csv(STEPS).set_index("rule").astype(float).to_dict("index")
        if self.rule not in timed:
            return Measured(self, 0, math.nan, math.nan, parts)
        line = timed[self.rule]
        ends = (line["low"], line["high"])
        return Measured(self, int(line["rounds"]), line["ratio"], math.nan, parts, quartiles=ends)


@dataclass(frozen=True)
class Measured:
    """A measured difference: mean and standard deviation over ``n`` trained copies, and what follows.

    Tests are two-sided t tests of the mean; an interval and its test say the same. Copies that all differ by the same
    are no test: two or three differences of coarse values (percent of few images) are equal by chance, and a spread of
    0 would make anything certain.
    """

    of: Contrast | Cost
    n: int
    mean: float
    std: float
    parts: int = 1
    same: bool = False
    """Whether a choice was compared with itself."""
    lost: Measured | None = None
    quartiles: tuple[float, float] | None = None

    @property
    def low(self) -> float:
        """The interval's lower end (95 %; of a cost the lower quartile)."""
        return self.quartiles[0] if self.quartiles else self.mean - self._half

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.quartiles[1] if self.quartiles else self.mean + self._half

    @property
    def _half(self) -> float:
        return _critical(self.n) * self.std / math.sqrt(self.n) if self.tested else math.nan

    @property
    def tested(self) -> bool:
        """Whether there is a spread over copies to test by."""
        return self.n > 1 and self.std > 0

    def _beyond(self, bound: float) -> float:
        """Two-sided p of the mean's being ``bound`` or less, where it is more."""
        if not self.tested:
            return 1.0
        t = (self.mean - bound) / self.std * math.sqrt(self.n)
        return float(min(1.0, 2 * stats.t.sf(t, self.n - 1)))

    def _below(self, bound: float) -> float:
        mirrored = Measured(self.of, self.n, -self.mean, self.std)
        return mirrored._beyond(-bound)

    @property
    def p_yes(self) -> float:
        """p of its not being as claimed; NaN of a cost, and where nothing was compared."""
        if isinstance(self.of, Cost) or self.same:
            return math.nan
        within = self.of.within
        return self._beyond(0) if within is None else max(self._beyond(-within), self._below(within))

    @property
    def p_no(self) -> float:
        """p of its not being the other way, times the parts of its claim, any of which could have been."""
        if isinstance(self.of, Cost) or self.same:
            return math.nan
        within = self.of.within
        other = self._below(0) if within is None else min(self._beyond(within), self._below(-within))
        return min(1.0, self.parts * other)

    @property
    def hollow(self) -> bool:
        """Whether equality would say nothing here: what would be lost is not shown to exceed the margin."""
        within = getattr(self.of, "within", None)
        return within is not None and self.lost is not None and not self.lost.low > within

    @property
    def verdict(self) -> str:
        """``yes`` or ``no`` where its test says so, ``same`` where a choice was compared with itself, else ``open``."""
        if isinstance(self.of, Cost):
            return "yes" if self.high <= self.of.at_most else "no" if self.low > self.of.at_most else "open"
        if self.same:
            return "same"
        if self.p_no < 1 - CONFIDENCE:
            return "no"
        return "yes" if self.p_yes < 1 - CONFIDENCE and not self.hollow else "open"

    @property
    def detectable(self) -> float:
        """The smallest true difference that so many copies would have shown with a power of 80 %."""
        return self.std * _shown(self.n) if self.tested else math.nan

    @property
    def needed(self) -> float:
        """Copies that would show the published difference (or the measured one, if it is on the claimed side) with a
        power of 80 %; of two that shall be equal, that they are, if they differ as measured. ``inf``: none would."""
        if math.isnan(self.std) or self.std == 0:
            return math.inf
        within = getattr(self.of, "within", None)
        if within is not None:
            if not abs(self.mean) < within:
                return math.inf
            up, down = (within + self.mean) / self.std, (within - self.mean) / self.std
            return _first(lambda n: power(up, n) + power(down, n) - 1 >= POWER)
        target = abs(self.of.published) if self.of.published else self.mean
        return _first(lambda n: power(target / self.std, n) >= POWER) if target > 0 else math.inf


def power(effect: float, n: int) -> float:
    """The probability that ``n`` copies show a true difference of ``effect`` standard deviations (noncentral t)."""
    return float(stats.nct.sf(_critical(n), n - 1, effect * math.sqrt(n)))


Contrasts = Callable[[Grid], Sequence[Contrast | Cost]]


@dataclass(frozen=True)
class Claim:
    """What a paper claims, in our words, and what must then be seen; it holds when all of that is."""

    paper: str
    says: str
    source: str
    contrasts: Contrasts

    @property
    def name(self) -> str:
        """What it is called on the command line and in rows."""
        return self.contrasts.__name__

    def pieces(self, grid: Grid, bench: Bench) -> list[Piece]:
        """Everything that it rests on."""
        return [piece for one in self.contrasts(grid) for piece in one.pieces(bench)]

    def finished(self, grid: Grid, bench: Bench) -> Bench | None:
        """``bench`` with every copy of which all runs are computed, of the first 20 seeds (or as many as ``bench``
        has); None if there are fewer than two, or than ``bench`` has."""
        found = _with_all(bench, lambda own: self.pieces(grid, own))
        return None if found is None or len(found.seeds) < max(2, len(bench.seeds)) else found

    def judged(self, grid: Grid, bench: Bench) -> Judgement:
        """The claim's differences, each over all copies that its own runs have, and what follows for it."""
        contrasts = self.contrasts(grid)
        parts = max(1, sum(isinstance(one, Contrast) for one in contrasts))
        return Judgement(self, tuple(one.measured(_of_its_own(one, bench), parts) for one in contrasts))

    def rows(self, grid: Grid, bench: Bench) -> pd.DataFrame:
        """All that its verdict is computed from: both sides of every difference, a line per trained copy."""
        found = []
        for one in self.contrasts(grid):
            for role, contrast in (("claimed", one), ("lost", getattr(one, "lost", None))):
                if isinstance(contrast, Contrast):
                    values = contrast.values(_of_its_own(one, bench)).rename_axis("replicate").reset_index()
                    found.append(values.assign(contrast=one.says, role=role, within=one.within))  # type: ignore[union-attr]
        rows = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
        return rows.assign(paper=self.paper, claim=self.name, scale=bench.scale.name)


@dataclass(frozen=True)
class Judgement:
    """A claim with what was measured.

    It holds when each of its parts is shown at 95 % by itself (an intersection-union test, which needs no correction);
    it does not when any part is shown to be the other way, which is corrected for their number (Bonferroni).
    """

    claim: Claim
    measured: tuple[Measured, ...]

    @property
    def verdict(self) -> str:
        verdicts = {one.verdict for one in self.measured} - {"same"}
        return "does not hold here" if "no" in verdicts else "holds" if verdicts == {"yes"} else "cannot tell"

    @property
    def p_holds(self) -> float:
        """p of the claim's not holding; 1 where a part has no test that says yes."""
        tested = [one.p_yes for one in self.measured if one.verdict != "same" and not isinstance(one.of, Cost)]
        return max([*tested, *(1.0 for one in self.measured if one.hollow)], default=1.0)

    @property
    def p_fails(self) -> float:
        """p of no part's being the other way."""
        return min((one.p_no for one in self.measured if not math.isnan(one.p_no)), default=1.0)

    @property
    def p(self) -> float:
        """p of its verdict; NaN where there is none, or a cost decides."""
        costs = any(isinstance(one.of, Cost) and one.verdict == "no" for one in self.measured)
        if self.verdict == "does not hold here":
            return self.p_fails if self.p_fails < 1 - CONFIDENCE or not costs else math.nan
        return self.p_holds if self.verdict == "holds" else math.nan


def holm(values: Sequence[float]) -> list[float]:
    """p values, each corrected for all of them (Holm 1979)."""
    order, found, largest = np.argsort(values), [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        found[index] = largest
    return found


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
    """The mean of a logged column over the epochs after ``since`` of training and until ``until``.

    Of epochs that not every copy logged none counts: copies are compared at the same ones.
    """

    since: float = 0.0
    until: float = 1.0

    def values(self, bench: Bench) -> pd.DataFrame:
        lines = super().values(bench)
        done = (lines["epoch"] + 1) / (lines["epoch"].max() + 1)
        copies = lines.groupby("epoch")["replicate"].transform("nunique")
        part = lines[(done > self.since) & (done <= self.until) & (copies == copies.max())]
        return part.groupby("replicate", as_index=False)["value"].mean().assign(draw=0, x=np.nan)


def _with_all(bench: Bench, pieces: Callable[[Bench], Iterable[Piece]]) -> Bench | None:
    """``bench`` with every copy that has all ``pieces``, of the first 20 seeds or as many as the scale has."""
    return complete(bench.with_seeds(max(MOST, bench.scale.seeds)), pieces)


def _of_its_own(one: Contrast | Cost, bench: Bench) -> Bench:
    """The copies of a difference: its runs may have more than those of all of a claim's differences."""
    return bench if isinstance(one, Cost) else _with_all(bench, one.pieces) or bench


def _copies(quantity: Quantity, bench: Bench) -> pd.Series:
    return quantity.values(bench).groupby("replicate")["value"].mean()


@cache
def _critical(n: int) -> float:
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1))


@cache
def _shown(n: int) -> float:
    """What is shown with a power of 80 %, in standard deviations."""
    return float(optimize.brentq(lambda effect: power(effect, n) - POWER, 1e-3, 1e3))


def _first(enough: Callable[[int], bool], most: int = 2000) -> float:
    """The smallest number of copies that is ``enough``, which every larger one is; ``inf`` beyond ``most``."""
    if not enough(most):
        return math.inf
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

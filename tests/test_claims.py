"""Verdicts: they follow from intervals, and say how much could have been seen."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from noiserobust.cli import main
from noiserobust.papers.claims import CLAIMS
from noiserobust.papers.grid import MINI, Bench, grid_of
from noiserobust.papers.grid.claim import STEPS, Change, Claim, Contrast, Cost, Measured, OverEpochs, holm, power
from noiserobust.papers.grid.claims_text import claims_text, line_of
from noiserobust.papers.grid.finished import FOLDER
from noiserobust.papers.grid.quantity import Quantity

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "claims.md"
AT, BENCH = grid_of("incorruptible", MINI), Bench(MINI, Path("nowhere"))


@dataclass(frozen=True)
class Given(Quantity):
    """A quantity whose copies are known."""

    copies: tuple[float, ...]
    unit: str = "accuracy"

    def values(self, bench: Bench) -> pd.DataFrame:
        # Two draws each, half a point to either side of the copy's mean.
        draws = [(copy, draw, value + shift) for copy, value in enumerate(self.copies)
                 for draw, shift in enumerate((-0.5, 0.5))]  # fmt: skip
        return pd.DataFrame(draws, columns=["replicate", "draw", "value"]).assign(x=np.nan)


def judged(*contrasts: Contrast) -> str:
    return Claim("paper", "says", "source", lambda at: contrasts).judged(AT, BENCH).verdict


def test_power_is_that_of_the_noncentral_t() -> None:
    """Against many samples: of the detectable difference 80 % are shown; of one copy fewer than are needed, less."""
    for n in (3, 5, 12):
        effect = Measured(Contrast("a", Given((0.0,) * n)), n, 0.0, 1.0).detectable
        samples = np.random.default_rng(0).normal(effect, 1.0, (40_000, n))
        shown = stats.ttest_1samp(samples, 0.0, axis=1)
        seen = ((shown.pvalue < 0.05) & (shown.statistic > 0)).mean()
        assert seen == pytest.approx(0.8, abs=0.01)  # five standard errors
    contrast = Contrast("a", Given((0.0, 0.0)), published=2.0)
    needed = int(Measured(contrast, 3, 0.5, 1.5).needed)
    assert power(2.0 / 1.5, needed) >= 0.8 > power(2.0 / 1.5, needed - 1)


class TestContrast:
    def test_is_paired_over_copies_with_a_t_interval(self) -> None:
        measured = Contrast("a - b", Given((71.0, 62.0, 83.0)), Given((70.0, 60.0, 80.0))).measured(BENCH)
        # Differences 1, 2, 3: mean 2, std 1, t(.975, 2) = 4.3027.
        assert (measured.n, measured.mean, measured.std) == (3, 2, 1)
        assert measured.low == pytest.approx(2 - 4.302653 / np.sqrt(3))
        assert measured.high == pytest.approx(2 + 4.302653 / np.sqrt(3))
        assert measured.p_yes == pytest.approx(stats.ttest_1samp([1, 2, 3], 0).pvalue)

    @pytest.mark.parametrize(
        ("copies", "within", "verdict"),
        [
            ((5.0, 5.1, 4.9), None, "holds"),
            ((-5.0, -5.1, -4.9), None, "does not hold here"),
            ((5.0, -5.0, 1.0), None, "cannot tell"),
            ((0.1, -0.1, 0.0), 1.0, "holds"),
            ((5.0, 5.1, 4.9), 1.0, "does not hold here"),
            ((1.0, 1.1, 0.9), 1.0, "cannot tell"),
            ((5.0,), None, "cannot tell"),
        ],
    )
    def test_verdicts(self, copies: tuple[float, ...], within: float | None, verdict: str) -> None:
        assert judged(Contrast("a", Given(copies), within=within)) == verdict

    def test_a_claim_holds_when_all_of_it_does_and_fails_with_any_part(self) -> None:
        yes, no, maybe = (Contrast("a", Given(c)) for c in ((5.0, 5.1, 4.9), (-5.0, -5.1, -4.9), (5.0, -5.0, 1.0)))
        assert judged(yes, yes) == "holds"
        assert judged(yes, maybe) == "cannot tell"
        assert judged(yes, maybe, no) == "does not hold here"

    def test_only_failing_is_corrected_for_the_parts(self) -> None:
        """Each part must be shown by itself for a claim to hold; any of them may make it fail."""
        up, down = (Contrast("a", Given(tuple(sign * np.array((1.0, 2.0, 3.2, 1.9))))) for sign in (1, -1))
        sure = Contrast("a", Given((5.0, 5.1, 4.9, 5.0)))
        assert 0.05 / 3 < up.measured(BENCH).p_yes < 0.05
        assert judged(up, up, up) == "holds"
        assert judged(down) == "does not hold here"
        assert judged(down, sure, sure) == "cannot tell"

    def test_equality_counts_only_where_there_is_more_to_lose_than_the_margin(self) -> None:
        equal = Given((0.1, -0.1, 0.0))
        for gain, verdict in (
            ((1.2, 1.3, 1.25), "holds"),
            ((0.5, 0.6, 0.55), "cannot tell"),
            ((9, -9, 2), "cannot tell"),
        ):
            lost = Contrast("SAM minus SGD", Given(gain))
            assert judged(Contrast("a", equal, within=1.0, lost=lost)) == verdict
        # That two differ is shown all the same.
        far = Contrast("a", Given((5.0, 5.1, 4.9)), within=1.0, lost=Contrast("x", Given((0.5, 0.6, 0.55))))
        assert judged(far) == "does not hold here"

    def test_a_choice_compared_with_itself_shows_nothing(self) -> None:
        run = Given((70.0, 71.0, 72.0))
        itself, yes = Contrast("best minus 0.3", run, run, within=1.0), Contrast("a", Given((5.0, 5.1, 4.9)))
        assert judged(itself) == "cannot tell"
        assert judged(itself, yes) == "holds"
        first, _ = Claim("p", "s", "x", lambda at: [itself, yes]).judged(AT, BENCH).measured
        assert "nothing was measured" in line_of(first)

    @pytest.mark.parametrize("within", [None, 0.2])
    @pytest.mark.parametrize("at", [0.0, 0.2, -0.2, 5.0])
    def test_copies_that_all_differ_by_the_same_show_nothing(self, at: float, within: float | None) -> None:
        """By chance two differences of percents of few images are equal; also where rounding tells them apart."""
        a, b = (70.2 + at, 80.4 + at, 91.8 + at), (70.2, 80.4, 91.8)
        for contrast in (
            Contrast("a - b", Given(a), Given(b), within),
            Contrast("a", Given((at, at)), within=within),
        ):
            measured = contrast.measured(BENCH)
            assert measured.std == 0
            assert judged(contrast) == "cannot tell"
            if not measured.same:
                assert measured.p_yes == measured.p_no == 1
                assert "no spread to test by" in line_of(measured)
        zero = Contrast("SAM minus SGD", Given((5.0, 5.0)))
        assert judged(Contrast("a", Given((0.1, -0.1, 0.0)), within=1.0, lost=zero)) == "cannot tell"

    def test_costs_are_those_of_full_width(self) -> None:
        """By the rows of docs/speed.md, which the package's copy says again."""
        table = pd.read_csv(ROOT / "docs/results/speed_training_table.csv").set_index("case")
        ours = pd.read_csv(STEPS).set_index("rule")
        for rule, line in ours.iterrows():
            assert list(line) == list(table.loc[str(rule), ["ratio", "q1", "q3", "rounds"]])
        mesa = Cost("a step of MESA", "MESA", at_most=1.2).measured(BENCH)
        assert (mesa.verdict, mesa.n) == ("no", 11)
        assert Cost("a step of SAF", "SAF", at_most=1.05).measured(BENCH).verdict == "yes"
        assert Cost("a step", "of nobody", at_most=1.05).measured(BENCH).verdict == "open"


def test_holm_is_the_step_down_procedure() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_copies_that_would_show_two_equal() -> None:
    contrast, trials = Contrast("a", Given((0.0, 0.0)), within=1.0), 20_000
    for mean in (0.0, 0.4):
        n = int(Measured(contrast, 5, mean, 1.5).needed)
        samples = np.random.default_rng(0).normal(mean, 1.5, (trials, n))
        half = stats.t.ppf(0.975, n - 1) * samples.std(1, ddof=1) / np.sqrt(n)
        assert 0.79 < (np.abs(samples.mean(1)) + half < 1).mean() < 0.83
    assert Measured(contrast, 5, 1.2, 1.5).needed == np.inf


def test_no_copies_are_named_for_a_difference_on_the_other_side() -> None:
    assert Measured(Contrast("a", Given((0.0, 0.0))), 5, -0.5, 1.5).needed == np.inf


def test_change_is_the_last_value_minus_that_at_a_share_of_training(tmp_path: Path) -> None:
    bench = Bench(MINI, tmp_path)
    run = AT.run("CIFAR-10", "ResNet-18")
    for seed in bench.seeds:
        folder = bench.training(run, seed).result.parent
        folder.mkdir(parents=True)
        pd.DataFrame({"epoch": range(7), "cosine": [1, 0.9, 0.8, 0.5, 0.4, 0.3, seed / 10]}).to_csv(folder / "log.csv")
    values = Change(run, "cosine").values(bench)["value"]
    np.testing.assert_allclose(values, [-0.8, -0.7, -0.6])
    np.testing.assert_allclose(Change(run, "cosine", falls=True).values(bench)["value"], [0.8, 0.7, 0.6])
    means = OverEpochs(run, "cosine").values(bench)
    np.testing.assert_allclose(means["value"], [(3.9 + seed / 10) / 7 for seed in bench.seeds])
    first, second = (
        OverEpochs(run, "cosine", since=since, until=since + 0.5).values(bench)["value"] for since in (0.0, 0.5)
    )
    np.testing.assert_allclose(first, [0.9] * 3)  # of seven epochs three
    np.testing.assert_allclose(second, [(1.2 + seed / 10) / 4 for seed in bench.seeds])
    assert means["replicate"].tolist() == list(bench.seeds)
    log = bench.training(run, bench.seeds[0]).result.parent / "log.csv"
    pd.read_csv(log).assign(cosine=lambda rows: rows["cosine"].where(rows["epoch"] != 6)).to_csv(log)
    np.testing.assert_allclose(OverEpochs(run, "cosine").values(bench)["value"], [3.9 / 6] * 3)


def test_the_text_says_what_could_have_been_seen() -> None:
    claim = Claim("paper", "RWP is best", "table 1",
                  lambda at: [Contrast("RWP minus SGD", Given((5.0, -5.0, 1.0)), published=2.5)])  # fmt: skip
    text = claims_text([claim.judged(AT, BENCH)], [], MINI)
    assert "| paper | RWP is best (table 1) | cannot tell |" in text
    assert "Of 0 verdicts by tests 0 stand" in text
    assert "RWP minus SGD: +0.33 points [-12.1" in text
    assert "so many would have shown" in text
    assert "copies would show the published difference" in text
    assert "published +2.50" in text


@pytest.mark.parametrize(
    ("contrast", "said"),
    [
        (Contrast("x", Given((0.9, -0.9, 0.1)), within=1.0), "would show them equal (power 80 %), if they differ as"),
        (Contrast("x", Given((3.0, -0.9, 1.5)), within=1.0), "no number of copies would show them equal"),
        (Contrast("x", Given((-3.0, 0.9, -1.5))), "the measured difference is on the other side"),
        (Contrast("x", Given((3.0, -0.9, 1.5))), "copies would show this one"),
    ],
)
def test_what_is_open_says_what_would_settle_it(contrast: Contrast, said: str) -> None:
    (one,) = Claim("paper", "x", "table 1", lambda at: [contrast]).judged(AT, BENCH).measured
    assert said in line_of(one)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.says[:40])
def test_every_claim_can_be_stated_at_mini(claim: Claim) -> None:
    contrasts = claim.contrasts(grid_of(claim.paper, MINI))
    assert contrasts
    assert all(isinstance(one, Cost) or one.pieces(BENCH) for one in contrasts)
    equal = [one for one in contrasts if isinstance(one, Contrast) and one.within is not None]
    assert all(one.lost is not None for one in equal)


def test_a_copy_in_the_middle_may_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished = shutil.copytree(FOLDER / "small", tmp_path / "finished")
    for path in finished.glob("plain-clip-2.5-rms-seed1-*"):
        path.unlink()
    out = ["--scale", "small", "--seeds", "3", "--only-done", "--finished", str(finished), "--out", str(tmp_path)]
    main(["reproduce", "claims", "comparators", *out, "--data-root", str(tmp_path / "no data")])
    assert "trained copies here: up to 5, " in capsys.readouterr().out
    rows = pd.read_parquet(tmp_path / "small" / "claims.parquet")
    copies = rows.groupby("contrast")["replicate"].unique().map(sorted)
    clipped = copies.index.str.contains("clipped")
    assert clipped.sum() == 2
    assert copies[clipped].map([0, 2, 3, 4].__eq__).all()
    assert copies[~clipped].map([0, 1, 2, 3, 4].__eq__).all()  # each difference has the copies of its own runs


class TestPublished:
    """The verdicts of docs/claims.md from the published rows alone, computed as a stranger would."""

    @pytest.mark.parametrize(
        ("scale", "claim", "verdict"),
        [
            ("mini", "comparators", "holds"),
            ("mini", "over_regularised", "holds"),
            ("mini", "gradients_collapse", "does not hold here"),
            ("mini", "cosines", "cannot tell"),
            ("small", "comparators", "holds"),
            ("small", "over_regularised", "does not hold here"),
            ("small", "gradients_collapse", "cannot tell"),
        ],
    )
    def test_verdicts_can_be_computed_again(self, scale: str, claim: str, verdict: str) -> None:
        rows = pd.read_parquet(ROOT / f"docs/results/claims-{scale}.parquet")
        rows = rows[rows["claim"] == claim]
        shown, other_way = [], []
        parts = rows[rows["role"] == "claimed"].groupby("contrast", sort=False)
        for name, part in parts:
            within = part["within"].iloc[0]
            if pd.isna(within):
                up, down = (
                    stats.ttest_rel(part["a"], part["b"], alternative=way).pvalue for way in ("greater", "less")
                )
            else:
                ends = [stats.ttest_1samp(part["a"] - part["b"], end) for end in (-within, within)]
                low, high = (end.confidence_interval(0.95) for end in ends)
                assert low == high  # the interval of the mean, whatever is tested
                lost = rows[(rows["contrast"] == name) & (rows["role"] == "lost")]
                gain = stats.ttest_rel(lost["a"], lost["b"]).confidence_interval(0.95)
                is_within = -within < low.low and low.high < within and gain.low > within
                up, down = (0.0 if is_within else 1.0), 1.0
            shown.append(2 * up < 0.05)
            other_way.append(2 * down * parts.ngroups < 0.05)
        found = "does not hold here" if any(other_way) else "holds" if all(shown) else "cannot tell"
        assert found == verdict
        (line,) = [line for line in self.page(scale) if line.startswith("**") and f"(`{claim}`)" in line]
        assert line.endswith(f"— {verdict}")

    def page(self, scale: str) -> list[str]:
        (section,) = [one for one in PAGE.read_text().split("\n## Scale ") if one.startswith(f"{scale}\n")]
        return section.splitlines()

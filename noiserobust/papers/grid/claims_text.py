"""Judgements in words: a table of verdicts, and a line for everything that was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from noiserobust.papers.grid.claim import Claim, Contrast, Cost, Judgement, Measured, holm
from noiserobust.papers.grid.scale import Scale
from noiserobust.report.table import as_markdown


def claims_text(judged: Sequence[Judgement], open_claims: Sequence[Claim], scale: Scale) -> str:
    """The judgements at one scale as Markdown: a summary, then every claim with its differences."""
    counts = [measured.n for one in judged for measured in one.measured if isinstance(measured.of, Contrast)]
    most = max(counts, default=0)
    says = [*scale.says, f"trained copies here: up to {most}, less where a third of them choose the best strength"]
    lines = [f"## Scale {scale.name}", "\n".join(f"- {line}" for line in says)]
    # Whether it holds, and whether it does not: two questions were asked of every claim.
    corrected = holm([p for one in judged for p in (one.p_holds, one.p_fails)])
    summary, kept, verdicts = [["paper", "claim", "verdict", "p", "p (Holm)"]], 0, 0
    for number, one in enumerate(judged):
        p = corrected[2 * number + (one.verdict != "holds")]
        shown = ["", ""] if math.isnan(one.p) else [f"{one.p:.2g}", f"{p:.2g}"]
        summary.append([one.claim.paper, f"{one.claim.says} ({one.claim.source})", one.verdict, *shown])
        verdicts += shown[0] != ""
        kept += shown[0] != "" and p < 0.05
    lines.append(as_markdown(summary))
    lines.append(
        f"p is that of the verdict by itself; Holm's is corrected for all {len(corrected)} tests of this table (each "
        f"claim's holding and its failing). Of {verdicts} verdicts by tests {kept} stand at 5 % among all of them."
    )
    for one in judged:
        lines.append(f"**{one.claim.paper}: {one.claim.says}** (`{one.claim.name}`) — {one.verdict}")
        lines.append("\n".join(f"- {line_of(measured)}" for measured in one.measured))
    if open_claims:
        missing = "; ".join(f"{claim.paper}: {claim.says}" for claim in open_claims)
        lines.append(f"Not computed at this scale: {missing}.")
    return "\n\n".join(lines)


def verdicts_table(judged: Sequence[Judgement]) -> list[dict[str, object]]:
    """The verdicts for programs, with what was measured."""
    measured = ("mean", "low", "high", "n", "p_yes", "p_no", "verdict")
    return [
        {"paper": one.claim.paper, "claim": one.claim.name, "says": one.claim.says, "verdict": one.verdict, "p": one.p}
        | {"contrasts": [{"says": m.of.says} | {name: getattr(m, name) for name in measured} for m in one.measured]}
        for one in judged
    ]


def line_of(measured: Measured) -> str:
    """What was measured, in words."""
    of = measured.of
    digits = 2 if of.unit in ("points", "plain steps") else 3
    if isinstance(of, Cost):
        if math.isnan(measured.mean):
            return f"{of.says}: not timed at full width (at most {of.at_most:g} {of.unit} expected) — open"
        what = f"{of.says}: {measured.mean:.2f} {of.unit} [{measured.low:.2f}, {measured.high:.2f}] (median and "
        what += f"quartiles of {measured.n} paired steps of full-width ResNet-18; at most {of.at_most:g} expected)"
        what += "" if of.published is None else f"; published {of.published:.3g}"
    else:
        what = f"{of.says}: {measured.mean:+.{digits}f} {of.unit} [{measured.low:.{digits}f}, "
        what += f"{measured.high:.{digits}f}], {measured.n} copies"
        what += "" if of.within is None else f" (equal within {of.within:g}?)"
        what += "" if of.published is None else f"; published {of.published:+.{digits}f}"
    if measured.same:
        return f"{of.says}: the choice is the very run that it is compared with: nothing was measured"
    what += {"yes": " — as claimed", "no": " — the other way", "open": " — open"}[measured.verdict]
    if measured.verdict == "open" and isinstance(of, Contrast) and not math.isnan(measured.std):
        alike = "all copies differ by the same, which is no spread to test by"
        what += ": " + (_could_have_been_seen(measured, of, digits) if measured.tested else alike)
    return what


def _could_have_been_seen(measured: Measured, of: Contrast, digits: int) -> str:
    copies = f"{measured.needed:g} copies" if measured.needed < math.inf else "more than 2,000 copies"
    if of.within is not None:
        if measured.hollow and measured.lost is not None:
            lost, ends = measured.lost, f"[{measured.lost.low:.{digits}f}, {measured.lost.high:.{digits}f}]"
            return f"more than the margin must be there to lose, but {lost.of.says} is {lost.mean:+.{digits}f} {ends}"
        if abs(measured.mean) >= of.within:
            return "no number of copies would show them equal, if they differ as measured"
        return f"{copies} would show them equal (power 80 %), if they differ as measured"
    seen = f"so many would have shown {measured.detectable:.{digits}f} (power 80 %)"
    if of.published is None and measured.mean <= 0:
        return f"{seen}; the measured difference is on the other side"
    return f"{seen}; {copies} would show {'the published difference' if of.published else 'this one'}"

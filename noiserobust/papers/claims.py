"""The five papers' claims, each as what must be seen if it holds; ``noiserobust reproduce claims`` judges them.

A claim is judged at one scale, from the very pieces that its paper's tables and figures show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from noiserobust.papers import esam, rst, rwp, saf
from noiserobust.papers import incorruptible as inc
from noiserobust.papers.grid.artefacts import artefacts_of
from noiserobust.papers.grid.claim import Change, Claim, Contrast, Contrasts, Cost, OverEpochs
from noiserobust.papers.grid.derived import Best, gain
from noiserobust.papers.grid.measured import OfRun, variation_of_filters
from noiserobust.papers.grid.published_values import published
from noiserobust.papers.grid.quantity import Accuracy, Logged, logging
from noiserobust.papers.grid.scale import Grid
from noiserobust.training import TrainSettings

CLAIMS: list[Claim] = []
"""All claims in the order of their papers."""


def claim(paper: str, says: str, source: str) -> Callable[[Contrasts], Contrasts]:
    """Registers the function below, which states what must be seen, as the claim ``says`` of ``paper``."""

    def register(contrasts: Contrasts) -> Contrasts:
        CLAIMS.append(Claim(paper, says, source, contrasts))
        return contrasts

    return register


def printed(paper: str, table: str, a: tuple[str, str], b: tuple[str, str], unit: str = "accuracy") -> float | None:
    """The published a - b, both cells of one table."""
    cells = published(paper)
    first, second = (cells.get((table, *cell, unit)) for cell in (a, b))
    return None if first is None or second is None else first.value - second.value


# --- Incorruptible Neural Networks ------------------------------------------------------------------------------------


@claim("incorruptible", "RWP trained harder than the test noise is best", "section 4.3, table 1")
def over_regularised(at: Grid) -> Sequence[Contrast]:
    # Table 1: RWP trained at sigma_test against RWP trained harder. Under 0.02 the paper prints the same for both.
    contrasts, harder_than = [], {0.03: 0.05, 0.05: 0.08, 0.07: 0.08}
    for test in at.few(tuple(harder_than), inc.SMALL_TRAIN):
        harder = harder_than[test]
        under = inc.noise(at, test)
        shown = printed("incorruptible", "table1", (f"RWP sigma {harder:g}", f"sigma {test:g}"),
                        (f"RWP sigma {test:g}", f"sigma {test:g}"))  # fmt: skip
        contrasts.append(
            Contrast(f"under sigma {test:g}: RWP {harder:g} minus RWP {test:g}",
                     Accuracy(inc.rwp(at, harder), under), Accuracy(inc.rwp(at, test), under), published=shown)
        )  # fmt: skip
    return contrasts


def fair(best: Best) -> Best:
    """The best strength, chosen by other copies than are compared, so that the choice does not flatter."""
    return replace(best, apart=True)


@claim("incorruptible", "SAM is best under small noise, RWP under large", "section 4.3, figure 2")
def small_and_large(at: Grid) -> Sequence[Contrast]:
    sam = {test: fair(inc.best_sam(at, test)) for test in (0.02, 0.07)}
    rwp = {test: fair(inc.best_rwp(at, test)) for test in (0.02, 0.07)}
    return [
        Contrast("under sigma 0.02: best SAM minus best RWP", sam[0.02], rwp[0.02], published=79.12 - 77.65),
        Contrast("under sigma 0.07: best RWP minus best SAM", rwp[0.07], sam[0.07], published=61.36 - 53.61),
    ]


@claim("incorruptible", "One radius of SAM (0.3) is best under every noise", "section 4.3, table 2")
def one_rho(at: Grid) -> Sequence[Contrast]:
    return [
        Contrast(f"under sigma {test:g}: best radius there minus rho 0.3", fair(inc.best_sam(at, test)),
                 Accuracy(inc.sam(at, 0.3), inc.noise(at, test)), within=1.0,
                 lost=Contrast("the best radius minus SGD", fair(inc.best_sam(at, test)),
                               Accuracy(inc.plain(at), inc.noise(at, test))))
        for test in inc.TEST[1:]
    ]  # fmt: skip


@claim("incorruptible", "Ramps beat constant strengths, the more the larger the noise", "section 5.2, table 3")
def ramps_beat_constants(at: Grid) -> Sequence[Contrast]:
    contrasts, gains = [], []
    for method, best, ramp in (("RWP", inc.best_rwp, inc.ramped_rwp), ("SAM", inc.best_sam, inc.ramped_sam)):
        quadratic = {test: Accuracy(ramp(at, "Quadratic"), inc.noise(at, test)) for test in (0.02, 0.07)}
        constant = {test: fair(best(at, test)) for test in (0.02, 0.07)}
        for test in (0.02, 0.07):
            shown = printed("incorruptible", "table3", (f"Quadratic {method}", f"sigma {test:g}"),
                            (f"Constant {method}", f"sigma {test:g}"))  # fmt: skip
            contrasts.append(
                Contrast(f"under sigma {test:g}: quadratic {method} minus the best constant {method}",
                         quadratic[test], constant[test], published=shown)
            )  # fmt: skip
        small, large = (gain(quadratic[test], constant[test]) for test in (0.02, 0.07))
        gains.append(Contrast(f"that gain of {method} under sigma 0.07 minus that under 0.02", large, small))
    return contrasts + gains


@claim("incorruptible", "Of the ramps the quadratic one is best", "section 5.2, table 3")
def quadratic_most(at: Grid) -> Sequence[Contrast]:
    contrasts = []
    for method, ramp in (("RWP", inc.ramped_rwp), ("SAM", inc.ramped_sam)):
        for other in ("Linear", "Off-to-On"):
            shown = printed("incorruptible", "table3", (f"Quadratic {method}", "sigma 0.07"),
                            (f"{other} {method}", "sigma 0.07"))  # fmt: skip
            under = inc.noise(at, 0.07)
            contrasts.append(
                Contrast(f"under sigma 0.07: quadratic minus {other.lower()} {method}",
                         Accuracy(ramp(at, "Quadratic"), under), Accuracy(ramp(at, other), under), published=shown)
            )  # fmt: skip
    return contrasts


@claim("incorruptible", "SAM's update gradients become far smaller than RWP's", "section 4.4, figure 3")
def gradients_collapse(at: Grid) -> Sequence[Contrast]:
    def norm(run: TrainSettings, since: float) -> OverEpochs:
        return OverEpochs(logging(run, inc.GRADIENT), f"train/{inc.GRADIENT}", since=since, until=since + 0.5)

    runs = {"RWP 0.08": inc.rwp(at, 0.08), "SGD": inc.plain(at)}
    return [
        Contrast(f"update gradient's norm, {half} half of training: {row} minus SAM 0.3", norm(run, since),
                 norm(inc.sam(at, 0.3), since), unit="(norm)")
        for row, run in runs.items() for half, since in (("first", 0.0), ("second", 0.5))
    ]  # fmt: skip


@claim("incorruptible", "Test sharpness rises while training sharpness falls", "section 4.5, figure 4")
def sharpness_parts(at: Grid) -> Sequence[Contrast]:
    measure = inc.sharpness_of(at, 0.02)
    contrasts = []
    for row, run in (("SGD", inc.plain(at)), ("SAM 0.3", inc.sam(at, 0.3))):
        logged = logging(run, measure, on=("train", "test"))
        when, change = f"{row}, second half of training", partial(Change, logged, since=0.5)
        contrasts += [
            Contrast(f"{when}: how much test sharpness rises", change(f"test/{measure}"), unit="nats"),
            Contrast(f"{when}: how much training sharpness falls", change(f"train/{measure}", falls=True), unit="nats"),
        ]
    return contrasts


@claim(
    "incorruptible", "RWP's gradients turn away from the clean ones, SAM's keep their angle", "appendix B.1, figure 5"
)
def cosines(at: Grid) -> Sequence[Contrast]:
    def since(run: TrainSettings, *, falls: bool) -> Change:
        return Change(logging(run, inc.COSINE), f"train/{inc.COSINE}", falls=falls)

    fall = Contrast("RWP 0.08: how much the cosine falls after a third of training",
                    since(inc.rwp(at, 0.08), falls=True), unit="(cosine)")  # fmt: skip
    return [
        fall,
        Contrast("SAM 0.3: how much it rises in that time", since(inc.sam(at, 0.3), falls=False), within=0.05,
                 unit="(cosine)", lost=fall),
    ]  # fmt: skip


@claim("incorruptible", "Wider networks are more robust; ResNet-50 is worse than ResNet-34", "tables 5, 6")
def wider(at: Grid) -> Sequence[Contrast]:
    under = inc.noise(at, 0.07)

    def of(network: str, sigma: float = 0.08) -> Accuracy:
        return Accuracy(inc.rwp(at, sigma, f"narrow {network}"), under)

    return [
        # As published 16-15 is 1.6 points below 16-10: wider is better only up to there.
        *(
            Contrast(f"RWP under sigma 0.07: {wide} minus WRN-16-5", of(wide), of("WRN-16-5"),
                     published=printed("incorruptible", "table6", (wide, "sigma 0.07, RWP"),
                                       ("WRN-16-5", "sigma 0.07, RWP")))
            for wide in ("WRN-16-10", "WRN-16-15")
        ),
        Contrast("RWP under sigma 0.07: ResNet-34 minus ResNet-50", of("ResNet-34"), of("ResNet-50"),
                 published=printed("incorruptible", "table5", ("ResNet-34", "sigma 0.07, RWP"),
                                   ("ResNet-50", "sigma 0.07, RWP"))),
    ]  # fmt: skip


@claim("incorruptible", "Laplace noise tells the same story", "appendix C, table 4")
def under_laplace(at: Grid) -> Sequence[Contrast]:
    def best(method: str, b: float) -> Best:
        sigmas, rhos = at.few((0.03, 0.05, 0.07), (0.03, 0.05)), (0.2, 0.3, 0.5)
        runs = [inc.rwp(at, s) for s in sigmas] if method == "RWP" else [inc.sam(at, r) for r in rhos]
        return fair(Best(tuple(Accuracy(run, inc.laplace(at, b)) for run in runs)))

    small, large = ({method: best(method, b) for method in ("SAM", "RWP")} for b in (0.01, 0.04))
    return [
        Contrast("Laplace b 0.01: best SAM minus best RWP", small["SAM"], small["RWP"], published=79.75 - 78.30),
        Contrast("Laplace b 0.04: best RWP minus best SAM", large["RWP"], large["SAM"], published=68.00 - 62.25),
    ]


@claim(
    "incorruptible",
    "Training under noise also beats clipping and aihwkit's additive training (ours, not the paper's)",
    "our comparators",
)
def comparators(at: Grid) -> Sequence[Contrast]:
    under = inc.noise(at, 0.07)
    rwp = Accuracy(inc.rwp(at, 0.08), under)
    clipped = at.run(inc.DATA, inc.NETWORK, "plain", weight_clip=2.5)
    additive = at.run(inc.DATA, inc.NETWORK, inc.additive())
    return [
        Contrast("under sigma 0.07: RWP 0.08 minus SGD clipped at 2.5 rms", rwp, Accuracy(clipped, under)),
        Contrast("under sigma 0.07: RWP 0.08 minus aihwkit's additive 0.06", rwp, Accuracy(additive, under)),
        Contrast("under sigma 0.07: SGD clipped at 2.5 rms minus SGD", Accuracy(clipped, under),
                 Accuracy(inc.plain(at), under)),
    ]  # fmt: skip


# --- Random weight perturbation ---------------------------------------------------------------------------------------


@claim("rwp", "Mixing both gradients beats either alone, best near alpha 0.5", "section 4.7, figure 7")
def mixed(at: Grid) -> Sequence[Contrast]:
    def of(alpha: float) -> Accuracy:
        return Accuracy(rwp.rwp(at, "CIFAR-100", "ResNet-18", alpha=alpha))

    gain = Contrast("alpha 0.5 minus alpha 1 (SGD)", of(0.5), of(1.0), published=80.75 - 78.10)
    return [
        Contrast("RWP, accuracy: alpha 0.5 minus alpha 0 (noisy gradient alone)", of(0.5), of(0.0)),
        gain,
        Contrast("alpha 0.5 minus alpha 0.2", of(0.5), of(0.2)),
        Contrast("alpha 0.5 minus alpha 0.8", of(0.5), of(0.8), within=1.0, lost=gain),
    ]


@claim("rwp", "SAM's gain dies with different batches, RWP's does not", "appendix C, tables 7, 8")
def batches(at: Grid) -> Sequence[Contrast]:
    def of(rule: Callable[..., TrainSettings], **options: str) -> Accuracy:
        return Accuracy(rule(at, "CIFAR-100", "ResNet-18", **options))

    return [
        Contrast("SAM: same batch minus different batches", of(rwp.sam), of(rwp.sam, batches="different"),
                 published=80.16 - 78.30),
        Contrast("RWP: same batch minus different batches", of(rwp.rwp, batches="same"), of(rwp.rwp), within=1.0,
                 published=80.60 - 80.75, lost=Contrast("RWP minus SGD", of(rwp.rwp), of(rwp.plain))),
    ]  # fmt: skip


@claim("rwp", "RWP balances the filters' norms", "section 3.4, figure 4")
def balanced(at: Grid) -> Sequence[Contrast]:
    def spread(rule: Callable[..., TrainSettings]) -> OfRun:
        return variation_of_filters(rule(at, "CIFAR-100", "ResNet-18"))

    return [
        Contrast("std over mean of the filters' norms: SGD minus RWP", spread(rwp.plain), spread(rwp.rwp),
                 unit="(ratio)"),
        Contrast("the same: SAM minus RWP", spread(rwp.sam), spread(rwp.rwp), unit="(ratio)"),
    ]  # fmt: skip


# --- SAF --------------------------------------------------------------------------------------------------------------


@claim("saf", "SAF and MESA flatten the loss for almost nothing", "section 4.3, figure 4, table 3")
def flatten(at: Grid) -> Sequence[Contrast | Cost]:
    runs = {method: saf.trained(at, "ResNet-18", "CIFAR-100", method) for method in ("SGD", "SAF", "MESA")}
    measure = f"ascent_sharpness:0.05,m={runs['SGD'].batch_size}"
    sharp = {method: Logged(logging(run, measure), f"train/{measure}", last=True) for method, run in runs.items()}
    return [
        Contrast("sharpness (rho 0.05) in the last epoch: SGD minus SAF", sharp["SGD"], sharp["SAF"], unit="nats"),
        Contrast("the same: SGD minus MESA", sharp["SGD"], sharp["MESA"], unit="nats"),
        Contrast("accuracy: SAF minus SGD", Accuracy(runs["SAF"]), Accuracy(runs["SGD"]), published=80.06 - 78.32),
        Contrast("accuracy: MESA minus SGD", Accuracy(runs["MESA"]), Accuracy(runs["SGD"]), published=79.79 - 78.32),
        Cost("a step of SAF", "SAF", at_most=1.05, published=100 / 98.0),
        Cost("a step of MESA", "MESA", at_most=1.2, published=100 / 84.3),
    ]


# --- RST --------------------------------------------------------------------------------------------------------------


def of_rst(at: Grid, rule: rst.Rule) -> Accuracy:
    return Accuracy(rst.run(at, "ResNet-18", "CIFAR-10", rule))


@claim("rst", "Constant p 0.8 matches SAM", "section 3.2, figure 1")
def constant_matches(at: Grid) -> Sequence[Contrast | Cost]:
    rule = rst.rst(at, 0.8)
    return [
        Contrast(
            "accuracy: RST with p 0.8 minus SAM",
            of_rst(at, rule),
            of_rst(at, rst.sam(at)),
            within=1.0,
            lost=Contrast("SAM minus SGD", of_rst(at, rst.sam(at)), of_rst(at, rst.sgd)),
        ),
        Cost("a step of RST with p 0.8", "RST(.8)", at_most=1.9),
    ]


@claim("rst", "Plain steps near the end of training harm", "section 3.2, appendix B.1")
def plain_at_the_end(at: Grid) -> Sequence[Contrast]:
    shares = {"piecewise1": 0.4, "piecewise2": 0.6}  # both take SAM's step in 60 % of all steps
    late, early = (of_rst(at, rst.rst(at, rst.FAMILIES[family](share))) for family, share in shares.items())
    later, earlier = (of_rst(at, rst.rst(at, rst.TRIGONOMETRIC[name])) for name in ("cos2", "cos1"))
    return [
        Contrast("accuracy: SAM in the last 60 % of steps alone minus SAM in the first 60 % alone", late, early),
        Contrast("accuracy at equal cost: p rising from 0 to 1 (cos2) minus p falling from 1 to 0 (cos1)", later,
                 earlier),
    ]  # fmt: skip


@claim("rst", "G-RST beats SAM at half the extra cost", "section 4, table 3")
def g_rst(at: Grid) -> Sequence[Contrast | Cost]:
    rule = rst.g_rst(at)
    return [
        Contrast("accuracy: G-RST with p 0.5 minus SAM", of_rst(at, rule), of_rst(at, rst.sam(at))),
        Cost("a step of G-RST with p 0.5", "G-RST(.5)", at_most=1.55),
    ]


# --- Efficient SAM ----------------------------------------------------------------------------------------------------


@claim("esam", "ESAM matches SAM at lower cost", "table 1")
def esam_matches(at: Grid) -> Sequence[Contrast | Cost]:
    sam, efficient = esam.sam(at, "CIFAR-100", "ResNet-18"), esam.esam(at, "CIFAR-100", "ResNet-18")
    return [
        Contrast("accuracy, ResNet-18: ESAM minus SAM", Accuracy(efficient), Accuracy(sam), within=1.0,
                 published=80.41 - 80.17,
                 lost=Contrast("SAM minus SGD", Accuracy(sam), Accuracy(esam.plain(at, "CIFAR-100", "ResNet-18")))),
        Cost("a step of ESAM", "ESAM(.6, .5)", at_most=1.45, published=3483 / 2423),
    ]  # fmt: skip


@claim("esam", "The samples that SDS selects represent the batch", "appendix A.2, figure 6")
def representative(at: Grid) -> Sequence[Contrast]:
    lines: dict[str, Logged] = {}
    for cell in artefacts_of("esam")["figure6"].cells(at):
        if isinstance(cell.quantity, Logged):
            lines.setdefault(cell.row, replace(cell.quantity, last=True))
    says = "cosine with the batch's gradient {}, last epoch: selected samples minus the others"
    return [
        Contrast(says.format(place), lines[f"B+ {place}"], lines[f"B- {place}"], unit="(cosine)")
        for place in ("at w + e", "at w")
    ]

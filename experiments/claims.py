"""The five papers' claims, each as what must be seen if it holds; ``noiserobust reproduce claims`` judges them.

A claim is judged at one scale, from the very pieces that its paper's tables and figures show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments import incorruptible as inc
from experiments.grid.claim import Change, Claim, Contrast
from experiments.grid.published import published
from experiments.grid.quantity import Accuracy, Best, Gain, Logged, logging
from experiments.grid.scale import Grid


def printed(paper: str, table: str, a: tuple[str, str], b: tuple[str, str], unit: str = "accuracy") -> float | None:
    """The published a - b, both cells of one table."""
    cells = published(paper)
    first, second = (cells.get((table, *cell, unit)) for cell in (a, b))
    return None if first is None or second is None else first.value - second.value


# --- Incorruptible Neural Networks ------------------------------------------------------------------------------------


def over_regularised(at: Grid) -> Sequence[Contrast]:
    found = []
    # Table 1: RWP trained at sigma_test against RWP trained harder.
    for test, harder in ((0.03, 0.05), (0.05, 0.08)):
        under = inc.noise(at, test)
        shown = printed("incorruptible", "table1", (f"RWP sigma {harder:g}", f"sigma {test:g}"),
                        (f"RWP sigma {test:g}", f"sigma {test:g}"))  # fmt: skip
        found.append(
            Contrast(f"under sigma {test:g}: RWP {harder:g} minus RWP {test:g}",
                     Accuracy(inc.rwp(at, harder), under), Accuracy(inc.rwp(at, test), under), published=shown)
        )  # fmt: skip
    return found


def fair(best: Best) -> Best:
    """The best strength, chosen for each copy by the others, so that the choice does not flatter."""
    return replace(best, crossed=True)


def small_and_large(at: Grid) -> Sequence[Contrast]:
    def sam(test: float) -> Best:
        return fair(inc.best_sam(at, test))

    def rwp(test: float) -> Best:
        return fair(inc.best_rwp(at, test))

    return [
        Contrast("under sigma 0.02: best SAM minus best RWP", sam(0.02), rwp(0.02), published=79.12 - 77.65),
        Contrast("under sigma 0.07: best RWP minus best SAM", rwp(0.07), sam(0.07), published=61.36 - 53.61),
    ]


def one_rho(at: Grid) -> Sequence[Contrast]:
    found = []
    for test in inc.TEST[1:]:
        under = inc.noise(at, test)
        found.append(
            Contrast(f"under sigma {test:g}: best radius there minus rho 0.3", fair(inc.best_sam(at, test)),
                     Accuracy(inc.sam(at, 0.3), under), within=1.0)
        )  # fmt: skip
    return found


def ramps_beat_constants(at: Grid) -> Sequence[Contrast]:
    found = []
    for method, best, ramp in (
        ("RWP", inc.best_rwp, inc.ramped_rwp),
        ("SAM", inc.best_sam, inc.ramped_sam),
    ):
        for test in (0.02, 0.07):
            shown = printed("incorruptible", "table3", (f"Quadratic {method}", f"sigma {test:g}"),
                            (f"Constant {method}", f"sigma {test:g}"))  # fmt: skip
            found.append(
                Contrast(f"under sigma {test:g}: quadratic {method} minus the best constant {method}",
                         Accuracy(ramp(at, "Quadratic"), inc.noise(at, test)), fair(best(at, test)), published=shown)
            )  # fmt: skip
    for method, best, ramp in (("RWP", inc.best_rwp, inc.ramped_rwp), ("SAM", inc.best_sam, inc.ramped_sam)):
        run = ramp(at, "Quadratic")
        small, large = (Gain(Accuracy(run, inc.noise(at, test)), fair(best(at, test))) for test in (0.02, 0.07))
        found.append(Contrast(f"that gain of {method} under sigma 0.07 minus that under 0.02", large, small))
    return found


def quadratic_most(at: Grid) -> Sequence[Contrast]:
    found = []
    for method, ramp in (("RWP", inc.ramped_rwp), ("SAM", inc.ramped_sam)):
        for other in ("Linear", "Off-to-On"):
            shown = printed("incorruptible", "table3", (f"Quadratic {method}", "sigma 0.07"),
                            (f"{other} {method}", "sigma 0.07"))  # fmt: skip
            under = inc.noise(at, 0.07)
            found.append(
                Contrast(f"under sigma 0.07: quadratic minus {other.lower()} {method}",
                         Accuracy(ramp(at, "Quadratic"), under), Accuracy(ramp(at, other), under), published=shown)
            )  # fmt: skip
    return found


def gradients_collapse(at: Grid) -> Sequence[Contrast]:
    def last(run) -> Logged:  # type: ignore[no-untyped-def]
        return Logged(logging(run, inc.GRADIENT), f"train/{inc.GRADIENT}", last=True)

    sam, rwp, sgd = last(inc.sam(at, 0.3)), last(inc.rwp(at, 0.08)), last(inc.plain(at))
    return [
        Contrast("update gradient's norm in the last epoch: RWP 0.08 minus SAM 0.3", rwp, sam, unit="(norm)"),
        Contrast("the same: SGD minus SAM 0.3", sgd, sam, unit="(norm)"),
    ]


def sharpness_parts(at: Grid) -> Sequence[Contrast]:
    measure = inc.sharpness_of(at, 0.02)
    found = []
    for row, run in (("SGD", inc.plain(at)), ("SAM 0.3", inc.sam(at, 0.3))):
        logged = logging(run, measure, on=("train", "test"))
        test, train = (Change(logged, f"{part}/{measure}", since=0.5) for part in ("test", "train"))
        found.append(
            Contrast(f"{row}, second half of training: change of test minus change of training sharpness", test, train,
                     unit="nats")
        )  # fmt: skip
    return found


def cosines(at: Grid) -> Sequence[Contrast]:
    sam, rwp = (
        Change(logging(run, inc.COSINE), f"train/{inc.COSINE}") for run in (inc.sam(at, 0.3), inc.rwp(at, 0.08))
    )
    return [
        Contrast("change of the cosine since a third of training: SAM 0.3 minus RWP 0.08", sam, rwp, unit="(cosine)")
    ]


def wider(at: Grid) -> Sequence[Contrast]:
    under = inc.noise(at, 0.07)

    def of(network: str, sigma: float = 0.08) -> Accuracy:
        return Accuracy(inc.rwp(at, sigma, f"narrow {network}"), under)

    return [
        Contrast("RWP under sigma 0.07: WRN-16-10 minus WRN-16-5", of("WRN-16-10"), of("WRN-16-5"),
                 published=printed("incorruptible", "table6", ("WRN-16-10", "sigma 0.07, RWP"),
                                   ("WRN-16-5", "sigma 0.07, RWP"))),
        Contrast("RWP under sigma 0.07: ResNet-34 minus ResNet-50", of("ResNet-34"), of("ResNet-50"),
                 published=printed("incorruptible", "table5", ("ResNet-34", "sigma 0.07, RWP"),
                                   ("ResNet-50", "sigma 0.07, RWP"))),
    ]  # fmt: skip


def under_laplace(at: Grid) -> Sequence[Contrast]:
    def best(method: str, b: float) -> Best:
        sigmas, rhos = at.few((0.03, 0.05, 0.07), (0.03, 0.05)), (0.2, 0.3, 0.5)
        runs = [inc.rwp(at, s) for s in sigmas] if method == "RWP" else [inc.sam(at, r) for r in rhos]
        return fair(Best(tuple(Accuracy(run, inc.laplace(at, b)) for run in runs)))

    return [
        Contrast(
            "Laplace b 0.01: best SAM minus best RWP", best("SAM", 0.01), best("RWP", 0.01), published=79.75 - 78.30
        ),
        Contrast(
            "Laplace b 0.04: best RWP minus best SAM", best("RWP", 0.04), best("SAM", 0.04), published=68.00 - 62.25
        ),
    ]


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


CLAIMS: tuple[Claim, ...] = (
    Claim("incorruptible", "RWP trained harder than the test noise is best", "section 4.3, table 1", over_regularised),
    Claim("incorruptible", "SAM is best under small noise, RWP under large", "section 4.3, figure 2", small_and_large),
    Claim("incorruptible", "One radius of SAM (0.3) is best under every noise", "section 4.3, table 2", one_rho),
    Claim("incorruptible", "Ramps beat constant strengths, the more the larger the noise", "section 5.2, table 3",
          ramps_beat_constants),
    Claim("incorruptible", "Of the ramps the quadratic one is best", "section 5.2, table 3", quadratic_most),
    Claim("incorruptible", "SAM's update gradients become far smaller than RWP's", "section 4.4, figure 3",
          gradients_collapse),
    Claim("incorruptible", "Test sharpness rises while training sharpness falls", "section 4.5, figure 4",
          sharpness_parts),
    Claim("incorruptible", "RWP's gradients turn away from the clean ones, SAM's keep their angle",
          "appendix B.1, figure 5", cosines),
    Claim("incorruptible", "Wider networks are more robust; ResNet-50 is worse than ResNet-34", "appendix D", wider),
    Claim("incorruptible", "Laplace noise tells the same story", "appendix C, table 4", under_laplace),
    Claim("incorruptible", "Training under noise also beats clipping and aihwkit's additive training (ours, not the "
          "paper's)", "our comparators", comparators),
)  # fmt: skip

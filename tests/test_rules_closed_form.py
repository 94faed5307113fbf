"""Each rule's update in float64, worked out from its equations on losses whose gradients are known.

Two nets: :class:`Centres`, sample i's loss being 1/2 (w - c_i)' A (w - c_i) over three tensors, and a linear classifier
for the rules that look at logits. Pure RWP has a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from methods import Quadratic, close, smooth_net, weights
from methods import batch as images
from torch import Tensor, nn

from noiserobust.analog.filters import filter_noise
from noiserobust.analog.vectors import Vector
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.data import Batch
from noiserobust.rng import Stream, seeded
from noiserobust.training import ASAM, ESAM, GSAM, MESA, SAM, Engine, Method, Progress

LR, MOMENTUM, DECAY, SEED = 0.1, 0.9, 0.01, 7
TENSORS = {"weight": slice(0, 6), "bias": slice(6, 8), "other": slice(8, 12)}  # the first is 2 x 3
BIAS = torch.zeros(12, dtype=torch.bool).index_fill(0, torch.tensor([6, 7]), True)
ANALOG = torch.arange(12) < 6
Rule = Callable[[Tensor, int], Tensor]


class Centres(Quadratic):
    """The network's output for an input c_i is already its loss, 1/2 (w - c_i)' A (w - c_i)."""

    def forward(self, centres: Tensor) -> Tensor:
        apart = self.w - centres
        return 0.5 * (apart @ self.A * apart).sum(1)


A = Centres().A


def centres(step: int, n: int = 6) -> Tensor:
    return Stream(1, "test", "centre", step).normal((n, 12)).double()


def data(step: int) -> Batch:
    return Batch(centres(step), torch.zeros(6, dtype=torch.long), torch.arange(6))


def at(w: Tensor) -> Centres:
    model = Centres()
    with torch.no_grad():
        nn.utils.vector_to_parameters(w.clone(), (model.layer.weight, model.layer.bias, model.other))
    return model


def flat(model: Centres, vector: Vector) -> Tensor:
    """A vector in the model's order, other, weight, bias, in that of w."""
    other, weight, bias = (part.flatten() for part in vector if part is not None)
    return torch.cat([weight, bias, other])


def gradient(w: Tensor, step: int, rows: slice | Tensor = slice(None)) -> Tensor:
    """The mean of A (w - c_i) over the step's batch."""
    return A @ (w - centres(step)[rows].mean(0))


def unit(v: Tensor) -> Tensor:
    return v / v.square().sum().sqrt()


def by_hand(rule: Rule, steps: int) -> Tensor:
    """SGD with momentum and weight decay, at w, on what the rule says."""
    w, velocity = Centres().w.detach(), torch.zeros(12, dtype=torch.float64)
    for step in range(steps):
        velocity = MOMENTUM * velocity + rule(w, step) + DECAY * w
        w = w - LR * velocity
    return w


def trained(method: str, steps: int, first: int = 0) -> tuple[Tensor, Engine]:
    model = Centres()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    engine = Engine(model, optimizer, lambda out, labels: out, seed=SEED)
    for step in range(steps):
        Method.parse(method).step(engine, data(step), Progress(first + step, 100))
    return model.w.detach(), engine


def agrees(method: str, rule: Rule, steps: int) -> None:
    w, _ = trained(method, steps)
    torch.testing.assert_close(w, by_hand(rule, steps), rtol=1e-10, atol=1e-11)
    plain = by_hand(gradient, steps)
    assert (w - plain).abs().max() > 1e-4  # the rule is no plain step in disguise


def sam(w: Tensor, step: int, rho: float = 0.05, alpha: float = 0.0, only: Tensor | None = None) -> Tensor:
    g = gradient(w, step)
    return alpha * g + (1 - alpha) * gradient(w + rho * unit(g if only is None else g * only), step)


def asam(w: Tensor, step: int, rho: float = 0.5, eta: float = 0.01, only: Tensor | None = None) -> Tensor:
    scale = torch.where(BIAS, 1.0, w.abs() + eta)
    g = gradient(w, step) * (1 if only is None else only)
    return gradient(w + rho * scale**2 * g / (scale * g).square().sum().sqrt(), step)


def gsam(w: Tensor, step: int, rho: float = 0.05, alpha: float = 0.4) -> Tensor:
    g, perturbed = gradient(w, step), sam(w, step, rho)
    return perturbed - alpha * (g - (g @ unit(perturbed)) * unit(perturbed))


def ssam(w: Tensor, step: int, rho: float = 0.05, fraction: float = 0.5) -> Tensor:
    """With a new Fisher mask at every step."""
    g = gradient(w, step)
    kept = g.square() >= g.square().sort(descending=True).values[max(1, int(fraction * 12)) - 1]
    return gradient(w + rho * kept.double() * unit(g), step)


def samson(w: Tensor, step: int, rho: float = 0.5, p: float = float("inf"), eta: float = 0.0) -> Tensor:
    """Every tensor by its own norm."""
    scale = torch.cat([w[part].abs() / torch.linalg.vector_norm(w[part], p) + eta for part in TENSORS.values()])
    g = gradient(w, step)
    return gradient(w + rho * scale**2 * g / (scale * g).norm(), step)


def amp(rho: float = 0.5, zeta: float = 1.0, times: int = 1, parts: list[slice] | None = None) -> Rule:
    def rule(w: Tensor, step: int) -> Tensor:
        e = torch.zeros_like(w)
        for _ in range(times):
            e = e + zeta * gradient(w + e, step)
            for part in parts or [slice(0, 12)]:
                e[part] *= min(1.0, rho / float(e[part].norm()))
        return gradient(w + e, step)

    return rule


def fsam(rho: float, sigma: float, lam: float) -> Rule:
    mean: list[Tensor] = []

    def rule(w: Tensor, step: int) -> Tensor:
        g = gradient(w, step)
        d = g - sigma * mean[-1] if mean else g
        mean.append(lam * mean[-1] + (1 - lam) * g if mean else g)
        return gradient(w + rho * unit(d), step)

    return rule


def vasso(rho: float, theta: float) -> Rule:
    d: list[Tensor] = []

    def rule(w: Tensor, step: int) -> Tensor:
        g = gradient(w, step)
        d.append((1 - theta) * d[-1] + theta * g if d else g)
        return gradient(w + rho * unit(d[-1]), step)

    return rule


def arwp(gamma: float, eta: float, beta: float, alpha: float = 0.0, different: bool = False) -> Rule:
    """Rows of the 2 x 3 weight are filters; elements of the vectors have a history of their own."""
    history = torch.zeros(12, dtype=torch.float64)

    def rule(w: Tensor, step: int) -> Tensor:
        stream = Stream(SEED, "train", "filters", step)
        rows, sums = w[:6].view(2, 3), history[:6].view(2, 3).sum(1, keepdim=True)
        e = [
            (
                gamma
                * rows.norm(dim=1, keepdim=True)
                * stream.child("weight").normal((2, 3)).double()
                / (1 + eta * sums).sqrt()
            )
        ]
        for name in ("bias", "other"):
            part = TENSORS[name]
            z = stream.child(name).normal((part.stop - part.start,)).double()
            e.append(gamma * w[part].norm() * z / (1 + eta * history[part]).sqrt())
        noisy = gradient(w + torch.cat([one.flatten() for one in e]), max(0, step - 1) if different else step)
        history.mul_(beta).add_(noisy**2)
        return alpha * gradient(w, step) + (1 - alpha) * noisy

    return rule


@pytest.mark.parametrize("steps", [1, 2])
class TestClimbing:
    def test_sam(self, steps: int) -> None:
        agrees("sam", sam, steps)
        agrees("sam:0.2,alpha=0.3", partial(sam, rho=0.2, alpha=0.3), steps)
        agrees("sam:0.2,perturb=analog", partial(sam, rho=0.2, only=ANALOG), steps)
        agrees("sam:0.2,perturb=analog,alpha=0.3", partial(sam, rho=0.2, alpha=0.3, only=ANALOG), steps)
        agrees("sam:linear(0.8,warmup=8)", lambda w, step: sam(w, step, 0.8 * step / 8), steps + 1)

    def test_asam(self, steps: int) -> None:
        agrees("asam", asam, steps)
        agrees("asam:0.3,eta=0.2", partial(asam, rho=0.3, eta=0.2), steps)
        agrees("asam:0.3,perturb=analog", partial(asam, rho=0.3, only=ANALOG), steps)

    def test_samson(self, steps: int) -> None:
        agrees("samson", samson, steps)
        agrees("samson:0.3,p=2,eta=0.05", partial(samson, rho=0.3, p=2.0, eta=0.05), steps)

    def test_amp(self, steps: int) -> None:
        agrees("amp:0.2", amp(0.2), steps)
        agrees("amp:50.0,zeta=0.1", amp(50.0, 0.1), steps)  # within the ball
        agrees("amp:0.2,zeta=0.05,steps=3", amp(0.2, 0.05, 3), steps)
        agrees("amp:0.2,layerwise=true,steps=2", amp(0.2, 1.0, 2, list(TENSORS.values())), steps)

    def test_fsam(self, steps: int) -> None:
        agrees("f-sam:0.2", fsam(0.2, 1.0, 0.9), steps + 1)
        agrees("f-sam:0.2,sigma=0.5,lam=0.6", fsam(0.2, 0.5, 0.6), steps + 2)

    def test_vasso(self, steps: int) -> None:
        agrees("vasso:0.2", vasso(0.2, 0.4), steps + 1)
        agrees("vasso:0.2,theta=1.0", partial(sam, rho=0.2), steps + 1)

    def test_arwp(self, steps: int) -> None:
        agrees("arwp:0.2", arwp(0.2, 1.0, 0.9), steps + 1)
        agrees("arwp:0.2,eta=0.1,beta=0.5", arwp(0.2, 0.1, 0.5), steps + 2)
        agrees("arwp-mixed:0.2,alpha=0.3,batches=same", arwp(0.2, 1.0, 0.9, 0.3), steps + 1)
        agrees("arwp-mixed:0.2", arwp(0.2, 1.0, 0.9, 0.5, different=True), steps + 2)

    def test_lpf_sgd(self, steps: int) -> None:
        def rule(w: Tensor, step: int) -> Tensor:
            gamma = 0.05 * (1 + 3 * (1 - math.cos(math.pi * step / 100)) / 2)
            total = torch.zeros_like(w)
            for draw, samples in enumerate(([0, 1], [2, 3], [4], [5])):  # six samples in four parts
                e = filter_noise(WeightSpace(at(w)), gamma, Stream(SEED, "train", "filters", step, draw))
                total += len(samples) / 6 * gradient(w + flat(at(w), e), step, torch.tensor(samples))
            return total

        agrees("lpf-sgd:0.05,draws=4,growth=3.0", rule, steps)

    def test_gsam(self, steps: int) -> None:
        agrees("gsam", gsam, steps)
        agrees("gsam:0.2,alpha=0.8", partial(gsam, rho=0.2, alpha=0.8), steps)
        agrees("gsam:0.2,alpha=0.0", partial(sam, rho=0.2), steps)

    def test_ssam_fisher(self, steps: int) -> None:
        agrees("ssam:0.2,every=1", partial(ssam, rho=0.2), steps)
        agrees("ssam:0.2,fraction=0.25,every=1", partial(ssam, rho=0.2, fraction=0.25), steps)
        agrees("ssam:0.2,fraction=0.01,every=1", partial(ssam, rho=0.2, fraction=0.01), steps)
        agrees("ssam:0.2,fraction=1.0", partial(sam, rho=0.2), steps)

    def test_ssam_random(self, steps: int) -> None:
        _, engine = trained("ssam:0.2,mask=random,fraction=0.25", steps)
        masks = dict(zip(engine.names, engine.memory["ssam"]["masks"], strict=True))
        mask = torch.cat([masks[name].flatten() for name in TENSORS])
        assert mask.sum() == 3

        def rule(w: Tensor, step: int) -> Tensor:
            return gradient(w + 0.2 * mask.double() * unit(gradient(w, step)), step)

        agrees("ssam:0.2,mask=random,fraction=0.25", rule, steps)

    def test_looksam(self, steps: int) -> None:
        agrees("looksam:0.2", looksam(0.2, 0.7, 5, [slice(0, 12)]), steps)
        agrees("looksam:0.2,alpha=0.3,k=1", looksam(0.2, 0.3, 1, [slice(0, 12)]), steps)
        agrees("looksam:0.2,layerwise=true", looksam(0.2, 0.7, 5, list(TENSORS.values())), steps)

    @pytest.mark.parametrize("normalised", [False, True])
    @pytest.mark.parametrize(
        ("inner", "perturbed"),
        [
            ("sam(0.2)", partial(sam, rho=0.2)),
            ("asam", asam),
            ("gsam(0.2)", partial(gsam, rho=0.2)),
            ("ssam(0.2,every=1)", partial(ssam, rho=0.2)),
            ("samson", samson),
            ("vasso(0.2,theta=1.0)", partial(sam, rho=0.2)),
        ],
    )
    @pytest.mark.parametrize("a", [2.0, 0.8])
    def test_g_rst(self, steps: int, inner: str, perturbed: Rule, a: float, normalised: bool) -> None:
        def rule(w: Tensor, step: int) -> Tensor:
            g = gradient(w, step)
            return (1 - a) * (unit(g) if normalised else g) + a * perturbed(w, step)

        agrees(f"g-rst:{inner},p=1.0,a={a},normalised={str(normalised).lower()}", rule, steps)


def looksam(rho: float, alpha: float, k: int, parts: list[slice]) -> Rule:
    left = torch.zeros(12, dtype=torch.float64)

    def rule(w: Tensor, step: int) -> Tensor:
        g = gradient(w, step)
        if step % k == 0:
            perturbed = sam(w, step, rho)
            for part in parts:
                left[part] = perturbed[part] - (perturbed[part] @ unit(g[part])) * unit(g[part])
            return perturbed
        turned = g.clone()
        for part in parts:
            turned[part] += alpha * g[part].norm() / left[part].norm() * left[part]
        return turned

    return rule


def test_looksam_climbs_again_after_k_steps() -> None:
    agrees("looksam:0.2,k=2", looksam(0.2, 0.7, 2, [slice(0, 12)]), 5)


def test_gsam_rho_follows_the_learning_rate() -> None:
    """rho = rho_min + (rho_max - rho_min) lr / lr_max, with either kind of scheduler's peak and without one."""
    schedulers = torch.optim.lr_scheduler
    for schedule in (
        lambda optimizer: schedulers.LambdaLR(optimizer, lambda step: 1.0),
        lambda optimizer: optimizer.param_groups[0].update(initial_lr=LR / 50),  # a scheduler that raises it
        lambda optimizer: schedulers.OneCycleLR(optimizer, LR, total_steps=10),  # starts at a 25th of its peak
        lambda optimizer: None,
    ):
        model = Centres()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        schedule(optimizer)
        engine = Engine(model, optimizer, lambda out, labels: out)
        for rate in (LR / 25, LR):  # larger than what is said, for a while
            optimizer.param_groups[0]["lr"] = rate
            engine.gradient(data(0))
            engine.take()
            assert engine.lr_share <= 1
        optimizer.param_groups[0]["lr"] = LR / 4
        w = model.w.detach()
        GSAM(0.2, follow_lr=True, rho_min=0.04).step(engine, data(0), Progress(0, 10))
        torch.testing.assert_close(model.w.detach(), w - LR / 4 * gsam(w, 0, rho=0.08), rtol=1e-10, atol=1e-11)


def esam(method: ESAM, engine: Engine) -> Rule:
    def rule(w: Tensor, step: int) -> Tensor:
        chosen = torch.zeros(12, dtype=torch.float64)
        for name, wanted in zip(engine.names, method.chosen(engine, step), strict=True):
            chosen[TENSORS[name]] = float(wanted)
        g = gradient(w, step)
        length = (g * chosen if method.scaling == "selected" else g).norm()
        share = 1 - method.beta if method.scaling == "paper" else method.beta
        e = 0.2 / share * g * chosen / length
        loss = [0.5 * ((at - centres(step)) @ A * (at - centres(step))).sum(1) for at in (w, w + e)]
        kept = (loss[1] - loss[0]).argsort(descending=True)[: max(1, int(method.gamma * 6))]
        return gradient(w + e, step, kept)

    return rule


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    "text",
    [
        "esam:0.2",
        "esam:0.2,beta=0.5,gamma=0.34",
        "esam:0.2,gamma=1.0",
        "esam:0.2,beta=1.0",
        "esam:0.2,gamma=0.1",
        "esam:0.2,scaling=full",
        "esam:0.2,beta=0.3,scaling=paper",
        "esam:0.2,beta=1.0,gamma=1.0",
    ],
)
def test_esam(text: str, steps: int) -> None:
    method = ESAM.parse(text)
    _, engine = trained("plain", 0)
    agrees(text, esam(method, engine), steps)
    if method.beta == method.gamma == 1:
        agrees(text, partial(sam, rho=0.2), steps)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("batches", ["same", "different"])
def test_mixed_rwp(steps: int, alpha: float, batches: str) -> None:
    """alpha weighs the clean gradient; each row of the 2 x 3 weight is a filter, the vectors are one each."""

    def rule(w: Tensor, step: int) -> Tensor:
        stream = Stream(SEED, "train", "filters", step)
        rows = w[:6].view(2, 3)
        e = torch.cat(
            [
                (0.2 * rows.norm(dim=1, keepdim=True) * stream.child("weight").normal((2, 3)).double()).flatten(),
                0.2 * w[6:8].norm() * stream.child("bias").normal((2,)).double(),
                0.2 * w[8:].norm() * stream.child("other").normal((4,)).double(),
            ]
        )
        other = step if batches == "same" else max(0, step - 1)
        return alpha * gradient(w, step) + (1 - alpha) * gradient(w + e, other)

    agrees(f"rwp-mixed:0.2,alpha={alpha},batches={batches}", rule, steps)


def test_filter_noise_of_every_kind_of_layer() -> None:
    """gamma ||w_k|| times a named normal field, k being an output channel, or the whole of a vector."""
    with seeded(Stream(3, "test")):
        model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm1d(5))
        nn.init.normal_(model[2].weight)
    stream = Stream(SEED, "filters")
    e = dict(zip(dict(model.named_parameters()), filter_noise(WeightSpace(model), 0.1, stream), strict=True))
    for name, parameter in model.named_parameters():
        w = parameter.detach()
        if name == "1.weight":  # output channel 3 g + k has the inputs 2 g and 2 g + 1, second dimension k
            places = [(slice(2 * g, 2 * g + 2), k) for g in range(2) for k in range(3)]
            fields = stream.child(name).normal((6, 2, 2, 2))
        else:
            places = list(range(len(w))) if w.dim() > 1 else [slice(None)]
            fields = stream.child(name).normal(w.shape) if w.dim() > 1 else [stream.child(name).normal(w.shape)]
        for place, field in zip(places, fields, strict=True):
            torch.testing.assert_close(e[name][place], 0.1 * w[place].norm() * field)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_rst(p: float) -> None:
    heads = [float(Stream(SEED, "train", "coin", step).uniform((1,))) < p for step in range(8)]
    assert p != 0.5 or 0 < sum(heads) < 8
    w, _ = trained(f"rst:sam(0.2),p={p}", 8)

    def rule(w: Tensor, step: int) -> Tensor:
        return sam(w, step, 0.2) if heads[step] else gradient(w, step)

    torch.testing.assert_close(w, by_hand(rule, 8), rtol=1e-10, atol=1e-11)


def test_looksam_inside_rst_counts_its_own_steps() -> None:
    heads = [float(Stream(SEED, "train", "coin", step).uniform((1,))) < 0.5 for step in range(8)]
    left = torch.zeros(12, dtype=torch.float64)

    def rule(w: Tensor, step: int) -> Tensor:
        g = gradient(w, step)
        if not heads[step]:
            return g
        if sum(heads[:step]) % 2 == 0:
            perturbed = sam(w, step, 0.2)
            left[:] = perturbed - (perturbed @ unit(g)) * unit(g)
            return perturbed
        return g + 0.7 * g.norm() / left.norm() * left

    w, _ = trained("rst:looksam(0.2,k=2),p=0.5", 8)
    torch.testing.assert_close(w, by_hand(rule, 8), rtol=1e-10, atol=1e-11)


class TestTrajectory:
    """Linear classifier z = W x + b: dCE/dz = softmax(z) - y, dKL/dz = (softmax(z/tau) - softmax(past/tau)) / tau."""

    TAU = 3.0

    def setup(self) -> tuple[nn.Module, Engine, Tensor, Tensor]:
        with seeded(Stream(2, "test")):
            model = nn.Linear(4, 3).double()
            x = torch.randn(5, 4, dtype=torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        return model, Engine(model, optimizer, samples=5, classes=3), x, torch.tensor([0, 2, 1, 1, 0])

    def stepped(self, w: Tensor, x: Tensor, y: Tensor, past: Tensor | None, factor: float) -> Tensor:
        """The weights (W, b as a 3 x 5 matrix) after a step of SGD; ``factor`` is lam tau^2 or what stands for it."""
        inputs = torch.cat([x, torch.ones(5, 1, dtype=torch.float64)], 1)
        z = inputs @ w.T
        dz = z.softmax(1) - nn.functional.one_hot(y, 3)
        if past is not None:
            dz = dz + factor / self.TAU * ((z / self.TAU).softmax(1) - (past / self.TAU).softmax(1))
        return w - 0.5 * dz.T @ inputs / 5

    def matrix(self, model: nn.Module) -> Tensor:
        return torch.cat([model.weight.detach(), model.bias.detach()[:, None]], 1)

    @pytest.mark.parametrize(("scaling", "factor"), [("released", 0.3 * 9), ("paper", 0.3**2)])
    def test_saf(self, scaling: str, factor: float) -> None:
        model, engine, x, y = self.setup()
        w, seen = self.matrix(model), []
        method = Method.parse(f"saf:0.3,tau=3.0,start=3,back=2,scaling={scaling}")
        for epoch in range(5):
            method.step(engine, Batch(x, y, torch.arange(5)), Progress(epoch, 5, epoch, 5))
            seen.append(x @ w[:, :4].T + w[:, 4])
            w = self.stepped(w, x, y, seen[epoch - 2] if epoch >= 3 else None, factor)
            torch.testing.assert_close(self.matrix(model), w, rtol=1e-10, atol=1e-11)

    @pytest.mark.parametrize(("scaling", "factor"), [("released", 0.8 * 9), ("paper", 0.8)])
    def test_mesa(self, scaling: str, factor: float) -> None:
        model, engine, x, y = self.setup()
        w = self.matrix(model)
        v = w
        method = MESA.parse(f"mesa:0.8,tau=3.0,start=1,beta=0.7,scaling={scaling}")
        for epoch in range(4):
            method.step(engine, Batch(x, y), Progress(epoch, 4, epoch, 4))
            w = self.stepped(w, x, y, x @ v[:, :4].T + v[:, 4] if epoch >= 1 else None, factor)
            v = 0.7 * v + 0.3 * w
            torch.testing.assert_close(self.matrix(model), w, rtol=1e-10, atol=1e-11)


class Fixed:
    """A schedule in the other implementation's sense."""

    def step(self) -> float:
        return 0.3


class TestAnotherImplementation:
    """pytorch_optimizer sums norms in float32: radii differ by 6e-8 of themselves, where plain SGD would by 1e-3."""

    def test_gsam(self) -> None:
        theirs = pytest.importorskip("pytorch_optimizer")
        ours, other = smooth_net(), smooth_net()
        optimizer = theirs.GSAM(
            other.parameters(), torch.optim.SGD(other.parameters(), lr=LR, momentum=MOMENTUM), other, Fixed()
        )
        engine = Engine(ours, torch.optim.SGD(ours.parameters(), lr=LR, momentum=MOMENTUM))
        for step in range(2):
            one = images(step=step, dtype=torch.float64)
            optimizer.set_closure(nn.functional.cross_entropy, one.inputs, one.labels)
            optimizer.step()
            GSAM(0.3).step(engine, one, Progress(step, 10))
        close(weights(ours), weights(other), rtol=0.0, atol=1e-8)

    @pytest.mark.parametrize("adaptive", [False, True])
    def test_sam_and_asam(self, adaptive: bool) -> None:
        """One norm over all parameter groups. Its adaptive SAM knows no eta and scales biases too: right only where
        there are none, and for eta 0."""
        theirs = pytest.importorskip("pytorch_optimizer")
        ours, other = smooth_net(), smooth_net()
        for net in (ours, other) if adaptive else ():
            net[1].bias, net[3].bias = None, None
        groups = [{"params": list(net.parameters())} for net in (other[1], other[3])]
        usual = {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}
        optimizer = theirs.SAM(groups, torch.optim.SGD, rho=0.3, adaptive=adaptive, **usual)
        engine = Engine(ours, torch.optim.SGD(ours.parameters(), **usual))
        for step in range(2):
            one = images(step=step, dtype=torch.float64)

            def closure(one: Batch = one) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(other(one.inputs), one.labels)
                loss.backward()
                return loss

            closure()
            optimizer.step(closure)
            (ASAM(0.3, eta=0.0) if adaptive else SAM(0.3)).step(engine, one, Progress(step, 10))
        close(weights(ours), weights(other), rtol=0.0, atol=1e-8)

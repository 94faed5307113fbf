"""The registry of methods that the contract in test_engine.py holds for, and what its tests share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.data import Batch, Splits, load
from noiserobust.rng import Stream, seeded
from noiserobust.training import MESA, SAF, Engine, Method, Progress

# The networks here are tiny: threads would only wait for each other (measured: 50 s instead of 8 s on a busy machine).
torch.set_num_threads(1)

ON = Progress(step=6, steps=10, epoch=6, epochs=10)
"""A step at which every registered method is at full strength (schedules warm up over the first half)."""
OFF = Progress(step=0, steps=10, epoch=0, epochs=10)
"""A step at which every schedule is at 0."""

SIZES = {"samples": 64, "classes": 3}
"""What an engine is told of the data."""


@dataclass(frozen=True)
class Case:
    """What the contract must know of a method besides its text.

    - ``off``: the method that costs and does what plain training does at step ``OFF``.
    - ``learns_at``: perturbation of the weights in the pass that normalisation statistics learn from and whose output
      the step returns (``None``: the clean pass), and ``name`` that of its draw after the step's number.
    - ``parts``: into how many parts, each with a draw, the method cuts its batch.
    - ``past``: what the engine must remember for the method to be at full strength in its first step.
    - ``period``: steps after which the method does again what it did in its first one.
    - ``coin``: the passes announced are expected ones.
    """

    off: str
    learns_at: str | None = None
    name: tuple[str, ...] = ()
    parts: int = 1
    past: Callable[[Engine], None] | None = None
    period: int = 1
    coin: bool = False


def recorded(engine: Engine) -> None:
    """SAF's memory, as if written one epoch before ``ON``."""
    method = SAF(back=1)
    method.prepare(engine)
    memory = engine.memory["saf"]
    memory["logits"].normal_(generator=Stream(0, "test", "past").generator())
    memory["epochs"].fill_(ON.epoch - 1)


def averaged(engine: Engine) -> None:
    """MESA's average, away from the weights."""
    MESA().prepare(engine)
    for name, value in engine.memory["mesa"].items():
        if "weight" in name:
            value.add_(0.3 * Stream(0, "test", "average").child(name).normal(value.shape).to(value.dtype))


METHODS: dict[str, Case] = {
    "plain": Case(off="plain"),
    "sam:0.1": Case(off="sam:0.0"),
    "sam:0.1,perturb=analog": Case(off="sam:0.0,perturb=analog"),
    "sam:0.1,alpha=0.3": Case(off="sam:0.0,alpha=0.3"),
    "sam:0.1,batches=different": Case(off="sam:0.0,batches=different"),
    "sam:linear(0.2)": Case(off="sam:linear(0.2)"),
    "rwp:gaussian(0.2)": Case(off="rwp:gaussian(0.0)", learns_at="random(gaussian(0.2))"),
    "rwp:laplace(0.1)": Case(off="rwp:laplace(0.0)", learns_at="random(laplace(0.1))"),
    "rwp:gaussian(0.2),draws=2": Case(off="rwp:gaussian(0.2),schedule=0.0,draws=2", learns_at="random(gaussian(0.2))"),
    "rwp:gaussian(0.2),draws=4,antithetic=true": Case(
        off="rwp:gaussian(0.0),draws=4,antithetic=true", learns_at="random(gaussian(0.2))"
    ),
    "rwp:gaussian(0.2),schedule=quadratic(1.0,warmup=5)": Case(
        off="rwp:gaussian(0.2),schedule=quadratic(1.0,warmup=5)", learns_at="random(gaussian(0.2))"
    ),
    "asam:0.3": Case(off="asam:0.0"),
    "asam:0.3,perturb=analog,eta=0.1": Case(off="asam:0.0,perturb=analog,eta=0.1"),
    "samson:0.3": Case(off="samson:0.0"),
    "amp:0.3": Case(off="amp:0.0"),
    "amp:0.1,perturb=analog,zeta=3.0,steps=2,layerwise=true": Case(
        off="amp:0.0,perturb=analog,zeta=3.0,steps=2,layerwise=true"
    ),
    "f-sam:0.1": Case(off="f-sam:0.0"),
    "vasso:uniform(0.1),theta=0.2": Case(off="vasso:uniform(linear(0.1)),theta=0.2"),
    "gsam:0.1": Case(off="gsam:0.0"),
    "gsam:0.1,alpha=0.8,follow_lr=true,rho_min=0.05": Case(off="gsam:0.0,alpha=0.8,follow_lr=true,rho_min=0.05"),
    "ssam:0.2": Case(off="ssam:0.0"),
    "ssam:0.2,fraction=0.3,mask=random,every=2": Case(off="ssam:0.0,fraction=0.3,mask=random,every=2"),
    "looksam:0.1,k=2": Case(off="looksam:0.0,k=2", period=2),
    "looksam:0.1,alpha=0.5,k=2,layerwise=true": Case(off="looksam:linear(0.1),k=2,layerwise=true", period=2),
    "esam:0.1": Case(off="esam:0.0"),
    "esam:0.1,gamma=1.0,scaling=paper": Case(off="esam:0.0,gamma=1.0,scaling=paper"),
    "esam:0.1,beta=1.0,gamma=0.75": Case(off="esam:0.0,beta=1.0,gamma=0.75"),
    "esam:0.1,scaling=full": Case(off="esam:0.0,scaling=full"),
    "saf:0.4,start=6,back=1": Case(off="saf:0.4,start=6,back=1", past=recorded),
    "saf:0.9,start=0,scaling=paper,back=1": Case(off="saf:0.0,start=0,scaling=paper,back=1", past=recorded),
    "mesa:0.5,start=6,beta=0.9": Case(off="mesa:0.5,start=6,beta=0.9", past=averaged),
    "mesa:0.5,start=0,scaling=paper,beta=0.9": Case(off="mesa:0.0,start=0,beta=0.9", past=averaged),
    "rst:sam(0.1),p=1.0": Case(off="rst:sam(0.0),p=1.0"),
    "rst:looksam(0.1,k=2),p=cos2": Case(off="rst:looksam(0.0,k=2),p=cos2", period=2, coin=True),
    "rst:esam(0.1),p=0.7": Case(off="rst:esam(0.0),p=0.7", coin=True),
    "rst:rwp-mixed(0.1),p=piecewise(0.0)": Case(off="rst:rwp-mixed(0.0),p=piecewise(0.0)"),
    "g-rst:sam(0.1),p=0.7": Case(off="g-rst:sam(0.0),p=0.7", coin=True),
    "g-rst:asam(0.3),p=0.9,a=1.5,normalised=true": Case(off="g-rst:asam(0.0),p=0.9,a=1.5,normalised=true", coin=True),
    "g-rst:gsam(0.1),p=1.0": Case(off="g-rst:gsam(0.0),p=1.0"),
    "g-rst:ssam(0.1),p=1.0": Case(off="g-rst:ssam(0.0),p=1.0"),
    "arwp:0.1": Case(off="arwp:0.0", learns_at="filters(0.1)", name=("filters",)),
    "arwp-mixed:0.1,eta=0.1,alpha=0.3": Case(off="arwp-mixed:0.0,eta=0.1,alpha=0.3"),
    "lpf-sgd:0.1,draws=2,growth=0.0": Case(
        off="lpf-sgd:0.0,draws=2,growth=0.0", learns_at="filters(0.1)", name=("filters",), parts=2
    ),
    "rwp-mixed:0.1": Case(off="rwp-mixed:0.0"),
    "rwp-mixed:cosine(0.2),alpha=0.3,batches=same": Case(off="rwp-mixed:cosine(0.2),alpha=0.3,batches=same"),
}
"""Text of a method (in its canonical form) -> its case. A method added here runs through the whole contract."""


def normed_net(seed: int = 0) -> nn.Module:
    """A float32 network with two kinds of batch norm, for inputs B x 1 x 5 x 5 and 3 classes, in training mode."""
    with seeded(Stream(seed, "test", "net")):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(36, 6),
            nn.BatchNorm1d(6, momentum=None),
            nn.Tanh(),
            nn.Linear(6, 3),
        )


def smooth_net(seed: int = 0) -> nn.Module:
    """A float64 network without normalisation for the same data."""
    with seeded(Stream(seed, "test", "net")):
        return nn.Sequential(nn.Flatten(), nn.Linear(25, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batch(n: int = 12, step: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Random inputs and labels; other ones at every ``step``."""
    generator = Stream(1, "test", "batch", step).generator()
    inputs = torch.randn(n, 1, 5, 5, generator=generator).to(dtype)
    return Batch(inputs, torch.randint(3, (n,), generator=generator), torch.arange(n))


def sgd(model: nn.Module, lr: float = 0.1, **engine: Any) -> Engine:
    """An engine with SGD, momentum 0.9."""
    return Engine(model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), **SIZES, **engine)


def few_digits(train: int, test: int = 60) -> Splits:
    """The digits with a few images of either part."""
    digits, few = load("digits"), Stream(0, "test")
    return replace(digits, train=digits.train.sample(train, few), test=digits.test.sample(test, few))


def train(method: Method, engine: Engine, steps: int = 3, first: int = 0, dtype: torch.dtype = torch.float32) -> None:
    """``steps`` steps at full strength, each on a batch of its own."""
    for step in range(first, first + steps):
        method.step(engine, batch(step=step, dtype=dtype), full_strength(step))


def full_strength(step: int) -> Progress:
    return ON._replace(step=ON.step + step, steps=100, epoch=ON.epoch + step, epochs=100)


def committed(method: str, engine: Engine, data: Batch | list[Batch], at: Progress = ON) -> list[Tensor]:
    """The gradients that one step of ``method`` hands to the optimizer."""
    seen: list[Tensor] = []

    def record(optimizer: torch.optim.Optimizer, *_: object) -> None:
        seen.extend(p.grad.clone() for group in optimizer.param_groups for p in group["params"])

    past = METHODS[method].past if method in METHODS else None
    if past is not None and not engine.memory:
        past(engine)
    handle = engine.optimizer.register_step_pre_hook(record)
    Method.parse(method).step(engine, data, at)
    handle.remove()
    return seen


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of all parameters."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def same_bits(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether two lists of tensors agree in every bit (so that NaN equals itself and 0.0 is not -0.0)."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    views = [[t.contiguous().view(kinds[t.element_size()]) for t in side] for side in (left, right)]
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(*views, strict=True))


def state(model: nn.Module) -> list[Tensor]:
    """Copies of all parameters and buffers."""
    return [tensor.clone() for tensor in model.state_dict().values()]


def close(left: list[Tensor], right: list[Tensor], **tolerance: float) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


class Passes:
    """Counts the forward and backward passes of a network by its own hooks, in units of ``rows`` samples.

    ``spoil`` is the number of the backward pass whose gradient is turned into inf, ``fail`` the forward or backward
    pass (``("forward", 0)`` is the first one) that raises :class:`Failure`.
    """

    def __init__(
        self, model: nn.Module, rows: int, spoil: int | None = None, fail: tuple[str, int] | None = None
    ) -> None:
        self.rows, self.spoil, self.fail = rows, spoil, fail
        self.calls = {"forward": 0, "backward": 0}
        self.samples = {"forward": 0, "backward": 0}
        self._handle = model.register_forward_hook(self._forward)

    def remove(self) -> None:
        self._handle.remove()

    @property
    def counted(self) -> tuple[float, float]:
        return self.samples["forward"] / self.rows, self.samples["backward"] / self.rows

    def _forward(self, model: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        self._count("forward", len(out))
        if out.requires_grad:
            out.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> Tensor:
        number = self._count("backward", len(gradient))
        return torch.full_like(gradient, float("inf")) if number == self.spoil else gradient

    def _count(self, kind: str, rows: int) -> int:
        number = self.calls[kind]
        self.calls[kind] += 1
        self.samples[kind] += rows
        if self.fail == (kind, number):
            raise Failure
        return number


class Failure(Exception):
    """Raised on purpose in the middle of a pass."""


class Quadratic(nn.Module):
    """L(w) = 1/2 w'Aw in float64 for w = (layer.weight, layer.bias, other), the first 6 of 12 elements being analog.

    The network's output is the loss itself, once per sample; :func:`output` is the loss function that goes with it.
    """

    def __init__(self) -> None:
        super().__init__()
        with seeded(Stream(0, "test", "quadratic")):
            self.layer = nn.Linear(3, 2).double()
            self.other = nn.Parameter(torch.randn(4, dtype=torch.float64))
            root = torch.randn(12, 12, dtype=torch.float64)
        self.A = root @ root.T / 12 + torch.eye(12, dtype=torch.float64)

    @property
    def w(self) -> Tensor:
        return nn.utils.parameters_to_vector((self.layer.weight, self.layer.bias, self.other))

    def forward(self, x: Tensor) -> Tensor:
        return (0.5 * self.w @ self.A @ self.w).expand(len(x))


def output(out: Tensor, labels: Tensor) -> Tensor:
    return out


def twin(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)

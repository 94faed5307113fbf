"""Everything that computes stays on its device: rules and noises on CUDA tensors without values, without a GPU.

torch's fake tensors know their shape, type and device, and refuse operations that mix devices. What they cannot do is
replaced here: a fake backward pass hands out gradients without values, generators of a GPU are left out, coins and
strengths that are drawn on the CPU are real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from methods import ON
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from noiserobust import perturbed
from noiserobust.analog import weights
from noiserobust.data import Batch
from noiserobust.noise import NoiseModel
from noiserobust.rng import Stream
from noiserobust.training import Engine, Method

pytestmark = pytest.mark.filterwarnings("ignore:CUDA is not available", "ignore:Accessing the data pointer")
GPU = "cuda"
ELSEWHERE = ("aihwkit", "chips")
"""Noises that want an analog model, or files."""


@pytest.fixture(autouse=True)
def leaves(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Inside fake CUDA; what is listed gets gradients of every backward pass that names no inputs."""
    leaves: list[Tensor] = []
    field, generator = Stream._field, Stream.generator

    def on_the_host(call: Callable[..., Any], *given: Any) -> Any:
        with unset_fake_temporarily():
            return call(*given)

    def filled(stream: Stream, fill: Any, shape: Any, rows: Any, device: Any) -> Tensor:
        real = torch.device(device).type == "cpu"
        return (
            on_the_host(field, stream, fill, shape, rows, device) if real else field(stream, fill, shape, rows, device)
        )

    def of_device(stream: Stream, device: Any = "cpu", block: int = 0) -> torch.Generator | None:
        return generator(stream, device, block) if torch.device(device).type == "cpu" else None

    def backward(loss: Tensor, *_: Any, inputs: Any = None, **__: Any) -> None:
        assert loss.device.type == GPU
        for tensor in inputs or leaves:
            given = torch.empty_like(tensor)
            tensor.grad = given if tensor.grad is None else tensor.grad + given

    def grad(_: Tensor, inputs: Any, *__: Any, **___: Any) -> tuple[Tensor, ...]:
        return tuple(map(torch.empty_like, [inputs] if isinstance(inputs, Tensor) else inputs))

    def asked(call: Callable[..., Any], answer: Any) -> Callable[..., Any]:
        return lambda tensor: answer if isinstance(tensor, FakeTensor) else on_the_host(call, tensor)

    monkeypatch.setattr(Stream, "_field", filled)
    monkeypatch.setattr(Stream, "generator", of_device)
    monkeypatch.setattr(torch.autograd, "backward", backward)
    monkeypatch.setattr(torch.autograd, "grad", grad)
    for name, answer in (("__bool__", True), ("__float__", 0.5), ("item", 0.5)):
        monkeypatch.setattr(Tensor, name, asked(getattr(Tensor, name), answer))
    monkeypatch.setattr(weights, "place_of", id)  # they have no memory that could be shared
    monkeypatch.setattr(weights, "_check_overlaps", lambda _: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield leaves


def engine(leaves: list[Tensor], **options: Any) -> Engine:
    with torch.device(GPU):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    leaves += model.parameters()
    return Engine(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), samples=64, classes=3, **options)


def steps(text: str, engine: Engine) -> None:
    with torch.device(GPU):
        batch = Batch(torch.empty(12, 1, 5, 5), torch.zeros(12, dtype=torch.long), torch.arange(12))
    method = Method.parse(text)
    method.prepare(engine)
    for step in range(2):
        at = ON._replace(step=ON.step + step, steps=100, epoch=ON.epoch + step, epochs=100)
        method.step(engine, batch, at)
    assert all(p.device.type == GPU for p in engine.model.parameters())


@pytest.mark.parametrize("text", [member.example for member in Method.registry.values()])
def test_rules(text: str, leaves: list[Tensor]) -> None:
    steps(text, engine(leaves, clip_norm=1.0, precision="bf16"))


def test_clipping(leaves: list[Tensor]) -> None:
    steps("plain", engine(leaves, weight_clip="rms(2.0,per=column)"))


@pytest.mark.parametrize("text", ["io:dac=6,adc=6,noise=0.06", "io:dac=8,adc=8,learnt=true"])
def test_converters(text: str, leaves: list[Tensor]) -> None:
    steps("rwp:gaussian(0.1)", engine(leaves, converters=text))


@pytest.mark.parametrize("text", [m.example for name, m in NoiseModel.registry.items() if name not in ELSEWHERE])
def test_noises(text: str) -> None:
    with torch.device(GPU):
        model, inputs = nn.Linear(20, 6), torch.empty(2, 20)
    with perturbed(model, text, draw=1):
        assert model(inputs).device.type == GPU
        assert model.weight.device.type == GPU


def test_mixed_devices_are_noticed() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device=GPU) + torch.ones(3)

"""No step makes the host wait for the device: nothing asks a tensor for its values.

On a GPU such a question waits until all that was launched is done, once per question. Here it is found out on the CPU:
every question is a torch function (``item``, ``tolist``, ``bool``, a boolean index, ...) or an operation whose result
has a size that the values decide.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from methods import METHODS, ON, batch, normed_net, sgd
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from noiserobust.training import Engine, Method

ALLOWED = {
    ("rst.py", "coin"): "the coin is a CPU tensor on every device",
    ("schedules.py", "factor"): "so is a strength that is drawn",
    ("clipping.py", "_settled"): "on a CPU alone: an accelerator makes all of the search's steps",
    ("esam.py", "chosen"): "so are the coins of the tensors that are perturbed",
    ("rng.py", "_mersenne_state"): "the state of a CPU generator",
    ("ssam.py", "_masks"): "once per mask, every hundredth step: a mask made of an overflow would stay",
    ("periphery.py", "update"): "once a step: which learnt ranges were called",
    ("batchnorm.py", "forward"): "torch's own, of a norm with momentum=None",
    ("grad_scaler.py", "_maybe_opt_step"): "GradScaler's own: it must know whether the step is to be skipped",
    ("grad_scaler.py", "get_scale"): "GradScaler's own number",
}
"""(file, function) -> why it may look at values."""

FUNCTIONS = {"item", "tolist", "numpy", "cpu", "nonzero", "masked_select", "unique", "equal", "allclose"}
METHODS_OF_PYTHON = {"__bool__", "__float__", "__int__", "__index__", "__contains__", "__array__"}
OPERATIONS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal"}


class WaitError(AssertionError):
    """Something asked for a tensor's values."""


def refuse(what: str) -> None:
    places = {(frame.filename.rpartition("/")[2], frame.name) for frame in traceback.extract_stack()}
    if not places & set(ALLOWED):
        raise WaitError(what)


class NoQuestions(TorchFunctionMode):
    """Refuses functions that hand values to Python."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in FUNCTIONS | METHODS_OF_PYTHON:
            refuse(name)
        index = args[1] if name in ("__getitem__", "__setitem__") else ()
        for part in index if isinstance(index, (tuple, list)) else (index,):
            if isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8):
                refuse("a boolean index")
        return func(*args, **(kwargs or {}))


class NoAnswers(TorchDispatchMode):
    """Refuses operations whose results depend on values, whoever calls them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func._schema.name in OPERATIONS:
            refuse(func._schema.name)
        return func(*args, **(kwargs or {}))


def step(method: str, engine: Engine, data: Any) -> None:
    rule = Method.parse(method)
    past = METHODS[method].past
    if past is not None:
        past(engine)
    rule.prepare(engine)
    # The first step may set up what lasts; the later ones are the training.
    for number in range(3):
        rule.step(engine, data, ON._replace(step=ON.step + number, steps=100, epoch=ON.epoch, epochs=100))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parts", [1, 2])
def test_no_rule_waits(method: str, parts: int) -> None:
    engine = sgd(normed_net(), clip_norm=1.0, weight_clip=2.0)
    data = batch() if parts == 1 else batch().split(parts)
    with NoQuestions(), NoAnswers():
        step(method, engine, data)


@pytest.mark.parametrize("converters", ["io:dac=6,adc=6,noise=0.06", "io:dac=8,adc=8,learnt=true"])
@pytest.mark.parametrize("method", ["rwp:gaussian(0.2)", "sam:0.1"])
def test_nor_do_converters(method: str, converters: str) -> None:
    with NoQuestions(), NoAnswers():
        step(method, sgd(normed_net(), converters=converters), batch().split(2))


@pytest.mark.parametrize(
    "method", ["plain", "sam:0.1", "looksam:0.1,k=2", "g-rst:asam(0.3),p=0.9,a=1.5,normalised=true"]
)
def test_with_loss_scaling_only_the_scaler_does(method: str) -> None:
    engine = sgd(normed_net(), scaler=torch.amp.GradScaler("cpu", init_scale=2.0**4))
    with NoQuestions(), NoAnswers():
        step(method, engine, batch())


@pytest.mark.parametrize(
    "question",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.numpy(),
        lambda x: torch.nonzero(x),
        lambda x: torch.equal(x, x),
        lambda x: x.cpu(),
        lambda x: torch.masked_select(x, x > 0),
    ],
)
def test_questions_are_noticed(question: Any) -> None:
    with pytest.raises(WaitError), NoQuestions(), NoAnswers():
        question(torch.ones(3))

"""How many trainings at once are fastest on one card: as processes, and as one network with a dimension more (vmap)."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from loops import SGD, Setup
from rules import of_rule
from torch import Tensor
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from experiments.gpu.rows import Rows

RULE = "rwp:gaussian(0.08,reading=literal)"
PATIENCE = 60.0
"""Seconds that processes wait for each other to start."""


def run(rows: Rows) -> int:
    """Measure it, a row each; the number of processes whose steps are the most together."""
    options = rows.options
    counts = (1,) if options.tiny else (1, 2, 4, 8)
    rows.each("trainings at once, processes", partial(in_processes, options.device, options.tiny, counts))
    for count in (2,) if options.tiny else (2, 4):
        rows.each(f"trainings at once, vmap of {count}", partial(in_one_call, options.device, options.tiny, count))
    found = [row for row in rows.read() if row["name"] == "trainings at once, processes" and row["ok"]]
    rates: dict[str, float] = found[-1]["steps_per_second"] if found else {"2": 1.0}  # type: ignore[assignment]
    return int(max(rates, key=lambda count: rates[count]))


def in_processes(device: str, tiny: bool, counts: tuple[int, ...]) -> dict[str, object]:
    """Training steps a second of so many processes together, each with a network of its own."""
    spawn, most = multiprocessing.get_context("spawn"), max(counts)
    barrier, results = spawn.Barrier(most), spawn.Queue()
    given = (device, tiny, counts, barrier, results)
    if most == 1:
        train(0, *given)
    else:
        processes = [spawn.Process(target=train, args=(number, *given), daemon=True) for number in range(most)]
        for process in processes:
            process.start()
    try:
        rates = dict.fromkeys(map(str, counts), 0.0)
        for _ in range(sum(counts)):
            count, rate = results.get(timeout=PATIENCE)
            rates[str(count)] += rate
    finally:
        if most > 1:
            for process in processes:
                process.kill()
    return {"steps_per_second": rates, "rule": RULE, "width": setup_of(device, tiny).width}


def train(number: int, device: str, tiny: bool, counts: tuple[int, ...], barrier: Any, results: Any) -> None:
    """Process ``number``: it takes steps in the turns of more than ``number`` processes, and says how many a second."""
    torch.set_num_threads(1)
    setup = setup_of(device, tiny)
    step = of_rule(RULE, 1, setup)
    for _ in range(1 if tiny else 10):
        step()
    for count in counts:
        barrier.wait(PATIENCE)
        if number < count:
            results.put((count, rate_of(step, device, 0.1 if tiny else 2.5)))


def in_one_call(device: str, tiny: bool, count: int) -> dict[str, object]:
    """Plain training steps a second (of one network each) of so many networks stacked in one call.

    Batch norm takes each batch's own statistics, as in training, and keeps no running ones.
    """
    setup = setup_of(device, tiny)
    networks = [replace_all_batch_norm_modules_(setup.model()) for _ in range(count)]
    parameters, buffers = stack_module_state(networks)  # type: ignore[arg-type]
    data = setup.data(setup.batch)
    momentum = {name: torch.zeros_like(value) for name, value in parameters.items()}

    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[setup.precision]
    inputs = data.inputs.to(kind)

    def loss(own: dict[str, Tensor], state: dict[str, Tensor]) -> Tensor:
        # Cast by hand: autocast's own backward passes do not go through vmap.
        cast = {name: value.to(kind) for name, value in own.items()}
        return cross_entropy(functional_call(networks[0], (cast, state), (inputs,)).float(), data.labels)

    gradients = vmap(grad(loss), randomness="different")

    @torch.no_grad()
    def step() -> None:
        found = gradients(parameters, buffers)
        names = list(parameters)
        moved = [momentum[name] for name in names]
        torch._foreach_mul_(moved, SGD["momentum"])
        torch._foreach_add_(moved, [found[name] for name in names])
        torch._foreach_add_([parameters[name] for name in names], moved, alpha=-SGD["lr"])

    for _ in range(1 if tiny else 5):
        step()
    return {"steps_per_second": count * rate_of(step, device, 0.1 if tiny else 2.5), "networks": count}


def setup_of(device: str, tiny: bool) -> Setup:
    return Setup(4, 2, device) if tiny else Setup(64, 128, device)


def rate_of(step: Callable[[], object], device: str, seconds: float) -> float:
    """Steps a second, of so many seconds of them."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began, taken = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        taken += 1
        if taken % 5 == 0:
            wait()  # the host must not run ahead of the clock
    wait()
    return taken / (time.perf_counter() - began)

"""What test_ddp.py starts: ranks that do all checks, the verdict of each in one file per rank."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from methods import METHODS, Passes, close, normed_net, same_bits, smooth_net, state
from processes import LIMIT
from shard_checks import SHARD_CHECKS
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from noiserobust.analog.filters import filter_noise
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.rng import Stream
from noiserobust.tasks import Classification
from noiserobust.training import Engine, Method, Progress

RULES = [
    *METHODS,
    "sam:0.1,sync=true,alpha=0.3",
    "gsam:0.1,sync=true",
    "looksam:0.1,sync=true,k=3",
    "rst:looksam(0.1,k=3),p=0.5",
    "rst:gsam(0.1),p=sin1",
    "rwp-mixed:0.1,parallel=true",
    "rst:rwp-mixed(0.1,alpha=0.3,parallel=true,clean_ranks=1),p=0.5",
]
WORLDS = (2, 4)
"""Numbers of processes."""
AT = Progress(6, 100, 6, 100)
STEPS = 8
"""Steps of a check of a rule: enough for every schedule and period above."""
Loss = Callable[[nn.Module, Batch], Tensor]


def local(step: int, rank: int, dtype: torch.dtype = torch.float32) -> Batch:
    """The batch of a rank: another number of samples on each, and another order in every epoch."""
    count = 4 + 2 * rank
    generator = Stream(1, "test", "local", step, rank).generator()
    inputs = torch.randn(count, 1, 5, 5, generator=generator).to(dtype)
    first = sum(4 + 2 * earlier for earlier in range(rank))
    order = torch.randperm(64, generator=Stream(1, "test", "order", step).generator())
    return Batch(inputs, torch.randint(3, (count,), generator=generator), order[first : first + count])


def wrapped(model: nn.Module, **settings: bool) -> tuple[DistributedDataParallel, Engine]:
    ddp = DistributedDataParallel(model, **settings)
    return ddp, Engine(ddp, torch.optim.SGD(ddp.parameters(), lr=0.05, momentum=0.9), samples=64, classes=3)


def handed_over(method: str, engine: Engine, data: Batch, at: Progress = AT) -> list[Tensor]:
    """The gradients that a step gives the optimizer."""
    seen: list[Tensor] = []
    handle = engine.optimizer.register_step_pre_hook(
        lambda *_: seen.extend(p.grad.clone() for p in engine.parameters if p.grad is not None)
    )
    Method.parse(method).step(engine, data, at)
    handle.remove()
    return seen


def ranks_agree(tensors: Sequence[Tensor]) -> bool:
    for tensor in tensors:
        bits = tensor.contiguous().flatten().view(torch.uint8).clone()
        first = bits.clone()
        dist.broadcast(first, 0)
        unequal = torch.tensor(float(not torch.equal(bits, first)))
        dist.all_reduce(unequal)
        if unequal:
            return False
    return True


def bits_agree(text: str) -> None:
    """Steps leave weights and buffers of all ranks equal, bit for bit, and finite."""
    model, method = normed_net(), Method.parse(text)
    _, engine = wrapped(model)
    before = state(model)
    for step in range(STEPS):
        method.step(engine, local(step, dist.get_rank()), Progress(step, STEPS, step, STEPS))
    assert ranks_agree(state(model))
    assert not same_bits(before, state(model))
    assert all(tensor.isfinite().all() for tensor in state(model))
    counters = [int(value) for name, value in model.named_buffers() if "num_batches" in name]
    parts = METHODS[text].parts if text in METHODS else 1
    assert counters == [STEPS * parts] * 2, counters


def gradients_at(model: nn.Module, data: Batch) -> list[Tensor]:
    loss = nn.functional.cross_entropy(model(data.inputs), data.labels)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def moved(model: nn.Module, steps: Sequence[Tensor], sign: float = 1.0) -> None:
    with torch.no_grad():
        for parameter, step in zip(model.parameters(), steps, strict=True):
            parameter.add_(step, alpha=sign)


def norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors]).norm()


def mean(parts: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> list[Tensor]:
    return [sum(w * t for w, t in zip(weights, same, strict=True)) for same in zip(*parts, strict=True)]  # type: ignore


def halves(make: Callable[[], nn.Module], dtype: torch.dtype, rtol: float) -> None:
    """For any split and alpha: the serial mixed gradient over the same sub-batches, in one pass; clean buffers."""
    world = dist.get_world_size()
    for clean in range(1, world):
        for alpha in (0.0, 0.3, 0.5, 1.0):
            model = make()
            _, engine = wrapped(model)
            counted = Passes(model, 4 + 2 * dist.get_rank())
            data = local(clean, dist.get_rank(), dtype)
            text = f"rwp-mixed:0.2,alpha={alpha},parallel=true,clean_ranks={clean}"
            found = handed_over(text, engine, data)
            assert counted.counted == (1, 1)
            assert Method.parse(text).cost(AT) == (1, 1)

            serial = make()
            batches = [local(clean, rank, dtype) for rank in range(world)]
            e = filter_noise(WeightSpace(serial), 0.2, Stream(0, "train", "filters", AT.step))
            sizes = [len(data) for data in batches]
            parts = []
            for rank, one in enumerate(batches):
                if rank == clean:
                    buffers = state(serial)
                    moved(serial, e)
                parts.append(gradients_at(serial, one))
            weights = [
                alpha * size / sum(sizes[:clean]) if rank < clean else (1 - alpha) * size / sum(sizes[clean:])
                for rank, size in enumerate(sizes)
            ]
            close(found, mean(parts, weights), rtol=rtol, atol=rtol)
            # Buffers: those of rank 0's clean pass, on every rank.
            alone = make()
            alone(batches[0].inputs)
            close(list(model.buffers()), list(alone.buffers()), rtol=1e-6, atol=1e-7)
            assert all(int(b) == 1 for name, b in model.named_buffers() if "num_batches" in name)
            assert buffers


def climbs(text: str, combine: Callable[[list[Tensor], list[Tensor]], list[Tensor]], sync: bool) -> None:
    """Ranks climb their own gradient (or the mean one), combine their own pair, and average once."""
    world = dist.get_world_size()
    for views in (False, True):
        _, engine = wrapped(smooth_net(), gradient_as_bucket_view=views)
        for step in range(2):  # DDP re-builds its buckets after the first step
            serial = smooth_net()
            serial.load_state_dict(engine.model.module.state_dict())
            batches = [local(step, rank, torch.float64) for rank in range(world)]
            found = handed_over(text, engine, batches[dist.get_rank()])
            clean = [gradients_at(serial, one) for one in batches]
            if sync:
                clean = [mean(clean, [1 / world] * world)] * world
            parts = []
            for one, own in zip(batches, clean, strict=True):
                e = [0.1 * g / norm(own) for g in own]
                moved(serial, e)
                perturbed = gradients_at(serial, one)
                moved(serial, e, -1.0)
                parts.append((own, perturbed))
            if sync:
                mean_perturbed = mean([perturbed for _, perturbed in parts], [1 / world] * world)
                expected = combine(clean[0], mean_perturbed)
            else:
                expected = mean([combine(*pair) for pair in parts], [1 / world] * world)
            close(found, expected, rtol=1e-9, atol=1e-12)


def gsam(clean: list[Tensor], perturbed: list[Tensor]) -> list[Tensor]:
    inner = sum((g * p).sum() for g, p in zip(clean, perturbed, strict=True)) / norm(perturbed) ** 2
    return [p - 0.4 * (g - inner * p) for g, p in zip(clean, perturbed, strict=True)]


class Units(Classification):
    """Every sample has as many units as its label says, all with the sample's loss."""

    def counts(self, batch: Batch) -> Tensor:
        return batch.labels


def units_weigh_alike() -> None:
    """Ranks with unequal numbers of units (tokens, say) give the gradient of the mean over all of them."""
    ddp = DistributedDataParallel(smooth_net())
    engine = Engine(ddp, torch.optim.SGD(ddp.parameters(), lr=0.05), task=Units())
    batches = [local(0, rank, torch.float64) for rank in range(dist.get_world_size())]
    own = batches[dist.get_rank()]
    found = handed_over("plain", engine, own.split(3))  # type: ignore[arg-type]
    whole, alone = Batch.join(batches), smooth_net()
    losses = nn.functional.cross_entropy(alone(whole.inputs), whole.labels, reduction="none")
    mean = (losses * whole.labels).sum() / whole.labels.sum()
    close(found, list(torch.autograd.grad(mean, list(alone.parameters()))), rtol=1e-10, atol=1e-13)


def saf_memory() -> None:
    """Every rank remembers what any rank saw, at the sample's own place, under a new order in every epoch."""
    _, engine = wrapped(normed_net())
    method = Method.parse("saf:0.3,start=2,back=2")
    for epoch in range(5):
        data = local(epoch, dist.get_rank())
        out = method.step(engine, data, Progress(epoch, 5, epoch, 5))
        seen: list[tuple[Tensor, Tensor]] = [None] * dist.get_world_size()  # type: ignore[list-item]
        dist.all_gather_object(seen, (data.indices, out.logits))
        memory = engine.memory["saf"]
        for indices, logits in seen:
            assert torch.equal(memory["logits"][epoch % 2, indices], logits)
            assert (memory["epochs"][epoch % 2, indices] == epoch).all()
        assert int((memory["epochs"][epoch % 2] == epoch).sum()) == sum(len(indices) for indices, _ in seen)
    assert ranks_agree([memory["logits"], memory["epochs"]])


def refused(message: str, act: Callable[[], object]) -> None:
    try:
        act()
    except UserError as error:
        said = str(error)
    else:
        said = "nothing"
    assert message in said, f"expected to be refused with '{message}', got {said}"


def ranges_of_converters(text: str) -> None:
    """Calibrated from every rank's batches, learnt by their mean gradient: the same on all."""
    ddp = DistributedDataParallel(normed_net())
    engine = Engine(ddp, torch.optim.SGD(ddp.parameters(), lr=0.05), converters=text, input_ranges="learnt:batches=2")
    seen: list[Tensor] = []
    for step in range(4):
        Method.parse("sam:0.1").step(engine, local(step, dist.get_rank()), Progress(step, 4))
        seen += [ranges.inputs.detach().clone() for ranges in engine.periphery.ranges]
        seen += [ranges.outputs.clone() for ranges in engine.periphery.ranges if ranges.outputs is not None]
    assert ranks_agree([*seen, *ddp.parameters()])
    assert len({values.sum().item() for values in seen}) > len(engine.periphery.ranges)  # they learn


def refusals() -> None:
    ddp, engine = wrapped(normed_net())
    ddp.module.late = nn.SyncBatchNorm(6)  # DDP itself refuses it from the start on CPUs
    half = Method.parse("rwp-mixed:0.1,parallel=true")
    refused("expected batch norm per rank, got SyncBatchNorm", lambda: half.step(engine, local(0, 0), AT))
    net = normed_net()
    alone = Engine(net, torch.optim.SGD(net.parameters(), lr=0.1))
    refused("expected clean and noisy ranks", lambda: half.step(alone, local(0, 0), AT))
    all_clean = Method.parse(f"rwp-mixed:0.1,parallel=true,clean_ranks={dist.get_world_size()}")
    refused("expected clean and noisy ranks", lambda: all_clean.step(engine, local(0, 0), AT))
    refused("wrap the network in DistributedDataParallel anew", lambda: Engine(ddp, torch.optim.SGD(ddp.parameters())))
    ddp, _ = wrapped(normed_net())
    sgd = torch.optim.SGD(ddp.parameters(), lr=0.1)
    refused("expected the same seed on every rank", lambda: Engine(ddp, sgd, seed=dist.get_rank()))


CHECKS: dict[str, Callable[[], None]] = {
    **{f"bits {text}": (lambda text=text: bits_agree(text)) for text in RULES},  # type: ignore[misc]
    "halves without batch norm": lambda: halves(smooth_net, torch.float64, 1e-10),
    "halves with batch norm": lambda: halves(normed_net, torch.float32, 1e-4),
    "sam": lambda: climbs("sam:0.1", lambda clean, perturbed: perturbed, sync=False),
    "sam sync": lambda: climbs("sam:0.1,sync=true", lambda clean, perturbed: perturbed, sync=True),
    "sam alpha": lambda: climbs(
        "sam:0.1,alpha=0.3", lambda clean, perturbed: mean([clean, perturbed], [0.3, 0.7]), sync=False
    ),
    "gsam": lambda: climbs("gsam:0.1", gsam, sync=False),
    "gsam sync": lambda: climbs("gsam:0.1,sync=true", gsam, sync=True),
    "units": units_weigh_alike,
    "saf memory": saf_memory,
    "learnt ranges": lambda: ranges_of_converters("io:dac=4,adc=6,noise=0.02,learnt=true"),
    "calibrated ranges": lambda: ranges_of_converters("io:dac=4,adc=6,percentile=99.0,images=10,ranges=column"),
    "refusals": refusals,
    **SHARD_CHECKS,
}


def chosen(world: int) -> list[str]:
    """The checks for so many ranks; of rules without settings that concern ranks, four do one of each name."""
    one = {text.partition(":")[0]: text for text in METHODS}
    skipped = {f"bits {text}" for text in set(METHODS) - set(one.values())} if world == 4 else set()
    return [name for name in CHECKS if name not in skipped]


def rank(number: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    # A rank that fails alone leaves the others waiting: they give up in the end, and the test says which check it was.
    here, limit = Path(folder) / str(world), timedelta(seconds=LIMIT / 4)
    dist.init_process_group("gloo", f"file://{here}.store", rank=number, world_size=world, timeout=limit)
    verdicts = {}
    for name in chosen(world):
        print(f"rank {number} of {world}: {name}", file=sys.stderr, flush=True)
        try:
            CHECKS[name]()
            verdicts[name] = ""
        except Exception:
            verdicts[name] = traceback.format_exc()
            print(verdicts[name], file=sys.stderr, flush=True)
    Path(f"{here}.{number}.json").write_text(json.dumps(verdicts))
    dist.barrier()
    sys.stderr.flush()
    # Not an ordinary exit: gloo's threads may outlive what they use and abort a process whose work is done.
    os._exit(0)


if __name__ == "__main__":
    # Forks of one process: what is imported once takes as long as all the checks of a rank.
    for count in WORLDS:
        start_processes(rank, (count, sys.argv[1]), nprocs=count, start_method="fork")

"""The processes that torchrun started, as one run: how they join, agree, and end together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from noiserobust.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(hours=12)
"""How long a process waits for the others. torchrun ends them when one is lost; a slow one is waited for."""
EXIT_CODES: dict[type[BaseException], int] = {UserError: 2, KeyboardInterrupt: 130}
"""Those of the command line; 1 for anything else."""


@dataclass(frozen=True)
class Processes:
    """This process's ``rank`` of ``count``, and its place ``local`` on its machine; by default it is alone."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def writes(self) -> bool:
        """Whether this is the one that writes files and shows progress: rank 0."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this process: under several, ``cuda`` is the GPU that belongs to its place."""
        device = torch.device(name)
        if self.count == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise UserError(f"expected device cuda with several processes, got {name}: each takes a GPU of its own")
        if self.local >= torch.cuda.device_count():
            raise UserError(
                f"expected a GPU per process, got {torch.cuda.device_count()} for process {self.local + 1} of this "
                "machine; lower --nproc-per-node"
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def first(self, make: Callable[[], T]) -> T:
        """What ``make`` gives on rank 0, on every rank; the others wait for it."""
        values = [make() if self.writes else None]
        if self.count > 1:
            dist.broadcast_object_list(values, 0)
        return values[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order of rank."""
        values: list[Any] = [value]
        if self.count > 1:
            values = [None] * self.count
            dist.all_gather_object(values, value)
        return values

    def parallel(self, model: nn.Module) -> nn.Module:
        """``model``, wrapped so that its gradients are means over all ranks."""
        if self.count == 1:
            return model
        device = next(model.parameters()).device
        return DistributedDataParallel(model, device_ids=None if device.type == "cpu" else [device.index])

    def require_equal(self, name: str, value: object) -> None:
        """Refuse ranks that do not agree: they would train different runs into one."""
        if len(set(self.gather(str(value)))) > 1:
            raise UserError(
                f"expected the same {name} on every rank, got {value} on rank {self.rank}, others elsewhere"
            )

    def in_turn(self, make: Callable[[], T]) -> T:
        """``make()`` on every rank, first on one of each machine: the others find what that one left on its disk."""
        made = [make()] if self.local == 0 else []
        self.gather(None)
        return made[0] if made else make()


@contextmanager
def torchrun(device: str) -> Iterator[Processes]:
    """Inside, the processes that torchrun started are joined, by NCCL for CUDA and gloo else; otherwise one is alone.

    What ends one ends all: the exception of the first goes on, and the others, which would wait for it or lose the
    connection to it, leave quietly with the exit code that its means.
    """
    count = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    if count == 1:
        yield Processes()
        return
    # A store of our own, since it is still there when a process of the group is not.
    store, rank, count = next(dist.rendezvous("env://"))
    ends = dist.PrefixStore("noiserobust", store)
    processes = Processes(rank, count, int(os.environ.get("LOCAL_RANK", rank)))
    try:
        backend = "nccl" if processes.device(device).type == "cuda" else "gloo"
        group = dist.PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=rank, world_size=count, timeout=PATIENCE)
        yield processes
        processes.gather(None)
        dist.destroy_process_group()
    except (Exception, KeyboardInterrupt) as error:
        # Losing the connection to a process that has ended is that one's error, not ours.
        code = _first_end(ends, rank, EXIT_CODES.get(type(error), 1))
        if code is None:
            raise
        raise SystemExit(code) from None


def _first_end(store: dist.Store, rank: int, code: int) -> int | None:
    """``None`` when this process is the first to end, which is then known; else the first one's exit code."""
    try:
        first, its_code = store.compare_set("end", "", f"{rank} {code}").decode().split()
    except RuntimeError:  # not even the process that keeps the store is there any more
        return EXIT_CODES[UserError]
    return None if int(first) == rank else int(its_code)

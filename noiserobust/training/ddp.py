"""Several processes that train one model (DDP): how they join, what they tell each other, how one's end ends all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler, record
from torch.nn.parallel import DistributedDataParallel

from noiserobust.endings import Terminated, end_with
from noiserobust.errors import Left, UserError
from noiserobust.noise.sharded import mesh_of

T = TypeVar("T")
PATIENCE = timedelta(hours=12)
"""How long a process waits for the others. torchrun ends them when one is lost; a slow one is waited for."""
EXIT_CODES: dict[type[BaseException], int] = {UserError: 2, KeyboardInterrupt: 130, Terminated: 143}
"""Those of the command line; 1 for anything else."""


@dataclass(frozen=True)
class Processes:
    """This process's ``rank`` of ``count``, and its place ``local`` on its machine; by default it is alone.

    All must call a collective method alike. ``group`` is the process group; None is torch's default one.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    group: dist.ProcessGroup | None = None

    @staticmethod
    def of(model: nn.Module) -> Processes:
        """The processes of a DistributedDataParallel or fully sharded ``model``; alone without one."""
        if mesh_of(model) is not None:
            return Processes(dist.get_rank(), dist.get_world_size())
        if not isinstance(model, DistributedDataParallel):
            return Processes()
        group = model.process_group
        return Processes(dist.get_rank(group), dist.get_world_size(group), group=group)

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

    def parallel(self, model: nn.Module) -> nn.Module:
        """``model``, wrapped so that its gradients are means over all ranks."""
        if self.count == 1:
            return model
        device = next(model.parameters()).device
        return DistributedDataParallel(model, device_ids=None if device.type == "cpu" else [device.index])

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

    def require_equal(self, name: str, value: object) -> None:
        """Refuse ranks that do not agree: they would train different runs into one."""
        if len(set(self.gather(str(value)))) > 1:
            raise UserError(
                f"expected the same {name} on every rank, got {value} on rank {self.rank}, others elsewhere"
            )

    def require_samples(self, samples: int, batch_size: int) -> None:
        """Refuse batches of ``samples`` that leave a rank without one: it could not take part in that step."""
        least = min(batch_size, samples % batch_size or batch_size)
        if least < self.count:
            raise UserError(
                f"expected batches of at least one sample per rank, got a batch of {least} for {self.count} ranks; "
                "change batch_size, or start fewer processes"
            )

    def in_turn(self, make: Callable[[], T]) -> T:
        """``make()`` on every rank, first on one of each machine: the others find what that one left on its disk."""
        made = [make()] if self.local == 0 else []
        self.gather(None)
        return made[0] if made else make()

    def average(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """The mean over ranks, in place, with one message per dtype; ``like`` gives the shapes of what is ``None``.

        A rank's ``None`` counts as 0; what is ``None`` everywhere stays ``None``, so that the optimizer leaves it be.
        """
        result = list(tensors)
        if self.count == 1:
            return result
        for dtype in dict.fromkeys(reference.dtype for reference in like):  # in the same order on every rank
            places = [index for index, reference in enumerate(like) if reference.dtype == dtype]
            given = [tensors[index] for index in places]
            filled = [torch.zeros_like(like[i]) if t is None else t for i, t in zip(places, given, strict=True)]
            here = [tensor is not None for tensor in given]
            flat = torch.cat([*(tensor.reshape(-1) for tensor in filled), filled[0].new_tensor(here)])
            dist.all_reduce(flat, group=self.group)
            flat /= self.count
            *means, present = flat.split([*(tensor.numel() for tensor in filled), len(places)])
            # What is there on this rank is there somewhere; only for the rest must the device be waited for.
            anywhere = here if all(here) else (present > 0).tolist()
            for index, target, mean, used in zip(places, filled, means, anywhere, strict=True):
                result[index] = target.copy_(mean.view_as(target)) if used else None
        return result

    def gather_rows(self, rows: Tensor) -> Tensor:
        """The ``rows`` (first dimension) of all ranks, in order of rank; ranks may have unequal numbers of them."""
        if self.count == 1:
            return rows
        sizes = self.gather_numbers(len(rows), rows.device)
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(received, padded, group=self.group)
        return torch.cat([part[:size] for part, size in zip(received, sizes, strict=True)])

    def gather_numbers(self, number: int, device: torch.device) -> list[int]:
        """Every rank's ``number`` (below 2^63), in order of rank; ``device`` is where the group's messages lie."""
        if self.count == 1:
            return [number]
        numbers = torch.zeros(self.count, dtype=torch.int64, device=device)
        numbers[self.rank] = number
        dist.all_reduce(numbers, group=self.group)
        return [int(value) for value in numbers.tolist()]

    @torch.no_grad()
    def share_buffers(self, model: nn.Module) -> None:
        """Every rank's buffers become rank 0's, so that ranks agree on normalisation statistics after every step."""
        if self.count == 1:
            return
        source = dist.get_global_rank(self.group, 0) if self.group is not None else 0
        for dtype in dict.fromkeys(buffer.dtype for buffer in model.buffers()):
            same = [buffer for buffer in model.buffers() if buffer.dtype == dtype]
            flat = torch.cat([buffer.reshape(-1) for buffer in same])
            dist.broadcast(flat, source, group=self.group)
            for buffer, piece in zip(same, flat.split([buffer.numel() for buffer in same]), strict=True):
                buffer.copy_(piece.view_as(buffer))

    def require_same_seed(self, seed: int, device: torch.device) -> None:
        """Refuse ranks with different seeds: their coins would disagree, and a coin that disagrees hangs the run."""
        if len(set(self.gather_numbers(seed % (2**63 - 1), device))) > 1:
            raise UserError(
                f"expected the same seed on every rank, got {seed} on rank {self.rank} and others elsewhere; "
                "give every rank's Engine the same seed (ranks differ by their data)"
            )


@contextmanager
def torchrun(device: str) -> Iterator[Processes]:
    """Inside, the processes that torchrun started are joined, by NCCL for CUDA and gloo else; otherwise one is alone.

    What ends one ends all: the exception of the first goes on, and torchrun's report names it; the others, which would
    wait for it or lose the connection to it, leave quietly with the exit code that its means.
    """
    count = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    if count == 1:
        yield Processes()
        return
    end_with(os.getppid())  # torchrun may be killed without a word
    # Not the group's store: this one is still there when a process of the group is not.
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
        if code is not None:
            raise Left(code) from None
        record(_raise, _OneLine())(error)


def _raise(error: BaseException) -> None:
    raise error


class _OneLine(ErrorHandler):
    """Tells torchrun of an error that is the user's in the error's one line, of any other with its traceback."""

    def record_exception(self, e: BaseException) -> None:
        file = self._get_error_file_path()
        if not isinstance(e, UserError) or file is None:
            return super().record_exception(e)
        message = {"message": f"error: {e}", "extraInfo": {"timestamp": str(int(time.time()))}}
        return self._write_error_file(file, json.dumps({"message": message}))


def _first_end(store: dist.Store, rank: int, code: int) -> int | None:
    """``None`` when this process is the first to end, which is then known; else the first one's exit code."""
    try:
        first, its_code = store.compare_set("end", "", f"{rank} {code}").decode().split()
    except RuntimeError:  # not even the process that keeps the store is there any more
        return EXIT_CODES[UserError]
    return None if int(first) == rank else int(its_code)

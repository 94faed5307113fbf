"""What the engine says to the other processes of a DistributedDataParallel model; alone, it talks to nobody."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from noiserobust.errors import UserError


class Ranks:
    """The processes that train ``model`` together: this one's ``rank`` of ``count`` (0 of 1 without DDP)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model if isinstance(model, DistributedDataParallel) else None
        self.group = None if self.model is None else self.model.process_group
        self.rank = 0 if self.model is None else dist.get_rank(self.group)
        self.count = 1 if self.model is None else dist.get_world_size(self.group)

    def average(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """The mean over ranks, in place, with one message per dtype; ``like`` gives the shapes of what is ``None``.

        A rank's ``None`` counts as 0; what is ``None`` everywhere stays ``None``, so that the optimizer leaves it be.
        """
        result = list(tensors)
        if self.count == 1:
            return result
        for dtype in dict.fromkeys(reference.dtype for reference in like):  # in the same order on every rank
            places = [index for index, reference in enumerate(like) if reference.dtype == dtype]
            filled = [_or_zeros(tensors[index], like[index]) for index in places]
            present = filled[0].new_tensor([float(tensors[index] is not None) for index in places])
            flat = torch.cat([*(tensor.reshape(-1) for tensor in filled), present])
            dist.all_reduce(flat, group=self.group)
            flat /= self.count
            pieces = flat.split([*(tensor.numel() for tensor in filled), len(places)])
            # What is there on this rank is there somewhere; only for the rest must the device be waited for.
            here = [tensors[index] is not None for index in places]
            anywhere = here if all(here) else (pieces[-1] > 0).tolist()
            for index, target, piece, used in zip(places, filled, pieces[:-1], anywhere, strict=True):
                result[index] = target.copy_(piece.view_as(target)) if used else None
        return result

    def gather(self, rows: Tensor) -> Tensor:
        """The ``rows`` (first dimension) of all ranks, in order of rank; ranks may have unequal numbers of them."""
        if self.count == 1:
            return rows
        sizes = self.sizes(len(rows))
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(received, padded, group=self.group)
        return torch.cat([part[:size] for part, size in zip(received, sizes, strict=True)])

    def sizes(self, own: int) -> list[int]:
        """Every rank's number, in order of rank."""
        if self.count == 1:
            return [own]
        assert self.model is not None
        numbers = torch.zeros(self.count, dtype=torch.int64, device=next(self.model.parameters()).device)
        numbers[self.rank] = own
        dist.all_reduce(numbers, group=self.group)
        return [int(number) for number in numbers.tolist()]

    @torch.no_grad()
    def share_buffers(self) -> None:
        """Every rank's buffers become rank 0's, so that ranks agree on normalisation statistics after every step."""
        if self.count == 1 or self.model is None:
            return
        buffers = list(self.model.module.buffers())
        source = dist.get_global_rank(self.group, 0) if self.group is not None else 0
        for dtype in dict.fromkeys(buffer.dtype for buffer in buffers):
            same = [buffer for buffer in buffers if buffer.dtype == dtype]
            flat = torch.cat([buffer.reshape(-1) for buffer in same])
            dist.broadcast(flat, source, group=self.group)
            for buffer, piece in zip(same, flat.split([buffer.numel() for buffer in same]), strict=True):
                buffer.copy_(piece.view_as(buffer))

    def require_same_seed(self, seed: int) -> None:
        """Refuse ranks with different seeds: their coins would disagree, and a coin that disagrees hangs the run."""
        # Two 31-bit halves, because sizes() adds int64 numbers.
        for part in (seed & 0x7FFFFFFF, (seed >> 31) & 0x7FFFFFFF):
            if len(set(self.sizes(part))) > 1:
                raise UserError(
                    f"expected the same seed on every rank, got {seed} on rank {self.rank} and others elsewhere; "
                    "give every rank's Engine the same seed (ranks differ by their data)"
                )


def has_sync_batch_norm(modules: Iterable[nn.Module]) -> bool:
    """Whether some layer normalises with the statistics of all ranks."""
    return any(isinstance(module, nn.SyncBatchNorm) for module in modules)


def _or_zeros(tensor: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if tensor is None else tensor

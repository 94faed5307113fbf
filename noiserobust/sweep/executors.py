"""Executors: they run the pieces of a sweep, on this machine or on a Ray cluster, and leave the same files."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from noiserobust.errors import UserError
from noiserobust.sweep.pieces import Piece

OnPiece = Callable[[Piece, int, int], object]


class Executor(Protocol):
    """Runs pieces and yields each when it is done, in any order; a piece that cannot be done raises its error."""

    def run(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        """Do all of ``pieces``."""


@dataclass(frozen=True)
class Local:
    """This machine: one piece after the other in this process, or ``workers`` of them at once in as many processes.

    The processes share the machine's cores. Small networks gain: two single-threaded trainings are faster than one on
    two threads.
    """

    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"expected workers >= 1, got {self.workers}")

    def run(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        if self.workers == 1 or len(pieces) < 2:
            for piece in pieces:
                piece.run()
                yield piece
            return
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        # Spawned: a fork would inherit torch's thread pools, which do not survive it.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, spawn, _use_threads, (threads,)) as pool:
            waiting = {pool.submit(piece.run): piece for piece in pieces}
            try:
                for done in as_completed(waiting):
                    done.result()
                    yield waiting[done]
            except BrokenProcessPool:
                raise UserError(
                    "expected every worker to live, got one that was killed (out of memory?); the same command goes on "
                    "from what is done, with fewer workers if need be"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class OnRay:
    """A Ray cluster whose machines share the sweep's folder: every piece is one of its tasks.

    ``address``: the cluster's (``auto`` for the one around this process), or ``None`` to start one on this machine.
    ``cpus`` and ``gpus`` are what one piece occupies. A piece whose machine dies or whose process is killed is run
    again elsewhere, up to ``retries`` times; what it had begun is resumed or done anew, never half-written.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    retries: int = 3

    def run(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        ray = _ray()
        started = not ray.is_initialized()
        if started:
            # Without an address Ray would join whatever cluster it finds on this machine.
            ray.init(address=self.address or "local", log_to_driver=False, logging_level="error")
        try:
            options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": self.retries}
            task = ray.remote(lambda piece: piece.run()).options(**options)
            waiting = {task.remote(piece): piece for piece in pieces}
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                piece = waiting.pop(ready)
                try:
                    ray.get(ready)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, UserError) else error from None
                except ray.exceptions.RayError as error:
                    raise UserError(
                        f"expected '{piece.name}' to finish within {self.retries} retries, got {type(error).__name__}; "
                        "the same command goes on from what is done"
                    ) from None
                yield piece
        finally:
            if started:
                ray.shutdown()


def compute(pieces: Iterable[Piece], executor: Executor | None = None, on_piece: OnPiece | None = None) -> None:
    """Do what is missing of ``pieces``; ``on_piece(piece, done, of)`` is called for every finished one."""
    missing = [piece for piece in dict.fromkeys(pieces) if not piece.result.is_file()]
    for done, piece in enumerate((executor or Local()).run(missing), 1):
        if on_piece is not None:
            on_piece(piece, done, len(missing))


def _use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UserError(
            "expected Ray for executor ray, got a Python without it; pip install 'noiserobust[ray]', or use local"
        ) from None
    return ray

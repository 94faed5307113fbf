"""Executors: they run the pieces of a sweep, on this machine or on a Ray cluster, and leave the same files."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from noiserobust.endings import child, deaf, end_with
from noiserobust.errors import UserError, reason_of
from noiserobust.limits import limits
from noiserobust.memory import keep_memory
from noiserobust.storage import checkpoints, rows
from noiserobust.storage.files import set_aside
from noiserobust.sweep.pieces import Piece, Training, read_score
from noiserobust.training.teacher import names_own_code

_watched: list[bool] = []
OnPiece = Callable[[Piece, int, int], object]


class Executor(Protocol):
    """Runs pieces and yields each when it is done, in any order; a piece that cannot be done raises its error.

    Their paths, of results and data alike, are seen from the folder in which this process stands, as a person typed
    them: whoever runs a piece elsewhere goes there first.
    """

    def run(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        """Do all of ``pieces``."""


@dataclass(frozen=True)
class Local:
    """This machine: one piece after the other in this process, or ``workers`` of them at once in as many processes.

    Every piece computes with so many ``threads``, one by default, however many workers there are: on another number,
    sums are rounded otherwise, and trained weights differ. None: as many as torch has here, of one worker. Small
    networks gain by workers: two single-threaded trainings are faster than one on two threads.

    Workers end with this process, however that ends.
    """

    workers: int = 1
    threads: int | None = 1

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and value < 1:
                raise UserError(f"expected {name} >= 1, got {value}")

    def run(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        if self.workers == 1 or len(pieces) < 2:
            for piece in pieces:
                _run(piece, self.threads)
                yield piece
            return
        workers: list[_Worker] = []
        try:
            for _ in range(min(self.workers, len(pieces))):
                workers.append(_Worker(self.threads or 1))
            yield from _shared_out(pieces, workers)
        finally:
            for worker in workers:
                worker.process.kill()
            for worker in workers:
                worker.process.join()
                worker.connection.close()


class _Worker:
    """A process that runs the pieces that it is sent, one after the other."""

    def __init__(self, threads: int) -> None:
        # Spawned: a fork would inherit torch's thread pools, which do not survive it.
        spawn = multiprocessing.get_context("spawn")
        self.connection, other = spawn.Pipe()
        self.process = spawn.Process(target=child, args=(os.getpid(), f"{__name__}:work", other, threads))
        with deaf():
            self.process.start()
        other.close()

    def answer(self) -> None:
        """What came of its piece: nothing, or the error that it raised."""
        try:
            error, place = self.connection.recv()
        except (EOFError, OSError):
            raise UserError(
                "expected every worker to live, got one that was killed (out of memory?); the same command goes on "
                "from what is done, with fewer workers if need be"
            ) from None
        if error is not None:
            raise error from (None if isinstance(error, UserError) else RuntimeError(place))


def _shared_out(pieces: Sequence[Piece], workers: Sequence[_Worker]) -> Iterator[Piece]:
    """Pieces as workers finish them; after an error nothing new is begun, and it is raised when all are idle."""
    waiting, busy, failure = list(reversed(pieces)), dict[Any, tuple[_Worker, Piece]](), None
    idle = list(workers)
    while True:
        while idle and waiting and failure is None:
            worker, piece = idle.pop(), waiting.pop()
            worker.connection.send(piece)
            busy[worker.connection] = worker, piece
        if not busy:
            break
        for ready in wait(list(busy)):
            worker, piece = busy.pop(ready)
            try:
                worker.answer()
            except Exception as error:
                failure = failure or error
                continue
            idle.append(worker)
            yield piece
    if failure is not None:
        raise failure


def work(connection: Connection, threads: int) -> None:
    """What a worker does."""
    from tqdm import tqdm

    keep_memory()
    tqdm.set_lock(threading.RLock())  # its usual one is a semaphore of the system's, which outlives one that is killed
    with _threads(threads), suppress(EOFError), redirect_stdout(sys.stderr):  # a command alone answers
        while True:
            piece = connection.recv()
            try:
                piece.run()
                answer: tuple[BaseException | None, str] = None, ""
            except BaseException as error:
                answer = error, traceback.format_exc()
            try:
                connection.send(answer)
            except BrokenPipeError:
                return
            except Exception:  # an error that cannot be sent
                connection.send((RuntimeError(answer[1]), ""))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Inside, torch computes on so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class OnRay:
    """A Ray cluster whose machines share the sweep's folder: every piece is one of its tasks, which begins where this
    process stands. On a machine that has no such folder, paths must be absolute.

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
            with _kept_handler(), _reached(self.address), _unheard():
                ray.init(address=self.address or "local", log_to_driver=False, logging_level="error")
        try:
            options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": self.retries}
            threads = max(1, int(self.cpus))
            here = os.getcwd()
            task = ray.remote(lambda piece: _run_on_ray(piece, threads, here))
            # Ray's dashboard and its messages call a task by its name.
            waiting = {task.options(name=piece.name, **options).remote(piece): piece for piece in pieces}
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
    missing = [piece for piece in dict.fromkeys(pieces) if not _is_done(piece)]
    running = iter((executor or Local()).run(missing))
    try:
        for done, piece in enumerate(running, 1):
            if on_piece is not None:
                on_piece(piece, done, len(missing))
    finally:
        getattr(running, "close", lambda: None)()  # at once, whatever still knows of them


def _is_done(piece: Piece) -> bool:
    """Whether a piece's file is there and as it was written; rows and scores that are damaged are set aside."""
    file: Path = piece.result
    if not file.is_file():
        return False
    if isinstance(piece, Training):  # fit looks at code, which may have changed, and after a kill at the very end
        unsure = names_own_code(piece.settings) or file.with_name("resume.pt").exists()
        return checkpoints.is_whole(file) and not unsure
    if file.suffix == ".parquet" and not rows.is_whole(file):
        set_aside(file, "damaged", "computed anew")
    if file.suffix == ".json":
        try:
            read_score(file)
        except UserError as error:
            set_aside(file, f"damaged ({error})", "its score is read from the run again")
    return file.is_file()


def _run(piece: Piece, threads: int | None) -> None:
    with _threads(threads):
        piece.run()


def _run_on_ray(piece: Piece, threads: int, folder: str) -> None:
    if not _watched:  # Ray's own look after a driver that was killed takes longer than five seconds
        end_with(os.getppid())
        _watched.append(True)
    _go_to(folder, piece)
    _run(piece, threads)


def _go_to(folder: str, piece: Piece) -> None:
    """Stand where the command does, from where the paths of ``piece`` are seen."""
    try:
        os.chdir(folder)
    except OSError as error:
        if not piece.result.is_absolute():
            raise UserError(
                f"expected the folder {folder} on every machine of the cluster, got {error.strerror} on "
                f"{socket.gethostname()}; start from a folder that they share, or give absolute paths"
            ) from None


@contextmanager
def _kept_handler() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would exit with code 15."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _reached(address: str | None) -> Iterator[None]:
    """One line where no cluster answers; a place that does not is not waited for longer than the limit ``patience``."""
    expected = f"expected a Ray cluster at {address or 'this machine'}"
    began = time.monotonic()
    place = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d{1,5})", address or "")
    try:
        if place is not None:
            socket.create_connection((place[1], int(place[2])), limits().patience).close()
        yield
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise UserError(f"{expected}, got none in {time.monotonic() - began:.0f} s: {reason_of(error)}") from None


@contextmanager
def _unheard() -> Iterator[None]:
    """Inside, what Ray's compiled part writes to stderr (a line for each of its attempts) goes nowhere."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (AttributeError, OSError, ValueError):  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UserError(
            "expected Ray for executor ray, got a Python without it; pip install 'noiserobust[ray]', or use local"
        ) from None
    return ray

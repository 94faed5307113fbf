"""Randomness has a name, never a global seed.

What a layer gets depends on its name, ``(seed, purpose, replicate, draw, layer)``, and on nothing else. So any
draw can be made again alone, and work can be split anywhere and resumed anywhere.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 20
"""Elements of a block, about: a field is filled in blocks of whole rows, each from its own generator."""

Fill = Callable[[Tensor, torch.Generator], object]
GRAIN = 1 << 15
"""Elements from which on torch spreads a CPU operation over its own threads; a thread of ours works on fewer."""


@dataclass(frozen=True)
class Stream:
    """A named source of random fields.

    ``Stream(seed, *path)``; the path's parts are strings and whole numbers. The same name gives the same numbers in any
    process, thread or order; a CPU and GPUs of unequal size give different ones (results record which).

    A field has a logical shape ``(rows, ...)`` and is filled in blocks of whole rows, about a million elements each.
    Every block has a generator of its own, named by the stream and the block's index, so ``rows=(a, b)`` makes exactly
    that slice of the whole without making the rest. Fields are float32 whatever the precision of the weights, so
    that a network perturbed in bfloat16 sees the draw that it sees in float32.

    >>> whole = Stream(0, "report", 3, "conv1").normal((4, 5))
    >>> torch.equal(whole[1:3], Stream(0, "report", 3, "conv1").normal((4, 5), rows=(1, 3)))
    True
    """

    seed: int
    path: tuple[str | int, ...]
    place: int | None = field(default=None, compare=False, repr=False)
    """Where in the path the name of a chip's weight stands, if it does."""

    def __init__(self, seed: int, *path: str | int) -> None:
        for part in (seed, *path):
            if not isinstance(part, (str, int)) or isinstance(part, bool):
                raise TypeError(f"expected strings and whole numbers in a stream's name, got {part!r}")
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "path", path)

    def child(self, *path: str | int) -> Stream:
        """The stream one or more names further down."""
        return self._at((*self.path, *path))

    def weight(self, name: str) -> Stream:
        """``child(name)``, of one weight of the chip that this stream names; it knows what all of them share."""
        child = self.child(name)
        object.__setattr__(child, "place", len(self.path))
        return child

    @property
    def of_chip(self) -> Stream:
        """This stream without the weight's name: the same one for all weights of a chip. It is a chip of its own where
        no :meth:`weight` was named."""
        place = self.place
        if place is None:
            return self.child("die")
        return self._at((*self.path[:place], "die", *self.path[place + 1 :]))

    def _at(self, path: tuple[str | int, ...]) -> Stream:
        stream = Stream(self.seed, *path)
        object.__setattr__(stream, "place", self.place)
        return stream

    def generator(self, device: torch.device | str = "cpu", block: int = 0) -> torch.Generator:
        """A fresh generator that this name alone determines."""
        name = json.dumps([self.seed, *self.path, block]).encode()
        generator = torch.Generator(device)
        if torch.device(device).type == "cpu":
            generator.set_state(_mersenne_state(name))
        else:
            generator.manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:8], "little"))
        return generator

    def integer(self) -> int:
        """One 63-bit number, for the libraries that only take a seed."""
        return int.from_bytes(hashlib.sha256(json.dumps([self.seed, *self.path]).encode()).digest()[:8], "little") >> 1

    def normal(
        self, shape: Sequence[int], *, rows: tuple[int, int] | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Standard normal field of logical ``shape`` (or its ``rows``), contiguous float32."""
        return self._field(FILLS["normal"], shape, rows, device)

    def uniform(
        self, shape: Sequence[int], *, rows: tuple[int, int] | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Uniform field on [0, 1)."""
        return self._field(FILLS["uniform"], shape, rows, device)

    def laplace(
        self, shape: Sequence[int], *, rows: tuple[int, int] | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        r"""Laplace(0, 1) field (variance 2): :math:`l = -\mathrm{sgn}(v) \ln |v|` of v uniform on (-1, 1)."""
        return self._field(FILLS["laplace"], shape, rows, device)

    def _field(
        self, fill: Fill, shape: Sequence[int], rows: tuple[int, int] | None, device: torch.device | str
    ) -> Tensor:
        shape = tuple(shape)
        height, width = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        first, last = rows if rows is not None else (0, height)
        if not 0 <= first <= last <= height:
            raise IndexError(f"expected rows within 0 to {height}, got {rows}")
        with torch.inference_mode(False):  # which threads that fill it are not in
            field = torch.empty(last - first, width, dtype=torch.float32, device=device)

        def fill_block(index: int, start: int, stop: int) -> None:
            inside, low, high = start >= first and stop <= last, max(start, first), min(stop, last)
            target = field[low - first : high - first]
            block = target if inside else torch.empty(stop - start, width, dtype=torch.float32, device=device)
            fill(block, self.generator(field.device, index))
            if not inside:
                target.copy_(block[low - start : high - start])

        wanted_blocks = [b for b in blocks(height, width) if b[1] < last and b[2] > first]
        if [block[1:] for block in wanted_blocks] == [(first, last)]:  # most fields are one block: less to do
            fill(field, self.generator(field.device, wanted_blocks[0][0]))
        else:
            side_by_side([partial(fill_block, *block) for block in wanted_blocks], field.device)
        return field.view((last - first, *shape[1:]) if shape else ())


def kept_generators(device: torch.device | str = "cpu") -> AbstractContextManager[None]:
    """torch's global generators of the CPU and of ``device`` are afterwards as before. Other GPUs' are left alone: they
    are other processes', and to ask for them would start them."""
    device = torch.device(device)
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def seeded(stream: Stream, device: torch.device | str = "cpu") -> Iterator[None]:
    """torch's global generators of the CPU and of ``device`` follow ``stream`` inside and are as before outside.

    Only for code that takes no generator: parameter initialisation and dropout. It is process-wide.
    """
    seed, gpu = stream.integer(), torch.device(device)
    with kept_generators(gpu):
        torch.default_generator.manual_seed(seed)
        if gpu.type == "cuda":
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def blocks(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """(index, first row, last row) of every block; it depends on the logical shape alone."""
    step = max(1, BLOCK // max(1, width))
    for index, start in enumerate(range(0, height, step)):
        yield index, start, min(start + step, height)


def pieces(rows: int, width: int) -> list[int]:
    """The numbers of rows of the pieces in which a block of a field can be made on the CPU, in order and from
    one generator: small enough for a cache and for one thread (less than ``GRAIN``, unless 16 rows are more).

    torch makes normal numbers in groups of 16, and the last 16 once more where they are no whole group. So pieces of
    whole groups, none shorter than one, get the bits that the block gets at once.
    """
    step = 16 // math.gcd(width, 16)  # rows that are whole groups
    step *= max(1, (GRAIN - 1) // (step * width))
    whole, rest = divmod(rows, step)
    if whole and rest * width < 16:
        return [step] * (whole - 1) + [step + rest]
    return [step] * whole + [rest]


def side_by_side(work: Sequence[Callable[[], object]], device: torch.device) -> None:
    """Do all parts of ``work``, on the CPU with as many threads as torch uses; raises what one of them raises.

    None is still at work when it returns or raises, so that a caller may undo what they did.
    """
    if len(work) < 2 or device.type != "cpu" or torch.get_num_threads() < 2:
        for part in work:
            part()
        return
    futures = [_pool().submit(part) for part in work]
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


def _fill_laplace(block: Tensor, generator: torch.Generator) -> None:
    """The inverse of the distribution, of 31 random bits a number: v is an odd number over 2^31.

    So v is never 0, both signs are alike, and the tails go to 31 ln 2 = 21.5.
    """
    odd = block.view(torch.int32).random_(generator=generator).bitwise_left_shift_(1).bitwise_or_(1)
    v = odd.float().mul_(2**-31)
    torch.abs(v, out=block).log_().copysign_(v)


FILLS: dict[str, Fill] = {
    "normal": lambda block, generator: block.normal_(generator=generator),
    "uniform": lambda block, generator: block.uniform_(generator=generator),
    "laplace": _fill_laplace,
}
"""What fills a block, by the name of the field of a :class:`Stream`."""


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, torch.get_num_threads()), thread_name_prefix="noise")


def _mersenne_state(name: bytes) -> Tensor:
    """A full CPU generator state from a name.

    ``manual_seed`` keeps only 32 bits on the CPU (seeds s and s + 2^32 give the same numbers), so that among 100,000
    named blocks two would be expected to coincide. Here all 624 words of the Mersenne twister come from the name's
    hash.
    """
    state = _template().clone()
    words = np.frombuffer(hashlib.shake_256(name).digest(4 * 624), dtype="<u4").astype(np.uint64)
    state.numpy()[24 : 24 + 8 * 624] = words.view(np.uint8)
    return state


@cache
def _template() -> Tensor:
    # Layout of torch's saved CPU state: seed (8 bytes), left (4), seeded (4), next (8), 624 words of 8 bytes, the rest.
    state = torch.Generator().manual_seed(0).get_state()
    if state.numel() != 5056:
        raise RuntimeError(f"expected a CPU generator state of 5056 bytes, got {state.numel()}: unknown torch version")
    return state

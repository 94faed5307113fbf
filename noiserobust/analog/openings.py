"""One opening of the same weights at a time: those that do not nest are refused, and never leave a weight noisy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import groupby
from typing import TypeVar

from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.sharded import local

T = TypeVar("T")


@contextmanager
def opened(tensors: Sequence[Tensor], moves: bool = True) -> Iterator[Opening]:
    """Inside, ``tensors`` may hold other values, and whoever moves them says on the :class:`Opening` how to undo it.

    Everything is undone at the end, last first, also after an exception and when an interrupt falls into the undoing.
    Openings that share memory (of one model, of its wrapper, of two models that share weights) nest as ``with``
    statements do: :class:`~noiserobust.UserError` while another thread has some of it open, and for one that is closed
    before those inside it, which it closes first. ``moves=False`` keeps others from moving the weights meanwhile.
    """
    opening = Opening(tensors, moves)
    try:
        opening.claim()
        yield opening
    finally:
        try:
            opening.close()
        finally:
            opening.close()  # the first may have been interrupted
    opening.check_nested()


class Opening:
    """Weights that are held, and what is to be undone before they are let go: made by :func:`opened`."""

    def __init__(self, tensors: Sequence[Tensor], moves: bool) -> None:
        self._moves, self._thread, self._nested = moves, threading.get_ident(), True
        # Kept, so that no other tensor gets their memory: model.to(...) gives parameters another one.
        self._live = [local(tensor.detach()) for tensor in tensors]
        self._undo: list[Callable[[], object]] = []

    def claim(self) -> None:
        """Hold the weights; :class:`~noiserobust.UserError` while another thread does."""
        with _LOCK:
            if any(other._thread != self._thread and other._shares(self) for other in OPEN):
                raise UserError(
                    "expected weights that one thread at a time moves, got a model that another thread has open; give "
                    "each thread a copy of its own (copy.deepcopy)"
                )
            OPEN.append(self)

    def callback(self, undo: Callable[[], object]) -> None:
        """Call ``undo`` when the opening closes; once more if that raises or is interrupted."""
        self._undo.append(undo)

    def enter_context(self, manager: AbstractContextManager[T]) -> T:
        """Enter ``manager``, and leave it when the opening closes."""
        value = manager.__enter__()
        self.callback(lambda: manager.__exit__(None, None, None))
        return value

    def close(self) -> None:
        """Undo everything and let the weights go; what is undone already stays so."""
        if self in OPEN:
            for other in reversed(OPEN[OPEN.index(self) + 1 :]):
                if other._shares(self):
                    self._nested = other._nested = False
                    other.close()
        failed: Exception | None = None
        while self._undo:
            try:
                self._undo[-1]()
            except Exception as error:  # tried again, and the rest is undone all the same
                failed = error
                with suppress(Exception):
                    self._undo[-1]()
            self._undo.pop()
        with _LOCK:
            if self in OPEN:
                OPEN.remove(self)
        if failed is not None:
            raise failed

    def check_nested(self) -> None:
        """Refuse an opening that overlapped with another one."""
        if not self._nested:
            raise UserError(
                "expected openings of the same weights that nest, got one that was closed before another inside it; "
                "the weights are the clean ones again: close the inner first, or copy the model (copy.deepcopy)"
            )

    def _shares(self, other: Opening) -> bool:
        """Whether both hold some of the same memory, and one of them moves it."""
        if not (self._moves or other._moves):
            return False
        spans = sorted(span for one, held in ((0, self), (1, other)) for span in held._spans(one))
        for _, same in groupby(spans, key=lambda span: span[0]):
            ends = [-1, -1]
            for _, start, end, one in same:
                if start < ends[1 - one]:
                    return True
                ends[one] = max(ends[one], end)
        return False

    def _spans(self, mark: int) -> Iterator[tuple[str, int, int, int]]:
        for tensor in self._live:
            if tensor.numel() and tensor.device.type != "meta":
                last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
                start = tensor.data_ptr()
                yield str(tensor.device), start, start + (last + 1) * tensor.element_size(), mark


OPEN: list[Opening] = []
"""In the order in which they were opened."""
_LOCK = threading.RLock()

"""Data for language models, made without a download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from noiserobust.data.dataset import Dataset, Splits
from noiserobust.data.labelled import Labelled
from noiserobust.data.source import DataSource
from noiserobust.data.text import Windows
from noiserobust.rng import Stream

CONTEXT = 32
"""Letters that a network sees before the one it is asked for."""

TRAIN, TEST = 12_000, 3_000
"""Letters to learn from and to be tested on, each from sums of their own."""

# fmt: off
UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]
# fmt: on
TENS = ["twenty", "thirty"]


@dataclass(frozen=True)
class Sums(DataSource, name="sums"):
    """An artificial text to model letter by letter: spelled-out sums of numbers.

    "seven plus twelve is nineteen. ...": 12,000 training and 3,000 test windows of 32 letters (tokens, N x 32),
    labelled with the letter that follows.

    - ``labels``: ``next``, that letter; or ``tokens``: windows of 33 letters that are their own labels, each letter
      counted once (:func:`~noiserobust.data.text.windows`), for the task ``tokens``.
    """

    example: ClassVar[str] = "sums"
    leading: ClassVar[Any] = "changed"

    labels: Literal["next", "tokens"] = "next"

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        words = " ".join([*UNITS, *TENS, "plus is. "])
        alphabet = tuple(sorted(set(words)))
        texts = (_letters(Stream(0, "sums", part), n, alphabet) for part, n in (("train", TRAIN), ("test", TEST)))
        train, test = (self._windows(text, alphabet) for text in texts)
        return Splits(train, test)

    def _windows(self, text: Tensor, alphabet: tuple[str, ...]) -> Labelled:
        if self.labels == "tokens":
            return Windows.of(text, CONTEXT + 1, name=str(self))
        return _with_next(text, alphabet)


def spelled(number: int) -> str:
    """A number from 0 to 38 in words."""
    if number < 20:
        return UNITS[number]
    tens, unit = divmod(number, 10)
    return TENS[tens - 2] + (f" {UNITS[unit]}" if unit else "")


def _letters(stream: Stream, letters: int, alphabet: tuple[str, ...]) -> Tensor:
    """A text of ``letters`` and a window more, as numbers."""
    operands = (stream.uniform((letters, 2)) * 20).long().tolist()  # more sums than letters could ever need
    text = ""
    for a, b in operands:
        text += f"{spelled(a)} plus {spelled(b)} is {spelled(a + b)}. "
        if len(text) >= letters + CONTEXT:
            break
    return torch.tensor([alphabet.index(letter) for letter in text[: letters + CONTEXT]])


def _with_next(numbers: Tensor, alphabet: tuple[str, ...]) -> Dataset:
    windows = numbers.unfold(0, CONTEXT + 1, 1)
    return Dataset(windows[:, :-1].contiguous(), windows[:, -1], classes=alphabet, name="sums")

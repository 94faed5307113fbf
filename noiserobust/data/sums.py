"""Data for language models, made without a download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from noiserobust.data.dataset import Dataset, Splits
from noiserobust.data.source import DataSource
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
    """

    example: ClassVar[str] = "sums"

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        words = " ".join([*UNITS, *TENS, "plus is. "])
        alphabet = tuple(sorted(set(words)))
        train, test = (_windows(Stream(0, "sums", part), n, alphabet) for part, n in (("train", TRAIN), ("test", TEST)))
        return Splits(train, test, crop=0, flip=False)


def spelled(number: int) -> str:
    """A number from 0 to 38 in words."""
    if number < 20:
        return UNITS[number]
    tens, unit = divmod(number, 10)
    return TENS[tens - 2] + (f" {UNITS[unit]}" if unit else "")


def _windows(stream: Stream, letters: int, alphabet: tuple[str, ...]) -> Dataset:
    operands = (stream.uniform((letters, 2)) * 20).long().tolist()  # more sums than letters could ever need
    text = ""
    for a, b in operands:
        text += f"{spelled(a)} plus {spelled(b)} is {spelled(a + b)}. "
        if len(text) >= letters + CONTEXT:
            break
    numbers = torch.tensor([alphabet.index(letter) for letter in text[: letters + CONTEXT]])
    windows = numbers.unfold(0, CONTEXT + 1, 1)
    return Dataset(windows[:, :-1].contiguous(), windows[:, -1], classes=alphabet, name="sums")

"""A text file as tokens, in windows of one length: what language models are trained and evaluated on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from noiserobust.data.batches import Batch
from noiserobust.data.dataset import Splits
from noiserobust.data.samples import Samples
from noiserobust.data.source import DataSource
from noiserobust.errors import UserError
from noiserobust.limits import require_file

IGNORED = -100


@dataclass(frozen=True)
class Text(DataSource, name="text"):
    """A text file as tokens (N, T) that are their own labels, in windows: each token counts once.

    - ``file``: the text to be tested on, in UTF-8; all of it.
    - ``tokenizer``: ``bytes`` (0 to 255), ``characters`` (numbered in their order), or a folder with a tokenizer of
      transformers, such as the network's own; it adds what it adds to a text, such as a first token.
    - ``length``: T, tokens that a network sees at once.
    - ``stride``: by how much a window begins after the one before (default: T - 1). The less, the more tokens are seen
      before those that count.
    - ``train``: the text to learn from: another file, or a number below 1, the share of ``file`` that comes first; what
      is tested on then begins after it.

    The perplexity of the text is that of all its tokens but the first, whose probability no window tells. The last
    window is moved back so that it is full.
    """

    example: ClassVar[str] = "text:path/to/text.txt,tokenizer=bytes"

    file: str
    tokenizer: str = ""
    length: int = 128
    stride: int | None = None
    train: str = ""

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        if self.length < 2 or not 1 <= (self.stride or 1) < self.length:
            raise UserError(
                f"expected a length of 2 tokens or more and a stride from 1 to length - 1, got {self.length} and "
                f"{self.stride}"
            )
        test, train = _read(self.file), ""
        share = _number(self.train)
        if share is not None:
            if not 0 < share < 1:
                raise UserError(f"expected a share between 0 and 1 to train on, or a file, got {self.train}")
            place = round(share * len(test))
            train, test = test[:place], test[place:]
        elif self.train:
            train = _read(self.train)
        encode = self._encoder(train + test)
        learnt = self._samples(encode(train), self.train) if self.train else NoTraining((), name=self.file)
        return Splits(learnt, self._samples(encode(test), self.file))

    def _samples(self, tokens: Sequence[int], file: str) -> Windows:
        if len(tokens) < 2:
            raise UserError(f"expected a text of 2 tokens or more, got {len(tokens)} in {file}")
        return Windows.of(torch.tensor(tokens), self.length, self.stride, name=Path(file).stem)

    def _encoder(self, text: str) -> Callable[[str], Sequence[int]]:
        if self.tokenizer == "bytes":
            return lambda part: list(part.encode())
        if self.tokenizer == "characters":
            numbers = {character: number for number, character in enumerate(sorted(set(text)))}
            return lambda part: [numbers[character] for character in part]
        if not os.path.isdir(self.tokenizer) or not self.tokenizer:
            raise UserError(
                f"expected tokenizer=bytes, tokenizer=characters or a folder with a tokenizer, got "
                f"'{self.tokenizer}'; it is the one that the network was trained with"
            )
        tokenizer = tokenizer_in(self.tokenizer)
        return lambda part: tokenizer(part, verbose=False)["input_ids"]


class Windows(Samples):
    """Tokens (N, T) that are their own labels. A network need not know T: there is 1 channel."""

    channels = 1

    @classmethod
    def of(cls, tokens: Tensor, length: int, stride: int | None = None, name: str = "data") -> Windows:
        """The :func:`windows` of ``tokens`` (M,)."""
        return cls((Batch(*windows(tokens, length, stride)),), name=name)


class NoTraining(Windows):
    """The training part of data that have none: whoever asks for it is told."""

    def __len__(self) -> NoReturn:
        raise UserError(f"expected text to train on, got none beside {self.name}; name it: train=FILE, or train=0.9")


def windows(tokens: Tensor, length: int, stride: int | None = None) -> tuple[Tensor, Tensor]:
    """Windows of ``tokens`` (M,), and labels (N, T) that count each token but the first once: others are -100.

    Window n begins at n ``stride`` (default: length - 1, so that it begins with the last token of the one before,
    which is only read). The last one ends with the text. T is ``length``, or M of a shorter text.

    >>> windows(torch.arange(6), 4)
    (tensor([[0, 1, 2, 3],
            [2, 3, 4, 5]]), tensor([[   0,    1,    2,    3],
            [-100, -100,    4,    5]]))
    """
    count = len(tokens)
    length = min(length, count)
    last = count - length
    starts = [*range(0, last, stride or length - 1), last]
    ids = torch.stack([tokens[start : start + length] for start in starts])
    labels = ids.clone()
    for row, (before, start) in enumerate(pairwise(starts), 1):
        labels[row, : before + length - start] = IGNORED
    return ids, labels


def tokenizer_in(folder: str | Path) -> Any:
    """The tokenizer that ``save_pretrained`` of transformers wrote into ``folder``; no download, no code of it."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UserError("expected transformers to be installed for its tokenizers; pip install transformers") from None
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a library makes of a file
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"expected a tokenizer that save_pretrained wrote in {folder}, got none: {reason}") from error


def _read(file: str) -> str:
    try:
        return require_file(file, "a text file in UTF-8", "file").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a text file in UTF-8, got {file}: {error}") from None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

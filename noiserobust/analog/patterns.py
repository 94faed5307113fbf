"""What a person says of single weights by pattern: included, excluded, and the rows of a table of settings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, Protocol

from torch import Tensor

from noiserobust.analog.layer_table import LayerSettings, LayerTable
from noiserobust.errors import UserError


class Candidate(Protocol):
    """What is asked of a weight."""

    spellings: set[str]
    tensor: Tensor
    latent: bool


class Patterns:
    """What a person includes and excludes, and whether every pattern has met a weight."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str], layers: LayerTable) -> None:
        self.include, self.exclude, self.layers = include, exclude, layers
        self.unmatched = [pattern for pattern, _ in layers.rows]
        self.included = [_Included(*pattern.partition("@")[::2], pattern) for pattern in include]
        self.matched: set[str] = set()
        self.effective: set[str] = set()

    def about(self, candidate: Candidate) -> tuple[str, bool, str]:
        """The axes named for a weight, whether it is excluded, and the pattern that includes it."""
        asked = [one for one in self.included if _matches(candidate.spellings, one.names)]
        excluded = {pattern for pattern in self.exclude if _matches(candidate.spellings, pattern)}
        self.matched |= {one.text for one in asked} | excluded
        if candidate.tensor.dim() >= 2 and candidate.tensor.numel() and not candidate.latent:
            self.effective |= {one.text for one in asked}
        axes = next((one.axes for one in reversed(asked) if one.axes), "")
        included = asked[0].names if asked else ""
        matching = self._of_table(candidate)
        for pattern in matching:
            names, _, own_axes = pattern.partition("@")
            digital = self.layers.about([pattern]).digital
            axes = own_axes or axes
            if own_axes or digital is False:
                included = names
            if digital is not None:
                excluded = {pattern} if digital else set()
                included = "" if digital else included
        if excluded:
            self._meet(matching)  # they would have an effect if nobody had asked for another
        return axes, bool(excluded), included

    def settings(self, candidate: Candidate) -> LayerSettings:
        """The table's settings of an analog weight."""
        matching = self._of_table(candidate)
        self._meet(matching)
        return self.layers.about(matching)

    def _of_table(self, candidate: Candidate) -> list[str]:
        if candidate.latent or candidate.tensor.dim() < 2:
            return []
        found = (p for p, _ in self.layers.rows if _matches(candidate.spellings, p.partition("@")[0]))
        return list(dict.fromkeys(found))

    def _meet(self, patterns: Sequence[str]) -> None:
        self.unmatched = [pattern for pattern in self.unmatched if pattern not in patterns]

    def check(self) -> None:
        if self.unmatched:
            names = ", ".join(f"'{pattern}'" for pattern in dict.fromkeys(self.unmatched))
            warnings.warn(f"layers: no analog weight matches {names}; coverage lists the names", stacklevel=1)
        for pattern in (*self.include, *self.exclude):
            if pattern not in self.matched:
                raise UserError(
                    f"expected a pattern that matches a parameter, got '{pattern}'; coverage(model) lists the names"
                )
        for pattern in self.include:
            if pattern not in self.effective:
                raise UserError(
                    f"expected a pattern that matches a matrix, got '{pattern}', which matches vectors alone; biases "
                    "and scales are no part of a crossbar"
                )


class _Included(NamedTuple):
    names: str
    axes: str
    text: str


def _matches(spellings: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(one, pattern) for one in spellings)

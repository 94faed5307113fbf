"""Times as text: ``25s``, ``1h``, ``1y``."""

from __future__ import annotations

import math
import re
from typing import ClassVar

from noiserobust.errors import UserError


class Duration(float):
    """A time in seconds that is written ``25s``, ``10min``, ``1h``, ``1d``, ``1y`` (365 days); plain numbers are
    seconds. Raises :class:`UserError` for anything else, negative or not finite.

    >>> Duration("1h") == 3600, str(Duration(86400)), str(Duration("90s"))
    (True, '1d', '90s')
    """

    UNITS: ClassVar[dict[str, float]] = {"y": 365 * 86400.0, "d": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0}

    def __new__(cls, value: float | str) -> Duration:
        match = re.fullmatch(
            r"\s*([-+.\deE]+?)\s*(y|d|h|min|s)?\s*", str(float(value) if not isinstance(value, str) else value)
        )
        try:
            seconds = float(match[1]) * cls.UNITS[match[2] or "s"] if match else math.nan
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise UserError(f"expected a time such as 25s, 1h, 1d, 1y, or seconds >= 0, got '{value}'")
        return super().__new__(cls, seconds)

    def __str__(self) -> str:
        unit = next((unit for unit, size in self.UNITS.items() if self and self % size == 0), "s")
        number = float(self) / self.UNITS[unit]
        return f"{number:g}{unit}" if float(f"{number:g}") == number else f"{number!r}{unit}"

    __repr__ = __str__

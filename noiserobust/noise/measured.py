"""A device from one's own measurements: a table of its states and their errors becomes a noise model."""

from __future__ import annotations

import csv
import hashlib
import math
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.device import DeviceProfile, check_scale, normal_like
from noiserobust.rng import Stream
from noiserobust.spec import Duration

REQUIRED = ("state", "mean_error", "std")
DRIFT = ("drift_mean", "drift_std")
T0 = Duration(20)
EXAMPLE = "example"
"""The name of the table that comes with the package."""


@dataclass(frozen=True)
class Measured(DeviceProfile, name="measured"):
    r"""A device of your own, described by a table of its measured states and errors.

    ``measured:path/to/table.csv``. ``measured:example`` is a table that comes with the package: PCM's published
    numbers, an example of the format and no measurement. (A file named ``example`` in the working folder goes first.)

    A table has a header and one line per state, in ascending order; lines that begin with ``#`` are remarks.

    - ``state``: the conductance that was asked for, ``mean_error``: the mean of what was got minus that, ``std``: its
      standard deviation; in µS or any other unit, such as a fraction of the largest state: it cancels
    - optionally ``drift_mean``, ``drift_std``: mean and standard deviation of the drift exponent, without unit

    Between states everything is interpolated linearly. The first and the last state are the ends g_min and g_max of the
    range in use: a weight w of a group with the scale s is a pair of devices,
    :math:`w = s (g_+ - g_-) / (g_{max} - g_{min})`, one of them at :math:`g_{min} + (g_{max} - g_{min}) |w| / s`, the
    other at g_min. With :math:`\xi, \zeta \sim N(0, 1)`, fixed per device,

    - programming: :math:`g_p = (g + mean\_error(g) + std(g)\,\xi)_+`
    - drift: :math:`g_d = g_p ((t + t_0) / t_0)^{-\nu}` with :math:`\nu = drift\_mean(g) + drift\_std(g)\,\zeta`

    ``programming`` and ``drift`` multiply these errors (1: as measured; 0: off). Read noise is another stage:
    ``measured:table.csv+gaussian:0.005,per=read``.

    ``digest`` names the table's content, so that results of one table are never taken for another's. It is computed
    when the profile is made, and is part of its text; where it is given, the file must still agree. Raises
    :class:`~noiserobust.UserError` with file and line for a table that is not as above.
    """

    example: ClassVar[str] = "measured:example"
    leading: ClassVar[Literal["always"]] = "always"

    table: str = field(kw_only=True)
    digest: str = ""
    programming: float = 1.0
    drift: float = 1.0
    t0: Duration = T0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.name, "programming", self.programming)
        check_scale(self.name, "drift", self.drift)
        object.__setattr__(self, "t0", Duration(self.t0))
        if not self.t0 > 0:
            raise UserError(f"measured: expected a time t0 > 0 s, got {self.t0}; drift is relative to it")
        table = str(self.table)
        if table != table.strip() or not table or set(table) & set(",+=()[]{}"):
            raise UserError(f"measured: expected a file name without , + = and brackets, got '{table}'; rename it")
        object.__setattr__(self, "table", table)
        # A table that is named by its digest need not be here to be spoken of, as rows of another machine do.
        if not self.digest or Path(table).is_file():
            self._read()

    def _read(self) -> dict[str, np.ndarray]:
        if (self.table, self.digest) not in _tables:
            content = _content(self.table)
            digest = hashlib.sha256(content).hexdigest()[:12]
            if self.digest not in ("", digest):
                raise UserError(
                    f"measured: expected {self.table} with the content {self.digest}, got {digest}; it was changed: "
                    "leave digest out to use it as it is now"
                )
            object.__setattr__(self, "digest", digest)
            _tables[self.table, digest] = read_table(self.table, content)
        return _tables[self.table, self.digest]

    def devices(self) -> MeasuredDevices:
        return MeasuredDevices(self._read(), self.programming, self.drift, self.t0)


class MeasuredDevices:
    """Differential pairs of devices that are programmed and drift as a table says."""

    def __init__(self, table: dict[str, np.ndarray], programming: float, drift: float, t0: float) -> None:
        self.table, self.programming, self.drift, self.t0 = table, programming, drift, t0
        self.g_min, self.g_max = float(table["state"][0]), float(table["state"][-1])

    def split(self, relative: Tensor) -> list[Tensor]:
        return [self.g_min + (sign * relative).clamp(0, 1) * (self.g_max - self.g_min) for sign in (1, -1)]

    def join(self, conductances: list[Tensor]) -> Tensor:
        positive, negative = conductances
        return (positive - negative) / (self.g_max - self.g_min)

    def program(self, target: Tensor, stream: Stream) -> Tensor:
        error = self.interpolated("mean_error", target) + self.interpolated("std", target) * normal_like(target, stream)
        return (target + self.programming * error).clamp(min=0)

    def drift_parameters(self, target: Tensor, stream: Stream) -> Tensor | None:
        """The drift exponents, where the table has them."""
        if "drift_mean" not in self.table:
            return None
        mean, std = (self.interpolated(name, target) for name in DRIFT)
        return self.drift * (mean + std * normal_like(target, stream))

    def read(self, target: Tensor, programmed: Tensor, drift: Tensor | None, t: float, stream: Stream) -> Tensor:
        return programmed if drift is None else programmed * ((t + self.t0) / self.t0) ** -drift

    def interpolated(self, column: str, target: Tensor) -> Tensor:
        """A column of the table at conductances within its states, linear between them."""
        states, values = (torch.as_tensor(self.table[name]).to(target) for name in ("state", column))
        above = torch.bucketize(target, states).clamp(1, len(states) - 1)
        low, high = states[above - 1], states[above]
        return torch.lerp(values[above - 1], values[above], ((target - low) / (high - low)).clamp(0, 1))


def read_table(name: str, content: bytes) -> dict[str, np.ndarray]:
    """The columns of a table of measurements; :class:`~noiserobust.UserError` names the line that is not as it must."""

    def refuse(line: int, expected: str, got: object) -> UserError:
        return UserError(f"{name}, line {line}: expected {expected}, got {got}")

    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"expected a table of measurements as CSV text, got {name}, which is no text") from None
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    rows = [(i, [cell.strip() for cell in next(csv.reader([line]))]) for i, line in lines]
    if not rows:
        raise UserError(f"{name}: expected a header {','.join(REQUIRED)} and a line per state, got an empty table")
    (first, header), *rows = rows
    if sorted(header) not in (sorted(REQUIRED), sorted(REQUIRED + DRIFT)):
        wanted = f"the columns {', '.join(REQUIRED)} and perhaps {', '.join(DRIFT)}"
        raise refuse(first, wanted, ", ".join(header))
    previous = -math.inf
    columns: dict[str, list[float]] = {column: [] for column in header}
    for line, cells in rows:
        if len(cells) != len(header):
            raise refuse(line, f"{len(header)} values", len(cells))
        for column, cell in zip(header, cells, strict=True):
            value = _number(cell)
            if not math.isfinite(value):
                raise refuse(line, f"a finite number as {column}", f"'{cell}'")
            if value < 0 and column not in ("mean_error", "drift_mean"):
                raise refuse(line, f"{column} >= 0", cell)
            columns[column].append(value)
        state = columns["state"][-1]
        if state <= previous:
            raise refuse(line, f"a state above that of the line before, {previous:g}", f"{state:g}; sort the table")
        previous = state
    if len(rows) < 2:
        raise UserError(f"{name}: expected at least two states, got {len(rows)}")
    return {column: np.array(values) for column, values in columns.items()}


_tables: dict[tuple[str, str], dict[str, np.ndarray]] = {}
"""Tables by file and digest: read once, so that a file that changes meanwhile does not change a run."""


def _content(name: str) -> bytes:
    path = Path(name)
    if name == EXAMPLE and not path.is_file():
        return files(__package__).joinpath("tables", "example_device.csv").read_bytes()
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"measured: expected a table (CSV), got {name}: {error.strerror}; check the name") from None


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan

"""A device from one's own measurements: a table of its states and their errors becomes a noise model."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.file_kinds import require_kind
from noiserobust.limits import read_text_bytes
from noiserobust.noise.device import DeviceProfile, Devices, check_scale, normal_like
from noiserobust.noise.measurements import DRIFT, Measurements, read_table
from noiserobust.rng import Stream
from noiserobust.spec import Duration
from noiserobust.spec.references import agreed

READ = "read_std"
BOLTZMANN = 8.617333262e-5
"""eV per K."""
KELVIN = 273.15
T0 = Duration(20)
EXAMPLES = {"example": "example_device.csv", "example-retention": "example_retention.csv"}
"""Tables that come with the package, by name."""


@dataclass(frozen=True)
class Measured(DeviceProfile, name="measured"):
    r"""A device of your own, described by a table of its measured states and errors.

    ``measured:path/to/table.csv``. ``measured:example`` is a table that comes with the package: PCM's published
    numbers, an example of the format and no measurement. (A file named ``example`` in the working folder goes first.)

    A table has a header and one line per state, in ascending order; lines that begin with ``#`` are remarks. Values are
    separated by commas, semicolons or tabs; with the latter two a decimal comma is understood.

    - ``state``: the conductance that was asked for, ``mean_error``: the mean of what was got minus that, ``std``: its
      standard deviation; in µS or any other unit, such as a fraction of the largest state: it cancels. Units may be
      named: ``state (µS)``, ``std [nS]``; a column without one has that of the states
    - optionally ``drift_mean``, ``drift_std``: mean and standard deviation of the drift exponent, without unit
    - or instead ``time`` (s, or ``1h``, ``1d``): lines per time after programming; the first time is programming
    - optionally ``read_std``: the standard deviation of a read
    - optionally ``temperature`` (°C) and ``polarity`` (``+`` or ``-``: the devices of a pair that hold positive and
      negative weights), with lines for each

    Other columns are ignored with a warning. Between states everything is interpolated linearly, between times in
    ln t, between temperatures linearly. The first and the last state are the ends g_min and g_max of the range in use:
    a weight w of a group with the scale s is a pair of devices,
    :math:`w = s (g_+ - g_-) / (g_{max} - g_{min})`, one of them at :math:`g_{min} + (g_{max} - g_{min}) |w| / s`, the
    other at g_min (``mapping`` knows others). With :math:`\xi, \zeta \sim N(0, 1)` fixed per device and :math:`\eta`
    drawn at each read,

    - programming: :math:`g_p = (g + m + \sigma\,\xi)_+`, m and :math:`\sigma` = mean_error and std at g
    - drift: :math:`g_d = g_p ((t + t_0) / t_0)^{-\nu}` with :math:`\nu = drift\_mean(g) + drift\_std(g)\,\zeta`
    - retention: :math:`g_d = (g + m_t + \sigma_{<} \xi + \sqrt{(\sigma_t^2 - \sigma^2)_+}\,\zeta)_+` with the mean
      error and std of time t, :math:`\sigma_< = \min(\sigma, \sigma_t)`: the error at each time is that of the table,
      and what it grows by is independent of the programming error. A time after the last one is refused
    - read: :math:`g_r = (g_d + read\_std(g_d)\,\eta)_+`

    ``programming``, ``drift`` (all change over time) and ``read`` multiply these errors (1: as measured; 0: off).

    ``temperature`` (°C) chooses among those of the table. ``activation`` (eV) instead takes a table of one temperature
    :math:`T_0` to another T by Arrhenius' law: at time t devices are where those of the table are at
    :math:`t\,\exp(E_a / k_B\,(1 / T_0 - 1 / T))`.

    ``digest`` names the table's content, so that results of one table are never taken for another's. It is computed
    when the profile is made, and is part of its text; where it is given, the file must still agree. Raises
    :class:`~noiserobust.UserError` with file and line for a table that is not as above.
    """

    example: ClassVar[str] = "measured:example"
    leading: ClassVar[Literal["always"]] = "always"
    path_field: ClassVar[str | None] = "table"

    table: str = field(kw_only=True)
    digest: str = ""
    programming: float = 1.0
    drift: float = 1.0
    t0: Duration = T0
    read: float = 1.0
    temperature: float | None = None
    activation: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not -KELVIN < self.temperature < math.inf:
            raise UserError(f"measured: expected a temperature in °C above {-KELVIN}, got {self.temperature}")
        super().__post_init__()
        for part in ("programming", "drift", "read"):
            check_scale(self.name, part, getattr(self, part))
        object.__setattr__(self, "t0", Duration(self.t0))
        if not self.t0 > 0:
            raise UserError(f"measured: expected a time t0 > 0 s, got {self.t0}; drift is relative to it")
        table = str(self.table)
        if table != table.strip() or not table or set(table) & set(",+=()[]{}"):
            raise UserError(f"measured: expected a file name without , + = and brackets, got '{table}'; rename it")
        object.__setattr__(self, "table", table)
        # A table that is named by its digest need not be here to be spoken of, as rows of another machine do.
        if not self.digest or os.path.exists(table):
            self._check(self._read())

    def _check(self, table: Measurements) -> None:
        """Refuse settings that say nothing about this table."""
        known = table.known("temperature")
        if self.activation is not None and not (
            0 <= self.activation < math.inf and self.temperature is not None and len(known) == 1
        ):
            raise UserError(
                "measured: expected activation (eV) >= 0 beside temperature and a table of one temperature, got "
                f"activation={self.activation}, temperature={self.temperature} and {len(known)} temperatures"
            )
        if self.temperature is None and len(known) > 1:
            raise UserError(
                f"measured: expected a temperature= of {_ends(known)} °C, got none; {self.table} has several"
            )
        if self.temperature is not None and not known:
            raise UserError(f"measured: expected a table with a column temperature, got {self.table} without")
        outside = self.temperature is not None and not known[0] <= self.temperature <= known[-1]
        if outside and self.activation is None:
            raise UserError(
                f"measured: expected a temperature of {_ends(known)} °C, got {self.temperature:g}; activation= (eV) "
                "takes a table of one temperature to another"
            )
        if table.known("polarity") and self.mapping != "pair":
            raise UserError(f"measured: expected mapping=pair for a table with polarities, got {self.mapping}")
        self.range_in_use(table.g_min, table.g_max)
        self.check_time(self.t)

    def check_time(self, t: float) -> None:
        if (table := _tables.get((self.table, self.digest))) is None or "time" not in table.columns:
            return
        last = table.at(0, self.known_temperature(table)).last
        if self.equivalent(t, table) > last * (1 + 1e-12):
            at = "" if self.activation is None else f" at {self.known_temperature(table):g} °C"
            raise UserError(
                f"measured: expected t up to {Duration(last)}{at}, as {self.table} has, got t={Duration(t)}"
            )

    def known_temperature(self, table: Measurements) -> float | None:
        """The temperature (°C) of the table's numbers that are used; None where it names none."""
        if self.temperature is None or self.activation is not None:
            return next(iter(table.known("temperature")), None)
        return self.temperature

    def equivalent(self, t: float, table: Measurements) -> float:
        """The time at the table's temperature that does what ``t`` seconds do at this one."""
        known = self.known_temperature(table)
        if self.activation is None or self.temperature is None or known is None:
            return t
        there, here = (1 / (celsius + KELVIN) for celsius in (known, self.temperature))
        return t * math.exp(min(self.activation / BOLTZMANN * (there - here), 700.0))  # more is not finite

    def _read(self) -> Measurements:
        if (self.table, self.digest) not in _tables:
            content = _content(self.table)
            found = hashlib.sha256(content).hexdigest()[:12]
            digest = agreed(f"measured: expected {self.table}", self.digest, found)
            object.__setattr__(self, "digest", digest)
            _tables[self.table, digest] = read_table(self.table, content)
        return _tables[self.table, self.digest]

    def devices(self) -> MeasuredDevices:
        return MeasuredDevices(self._read(), self)


class MeasuredDevices(Devices):
    """Devices that are programmed, change and are read as a table says."""

    def __init__(self, table: Measurements, profile: Measured, place: int = 0) -> None:
        self.table, self.profile = table, profile
        self.g_min, self.g_max = table.g_min, table.g_max
        self.surface = table.at(place, profile.known_temperature(table))

    def of(self, place: int) -> MeasuredDevices:
        return MeasuredDevices(self.table, self.profile, place)

    def program(self, target: Tensor, stream: Stream) -> Tensor:
        error = self.surface("mean_error", target) + self.surface("std", target) * normal_like(target, stream)
        return (target + self.profile.programming * error).clamp(min=0)

    def drift_parameters(self, target: Tensor, stream: Stream) -> Tensor | None:
        """The drift exponents; of a table with times, how each device changes, as a standard normal number."""
        if "time" in self.table.columns:
            return normal_like(target, stream)
        if DRIFT[0] not in self.table.columns:
            return None
        mean, std = (self.surface(name, target) for name in DRIFT)
        return self.profile.drift * (mean + std * normal_like(target, stream))

    def read(self, target: Tensor, programmed: Tensor, drift: Tensor | None, t: float, stream: Stream) -> Tensor:
        t = self.profile.equivalent(t, self.table)
        if drift is not None:
            programmed = self._later(target, programmed, drift, t)
        if READ not in self.table.columns:
            return programmed
        std = self.surface(READ, programmed.clamp(self.g_min, self.g_max), t)
        return (programmed + self.profile.read * std * normal_like(target, stream)).clamp(min=0)

    def _later(self, target: Tensor, programmed: Tensor, drift: Tensor, t: float) -> Tensor:
        if "time" not in self.table.columns:
            return programmed * ((t + self.profile.t0) / self.profile.t0) ** -drift
        mean, std = (self.surface(name, target) for name in ("mean_error", "std"))
        later_mean, later_std = (self.surface(name, target, t) for name in ("mean_error", "std"))
        error = programmed - target - self.profile.programming * mean
        kept = (later_std / std.where(std > 0, 1)).where(std > 0, 1).clamp(max=1)
        spread = (later_std**2 - std**2).clamp(min=0).sqrt()
        change = later_mean - mean + (kept - 1) * error + spread * drift
        return (programmed + self.profile.drift * change).clamp(min=0)


def _ends(known: list[float]) -> str:
    return " to ".join(f"{value:g}" for value in sorted({known[0], known[-1]}))


_tables: dict[tuple[str, str], Measurements] = {}
"""Tables by file and digest: read once, so that a file that changes meanwhile does not change a run."""


def _content(name: str) -> bytes:
    path = Path(name)
    if name in EXAMPLES and not os.path.isfile(path):
        return files(__package__).joinpath("tables", EXAMPLES[name]).read_bytes()
    require_kind(path, "a table of measured devices (CSV: state, mean_error, std; docs/arrays.md)", "devices")
    return read_text_bytes(path, "a table (CSV)")

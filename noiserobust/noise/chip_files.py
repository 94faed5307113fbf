"""Files of measured chips: one ``.npz`` or ``.safetensors`` per chip, with the conductances of every layer.

docs/measured_chips.md describes the format. Nothing in such a file is executed: pickled arrays are refused.
"""

from __future__ import annotations

import glob
import hashlib
import math
import os
import re
import zipfile
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.file_kinds import require_kind
from noiserobust.limits import limits, require_file, within
from noiserobust.noise.mapping import MAPPINGS, Pair
from noiserobust.seals import is_sound

SUFFIXES = (".npz", ".safetensors")
TARGETS = "targets"
"""Stem of the file that holds what was to be programmed; it is no chip."""
PLACES = {"pair": ("g_plus", "g_minus"), "offset": ("g",), "offset-column": ("g", "g_reference")}
"""Arrays of a layer, by the mapping of weights to conductances."""
LONGEST_HEADER = 10_000
"""Bytes before an array's numbers; NumPy writes some hundred."""
EXPECTED = "signed weights NAME, conductances NAME/g_plus and NAME/g_minus, or NAME/g"


class ChipFile:
    """One measured chip. ``shapes`` are those of its arrays, by key; an array is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = require_file(path, "a measured chip", "file")
        try:
            if not is_sound(path):
                raise UserError(f"expected a chip as written, got {path}, whose checksum differs; take another")
            self.shapes = _npz_shapes(path) if path.suffix == ".npz" else _safetensors_shapes(path)
        except UserError:
            raise
        except Exception as error:  # a damaged file raises what it likes, from three libraries
            raise UserError(f"expected a measured chip, an .npz or .safetensors, got {path}: {_line(error)}") from None

    def array(self, key: str, most: int = 1) -> Tensor:
        """The array ``key``, in its own floating-point precision (whole numbers as float64).

        One of many more numbers than ``most`` is not read.
        """
        if (count := math.prod(self.shapes[key])) * 8 > most * 8 + limits().headroom / 4:
            raise UserError(f"expected {most:,} numbers, got {count:,} in {key} of {self.path}")
        try:
            if self.path.suffix == ".npz":
                with np.load(self.path, allow_pickle=False) as archive:
                    value = torch.from_numpy(np.asarray(archive[key]))
            else:
                from safetensors import safe_open

                with safe_open(self.path, framework="pt") as archive:
                    value = archive.get_tensor(key)
        except Exception as error:
            raise UserError(f"expected an array of numbers, got {key} of {self.path}: {_line(error)}") from None
        if value.is_complex() or value.dtype == torch.bool:
            raise UserError(f"expected real numbers, got {value.dtype} in {key} of {self.path}")
        value = value if value.is_floating_point() else value.double()
        if not torch.isfinite(value).all():
            raise UserError(
                f"expected finite numbers, got NaN or inf in {key} of {self.path}; give cells that could not be read "
                "the value at which they are stuck"
            )
        return value if value.dtype == torch.float64 else value.float()

    def number(self, key: str, layer: str) -> float | None:
        """The number ``layer/key``, or that of the whole chip; None where there is neither."""
        for name in (f"{layer}/{key}", key):
            if name in self.shapes:
                if math.prod(self.shapes[name]) != 1:
                    raise UserError(f"expected one number, got shape {self.shapes[name]} in {name} of {self.path}")
                return float(self.array(name))
        return None

    @cached_property
    def times(self) -> list[float]:
        """Seconds after programming at which the chip was measured; none where the file does not say."""
        if "times" not in self.shapes:
            return []
        within("times of a chip", "times", math.prod(self.shapes["times"]), self.path)
        times = self.array("times").flatten().tolist()
        if not times or times != sorted(set(times)) or times[0] < 0:
            raise UserError(f"expected times >= 0 (s) in ascending order, got {times} in {self.path}")
        return times

    def mapping(self, layer: str) -> str | None:
        """How the layer's weights are stored, by the arrays that there are; None: as signed weights."""
        keys = {key.rpartition("/")[2] for key in self._keys(layer)}
        for mapping in ("offset-column", "pair", "offset"):
            if set(PLACES[mapping]) <= keys:
                return mapping
        if layer in self.shapes:
            return None
        raise UserError(
            f"expected {EXPECTED}, got none of {layer} in {self.path}, which has {_some(self.layers)}; "
            "noiserobust program writes the names that are wanted"
        )

    def stored(self, layer: str, mapping: str, columns: int | None) -> Pair:
        """The mapping of the layer's weights, with the range of conductances that the file names."""
        ends = {name: self.number(name, layer) for name in ("g_min", "g_max")}
        g_min, g_max = ends["g_min"] or 0.0, ends["g_max"]
        if g_max is None or not g_max > g_min >= 0:
            raise UserError(
                f"expected g_max > g_min >= 0 beside conductances, got g_max={g_max}, g_min={g_min:g} for {layer} in "
                f"{self.path}; both in the unit of the conductances, as an array of one number"
            )
        return MAPPINGS[mapping](g_min, g_max, columns)

    def values(self, layer: str, place: str, shape: torch.Size, time: int | None) -> Tensor:
        """What the file holds of a layer in one ``place``, of the weight's ``shape`` (outputs, inputs...).

        ``time`` is the number of the measurement. ``place`` is one of :data:`PLACES`, or "" for signed weights.
        """
        key = f"{layer}/{place}" if place else layer
        if key in self.shapes:
            return self._shaped(key, self._at(key, time, shape.numel()), shape)
        found = {
            (int(match[1]), int(match[2])): name
            for name in self._keys(layer)
            if (match := re.fullmatch(r"crossbar_(\d+)_(\d+)/" + re.escape(place), name[len(layer) + 1 :]))
        }
        rows, columns = (sorted({where[axis] for where in found}) for axis in range(2))
        missing = [f"crossbar_{i}_{j}" for i in rows for j in columns if (i, j) not in found]
        if missing or rows != [*range(len(rows))] or columns != [*range(len(columns))]:
            raise UserError(f"expected every crossbar of {layer}, got no {_some(missing)} in {self.path}")
        crossbars = {where: self._at(name, time, shape.numel()) for where, name in found.items()}
        for where, one in crossbars.items():
            beside = (crossbars[where[0], 0], crossbars[0, where[1]])
            if {c.dim() for c in (one, *beside)} != {2} or one.shape != (beside[0].shape[0], beside[1].shape[1]):
                raise UserError(
                    f"expected crossbars (rows, columns) that fit their neighbours, got {tuple(one.shape)} in "
                    f"{found[where]} of {self.path}"
                )
        whole = torch.cat([torch.cat([crossbars[i, j] for j in columns], 1) for i in rows])
        return self._shaped(f"{layer}/crossbar_*/{place}", whole.T, shape)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that the file has arrays of."""
        single = {"times", "g_min", "g_max", "unit", "columns"}
        names = {re.sub(r"(/crossbar_\d+_\d+)?/[a-z_]+$", "", key) for key in self.shapes}
        return sorted(names - single)

    def _keys(self, layer: str) -> list[str]:
        return [key for key in self.shapes if key.startswith(f"{layer}/")]

    def _at(self, key: str, time: int | None, most: int) -> Tensor:
        if time is None:
            return self.array(key, most)
        value = self.array(key, most * len(self.times))
        if len(self.times) != (value.shape[0] if value.dim() else 0):
            raise UserError(
                f"expected {key} of {self.path} with one part per time ({len(self.times)}) in its first dimension, "
                f"got shape {tuple(value.shape)}"
            )
        return value[time]

    def _shaped(self, key: str, value: Tensor, shape: torch.Size) -> Tensor:
        flat = (shape[0], shape[1:].numel())
        if value.shape not in (shape, flat):
            times = "" if self.times else "; several measurements need an array times (s)"
            raise UserError(
                f"expected {key} of {self.path} with outputs first, {tuple(shape)}, got {tuple(value.shape)}{times}"
            )
        return value.reshape(shape)


def chip_paths(folder: str) -> list[Path]:
    """The chips' files of a folder, or those that match a glob, in the order of their names.

    Numbers count as numbers: chip_10 comes after chip_9.
    """
    place = Path(folder)
    if os.path.isdir(place):
        paths = [path for path in place.iterdir() if path.suffix in SUFFIXES and path.stem != TARGETS]
    else:
        paths = [Path(path) for path in glob.glob(folder)]
        if odd := [path for path in paths if path.suffix not in SUFFIXES]:
            require_kind(odd[0], "a measured chip (.npz or .safetensors)")
            raise UserError(f"expected chips as .npz or .safetensors, got {odd[0]}")
    files = [path for path in paths if os.path.isfile(path)]
    if not files and os.path.isfile(place / f"{TARGETS}.safetensors"):
        raise UserError(
            f"expected measured chips (.npz or .safetensors) in {folder}, got {TARGETS}.safetensors alone, which says "
            f"what to program; put a file per chip beside it, or take it as a chip: {folder}/{TARGETS}.safetensors"
        )
    if not files:
        raise UserError(f"expected a folder, or a pattern, of measured chips (.npz or .safetensors), got '{folder}'")
    return sorted(files, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(path))])


def content_digest(paths: list[Path]) -> str:
    """12 hex digits that name the content of the files, in their order."""
    whole = hashlib.sha256()
    for path in paths:
        one = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                one.update(part)
        whole.update(one.digest())
    return whole.hexdigest()[:12]


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                start = file.read(12)
                if int.from_bytes(start[8 : 10 if start[6:7] == b"\x01" else 12], "little") > LONGEST_HEADER:
                    raise UserError(f"expected arrays with short headers, got {member} of {path}; write it by NumPy")
                file.seek(0)
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shapes[member.removesuffix(".npy")] = read(file)[0]
    return shapes


def _safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as archive:
        return {key: tuple(archive.get_slice(key).get_shape()) for key in archive.keys()}  # noqa: SIM118


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

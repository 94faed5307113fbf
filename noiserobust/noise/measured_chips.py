"""Chips that were measured: what an array was found to hold stands in for what a model says it would."""

from __future__ import annotations

import glob
import os
import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip, NoiseModel, check_strength
from noiserobust.noise.chip_files import PLACES, ChipFile, chip_paths, content_digest
from noiserobust.noise.reference import Reference, check_reference, reference_scale
from noiserobust.rng import Stream
from noiserobust.spec import Duration
from noiserobust.spec.references import agreed


@dataclass(frozen=True)
class MeasuredChips(NoiseModel, name="chips"):
    r"""Chips of your own, each a file of the conductances that were read out of it.

    ``chips:FOLDER``, or a pattern, ``chips:FOLDER/wafer3_*.npz``: one ``.npz`` or ``.safetensors`` per chip, in the
    order of their names. Draw k of an evaluation is chip k, and there are no more draws than chips; training takes one
    at random for every step.

    A file has, for every analog weight NAME (``noiserobust.coverage`` lists the names), with outputs first:

    - ``NAME``: signed weights, or
    - ``NAME/g_plus`` and ``NAME/g_minus``: conductances; the weight is
      :math:`w = s (g_+ - g_-) / (g_{max} - g_{min})`, or
    - ``NAME/g``, and where there is one ``NAME/g_reference``, for the offset mapping
      (:mod:`noiserobust.noise.mapping`);
    - each of them also crossbar by crossbar, ``NAME/crossbar_0_1/g_plus`` of shape (rows, columns), inputs on rows;
    - ``g_max``, ``g_min`` (0 where it is not there): one number each, for the chip or as ``NAME/g_max``, in the
      conductances' unit, which cancels;
    - ``times``: seconds after programming, ascending; then the first dimension of every conductance counts them. A read
      is at one of these times (the first where none is named);
    - ``NAME/scale``: s, in a shape that broadcasts; without it s is max |w| of the ``reference`` group of the network's
      own weight, as for device profiles.

    ``strength`` multiplies the deviation from the network's weight (1: as measured). ``digest`` names the content of
    the files, as that of ``measured`` does. Missing and misshapen layers are named before anything is computed of them.
    ``noiserobust program`` writes what to program, and simulated chips, in the same form.
    """

    example: ClassVar[str] = "chips:path/to/folder"
    strength_field: ClassVar[str | None] = "strength"
    leading: ClassVar[Literal["always"]] = "always"
    path_field: ClassVar[str | None] = "folder"

    folder: str
    digest: str = ""
    strength: float = 1.0
    reference: Reference = "filter"
    rows: int = 512
    columns: int = 512

    def __post_init__(self) -> None:
        check_strength(self.name, "strength", self.strength, "1 is the deviation as measured")
        check_reference(self.name, self.reference, self.rows, self.columns)
        folder = str(self.folder)
        if folder != folder.strip() or not folder or set(folder) & set(",+=(){}"):
            raise UserError(f"chips: expected a path without , + = and brackets, got '{folder}'; rename it")
        object.__setattr__(self, "folder", folder)
        # Chips that are named by their digest need not be here to be spoken of, as rows of another machine do.
        if not self.digest and glob.glob(folder):
            self._files()

    def _files(self) -> list[ChipFile]:
        key = (os.path.abspath(self.folder), self.digest)
        if key not in _chips:
            paths = chip_paths(self.folder)
            digest = agreed(f"chips: expected {self.folder}", self.digest, content_digest(paths))
            object.__setattr__(self, "digest", digest)
            _chips[key[0], digest] = [ChipFile(path) for path in paths]
        return _chips[key[0], self.digest]

    @property
    def count(self) -> int:
        """How many chips there are."""
        return len(self._files())

    @property
    def measured_chips(self) -> int | None:
        return None if self.is_identity else self.count

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity:
            return below
        if stream.place is None:
            raise UserError("chips: expected the weights of a network, got one without a name; use perturbed")
        files, layer = self._files(), str(stream.path[stream.place])
        for file in files:
            file.mapping(layer)  # a layer that a later chip lacks is named before the first one is computed
        return MeasuredChip(below, clean, self, files[self._number(stream, len(files))], layer)

    def _number(self, stream: Stream, count: int) -> int:
        """Which of the chips the draw is that ``stream`` names."""
        assert stream.place is not None
        draw = stream.path[stream.place - 1] if stream.place else None
        if stream.path[:1] not in (("report",), ("select",)) or not isinstance(draw, int):
            return stream.of_chip.integer() % count
        if draw >= count:
            raise UserError(
                f"chips: expected at most {count} draws, as many as {self.folder} has chips; ask for {count}"
            )
        return draw


class MeasuredChip(Chip):
    """A weight as one measured chip holds it."""

    scale: Tensor

    @torch.no_grad()
    def __init__(self, below: Chip, clean: Tensor, noise: MeasuredChips, file: ChipFile, layer: str) -> None:
        super().__init__(below.weight)
        self.below, self.noise, self.file, self.layer = below, noise, file, layer
        tiled = noise.reference.startswith("tile")
        self.tile = (noise.rows, noise.columns) if tiled else below.tile
        self.target = below.programmed().detach()
        if f"{layer}/scale" in file.shapes:
            self.scale = file.array(f"{layer}/scale", clean.numel()).to(clean.device)
            try:
                self.scale.expand_as(clean)
            except RuntimeError:
                raise UserError(
                    f"expected {layer}/scale of {file.path} to broadcast to the weight {tuple(clean.shape)}, got "
                    f"{tuple(self.scale.shape)}"
                ) from None
            if (self.scale < 0).any():
                raise UserError(f"expected {layer}/scale >= 0 in {file.path}, got {float(self.scale.min()):g}")
        else:
            self.scale = reference_scale(clean, noise.reference, noise.rows, noise.columns)
        self.first = self._deviation(0 if file.times else None)
        if self.first.norm() > self.target.norm() > 0:
            warnings.warn(
                f"{layer} on {file.path} deviates by more than its own size: the chip may hold another network's "
                "weights, another scale, or inputs where outputs are expected",
                stacklevel=2,
            )

    def read(self, stream: Stream, t: float | None = None) -> Tensor:
        now = self.below.read(stream.child("below"), t)
        times = self.file.times
        if t is None or (times and t == times[0]):
            return now + self.first
        if t not in times:
            had = ", ".join(str(Duration(time)) for time in times) or "none"
            raise UserError(f"chips: expected a time of {self.file.path} ({had}), got t={Duration(t)}")
        return now + self._deviation(times.index(t))

    def programmed(self) -> Tensor:
        return self.below.programmed() + self.first

    @torch.no_grad()
    def _deviation(self, time: int | None) -> Tensor:
        """How far the chip's weight is from the one that was to be programmed, at a measurement."""
        file, layer, device = self.file, self.layer, self.target.device
        mapping = file.mapping(layer)
        if mapping is None:
            weight = file.values(layer, "", self.target.shape, time).to(device)
        else:
            columns = file.number("columns", layer)
            stored = file.stored(layer, mapping, None if columns is None else int(columns))
            wanted = [part.shape for part in stored.split(self.target)]
            pairs = zip(PLACES[mapping], wanted, strict=True)
            read = [file.values(layer, place, shape, time).to(device) for place, shape in pairs]
            weight = self.scale.to(read[0].dtype) * stored.join(read)
        # In the file's own precision: targets in float64 give the clean weight back, bit for bit.
        return (self.noise.strength * (weight - self.target)).to(self.target.dtype)


_chips: dict[tuple[str, str], list[ChipFile]] = {}

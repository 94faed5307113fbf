"""From a trained network to the chip: target conductances per layer and crossbar, and simulated chips of that form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from noiserobust.analog.noisy import NoisyWeights, report_stream
from noiserobust.analog.weights import AnalogWeight
from noiserobust.errors import UserError
from noiserobust.evaluation.evaluated_models import EvaluatedModels, Models
from noiserobust.evaluation.settings import Compute, Where
from noiserobust.limits import TABLE_WIDTH
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel, read_stream
from noiserobust.noise.chip_files import PLACES, TARGETS
from noiserobust.noise.device import DeviceChip, DeviceProfile
from noiserobust.noise.reference import even_split
from noiserobust.rng import Stream
from noiserobust.seals import BLANK, NAME
from noiserobust.spec import Duration
from noiserobust.spec.kinds import typed
from noiserobust.storage.files import folder_to_write, write_text
from noiserobust.storage.tensors import write_tensors

FORMAT = "noiserobust chips 1"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Programming:
    """What was written: ``crossbars``, one line per crossbar, and the ``files`` in their folder."""

    crossbars: pd.DataFrame
    files: tuple[Path, ...]

    def __str__(self) -> str:
        lines = self.crossbars.to_string(index=False, float_format="{:.4g}".format, line_width=TABLE_WIDTH.get())
        return f"{lines}\n{len(self.crossbars)} crossbars, {int(self.crossbars['devices'].sum()):,} devices"

    def _repr_html_(self) -> str:
        return str(self.crossbars.to_html(index=False, float_format="{:.4g}".format))


@typed
def program(
    model: Models,
    noise: NoiseModel | str = "pcm",
    out: str | Path = "chips",
    *,
    chips: int = 0,
    times: Sequence[float | str] = (),
    seed: int = 0,
    data: Any = None,
    spec: ModelSpec | str | None = None,
    where: Where = Where(),
) -> Programming:
    r"""Write the target conductances of a network's analog weights, layer by layer and crossbar by crossbar.

    >>> program("runs/plain", "pcm:reference=tile", "chips", chips=10, times=["25s", "1d"])  # doctest: +SKIP

    - ``model``: one network, as :func:`noiserobust.evaluate` takes it; ``data`` and ``spec`` (its ``model``), too.
    - ``noise``: the device profile that says how weights become conductances: its range, mapping, reference group, and
      rows and columns of a crossbar. Stages before it, as in ``quantize:6+pcm``, change what is to be programmed.
    - ``out``: a folder. ``targets.safetensors`` there holds float64 arrays ``NAME/crossbar_I_J/g_plus`` and
      ``.../g_minus`` (or what else the mapping has), (rows, columns): crossbar I of the inputs and J of the outputs;
      ``NAME/scale``, the weight that is stored as g_max; ``g_min`` and ``g_max``. ``manifest.json`` says the same in
      words. A weight is :math:`w = s (g_+ - g_-) / (g_{max} - g_{min})`.
    - ``chips``: so many simulated chips beside it, ``chip_000.safetensors`` ..., draws 0, 1, ... of ``noise`` by
      ``seed``, read at each of the ``times``.

    ``chips:FOLDER`` (:class:`~noiserobust.noise.MeasuredChips`) evaluates a folder of that form: the targets give the
    clean weights and the simulated chips those of ``noise``, bit for bit. Raises :class:`~noiserobust.UserError` for a
    noise that is no device profile.
    """
    noise = noise if isinstance(noise, NoiseModel) else NoiseModel.parse(noise)
    profile = noise.stages[-1]
    if not isinstance(profile, DeviceProfile) or noise.is_identity:
        raise UserError(f"expected a device profile such as pcm or measured:TABLE to program for, got {noise}")
    if profile.strength != 1:
        raise UserError(f"expected a profile of strength 1, got {noise}; conductances deviate as the device does")
    if chips < 0:
        raise UserError(f"expected chips >= 0, got {chips}")
    moments = [Duration(t) for t in times]
    if moments and not chips:
        raise UserError("expected times beside chips, got no chips; targets have no time")
    if moments != sorted(set(moments)):
        raise UserError(f"expected times in ascending order, got {', '.join(map(str, moments))}")
    folder_to_write(out)
    networks = EvaluatedModels(model, data, model=spec, compute=Compute(), where=where)
    if len(networks) != 1:
        raise UserError(f"expected one network to program, got {len(networks)}: every chip holds one; name one run")
    (network,) = networks
    weights = NoisyWeights(network.network, **network.where.patterns).weights
    folder, files = Path(out), []
    about = {"format": FORMAT, "noise": str(noise), "model": network.name, "weights": network.columns["weights"]}
    lines: list[dict[str, Any]] = []
    targets: dict[str, Tensor] = {}
    for weight, chip in _programmed(weights, noise, report_stream(seed, network.replicate, 0)):
        scale = chip.scale.double()
        relative = chip.target_weight.double() / scale.where(scale > 0, 1)
        parts = [[part] for part in chip.mapping.split(relative)]
        arrays, crossbars = _arrays(weight.name, chip, parts)
        targets |= arrays
        lines += crossbars
    files.append(write_tensors(folder / f"{TARGETS}.safetensors", targets, about))
    manifest = {NAME: BLANK} | about | _ends(targets) | {"crossbars": lines}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1))
    readings: list[Duration | None] = [*moments] or [None]
    for draw in range(chips):
        stream, content = report_stream(seed, network.replicate, draw), dict[str, Tensor]()
        for weight, chip in _programmed(weights, noise, stream):
            named = stream.weight(weight.name)
            read = [chip.conductances_at(read_stream(named, t), t) for t in readings]
            content |= _arrays(weight.name, chip, list(map(list, zip(*read, strict=True))), stacked=bool(moments))[0]
        if moments:
            content["times"] = torch.tensor(list(map(float, moments)), dtype=torch.float64)
        files.append(write_tensors(folder / f"chip_{draw:03}.safetensors", content, about | {"draw": str(draw)}))
    return Programming(pd.DataFrame(lines), tuple(files))


def _programmed(
    weights: Sequence[AnalogWeight], noise: NoiseModel, stream: Stream
) -> Iterator[tuple[AnalogWeight, DeviceChip]]:
    """Every weight, output first, on the chip that ``stream`` names."""
    for weight in weights:
        rows = weight.as_rows(weight.value())
        chip = noise.program(rows, stream.weight(weight.name).child("program"))
        assert isinstance(chip, DeviceChip)
        yield weight, chip


def _arrays(
    name: str, chip: DeviceChip, parts: list[list[Tensor]], stacked: bool = False
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The arrays of one layer: per place of the mapping its measurements, cut into crossbars (rows, columns)."""
    profile, mapping = chip.profile, chip.mapping
    arrays = {f"{name}/scale": chip.scale, "g_min": _number(mapping.g_min), "g_max": _number(mapping.g_max)}
    if mapping.columns is not None:
        arrays[f"{name}/columns"] = _number(mapping.columns)
    shape = (len(chip.target_weight), chip.target_weight[0].numel())
    lines = []
    for i, inputs in enumerate(even_split(shape[1], profile.rows)):
        for j, outputs in enumerate(even_split(shape[0], profile.columns)):
            devices = 0
            for place, measurements in zip(PLACES[profile.mapping], parts, strict=True):
                part = outputs
                if place == "g_reference":  # one column for each crossbar, or the first one's for all
                    if mapping.columns is None and j:
                        continue
                    part = slice(j, j + 1)
                cut = [one.flatten(1)[part, inputs].T for one in measurements]
                value = torch.stack(cut) if stacked else cut[0]
                arrays[f"{name}/crossbar_{i}_{j}/{place}"] = value.contiguous()
                devices += cut[0].numel()
            about = {"layer": name, "crossbar": f"{i},{j}", "rows": inputs.stop - inputs.start}
            about |= {"columns": outputs.stop - outputs.start, "devices": devices, "mapping": profile.mapping}
            lines.append(
                about | {"inputs": f"{inputs.start}:{inputs.stop}", "outputs": f"{outputs.start}:{outputs.stop}"}
            )
    return arrays, lines


def _number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def _ends(arrays: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: float(arrays[name]) for name in ("g_min", "g_max")} | {"unit": "µS or that of the table"}

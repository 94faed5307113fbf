"""Do noiserobust and other tools, which share no line, come to the same accuracies under the same error?

CrossSim 3.2 (Sandia National Laboratories, https://github.com/sandialabs/cross-sim) computes every layer as crossbars
of pairs of devices whose conductances err when they are programmed; a draw programs all arrays anew.
AIHWKIT-Lightning 2.1 (IBM) adds noise in training mode, anew for each batch: a draw is a pass of all images at once.
Under errors that both have, the mean accuracy of a network over draws must be the same. Rows go to
docs/results/peers.csv; ``report`` prints the table of docs/comparison.md from them.

    pip install git+https://github.com/sandialabs/cross-sim
    pip install --no-deps aihwkit-lightning                                           # it asks for a newer torch
    noiserobust train --data digits --batch-size 64 --method plain --epochs 15 --seeds 0 1 2 --out runs
    python experiments/benchmarks/peers.py measure --runs runs --data digits          # four minutes of one core
    python experiments/benchmarks/peers.py weights --runs runs --draws 20   # errors of the weights, peers_weights.csv
    python experiments/benchmarks/peers.py devices      # what both say of the same devices, to peers_devices.csv
    python experiments/benchmarks/peers.py report

What ours calls ``gaussian:s,reference=layer`` is, on CrossSim's pairs of which both devices are in the middle of their
range (``TWO_SIDED``), an error of each device of s (1 - 1 / on_off) / sqrt(2) of the largest conductance.

Slices: CrossSim counts the sign among ``weight_bits`` and rounds |w| / max|w| to ``weight_bits`` - 1 bits. Its slices
are of ceil((weight_bits - 1) / num_slices) bits, but of weight_bits / num_slices where that is whole (the top slice
then stays below half of its range). ``weight_bits`` = bits x slices + 1 is the former of two slices and more: the
digits and shares of ours. A slice is a pair with an idle device, for which the same size of an error holds.
"""

from __future__ import annotations

import copy
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import tyro
from common import RESULTS, add_rows, machine, markdown
from scipy import stats
from torch import Tensor, nn

import noiserobust
from noiserobust.data import Dataset, load
from noiserobust.memory import keep_memory
from noiserobust.noise import parse
from noiserobust.noise.published import PCM_DEVICE, WAN_STD

OUT, STDS, WEIGHTS = (RESULTS / f"peers{part}.csv" for part in ("", "_devices", "_weights"))
ON_OFF = 10.0
SLICED_ON_OFF = 2.0
"""Idle devices of slices lie at their lowest state: at half of the largest conductance no error reaches below 0."""
MICROSIEMENS = 1e-6
DEVICES = {"RRAMWan": 39.0, "PCMJoshi": 25.0}
"""CrossSim's models of devices that ours has as well, and their largest conductance (µS)."""


@dataclass(frozen=True)
class Error:
    """An error of weights, as another tool says it and as ours does."""

    tool: Literal["CrossSim", "AIHWKIT-Lightning"]
    name: str
    """A model and its size: of AIHWKIT-Lightning in units of the largest weight of a column, or of a layer."""
    ours: str
    slices: int = 1
    bits: int = 0
    """Of each slice."""

    @property
    def model(self) -> str:
        """The name without what is said of it: ``gaussian 0.1`` or one of ``DEVICES``."""
        return self.name.partition(",")[0]

    def network(self, network: nn.Module) -> nn.Module:
        """The network with the other tool's layers."""
        if self.tool == "CrossSim":
            return crosssim(network, self)
        kind, sigma = self.name.split()
        return lightning(network, float(sigma), per_column=kind == "column")


def in_slices(name: str, ours: str, slices: int, bits: int) -> Error:
    """An error of CrossSim's and ours, in every slice of the weights."""
    text = f"sliced({ours},bits={bits},slices={slices},reference=layer)"
    return Error("CrossSim", f"{name}, {slices} slices of {bits} bit{'s' * (bits > 1)}", text, slices, bits)


ERRORS = (
    *(Error("CrossSim", f"gaussian {s}", f"gaussian:{s},reference=layer") for s in (0.02, 0.05, 0.1)),
    *(Error("CrossSim", name, "measured:{table},reference=layer") for name in DEVICES),
    Error("CrossSim", "RRAMWan, our fit", "reram_wan2022:t=1s,reference=layer,g_max=39"),
    Error("CrossSim", "PCMJoshi, our fit", "pcm:reference=layer,drift=0,read=0"),
    in_slices("gaussian 0.05", "gaussian(0.05,reference=layer)", 2, 4),
    in_slices("gaussian 0.1", "gaussian(0.1,reference=layer)", 4, 1),
    in_slices("RRAMWan", "measured({table},reference=layer)", 2, 4),
    *(Error("AIHWKIT-Lightning", f"column {s}", f"gaussian:{s}") for s in (0.05, 0.1)),
    *(Error("AIHWKIT-Lightning", f"layer {s}", f"gaussian:{s},reference=layer") for s in (0.05, 0.1)),
)
NAMES = tuple(error.name for error in ERRORS)


def crosssim_parameters(error: str, slices: int = 1, bits: int = 0) -> Any:
    """CrossSim's parameters of ``gaussian SIGMA`` or of one of ``DEVICES``, in ``slices`` slices of ``bits`` bits."""
    from simulator import CrossSimParameters

    made = CrossSimParameters()
    device = made.xbar.device
    made.core.style, device.programming_error.enable = "BALANCED", True
    name, _, sigma = error.partition(" ")
    if name == "gaussian":
        on_off = ON_OFF if slices == 1 else SLICED_ON_OFF
        made.core.balanced.style = "TWO_SIDED"
        device.Rmin, device.Rmax = 1.0, on_off
        device.programming_error.model = "NormalIndependentDevice"
        device.programming_error.magnitude = float(sigma) * (1 - 1 / on_off) / math.sqrt(2)
    else:
        made.core.balanced.style, device.infinite_on_off_ratio = "ONE_SIDED", True
        device.programming_error.model = name
        device.Rmin = 1 / (DEVICES[name] * MICROSIEMENS)
        device.Rmax = 1e4 * device.Rmin
    if slices > 1:
        made.core.style, made.core.weight_bits = "BITSLICED", bits * slices + 1
        made.core.bit_sliced.style, made.core.bit_sliced.num_slices = "BALANCED", slices
    return made


def crosssim(network: nn.Module, error: Error) -> nn.Module:
    """The network with CrossSim's layers, programmed by numpy's generator."""
    from simulator.algorithms.dnn.torch.convert import from_torch

    return from_torch(network.eval(), crosssim_parameters(error.model, error.slices, error.bits)).eval()


def lightning(network: nn.Module, sigma: float, per_column: bool = True) -> nn.Module:
    """The network with AIHWKIT-Lightning's layers, which draw noise in training mode only, and anew for each batch."""
    from aihwkit_lightning.nn.conversion import convert_to_analog
    from aihwkit_lightning.nn.modules.base import AnalogLayerBase
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig
    from aihwkit_lightning.simulator.parameters.enums import WeightNoiseInjectionType as Kind

    config = TorchInferenceRPUConfig()
    config.modifier.noise_type = Kind.ADD_NORMAL_PER_CHANNEL if per_column else Kind.ADD_NORMAL
    config.modifier.std_dev = sigma
    analog = convert_to_analog(copy.deepcopy(network), config).eval()
    for module in analog.modules():
        if isinstance(module, AnalogLayerBase):
            module.training = True
    return analog


def program(network: nn.Module, draw: int) -> None:
    """Seed both tools' generators; program CrossSim's arrays anew."""
    np.random.seed(draw)  # noqa: NPY002, CrossSim's generator
    torch.manual_seed(draw)
    for layer in network.modules():
        if hasattr(layer, "synchronize"):
            layer.synchronize()


@torch.no_grad()
def accuracies(network: nn.Module, data: tuple[Tensor, Tensor], draws: int, batch: int) -> list[float]:
    """Accuracy (%) of another tool's network, of each draw, by passes of ``batch`` images."""
    (x, y), found = data, []
    for draw in range(draws):
        program(network, draw)
        answers = torch.cat([network(part).argmax(1) for part in x.split(batch)])
        found.append(100 * float((answers == y).double().mean()))
    return found


def table_of(device: str, path: Path, states: int = 79) -> str:
    """What CrossSim's device errs by, written to ``path`` as a table for ``measured``; the path.

    The error over the normal number that it is made of, at states where that is positive, so that nothing is cut off.
    """
    from simulator import AnalogCore
    from simulator.devices.custom import PCM_Joshi, RRAM_Wan

    AnalogCore(np.eye(2), crosssim_parameters(device))  # makes CrossSim choose numpy
    made, r = crosssim_parameters(device).xbar.device, np.linspace(0, 1, states)
    kind = {"RRAMWan": RRAM_Wan.RRAMWan, "PCMJoshi": PCM_Joshi.PCMJoshi}[device]
    model, std = kind(made, made.programming_error), np.full(states, math.nan)
    for seed in range(100):
        np.random.seed(seed)  # noqa: NPY002, CrossSim's generator
        error = model.programming_error(r.copy()) - r
        np.random.seed(seed)  # noqa: NPY002
        normal = np.random.normal(scale=made.Grange_norm, size=states)  # noqa: NPY002
        std = np.where(normal > 0.5, error / normal, std)
    g_max = DEVICES[device]
    table = pd.DataFrame({"state": r * g_max, "mean_error": 0.0, "std": std * g_max})
    table.to_csv(path, index=False)
    return str(path)


def tables_of(errors: Sequence[Error], place: Path) -> dict[str, str]:
    """The tables (:func:`table_of`) of those devices that the errors name, in the folder ``place``."""
    named = {error.model for error in errors}
    return {device: table_of(device, place / f"{device}.csv") for device in DEVICES if device in named}


def stds() -> pd.DataFrame:
    """Standard deviations (µS) of both tools' programming errors, by device and state (µS)."""
    fits: dict[str, Any] = {
        "RRAMWan": lambda g: WAN_STD[1.0](g / 40),
        "PCMJoshi": lambda g: PCM_DEVICE.programming_std(g / 25),
    }
    with tempfile.TemporaryDirectory() as place:
        made = [pd.read_csv(table_of(name, Path(place) / "table.csv", 14)).assign(device=name) for name in DEVICES]
    rows = pd.concat([table.assign(noiserobust=fits[table["device"][0]](table["state"])) for table in made])
    return rows.rename(columns={"std": "CrossSim"})[["device", "state", "noiserobust", "CrossSim"]].round(4)


@torch.no_grad()
def weights(runs: Path, errors: Sequence[Error], draws: int) -> pd.DataFrame:
    """Standard deviations of the programmed weights' errors, in both tools, of every layer, in shares of max|w|.

    ``small`` are those of weights below a tenth of that. Errors of CrossSim alone: Lightning programs no weights.
    """
    rows = []
    with tempfile.TemporaryDirectory() as place:
        tables = tables_of(errors, Path(place))
        for folder in networks_in(runs):
            network = noiserobust.load_run(folder).network.eval()
            for error in (error for error in errors if error.tool == "CrossSim"):
                noise = parse(error.ours.format(table=tables.get(error.model)))
                for name, layer in error.network(network).named_modules():
                    if not hasattr(layer, "synchronize"):
                        continue
                    w = network.get_submodule(name).weight.detach()
                    clean, ours, theirs = layer.form_matrix().detach(), [], []
                    for draw in range(draws):
                        program(layer, draw)
                        theirs.append(layer.get_matrix() - clean)
                        ours.append(noise.sample(w, noiserobust.Stream(draw, name)) - w)
                    row: dict[str, Any] = {"network": folder.name, "error": error.name, "layer": name}
                    for tool, made, of in (("noiserobust", ours, w), ("CrossSim", theirs, clean)):
                        shares, scale = torch.stack(made).double() / of.abs().max(), of.abs().max()
                        row[tool] = round(float(shares.std()), 5)
                        row[f"{tool}, small"] = round(float(shares[:, of.abs() < scale / 10].std()), 5)
                    rows.append(row)
    return pd.DataFrame(rows)


def networks_in(runs: Path) -> list[Path]:
    """The folders of finished runs."""
    return sorted(path.parent for path in runs.glob("*/model.safetensors"))


def measure(runs: Path, data: str, draws: int, images: int, errors: Sequence[Error], seed: int = 0) -> None:
    """Both tools' accuracies of the errors; at most ``images`` of the test images, drawn by ``seed``."""
    torch.set_num_threads(1)
    keep_memory()
    test = load(data).test
    assert isinstance(test, Dataset)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(test.labels))[:images])
    x, y = test.normalized()[chosen], test.labels[chosen]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        tables = tables_of(errors, Path(place))
        for folder in networks_in(runs):
            network = noiserobust.load_run(folder).network
            for error in errors:
                noise = error.ours.format(table=tables.get(error.model))
                made = noiserobust.evaluate(network, (x, y), noise, draws=draws, seed=seed).rows
                ours = made[made["metric"] == "accuracy"]["value"].to_numpy()
                batch = 50 if error.tool == "CrossSim" else len(y)  # Lightning's batches are draws
                theirs = np.array(accuracies(error.network(network), (x, y), draws, batch))
                about = {"network": folder.name, "data": Path(data).name, "images": len(y), "error": error.name}
                rows += [
                    {"tool": error.tool, **about, "draw": draw, "ours": a, "theirs": b}
                    for draw, (a, b) in enumerate(zip(ours, theirs, strict=True))
                ]
                print(folder.name, error.name, f"ours {ours.mean():.2f}, {error.tool} {theirs.mean():.2f}", flush=True)
    about = machine()
    add_rows(OUT, [{**row, **{name: about[name] for name in ("date", "torch", "noiserobust")}} for row in rows])


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every error: mean ± std over draws of both tools, averaged over networks, and their difference.

    The tools' draws are independent of each other, those of networks too: the difference's interval at 95 % is Welch's,
    with the draws of all networks around the means of each.
    """
    lines = []
    for (data, tool, error), group in rows.groupby(["data", "tool", "error"], sort=False):
        networks = [part for _, part in group.groupby("network")]
        difference = np.mean([part["ours"].mean() - part["theirs"].mean() for part in networks])
        parts = np.array([[part[side].var() / len(part) for side in ("ours", "theirs")] for part in networks])
        parts /= len(networks) ** 2
        freedom = parts.sum() ** 2 / (parts**2 / (np.array([[len(part)] for part in networks]) - 1)).sum()
        half = stats.t.ppf(0.975, freedom) * math.sqrt(parts.sum())
        lines.append(
            {
                "networks": f"{data} x {len(networks)}",
                "tool": tool,
                "error": error,
                "noiserobust": f"{group['ours'].mean():.2f}",
                "theirs": f"{group['theirs'].mean():.2f}",
                "std over draws": " and ".join(
                    f"{np.mean([part[side].std() for part in networks]):.2f}" for side in ("ours", "theirs")
                ),
                "difference": f"{difference:+.2f} [{difference - half:+.2f}, {difference + half:+.2f}]",
            }
        )
    return pd.DataFrame(lines)


def main(
    what: tyro.conf.Positional[Literal["measure", "weights", "devices", "report"]],
    runs: Path = Path("runs"),
    data: str = "digits",
    draws: int = 100,
    images: int = 1000,
    errors: tuple[str, ...] = NAMES,
) -> None:
    """``runs``: folder of the trained networks; ``images``: at most so many test images; ``errors``: by name."""
    chosen = [error for error in ERRORS if error.name in errors]
    if what == "measure":
        measure(runs, data, draws, images, chosen)
    if what == "weights":
        weights(runs, chosen, draws).to_csv(WEIGHTS, index=False)
    if what == "devices":
        stds().to_csv(STDS, index=False)
    print(markdown(table(pd.read_csv(OUT))))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from start import start

    start(main)

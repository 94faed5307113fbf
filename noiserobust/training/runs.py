"""Finished runs: a folder with the trained weights, the settings and the log, opened again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from noiserobust.analog.converters import Converters
from noiserobust.data import Content, Splits
from noiserobust.errors import Diverged, UserError
from noiserobust.minima import Measure
from noiserobust.models import Factory, ModelSpec
from noiserobust.noise import NoiseModel
from noiserobust.spec import Described
from noiserobust.spec.kinds import typed
from noiserobust.storage.checkpoints import DIVERGED, read_checkpoint, require_finished
from noiserobust.storage.described import strict
from noiserobust.storage.files import NAME_MAX, write_text
from noiserobust.storage.logs import read_log
from noiserobust.tasks import Task
from noiserobust.training.rules.base import Method, Plain
from noiserobust.training.settings import TrainSettings

CHECKED = 100
"""Steps after which a loss is looked at: each look waits for the device."""


@dataclass(frozen=True)
class Run:
    """A training run: its folder holds ``model.safetensors`` (the epoch kept) and ``log.csv`` (one line per epoch).

    ``model`` names the network where the checkpoint alone does not suffice, because it is somebody's code.
    """

    folder: Path
    settings: TrainSettings
    model: ModelSpec | None = None

    @property
    def checkpoint(self) -> Path:
        """The weights that were kept, with their settings."""
        return self.folder / "model.safetensors"

    @property
    def state(self) -> Path:
        """Where it goes on from when it was interrupted."""
        return self.folder / "resume.pt"

    @property
    def failure(self) -> Path:
        """What says that it diverged; there only while that is the last that is known of it."""
        return self.folder / DIVERGED

    def forget(self) -> None:
        """Remove what only an unfinished run has."""
        for file in (self.state, self.failure):
            file.unlink(missing_ok=True)

    def require_finite(self, step: int, epoch: int, loss: Tensor, alone: bool) -> None:
        """Stop an epoch whose summed ``loss`` is no finite number, looked at every :data:`CHECKED` steps; processes
        that train one run together see it at the epoch's end, all alike."""
        if alone and step % CHECKED == CHECKED - 1 and not loss.isfinite():
            raise self.diverged(epoch, "train_loss", loss.item(), writes=True)

    def diverged(self, epoch: int, name: str, value: float, writes: bool) -> Diverged:
        """The error that says that a loss of ``epoch`` is no finite number; the process that ``writes`` marks
        the run by it. The state after the last good epoch stays."""
        kept = f"; the state after epoch {epoch - 1} is kept" if epoch else ""
        strength = "" if isinstance(self.settings.method, Plain) else " or the method's strength"
        tried = f"lower --lr{strength}, or limit gradients by --clip-norm 1"
        return self._failed(f"training diverged in epoch {epoch}: {name} is {value}; {tried}{kept}", writes)

    @contextmanager
    def taught(self, writes: bool) -> Iterator[None]:
        """Inside, the plain teacher of this run is trained: what diverges there is said of the teacher."""
        try:
            yield
        except Diverged as error:
            told = f"the teacher that {self.label} asks for is not there: its plain {error}; or give a trained one"
            raise self._failed(f"{told} by --teacher CHECKPOINT", writes) from None

    def _failed(self, line: str, writes: bool) -> Diverged:
        """The error that says ``line``, which then lies in the folder, too."""
        error = Diverged(line)
        if writes:
            write_text(self.failure, f"{error}\n")
        return error

    @cached_property
    def network(self) -> nn.Module:
        """The trained network, in eval mode, on the CPU; built once."""
        return read_checkpoint(self.checkpoint).build(self.model)

    @property
    def log(self) -> pd.DataFrame:
        """Per epoch: training loss, clean and perturbed accuracy and loss, strength, rate, largest weights, seconds,
        and what ``settings.log`` asked for."""
        return read_log(self.folder)

    @property
    def label(self) -> str:
        """The method as it stands in tables: ``sam:0.2``, ``plain, clip 2.5 rms``."""
        return self.settings.label

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {self.label}, {self.settings.model}, seed {self.settings.seed})"

    def _repr_html_(self) -> str:
        title = f"<b>{escape(self.label)}</b> {escape(str(self.settings.model))}, seed {self.settings.seed}"
        log = self.log.to_html(index=False, float_format="{:.4g}".format, max_rows=10)
        return f"<div>{title}<br><code>{escape(str(self.folder))}</code>{log}</div>"


def run_of(settings: TrainSettings, out: str | Path, data: Splits | Content) -> Run:
    """The run that ``settings`` name, finished or not; a person wrote them, so code that they name may be started."""
    slug = re.sub(r"[^a-z0-9.]+", "-", settings.label.lower()).strip("-")
    rest = f"-seed{settings.seed}-{settings.identity(data)}"
    own = settings.model if names_code(str(settings.model)) else None
    return Run(Path(out) / (slug[: NAME_MAX - len(rest)] + rest), settings, own)


def teacher_in(run: Run, data: Splits | Content) -> str | Path | None:
    """Where the teacher of ``run`` lies, if it has one; one that is trained for it lies beside it."""
    made = run.settings.teacher_run
    return run.settings.teacher_path if made is None else run_of(made, run.folder.parent, data).checkpoint


@typed
def load_run(folder: str | Path, model: ModelSpec | str | None = None) -> Run:
    """The finished run in ``folder``: ``load_run("runs/sam-0.2-seed0-1a2b3c4d").network`` is the trained network.

    - ``model``: the network where it is code of one's own (``factory:package.module:function``): what a file names is
      only run when you name it, too.

    Raises :class:`~noiserobust.UserError` for a folder that holds no finished run.
    """
    folder = Path(folder)
    file = folder / "model.safetensors"
    if not file.is_file():
        require_finished(folder)
        inside = len([*folder.glob("*/model.safetensors")])
        hint = f"it holds {inside} runs: name one of them" if inside else "noiserobust train makes one"
        raise UserError(f"expected the folder of a run, with model.safetensors, got {folder}; {hint}")
    about = read_checkpoint(file).about
    if not isinstance(about.get("settings"), Mapping) or not (folder / "log.csv").is_file():
        raise UserError(
            f"expected a run that noiserobust trained, with its settings and log.csv, got {folder}; for weights alone "
            "name the file where models are asked for"
        )
    spec, named = ModelSpec.parse(model) if isinstance(model, str) else model, str(about["settings"].get("model"))
    if spec is None and names_code(named):
        raise UserError(
            f"expected load_run(..., model='{named}'), got {folder} alone: its network is code, which only you may "
            "start by name"
        )
    return Run(folder, _settings(about["settings"], folder, spec), spec)


def names_code(model: str) -> bool:
    """Whether a network's text names somebody's code and not a network of this package."""
    name = model.partition(":")[0]
    return name == Factory.name or name not in ModelSpec.registry


def _settings(stored: Mapping[str, Any], folder: Path, model: ModelSpec | None) -> TrainSettings:
    """Settings from the plain values that a checkpoint holds."""
    names = {field.name for field in fields(TrainSettings)}
    strict(TrainSettings, stored, f"the settings in {folder}")
    if unknown := sorted(set(stored) - names):
        raise UserError(
            f"expected settings that this version knows, got {', '.join(unknown)} in {folder}; use the version that "
            "trained it"
        )
    values: dict[str, Any] = dict(stored) | ({"model": model} if model else {})
    # What a file names is code that only a person may start.
    kinds: dict[str, type[Described]] = {"method": Method, "select_noise": NoiseModel, "model": ModelSpec, "task": Task}
    kinds["converters"] = Converters
    values |= {name: kind.parse(values[name], imports=False) for name, kind in kinds.items() if name in values}
    values["log"] = [Measure.parse(text, imports=False) for text in values.get("log", ())]
    # A run that was trained on a GPU can be read without one.
    if str(values.get("device")).startswith("cuda") and not torch.cuda.is_available():
        values["device"] = "cpu"
    return TrainSettings(**values)

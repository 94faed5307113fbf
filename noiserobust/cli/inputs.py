"""The flags that every command about trained networks has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tyro

from noiserobust.data import Splits, load
from noiserobust.errors import UserError
from noiserobust.models import ModelSpec
from noiserobust.models.compute import Precision
from noiserobust.storage.checkpoints import Checkpoint, find_checkpoints


@dataclass(frozen=True)
class Inputs:
    """Checkpoints, and how they are run."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoints (.safetensors), runs' folders, folders of runs; LABEL=PATH gives the method another name."""
    images: int | None = None
    """Only a random sample of this many images, stratified by class."""
    model: ModelSpec | None = None
    """Network of checkpoints that do not name theirs, such as resnet18:width=16."""
    batch_size: int = 500
    """Images per pass."""
    precision: Precision = "fp32"
    """fp32, or autocast to bf16 (fp16 for losses alone)."""
    device: str | None = None
    """cpu, cuda, ..."""

    def opened(self) -> list[Checkpoint]:
        """The checkpoints, of which there has to be one."""
        checkpoints = find_checkpoints(self.checkpoints)
        if not checkpoints:
            raise UserError("expected at least one checkpoint, got none; runs/* names all runs of a folder")
        return checkpoints

    @property
    def options(self) -> dict[str, Any]:
        """The settings as evaluation's functions take them."""
        names = ("images", "model", "batch_size", "precision", "device")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class NamedData(Inputs):
    """Networks on data that have a name."""

    data: str | None = None
    """digits, cifar10, cifar100 or an image folder (default: what the first checkpoint was trained on)."""
    data_root: str = "data"
    """Where CIFAR lies or is downloaded to."""
    image_size: int | None = None
    """Resize the images of a folder to this many pixels a side."""

    def splits(self, checkpoints: list[Checkpoint]) -> Splits:
        """The data, by default those of the first checkpoint."""
        data, size = self.data, self.image_size
        if data is None:
            stored = checkpoints[0].about.get("settings", {})
            if "data" not in stored:
                raise UserError(f"expected --data: {checkpoints[0].path} does not say what it was trained on")
            data, size = stored["data"], size or stored.get("image_size")
        return load(data, self.data_root, size, imports=self.data is not None)

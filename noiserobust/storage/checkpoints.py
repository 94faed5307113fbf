"""Trained networks on disk: their weights as safetensors, with everything that is needed to use them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from noiserobust.errors import UserError, printable
from noiserobust.file_kinds import require_kind
from noiserobust.limits import read_text_bytes, require_file
from noiserobust.models import ModelSpec
from noiserobust.models.pretrained import Loaded, Transformers, in_folder
from noiserobust.models.sizes import built
from noiserobust.rng import Stream, seeded
from noiserobust.seals import is_sound
from noiserobust.storage.described import About, read_json, strict
from noiserobust.storage.files import require_sound
from noiserobust.storage.identity import digest_tensor
from noiserobust.storage.tensors import write_tensors
from noiserobust.storage.torch_file import is_torch_file, read_torch_file, require_plain
from noiserobust.storage.weights import load_weights

log = logging.getLogger("noiserobust")

KEY = "noiserobust"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
"""What files of weights are called by a run, by transformers and by PEFT."""
DIVERGED = "diverged.txt"
"""File in the folder of a run whose loss is no finite number, with the line that says so."""
NAMED = 8
"""Runs that are named where some are passed over."""
TEXT = "transformers:"
"""Begin of a place that is the text of a network with weights of its own."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network: its weights by name, and the ``about`` that was stored with them.

    ``about`` holds ``model`` (text of the :class:`~noiserobust.models.ModelSpec`), ``channels``, ``classes``,
    ``mean``, ``std`` (the normalisation its inputs need), ``label`` (the method), ``seed``, ``epoch``, ``settings``
    and ``provenance``.
    """

    path: Path
    weights: Mapping[str, Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)
    model: ModelSpec | None = None
    """How a person said that its network is built, where the file does not suffice."""
    folder: str | None = None
    """The folder of runs that a person named, where it was found among others."""

    @property
    def digest(self) -> str:
        """16 hex digits that name the weights, wherever the file lies."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest_tensor(digest, name, tensor)
        return digest.hexdigest()[:16]

    def build(
        self, spec: ModelSpec | None = None, channels: int | None = None, classes: int | None = None
    ) -> nn.Module:
        """The network with these weights, in eval mode; the arguments stand in for what a foreign file does not say."""
        if isinstance(self.weights, Loaded) and spec is None:
            return self.weights.spec.load()
        model = spec or self.model or (self._stored_model() if "model" in self.about else None)
        channels = channels or self.about.get("channels")
        classes = classes or (len(self.about["classes"]) if "classes" in self.about else None)
        if model is None:
            raise UserError(
                f"expected a checkpoint that names its model, got {self.path}; name it, such as --model resnet18"
            )
        if channels is None or classes is None:
            raise UserError(
                f"expected a checkpoint that says the channels and classes of {model}, got {self.path}; name the data "
                "that it is for, such as --data digits"
            )
        with seeded(Stream(0, "build")):  # initial weights, soon replaced, come from torch's global generator
            count = sum(tensor.numel() for tensor in self.weights.values())
            network = built(model.without_weights(), channels, classes, count)
        stored = self.about.get("model", str(model))
        other = "" if stored == str(model) else f"it is a {stored}: give runs of {model} alone beside --model"
        load_weights(network, self.weights, self.path, model.aliases, hint=other)
        return network.eval()

    def _stored_model(self) -> ModelSpec:
        """The network that the file names; code is only started by a person's word."""
        text = self.about["model"]
        try:
            model = ModelSpec.parse(text, imports=False)
        except UserError as error:
            raise UserError(f"expected --model {text} for {self.path}: {error}") from None
        if model.names_code:
            raise UserError(
                f"expected --model {model}: {self.path} names code as its network, which only you may start by name"
            )
        return model


def save_checkpoint(path: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Write weights with their settings, whole or not at all; equal ones are the same bytes."""
    return write_tensors(path, weights, {KEY: json.dumps(about)})


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint at ``path``: a safetensors file, a run's folder that holds ``model.safetensors``, a torch file, or
    a folder that ``save_pretrained`` of transformers or PEFT wrote (also ``transformers:FOLDER,adapter=FOLDER``).

    A torch file (.pt, .pth, ...) may hold the weights by name, or a dictionary with them under ``state_dict``,
    ``model``, ``model_state_dict`` or ``net``, at any depth; read with ``weights_only=True``, it runs no code.
    """
    file = Path(path) / WEIGHTS[0] if os.path.isdir(path) else Path(path)
    named = str(path).startswith(TEXT)
    spec = Transformers.parse(str(path)) if named else in_folder(file.parent) if file.name in WEIGHTS else None
    if spec is not None:
        label = Path(spec.adapter or spec.folder).resolve().name
        place = Path(str(path)) if named else file.parent
        return Checkpoint(place, Loaded(spec), {"label": label, "task": spec.task} | spec.normalization, spec)
    if not os.path.exists(file):
        raise UserError(
            f"expected a checkpoint (.safetensors, .pt, .pth or a run's folder), got {path}: {_nothing_at(path)}"
        )
    require_file(file, "a checkpoint (.safetensors, .pt, .pth or a run's folder)", "file")
    require_kind(file, "a checkpoint (.safetensors, .pt, .pth or a run's folder)", "weights")
    if is_torch_file(file):
        return Checkpoint(file, read_torch_file(file))
    require_sound(file, "take another copy, or move it away and train it again")
    try:
        with safe_open(file, framework="pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dictionary
            text = (opened.metadata() or {}).get(KEY, "{}")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"expected a safetensors or torch file, got {file}: {error}") from None
    what = f"the description in {file}"
    require_plain(weights, file)
    about = strict(About, read_json(text, what), what)
    if ("mean" in about) != ("std" in about):
        raise UserError(f"expected both mean and std in {what}, got one of them")
    return Checkpoint(file, weights, about)


def _nothing_at(path: str | Path) -> str:
    """What is wrong with a place that holds no weights."""
    if os.path.isdir(path):
        return "it holds none"
    beside = Path(path).parent
    near = get_close_matches(Path(path).name, os.listdir(beside) if os.path.isdir(beside) else [], 1)
    return f"there is none; did you mean {beside / near[0]}?" if near else "there is none"


def is_whole(path: Path) -> bool:
    """Whether ``path`` is a safetensors file that can be read and is as it was written."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with safe_open(path, framework="pt"):
            return is_sound(path)
    except (SafetensorError, OSError):
        return False


def find_checkpoints(places: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints that each place names: a file, a run's folder, one of transformers', or a folder of such folders.

    ``LABEL=PLACE`` replaces the method's name that was stored with them.
    """
    checkpoints = []
    for place in places:
        label, equals, rest = place.partition("=")
        labelled = bool(equals) and not os.path.exists(place) and not place.startswith(TEXT)
        text = rest if labelled else place
        path = Path(text)
        folders = [] if _is_one(path) or not path.is_dir() else sorted(path.glob("*"))
        inside = [folder for folder in folders if _is_one(folder)]
        if inside:
            unfit = {folder.name: why for folder in folders if (why := _unfinished(folder))}
            pass_over(text, unfit, len(inside) + len(unfit))
        else:
            for folder in sorted([path, *folders], key=lambda one: not (one / DIVERGED).exists()):
                require_finished(folder)
        for checkpoint in map(read_checkpoint, inside) if inside else [read_checkpoint(text)]:
            about = {**checkpoint.about, "label": label, "labelled": True} if labelled else checkpoint.about
            checkpoints.append(replace(checkpoint, about=about, folder=text if inside else None))
    return checkpoints


def pass_over(folder: str, unfit: Mapping[str, str], count: int) -> None:
    """Say in one line which of the ``count`` runs in a folder are passed over, by name, each with the reason."""
    if unfit:
        named = [f"{name} ({reason.partition(';')[0]})" for name, reason in unfit.items()]
        more = f", and {len(named) - NAMED} more" if len(named) > NAMED else ""
        told = f"{len(unfit)} of {count} runs passed over: {', '.join(named[:NAMED])}{more}"
        log.warning("%s: %s", printable(folder), told)


def require_finished(folder: Path) -> None:
    """:class:`UserError` for the folder of a run that was begun and has no weights."""
    if why := _unfinished(folder):
        raise UserError(f"expected a finished run, got {folder}: {why}")


def _unfinished(folder: Path) -> str:
    """Why the run in ``folder`` has no weights, where one was begun there; else nothing."""
    if _is_one(folder):
        return ""
    if (folder / DIVERGED).exists():
        line = read_text_bytes(folder / DIVERGED, "what a run that diverged says").decode("utf-8", "replace")
        return line[:500].strip()
    begun = any((folder / name).is_file() for name in ("resume.pt", ".lock"))
    return "it was interrupted, or still trains; the same training goes on" if begun else ""


def _is_one(folder: Path) -> bool:
    """Whether a folder holds the weights of one network, in one file or in several."""
    return any(os.path.isfile(folder / f"{name}{end}") for name in WEIGHTS for end in ("", ".index.json"))

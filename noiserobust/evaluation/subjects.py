"""What is evaluated: trained copies with the data as each wants to see them, opened one after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from noiserobust.analog.coverage import Coverage, coverage
from noiserobust.data import Batch, Labelled, as_dataset, load
from noiserobust.errors import UserError
from noiserobust.evaluation.together import Draws
from noiserobust.models import ModelSpec, checked_forward
from noiserobust.models.compute import Precision, device_of, known_device
from noiserobust.rng import Stream
from noiserobust.storage.checkpoints import Checkpoint, read_checkpoint
from noiserobust.storage.identity import answer, network_digest
from noiserobust.storage.provenance import provenance
from noiserobust.tasks.batches import forward_batch, prepare

OneModel = nn.Module | str | Path | Checkpoint
Models = OneModel | Sequence[OneModel] | Mapping[str, OneModel | Sequence[OneModel]]


@dataclass(frozen=True)
class Subject:
    """One trained copy on its device, with the data it is evaluated on."""

    name: str
    method: str
    replicate: int
    network: nn.Module
    dataset: Labelled
    """The data, with the normalisation that this network wants."""
    batches: Sequence[Batch]
    """The same, normalised and moved once."""
    classes: int
    coverage: Coverage
    about: dict[str, Any]
    """The columns of its rows that do not depend on the noise."""


@dataclass(frozen=True)
class Setup:
    """How models are evaluated, whatever is measured; :func:`noiserobust.evaluate` says what each field means."""

    model: ModelSpec | str | None = None
    images: int | None = None
    batch_size: int | None = None
    precision: Precision = "fp32"
    device: str | torch.device | None = None
    channels_last: bool | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    fold: bool = True
    compile: bool = False
    together: Draws = "auto"

    def dataset(self, data: Any) -> Labelled:
        """The data to evaluate on: the test part of what has a name, a stratified sample where ``images`` asks."""
        whole = load(str(data)).test if isinstance(data, (str, Path)) else as_dataset(data)
        return whole if self.images is None else whole.sample(self.images, Stream(0, "images"))

    def subjects(self, models: Models, data: Any, calibration: Sequence[Labelled] = ()) -> Subjects:
        """Every model of ``models``, in order; bad input is refused here, before any work.

        ``calibration``: further data that values depend on; they are named by the rows' ``data``, too.
        """
        device = None if self.device is None else known_device(self.device)
        spec = ModelSpec.parse(self.model) if isinstance(self.model, str) else self.model
        return Subjects(self, candidates(models, spec, data), self.dataset(data), device, calibration)


@dataclass
class Subjects:
    """An iterable of :class:`Subject` that opens each network only when its turn comes."""

    setup: Setup
    candidates: list[Candidate]
    dataset: Labelled
    device: torch.device | None
    calibration: Sequence[Labelled] = ()
    _prepared: dict[Any, Sequence[Batch]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.candidates)

    def __iter__(self) -> Iterator[Subject]:
        for candidate in self.candidates:
            yield self._opened(candidate)

    def _opened(self, candidate: Candidate) -> Subject:
        setup = self.setup
        last = candidate.built if setup.channels_last is None else setup.channels_last
        network, seen = candidate.open(self.dataset, last)
        network = network if self.device is None else network.to(self.device)
        place = device_of(network)
        size = setup.batch_size
        if size is None:
            size = forward_batch(network, seen.example().to(place), setup.precision)
        view = (seen.mean, seen.std, place, last, size)
        if view not in self._prepared:
            self._prepared[view] = prepare(seen, place, size, last)
        covered = coverage(network, include=setup.include, exclude=setup.exclude)
        patterns = [*(f"+{pattern}" for pattern in setup.include), *(f"-{pattern}" for pattern in setup.exclude)]
        about = candidate.about | {
            "images": len(self.dataset),
            "analog": " ".join(patterns),
            "precision": setup.precision,
            "weights": network_digest(network),
            "answer": answer(network, self._prepared[view][0].inputs, setup.precision),
            "data": _as_seen([self.dataset.fingerprint, *(data.fingerprint for data in self.calibration)], seen),
            "device": place.type,
            "noisy_weights": covered.noisy,
            "all_weights": covered.total,
        }
        return Subject(
            candidate.name,
            candidate.method,
            candidate.replicate,
            network,
            seen,
            self._prepared[view],
            int(self.dataset.labels.max()) + 1,
            covered,
            about | provenance(),
        )


@dataclass(frozen=True)
class Candidate:
    """One trained copy to evaluate; opened only when its turn comes."""

    name: str
    method: str
    replicate: int
    built: bool
    """Whether the network is built here from a checkpoint."""
    open: Callable[[Labelled, bool], tuple[nn.Module, Labelled]]
    """(data, channels_last) -> the network and the data as it wants to see them."""

    @property
    def about(self) -> dict[str, Any]:
        return {"model": self.name, "method": self.method, "replicate": self.replicate}


def candidates(models: Models, spec: ModelSpec | None, data: Any) -> list[Candidate]:
    # Tensors and loaders that a person hands over are taken as they are; data sets are normalised as in training.
    normalize = isinstance(data, (str, Path, Labelled))
    found: list[Candidate] = []
    for method, member in labelled(models):
        # A copy that does not say its training seed is the next one of its method.
        found.append(_candidate(member, method, sum(other.method == method for other in found), spec, normalize))
    places: dict[tuple[str, int], str] = {}
    for candidate in found:
        place = (candidate.method, candidate.replicate)
        if place in places:
            raise UserError(
                f"expected one model per method and replicate, got {places[place]} and {candidate.name} both as "
                f"'{candidate.method}' replicate {candidate.replicate}; give them labels: {{label: model, ...}}, or "
                "LABEL=PATH on the command line"
            )
        places[place] = candidate.name
    return found


def labelled(models: Models) -> list[tuple[str, nn.Module | Checkpoint]]:
    """Every trained copy with its method's name, in order; checkpoints named by their path are read."""
    groups = models.items() if isinstance(models, Mapping) else [(None, models)]
    found: list[tuple[str, nn.Module | Checkpoint]] = []
    for label, group in groups:
        for member in [group] if isinstance(group, (nn.Module, str, Path, Checkpoint)) else list(group):
            opened = member if isinstance(member, (nn.Module, Checkpoint)) else read_checkpoint(member)
            found.append((label or _method(opened), opened))
    if not found:
        raise UserError("expected at least one model, got none")
    return found


def _method(member: nn.Module | Checkpoint) -> str:
    return type(member).__name__ if isinstance(member, nn.Module) else member.about.get("label", member.path.stem)


def _candidate(
    member: nn.Module | Checkpoint, method: str, index: int, spec: ModelSpec | None, normalize: bool
) -> Candidate:
    if isinstance(member, nn.Module):
        return Candidate(f"{method}[{index}]", method, index, False, lambda dataset, channels_last: (member, dataset))
    checkpoint, about = member, member.about

    def open_checkpoint(dataset: Labelled, channels_last: bool) -> tuple[nn.Module, Labelled]:
        channels = about.get("channels", dataset.channels)
        if channels != dataset.channels:
            raise UserError(f"{checkpoint.path} takes {channels} channels, the data have {dataset.channels}")
        classes = about.get("classes", dataset.classes)
        # Tensors do not say how many classes there are: a few of them need not show the last one.
        if len(classes) < len(dataset.classes) or (normalize and len(classes) > len(dataset.classes)):
            raise UserError(f"{checkpoint.path} knows {len(classes)} classes, the data have {len(dataset.classes)}")
        network = checkpoint.build(spec, channels, len(classes))
        with torch.no_grad():
            checked_forward(network, dataset.example().cpu(), str(checkpoint.path))
        if channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        own = normalize and "mean" in about
        return network, dataset.with_normalization(about["mean"], about["std"]) if own else dataset

    return Candidate(str(checkpoint.path), method, about.get("seed", index), True, open_checkpoint)


def _as_seen(fingerprints: Sequence[str], data: Labelled) -> str:
    """16 hex digits that name what the network sees: the data's content and their normalisation."""
    return hashlib.sha256(json.dumps([*fingerprints, data.mean, data.std]).encode()).hexdigest()[:16]

"""Monte Carlo evaluation: one row per model, noise and draw; aggregation comes last."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from noiserobust.checkpoint import Checkpoint, read_checkpoint, weights_hash
from noiserobust.data import Batch, Dataset, as_dataset, load
from noiserobust.errors import UserError
from noiserobust.evaluation.statistics import paired, summarize
from noiserobust.inference import Precision, device_of, known_device, prepare, score
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel
from noiserobust.results import provenance, read_rows, write_rows
from noiserobust.rng import Stream
from noiserobust.weights import Coverage, NoisyWeights, coverage, report_stream

SEMANTICS = 1
"""Raise when a change makes the same evaluation give other values, so that no stale row is taken for a new one."""

UNIT = ["weights", "data", "noise", "seed", "replicate", "draw", "analog", "precision", "device", "semantics"]
"""The columns that name a piece of work: a row that agrees in all of them is never computed twice."""

SAVE_EVERY = 20.0  # seconds of work that a killed evaluation may lose

OneModel = nn.Module | str | Path | Checkpoint
Models = OneModel | Sequence[OneModel] | Mapping[str, OneModel | Sequence[OneModel]]


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found: tidy ``rows`` and, per model, which weights were noisy."""

    rows: pd.DataFrame
    coverage: dict[str, Coverage] = field(default_factory=dict)

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """Mean, noise_std, weight_std, variance components and interval (:func:`statistics.summarize`)."""
        return summarize(self.rows, confidence)

    def paired(self, method_a: str, method_b: str, confidence: float = 0.95, metric: str = "accuracy") -> pd.DataFrame:
        """Difference a - b on shared replicates and draws, with its interval (:func:`statistics.paired`)."""
        return paired(self.rows, method_a, method_b, confidence, metric)


def evaluate(
    models: Models,
    data: Any,
    noises: NoiseModel | str | Sequence[NoiseModel | str],
    draws: int = 10,
    seed: int = 0,
    *,
    model: ModelSpec | str | None = None,
    images: int | None = None,
    batch_size: int = 500,
    precision: Precision = "fp32",
    device: str | torch.device | None = None,
    channels_last: bool | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    out: str | Path | None = None,
    progress: bool = False,
) -> Evaluation:
    """Accuracy (percent) and loss (nats) of every model under every draw of every noise.

    - ``models``: a module, a checkpoint's path, a sequence of them (copies of one method, or checkpoints that say which
      method trained them), or a mapping from method to either. A replicate is one trained copy: a checkpoint's training
      seed, a module's position. Methods share the draws of a replicate, so their difference is paired; replicates have
      independent draws.
    - ``data``: a name or path that :func:`noiserobust.data.load` knows (its test part), a Dataset, ``(x, y)``
      tensors, a
      torch dataset or a DataLoader. ``images`` takes a random sample of it, stratified by class.
    - ``noises``: noise models or their texts. A strength sweep scales one and the same draw.
    - ``model``: how to build the network of a checkpoint that does not say it.
    - ``channels_last``: memory format of the images; by default that of networks built here from checkpoints, while a
      module that is handed over gets contiguous ones (its ``view`` may need them).
    - ``include``, ``exclude``: which weights are noisy (:func:`noiserobust.analog_weights`).
    - ``out``: a parquet file for the rows; those it already holds are not computed again, and it is brought up to date
      while the work goes on, so that a killed evaluation loses seconds.

    Draw k of replicate r is ``noiserobust.perturbed(model, noise, seed=seed, replicate=r, draw=k)``. The models'
    weights and modes are as before afterwards. Raises :class:`~noiserobust.UserError` for input that cannot be
    evaluated.
    """
    wanted = _noise_models(noises)
    if draws < 1:
        raise UserError(f"expected draws >= 1, got {draws}")
    device = None if device is None else known_device(device)
    candidates = _candidates(models, ModelSpec.parse(model) if isinstance(model, str) else model, data)
    dataset = load(str(data)).test if isinstance(data, (str, Path)) else as_dataset(data)
    if images is not None:
        dataset = dataset.sample(images, Stream(0, "images"))
    classes = int(dataset.labels.max()) + 1
    settings = {
        "seed": seed,
        "images": len(dataset),
        "analog": " ".join([*(f"+{pattern}" for pattern in include), *(f"-{pattern}" for pattern in exclude)]),
        "precision": precision,
        "semantics": SEMANTICS,
    } | provenance()
    ledger = _Ledger(None if out is None else Path(out))
    prepared: dict[Any, list[Batch]] = {}
    covered: dict[str, Coverage] = {}
    try:
        with tqdm(total=len(candidates) * len(wanted) * draws, unit="draw", disable=not progress, delay=1) as bar:
            for candidate in candidates:
                bar.set_description(candidate.method, refresh=False)
                last = candidate.built if channels_last is None else channels_last
                network, seen = candidate.open(dataset, last)
                network = network if device is None else network.to(device)
                covered[candidate.name] = coverage(network, include=include, exclude=exclude)
                noisy = NoisyWeights(network, include=include, exclude=exclude)
                place = device_of(network)
                view = (seen.mean, seen.std, place, last)
                if view not in prepared:
                    prepared[view] = prepare(seen, place, batch_size, last)
                unit = (
                    candidate.about
                    | settings
                    | {
                        "weights": weights_hash(network),
                        "data": _as_seen(dataset.fingerprint, seen),
                        "device": place.type,
                        "noisy_weights": covered[candidate.name].noisy,
                        "all_weights": covered[candidate.name].total,
                    }
                )
                for noise, draw in product(wanted, range(draws)):
                    unit |= {"noise": str(noise), "strength": noise.strength, "draw": draw}
                    # Every draw of no noise is the same.
                    values = ledger.find(unit | {"draw": 0} if noise.is_identity else unit)
                    if values is None:
                        with noisy.perturbed(noise, report_stream(seed, candidate.replicate, draw)):
                            values = score(network, prepared[view], precision, classes)
                    ledger.add(unit, values)
                    bar.update()
    finally:
        ledger.save()
    return Evaluation(ledger.table(), covered)


@dataclass(frozen=True)
class _Candidate:
    """One trained copy to evaluate; opened only when its turn comes."""

    name: str
    method: str
    replicate: int
    built: bool
    """Whether the network is built here from a checkpoint."""
    open: Callable[[Dataset, bool], tuple[nn.Module, Dataset]]
    """(data, channels_last) -> the network and the data as it wants to see them."""

    @property
    def about(self) -> dict[str, Any]:
        return {"model": self.name, "method": self.method, "replicate": self.replicate}


class _Ledger:
    """Rows by unit of work, with those that a file already holds."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None and path.is_dir():
            raise UserError(f"expected a file for the rows, got the folder {path}; add a file name")
        needed = [*UNIT, "method", "metric"]
        self.stored = read_rows(path) if path is not None and path.is_file() else pd.DataFrame(columns=needed)
        lacking = [name for name in needed if name not in self.stored]
        if lacking:
            raise UserError(
                f"expected evaluation rows in {path}, got a table without {', '.join(lacking)}; name another file"
            )
        self.known: dict[tuple[Any, ...], dict[str, float]] = {}
        for row in self.stored.to_dict("records"):
            self.known.setdefault(_key(row), {})[row["metric"]] = row["value"]
        self.rows: list[dict[str, Any]] = []
        self.saved = time.monotonic()

    def find(self, unit: Mapping[str, Any]) -> dict[str, float] | None:
        return self.known.get(_key(unit))

    def add(self, unit: Mapping[str, Any], values: Mapping[str, float]) -> None:
        self.known[_key(unit)] = dict(values)
        self.rows += [{**unit, "read": 0, "t": float("nan"), "metric": m, "value": v} for m, v in values.items()]
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def table(self) -> pd.DataFrame:
        first = ["model", "method", "replicate", "noise", "strength", "draw", "read", "t", "metric", "value"]
        table = pd.DataFrame(self.rows)
        return table[[*first, *(name for name in table if name not in first)]]

    def save(self) -> None:
        """The file holds what it held and the rows so far; rows of the same unit and method are replaced."""
        self.saved = time.monotonic()
        if self.path is None or not self.rows:
            return
        new = self.table()
        done = {(_key(row), row["method"]) for row in self.rows}
        kept = self.stored[[(_key(row), row["method"]) not in done for row in self.stored.to_dict("records")]]
        write_rows(new if kept.empty else pd.concat([kept, new], ignore_index=True), self.path)


def _key(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in UNIT)


def _as_seen(fingerprint: str, data: Dataset) -> str:
    """16 hex digits that name what the network sees: the data's content and their normalisation."""
    return hashlib.sha256(json.dumps([fingerprint, data.mean, data.std]).encode()).hexdigest()[:16]


def _noise_models(noises: NoiseModel | str | Sequence[NoiseModel | str]) -> list[NoiseModel]:
    given = [noises] if isinstance(noises, (NoiseModel, str)) else list(noises)
    wanted = [NoiseModel.parse(noise) if isinstance(noise, str) else noise for noise in given]
    if not wanted:
        raise UserError("expected at least one noise, got none; gaussian:0.05 is one")
    return list(dict.fromkeys(wanted))


def _candidates(models: Models, spec: ModelSpec | None, data: Any) -> list[_Candidate]:
    groups = models.items() if isinstance(models, Mapping) else [(None, models)]
    # Tensors and loaders that a person hands over are taken as they are; data sets are normalised as in training.
    normalize = isinstance(data, (str, Path, Dataset))
    found: list[_Candidate] = []
    for label, group in groups:
        members = [group] if isinstance(group, (nn.Module, str, Path, Checkpoint)) else list(group)
        for member in members:
            if not isinstance(member, (nn.Module, Checkpoint)):
                member = read_checkpoint(member)
            method = label or _method(member)
            # A copy that does not say its training seed is the next one of its method.
            found.append(_candidate(member, method, sum(other.method == method for other in found), spec, normalize))
    if not found:
        raise UserError("expected at least one model, got none")
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


def _method(member: nn.Module | Checkpoint) -> str:
    return type(member).__name__ if isinstance(member, nn.Module) else member.about.get("label", member.path.stem)


def _candidate(
    member: nn.Module | Checkpoint, method: str, index: int, spec: ModelSpec | None, normalize: bool
) -> _Candidate:
    if isinstance(member, nn.Module):
        return _Candidate(f"{method}[{index}]", method, index, False, lambda dataset, channels_last: (member, dataset))
    checkpoint, about = member, member.about

    def open_checkpoint(dataset: Dataset, channels_last: bool) -> tuple[nn.Module, Dataset]:
        channels = about.get("channels", dataset.channels)
        if channels != dataset.channels:
            raise UserError(f"{checkpoint.path} takes {channels} channels, the data have {dataset.channels}")
        classes = about.get("classes", dataset.classes)
        # Tensors do not say how many classes there are: a few of them need not show the last one.
        if len(classes) < len(dataset.classes) or (normalize and len(classes) > len(dataset.classes)):
            raise UserError(f"{checkpoint.path} knows {len(classes)} classes, the data have {len(dataset.classes)}")
        network = checkpoint.build(spec, channels, len(classes))
        if channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        own = normalize and "mean" in about
        return network, dataset.with_normalization(about["mean"], about["std"]) if own else dataset

    return _Candidate(str(checkpoint.path), method, about.get("seed", index), True, open_checkpoint)

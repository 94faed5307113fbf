"""Trained networks to evaluate: modules, runs or files, opened one after the other, each with its normalised data."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from noiserobust.analog.coverage import Coverage, coverage_of, weight_counts
from noiserobust.data import Batch, Labelled, Samples, Splits, as_dataset, load
from noiserobust.data.places import beside
from noiserobust.errors import UserError, printable
from noiserobust.evaluation.labels import told_apart
from noiserobust.evaluation.settings import Compute, Where
from noiserobust.models import ModelSpec
from noiserobust.models.check import require_finite
from noiserobust.models.compute import device_of, draws_of, known_device
from noiserobust.models.kinds import require_layers, require_weights
from noiserobust.noise.sharded import class_of, mesh_of
from noiserobust.rng import Stream, kept_generators
from noiserobust.spec.own_code import own_code
from noiserobust.storage.checkpoints import Checkpoint, find_checkpoints, read_checkpoint
from noiserobust.storage.identity import answer, network_digest
from noiserobust.storage.provenance import provenance
from noiserobust.tasks import Classification, Scorer, Task, task_of
from noiserobust.tasks.batches import prepare
from noiserobust.tasks.scoring import checked

log = logging.getLogger("noiserobust")


@runtime_checkable
class Run(Protocol):
    """A finished training run (:class:`noiserobust.training.Run`)."""

    @property
    def checkpoint(self) -> Path:
        """Its weights."""

    @property
    def model(self) -> ModelSpec | None:
        """How to build its network, where the checkpoint does not suffice."""


OneModel = nn.Module | str | Path | Checkpoint | Run
Models = OneModel | Sequence[OneModel] | Mapping[str, OneModel | Sequence[OneModel]]
"""A module, a checkpoint, a run, the path of either or of a folder of runs, ``LABEL=PATH``; several of them; or groups
of them by the method's name."""


@dataclass(frozen=True)
class TrainedCopy:
    """One trained network of a method; ``replicate`` is its training seed, or its position among the method's."""

    name: str
    method: str
    replicate: int
    source: nn.Module | Checkpoint


@dataclass(frozen=True)
class EvaluatedModel(TrainedCopy):
    """One trained copy on its device, with the data it is evaluated on."""

    network: nn.Module
    dataset: Labelled
    """The data, with the normalisation that this network wants."""
    batches: Sequence[Batch]
    """The same, normalised and moved once."""
    task: Task
    coverage: Coverage
    compute: Compute
    where: Where
    columns: dict[str, Any]
    """The columns of its rows that do not depend on the noise."""

    def under(self, where: Where) -> EvaluatedModel:
        """The same copy with fewer of its weights analog, those that ``where`` says (:attr:`coverage` stays)."""
        changed = {"analog": str(where)} | weight_counts(self.network, where)
        return replace(self, where=where, columns=self.columns | changed)


def trained_copies(models: Models) -> list[TrainedCopy]:
    """Every trained copy that ``models`` name, in order; checkpoints are read.

    Raises :class:`~noiserobust.UserError` when there is none, or two of one method are the same replicate.
    """
    groups = models.items() if isinstance(models, Mapping) else [(None, models)]
    copies: list[TrainedCopy] = []
    count: Counter[str] = Counter()
    found = [(label, source) for label, group in groups for source in _sources(group)]
    abouts = [source.about if isinstance(source, Checkpoint) else {} for _, source in found]
    for (label, source), about, own in zip(found, abouts, told_apart(abouts), strict=True):
        stem = source.path.stem if isinstance(source, Checkpoint) else class_of(source).__name__
        method = label or own or stem
        # A copy that does not say its training seed is the next one of its method.
        index = count[method]
        name = str(source.path) if isinstance(source, Checkpoint) else f"{method}[{index}]"
        copies.append(TrainedCopy(name, method, about.get("seed", index), source))
        count[method] += 1
    if not copies:
        raise UserError("expected at least one model, got none")
    names: dict[tuple[str, int], str] = {}
    for copy in copies:
        place = (copy.method, copy.replicate)
        if place in names:
            raise UserError(
                f"expected one model per method and replicate, got {names[place]} and {copy.name} both as "
                f"'{copy.method}' replicate {copy.replicate}; give them labels: {{label: model, ...}}, or "
                "LABEL=PATH on the command line"
            )
        names[place] = copy.name
    return copies


def methods_of(copies: Iterable[TrainedCopy]) -> dict[str, list[nn.Module | Checkpoint]]:
    """The networks of each method, as ``models`` to be evaluated."""
    methods: dict[str, list[nn.Module | Checkpoint]] = {}
    for copy in copies:
        methods.setdefault(copy.method, []).append(copy.source)
    return methods


def _sources(models: OneModel | Sequence[OneModel]) -> list[nn.Module | Checkpoint]:
    if isinstance(models, (nn.Module, Checkpoint)):
        return [models]
    if isinstance(models, (str, Path)):
        return [*find_checkpoints([str(models)])]
    if isinstance(models, Run):
        return [replace(read_checkpoint(models.checkpoint), model=models.model)]
    if not isinstance(models, Iterable) or isinstance(models, Tensor):
        raise UserError(f"expected a module, a checkpoint, a run, their path, or several, got {type(models).__name__}")
    return [source for model in models for source in _sources(model)]


@dataclass(frozen=True, eq=False)
class AsGiven:
    """Data that a person handed over, read once: networks see them as they are, with no normalisation of ours."""

    dataset: Labelled


def named_data(data: Any, copies: Sequence[TrainedCopy]) -> Splits | Labelled | AsGiven:
    """``data`` that have a name, loaded (``None``: those that the first copy was trained on); others read."""
    if isinstance(data, (str, Path)):
        return load(str(data))
    if isinstance(data, (Splits, Labelled, AsGiven)):
        return data
    if data is not None:
        return AsGiven(as_dataset(data))
    source = copies[0].source
    stored = {} if isinstance(source, nn.Module) else source.about.get("settings", {})
    if isinstance(source, nn.Module) or "data" not in stored:
        raise UserError(f"expected data, since {copies[0].name} does not say what it was trained on; name them")
    if source.about.get("own_data"):
        raise UserError(f"expected data, since those of {copies[0].name} were handed to fit without a name; give them")
    name, root = stored["data"], stored.get("data_root", "data")
    if source.about.get("started_in"):
        home = source.path.resolve().parent / source.about["started_in"]
        name, root = beside(name, home), beside(root, home)
    try:
        # What a file names is code that only a person may start.
        return load(name, root, stored.get("image_size"), imports=False)
    except UserError as error:
        raise UserError(
            f"expected the data that {copies[0].name} was trained on, '{stored['data']}', where they were, got none; "
            "say what they are now: --data PLACE, or --data NAME --data-root FOLDER, or --data package.module:Name of "
            f"code (evaluate(..., data=...)); reading them said: {error}"
        ) from None


def flags_of(data: Any, loaded: Splits | Labelled | AsGiven, part: str, compute: Compute) -> str:
    """The command line's flags that give ``data`` ("" for those of training), or ``handed over`` where none can."""
    named = ("--data", str(data)) if isinstance(data, (str, Path)) else getattr(loaded, "named", ())
    if part != "test" or (data is not None and not named):
        return "handed over"
    words = [] if data is None else [*named]
    for flag, values in zip(("--mean", "--std"), compute.normalization or (), strict=False):
        words += [flag, *map(str, values)]
    return shlex.join(words)


def part_of(data: Splits | Labelled | AsGiven, part: str) -> Labelled:
    """The ``train`` or ``test`` part of what has parts; all of anything else."""
    if part not in ("train", "test"):
        raise UserError(f"expected part train or test, got {part!r}")
    if isinstance(data, Splits):
        return data.train if part == "train" else data.test
    return data.dataset if isinstance(data, AsGiven) else data


class EvaluatedModels:
    """An iterable of :class:`EvaluatedModel` that opens each network only when its turn comes.

    The arguments are those of :func:`noiserobust.evaluate`; ``part`` is that of the data. ``shards`` lets networks
    in whose weights are sharded over processes.
    """

    data: Any
    """The data, loaded."""
    calibration: Callable[[Where], Sequence[Labelled]]
    """Further data that values depend on, by the settings of layers; they are named by the rows' ``data``, too."""

    def __init__(
        self,
        models: Models,
        data: Any = None,
        part: str = "test",
        *,
        images: int | None = None,
        model: ModelSpec | str | None = None,
        compute: Compute = Compute(),
        where: Where = Where(),
        task: Task | str | None = None,
        shards: bool = False,
    ) -> None:
        self.copies, self.compute, self.where = trained_copies(models), compute, where
        self.shards = shards
        self.task = task_of(task, data)
        self.data = Samples(()) if isinstance(self.task, Scorer) else named_data(data, self.copies)
        # A scoring function brings its own data; those that are named beside it say how large a network is.
        named = isinstance(self.task, Scorer) and data is not None and not callable(data)
        self._like = part_of(named_data(data, self.copies), part) if named else None
        if isinstance(self.task, Scorer) and images is not None:
            raise UserError(f"expected no number of images with {self.task}, which brings its own data")
        # Tensors and loaders that a person hands over are taken as they are; data sets are normalised as in training.
        self.normalize = not isinstance(self.data, AsGiven)
        whole = part_of(self.data, part)
        if images is None or (isinstance(whole, Sized) and images == len(whole)):
            self.dataset = whole  # in its own order
        else:
            self.dataset = whole.sample(images, Stream(0, "images"))
        self.given = flags_of(data, self.data, part, compute)
        self.spec = None if model is None else ModelSpec.parse(model)
        self.normalization = compute.normalization
        self.device = None if compute.device is None else known_device(compute.device)
        self.coverage: dict[str, Coverage] = {}  # of the models that were opened
        self.calibration = lambda where: ()
        self._prepared: dict[Any, Sequence[Batch]] = {}
        self._suited: dict[Task, Task] = {}

    def __len__(self) -> int:
        return len(self.copies)

    def __iter__(self) -> Iterator[EvaluatedModel]:
        for copy in self.copies:
            source = copy.source
            device = self.device or (device_of(source) if isinstance(source, nn.Module) else "cpu")
            with kept_generators(device):  # networks that draw when they compute, as simulated tiles do
                model = self._opened(copy)
            self.coverage[copy.name] = model.coverage
            yield model

    def _opened(self, copy: TrainedCopy) -> EvaluatedModel:
        compute, dataset = self.compute, self._normalized(copy)
        if isinstance(copy.source, nn.Module):
            network, channels_last = copy.source, bool(compute.channels_last)
        else:
            channels_last = compute.channels_last is not False
            network = self._built(copy.source, dataset, channels_last)
        require_layers(network)
        require_weights(network)
        if not self.shards and mesh_of(network) is not None:
            raise UserError(
                f"expected a whole network, got {copy.name} with weights sharded over processes; noiserobust.evaluate "
                "and noiserobust.perturbed take those"
            )
        network = network if self.device is None else network.to(self.device)
        device = device_of(network)
        if mesh_of(network) is None:  # else each process knows its own part only
            require_finite(network, copy.name)
        key = (dataset.mean, dataset.std, device, channels_last)
        if key not in self._prepared:
            self._prepared[key] = prepare(dataset, device, compute.batch_size, channels_last)
        task, batches = self._task_of(copy.source), self._prepared[key]
        if batches:
            checked(network, batches[0], task, task.outputs(self.dataset), copy.name, compute.precision)
        self._say_normalization(copy)  # now that it is known to work
        where, note = self._where(copy)
        analog = replace(coverage_of(network, where, task.call, batches[0] if batches else None), note=note)
        where = where.including(analog.heads)
        if analog.warning:
            warnings.warn(analog.warning, stacklevel=2)
        asked = answer(network, task.inputs(network, batches[0]), compute.precision) if batches else ""
        by_batches = any(isinstance(one, _BatchNorm) and one.running_var is None for one in network.modules())
        if by_batches and batches:  # normalised by each batch's own statistics
            asked += f" batch_size={len(batches[0])}"
        columns = {
            "model": copy.name,
            "method": copy.method,
            "replicate": copy.replicate,
            "task": str(task),
            "images": len(dataset),
            "analog": str(where),
            "precision": compute.precision,
            "weights": network_digest(network),
            "answer": f"{asked} {own_code(task, where.table.read)}".strip(),
            "data": task.digest
            if isinstance(task, Scorer)
            else _digest([self.dataset, *self.calibration(where)], dataset),
            "inputs": dataset.normalization,
            "given": self.given,
            "device": draws_of(device),
            "noisy_weights": analog.noisy,
            "all_weights": analog.total,
        }
        return EvaluatedModel(
            **vars(copy),
            network=network,
            dataset=dataset,
            batches=batches,
            task=task,
            coverage=analog,
            compute=compute,
            where=where,
            columns=columns | provenance(),
        )

    def _where(self, copy: TrainedCopy) -> tuple[Where, str]:
        """Which weights of a copy are analog: those asked for, else those that it was trained with; and a word where
        the two differ."""
        trained = Where.trained({} if isinstance(copy.source, nn.Module) else copy.source.about.get("settings"))
        where = self.where or trained
        if str(where) != str(trained):
            then, now = (str(one) or "every layer as it is" for one in (trained, where))
            return where, f"trained with {then}, evaluated with {now}"
        return where, f"as it was trained: {where}" if str(where) else ""

    def _task_of(self, source: nn.Module | Checkpoint) -> Task:
        """The task asked for, or that the checkpoint was trained for, or classification; suited to the data."""
        task = self.task
        if task is None:
            stored = "classification" if isinstance(source, nn.Module) else source.about.get("task", "classification")
            task = Task.parse(stored, imports=False)
            if isinstance(task, Scorer):
                raise UserError(f"expected task={task}: a file names code, which only you may start by name")
        if task not in self._suited:
            self._suited[task] = task.suited(self.dataset)
        return self._suited[task]

    def _normalized(self, copy: TrainedCopy) -> Labelled:
        """The data as this copy sees them: as was asked for, else as its checkpoint says, else as they are."""
        about = copy.source.about if isinstance(copy.source, Checkpoint) else {}
        if self.normalization is not None:
            return self.dataset.with_normalization(*self.normalization)
        if self.normalize and "mean" in about:
            return self.dataset.with_normalization(about["mean"], about["std"])
        return self.dataset

    def _say_normalization(self, copy: TrainedCopy) -> None:
        """Say what was taken where neither a person nor the checkpoint says it."""
        said = self.normalization is not None or (self.normalize and "mean" in getattr(copy.source, "about", {}))
        if isinstance(copy.source, Checkpoint) and not said and self.dataset.normalization != "x":
            log.warning(
                "%s does not say how its inputs were normalised: taken as %s, the statistics of %s; where it was "
                "trained on others, give them as mean and std (--mean, --std; Compute(mean=, std=))",
                *(printable(copy.name), self.dataset.normalization, self.dataset.name),
            )

    def _built(self, checkpoint: Checkpoint, dataset: Labelled, channels_last: bool) -> nn.Module:
        """The network of a checkpoint, if it takes ``dataset``."""
        about, task = checkpoint.about, self._task_of(checkpoint)
        if isinstance(task, Scorer):
            like = self._like
            return (
                checkpoint.build(self.spec)
                if like is None
                else checkpoint.build(self.spec, like.channels, len(like.classes))
            )
        channels, known = about.get("channels", dataset.channels), len(about.get("classes", dataset.classes))
        if channels != dataset.channels:
            raise UserError(f"{checkpoint.path} takes {channels} channels, the data have {dataset.channels}")
        there = len(dataset.classes)
        if not isinstance(task, Classification):
            known = known if "classes" in about else task.outputs(dataset)
        # Tensors do not say how many classes there are: a few of them need not show the last one.
        elif known < there or (self.normalize and known > there):
            raise UserError(f"{checkpoint.path} knows {known} classes, the data have {there}")
        network = checkpoint.build(self.spec, channels, known)
        if channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network


def _digest(content: Sequence[Labelled], normalized: Labelled) -> str:
    """16 hex digits that name a network's inputs: the content of the data, and their normalisation."""
    parts = [*(data.fingerprint for data in content), normalized.mean, normalized.std]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

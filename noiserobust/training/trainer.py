"""A whole training run: log per epoch, keep the best under noise, resume bit for bit."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiserobust.analog.noisy import NoisyWeights
from noiserobust.bars import Bar
from noiserobust.data import Batch, Labelled, Splits, load, nests, training_batches
from noiserobust.data.places import handed_over, started_in
from noiserobust.errors import UserError, printable
from noiserobust.minima import Perturbation
from noiserobust.models.compute import known_device
from noiserobust.rng import Stream, seeded
from noiserobust.spec import references
from noiserobust.spec.kinds import typed
from noiserobust.storage.checkpoints import read_checkpoint, save_checkpoint
from noiserobust.storage.logs import without_clock, write_log
from noiserobust.storage.provenance import provenance
from noiserobust.storage.states import write_state
from noiserobust.tasks.batches import prepare
from noiserobust.tasks.scoring import score
from noiserobust.training import resuming
from noiserobust.training.checkpointing import checkpointed
from noiserobust.training.clipping import require_clipped
from noiserobust.training.compiling import compiled
from noiserobust.training.ddp import Processes
from noiserobust.training.engine import Engine
from noiserobust.training.epoch_log import EpochLog, require_logged
from noiserobust.training.kept import has_norms
from noiserobust.training.learning_rates import LearningRate
from noiserobust.training.loggers import Logger, Loggers
from noiserobust.training.network import Network, code_of
from noiserobust.training.optimizers import build_optimizer
from noiserobust.training.runs import Run, run_of, teacher_in
from noiserobust.training.schedules import Progress
from noiserobust.training.settings import TrainSettings
from noiserobust.training.teacher import Teacher, has_own_code, teacher_of, with_teacher

log = logging.getLogger("noiserobust")
REFRESHING = 1000
"""Training images (all, if there are fewer) that batch norm's statistics of averaged weights are of, unaugmented."""


@typed
def fit(
    settings: TrainSettings,
    out: str | Path = "runs",
    *,
    splits: Splits | None = None,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
    loggers: Iterable[Logger | str] | Logger | str = (),
    progress: bool = False,
    processes: Processes | None = None,
) -> Run:
    """Train as ``settings`` say, in a folder of ``out`` named by them; a finished run is not trained again.

    An interrupted run goes on from its last finished epoch and ends with the same weights, bit for bit (on a CPU,
    with as many threads). ``splits`` stands in for loading ``settings.data``; ``on_epoch`` gets each line of the
    log, and so do ``loggers``: ``"tensorboard"``, ``"wandb:project"``, ``"csv:all.csv"``, or objects of your own
    (:class:`~noiserobust.training.Logger`); ``log.csv`` in the run's folder is written anyway. What
    ``settings.log`` asks for is measured after every epoch and changes no weights; a finished run that did not log
    it is refused. ``processes`` (:func:`~noiserobust.training.torchrun`) train one run together, calling it alike.
    """
    processes = processes or Processes()
    following = Loggers(loggers, processes.writes)
    splits = settings.normalized(splits or load(settings.data, settings.data_root, settings.image_size))
    run = run_of(settings, out, splits)
    processes.require_equal("settings and data", run.folder.name)
    if not processes.first(lambda: resuming.is_settled(run)):
        known_device(processes.device(settings.device))
        with resuming.alone_with(run) if processes.writes else nullcontext():
            if not processes.first(lambda: resuming.is_finished(run)):
                if (teacher := settings.teacher_run) is not None:
                    with run.taught(processes.writes):
                        fit(teacher, out, splits=splits, progress=progress, processes=processes)
                trainer = Trainer(run, splits, processes)
                with following.following(run):
                    trainer.train([following.epoch, *([on_epoch] if on_epoch else [])], progress)
                return run
    if processes.writes:
        log.info("%s is finished already: it is not trained again", printable(run.folder))
    processes.first(lambda: require_logged(settings, run.folder))
    if settings.model.names_code or has_own_code(settings):
        network = Network.of(settings, splits, _training_data(settings, splits)[0], tells=processes.writes)
        place = teacher_in(run, splits) if has_own_code(settings) else None
        seen = with_teacher(network.code, teacher_of(settings, place, splits.train, network), network)
    else:
        seen = code_of(settings, None)
    resuming.require_same_code(run, seen, read_checkpoint(run.checkpoint).about if seen else {})
    return run


class Trainer:
    """The state of one run in progress."""

    def __init__(self, run: Run, splits: Splits, processes: Processes) -> None:
        self.run, self.settings, self.processes = run, run.settings, processes
        self.data, self.named = splits.train, splits.named
        settings, device = run.settings, processes.device(run.settings.device)
        train, self.held_out = _training_data(settings, splits)
        crop, flip = settings.augmentation(splits)
        self.batches = training_batches(
            train,
            settings.batch_size,
            device=device,
            stream=Stream(settings.seed).child("train"),
            crop=crop,
            flip=flip,
            cutout=settings.cutout,
            drop_last=settings.drop_last,
            channels_last=settings.channels_last,
        )
        self.network = Network.of(settings, splits, train, tells=processes.writes)
        self.task = self.network.task
        teacher = teacher_of(settings, teacher_in(run, splits), splits.train, self.network)
        self.code = with_teacher(self.network.code, teacher if has_own_code(settings) else None, self.network)
        if teacher is not None:
            teacher.model.to(device)
        self.model = self.network.model.to(device)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.noisy = NoisyWeights(self.model, **self.network.where.patterns)
        self.engine = self._engine(device, teacher, samples=len(train))
        if settings.weight_clip is not None:
            require_clipped(self.engine.weights)
        self.steps = settings.epochs * len(self.batches)
        self.rate = LearningRate(
            settings.lr_schedule, self.engine.optimizer, settings.lr, self.steps, len(self.batches), settings.lr_warmup
        )
        processes.require_samples(len(train), settings.batch_size)
        held = self.held_out
        self.watched = [] if held is None else prepare(held, device, channels_last=settings.channels_last)
        self.refreshing: Sequence[Batch] = ()
        if settings.average is not None:
            self._require_average()
            if has_norms(self.model):
                images = train.sample(min(REFRESHING, len(train)), Stream(0, "refresh"))
                self.refreshing = prepare(images, device, channels_last=settings.channels_last)
        sets = {"train": train, "validation": self.held_out, "test": splits.test}
        self.measures = EpochLog(settings, self.model, sets, self.task, self.network.where)
        self.log, self.ranks = list[dict[str, Any]](), list[int]()
        self.doubtful = False  # whether the next step is the first with a state that was read
        self.best: dict[str, Tensor] = {}
        self.best_ranges: dict[str, Any] = {}

    def _engine(self, device: torch.device, teacher: Teacher | None, samples: int) -> Engine:
        """What takes the run's steps."""
        settings, network = self.settings, self.network
        return Engine(
            self.processes.parallel(compiled(self.model, device) if settings.compile else self.model),
            build_optimizer(settings.optimizer, self.model.parameters(), settings.lr, settings.weight_decay),
            loss=None if settings.loss is None else references.load(settings.loss),
            task=network.task.smoothed(settings.label_smoothing),
            precision=settings.precision,
            scaler=torch.amp.GradScaler(device.type) if settings.precision == "fp16" else None,
            clip_norm=settings.clip_norm,
            weight_clip=settings.weight_clip,
            average=settings.average,
            seed=settings.seed,
            samples=samples,
            classes=network.outputs,
            where=network.where,
            converters=settings.converters,
            input_ranges=settings.input_ranges,
            teacher=teacher,
        )

    def train(self, on_epoch: Sequence[Callable[[dict[str, Any]], object]], progress: bool) -> None:
        note = self.settings.method.prepare(self.engine)
        if note and self.processes.writes:
            log.info(note)
        self._resume()
        if self.log and self.processes.writes:
            log.info("%s goes on from epoch %d of %d", *(self.run.folder, len(self.log), self.settings.epochs))
        with Bar(
            total=self.steps,
            initial=len(self.log) * len(self.batches),
            desc=printable(f"{self.settings.label} seed {self.settings.seed}"),
            unit="step",
            disable=not (progress and self.processes.writes),
            mininterval=0.5,
        ) as bar:
            for epoch in range(len(self.log), self.settings.epochs):
                epoch_seen = self._epoch(epoch, bar)
                with self.engine.kept(self.refreshing):
                    line = self._line(epoch, *epoch_seen)
                    self.rate.end_epoch(line)
                    self.log.append(line)
                    self.ranks.append(self.processes.count)
                    if self._is_best(line):
                        self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
                        self.best_ranges = self.engine.periphery.described
                self._save()
                shown = [name for name in (self.task.metric, f"perturbed_{self.task.metric}") if name in line]
                bar.set_postfix({name.replace("perturbed_", "noisy "): f"{line[name]:.3g}" for name in shown})
                for told in on_epoch:
                    told(line)
        self.processes.first(self._keep)

    def _epoch(self, epoch: int, bar: Bar) -> tuple[dict[str, float], Perturbation | None, float]:
        """Its steps: numbers for the log, the last step's perturbation, and when it began."""
        settings, started = self.settings, time.perf_counter()
        total = torch.zeros((), device=self.engine.device)
        count = torch.zeros((), dtype=torch.float64, device=self.engine.device)
        self.model.train()
        rank, ranks = self.processes.rank, self.processes.count
        # Dropout and the like draw from the global generator: named per epoch, so that a resumed run draws the same.
        masks = Stream(settings.seed, "dropout", epoch)
        again = checkpointed(self.model) if settings.checkpointing else nullcontext()
        with again, seeded(masks.child(rank) if rank else masks, self.engine.device):
            for index, batch in enumerate(self.batches.epoch(epoch, rank, ranks)):
                at = Progress(epoch * len(self.batches) + index, self.steps, epoch, settings.epochs, settings.seed)
                parts: Batch | list[Batch] = (
                    batch.split(settings.micro_batches) if settings.micro_batches > 1 else batch
                )
                rate = self.rate.begin(at.step)
                with resuming.fitting(self.run) if self.doubtful else nullcontext():
                    out = settings.method.step(self.engine, parts, at)
                self.doubtful = False
                self.rate.end()
                each, units = out.losses.float(), out.counts
                total += each.sum() if units is None else (each * units).sum()
                count += len(each) if units is None else units.sum()
                self.run.require_finite(index, epoch, total, alone=ranks == 1)
                bar.update()
        totals, counts = zip(*self.processes.gather((total.item(), count.item())), strict=True)
        strength = settings.method.strength(at) if out.strength is None else out.strength
        seen = {"train_loss": sum(totals) / sum(counts), "strength": strength, "lr": rate}
        return seen, out.perturbation, started

    def _line(
        self, epoch: int, seen: dict[str, float], perturbation: Perturbation | None, started: float
    ) -> dict[str, Any]:
        """The epoch's line of the log, of the weights that are kept of it."""
        losses = {"train_loss": seen.pop("train_loss"), **self._watch()}
        for name in ("train_loss", "loss"):
            if not math.isfinite(losses.get(name, 0.0)):
                raise self.run.diverged(epoch, name, losses[name], self.processes.writes)
        averaged = {} if self.settings.average is None else {"averaged": self.engine.kept.count}
        always = seen | averaged | self._extremes()
        return self.processes.first(
            lambda: {
                "epoch": epoch,
                **losses,
                **always,
                # The column max_over_rms stays what it is without a log.
                **(self.measures.line(epoch, perturbation) | always),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )

    def _watch(self) -> dict[str, float]:
        """The task's metrics on the held-out data, clean and perturbed; ranks share the draws."""
        if not self.watched:
            return {}
        settings, scores = self.settings, dict[int, dict[str, float]]()
        for draw in range(self.processes.rank - 1, settings.select_draws, self.processes.count):
            stream = Stream(settings.seed, "select", draw)
            noisy = self.noisy.perturbed(settings.select_noise, stream) if draw >= 0 else nullcontext()
            with self.engine.periphery.evaluated(stream), noisy:
                scores[draw] = score(self.model, self.watched, settings.precision, self.task)
        scores = {draw: values for part in self.processes.gather(scores) for draw, values in part.items()}
        clean, draws = scores.pop(-1), [scores[draw] for draw in range(settings.select_draws)]
        names = dict.fromkeys(name for values in (clean, *draws) for name in values)
        # Only passes with answers that are no numbers have their count.
        means = {f"perturbed_{name}": sum(draw.get(name, 0.0) for draw in draws) / len(draws) for name in names}
        return clean | means

    def _extremes(self) -> dict[str, float]:
        """Largest |w| of all analog weights, and the mean over tensors of max|w| / rms(w)."""
        weights = [weight.value().float() for weight in self.noisy.weights]
        largest = torch.stack([w.abs().amax() for w in weights])
        rms = torch.stack([w.square().mean().sqrt() for w in weights])
        return {"max_weight": largest.amax().item(), "max_over_rms": (largest / rms).nanmean().item()}

    def _is_best(self, line: dict[str, Any]) -> bool:
        if self.settings.select_on == "none":
            return True
        return all(self._merit(line) > self._merit(earlier) for earlier in self.log[:-1])

    def _merit(self, line: dict[str, Any]) -> float:
        """What the epoch is chosen by: the perturbed metric of the task, turned so that more is better."""
        value = self.task.quantity.sign * line[f"perturbed_{self.task.metric}"]
        return -math.inf if math.isnan(value) or line.get("averaged") == 0 else value

    def _require_average(self) -> None:
        """Refuse an average that no step of the run would belong to: it would be the last weights by another name."""
        average, epochs = self.settings.average, self.settings.epochs
        if average is not None and not any(
            average.counts(Progress(step, self.steps, step * epochs // self.steps, epochs))
            for step in reversed(range(self.steps))
        ):
            raise UserError(
                f"expected an average that begins within {self.steps} steps, got {average}; lower its start"
            )

    def _save(self) -> None:
        own_memory = self.processes.gather(nests.copied_to(torch.device("cpu"), self.engine.own_memory))
        if not self.processes.writes:
            return
        state = {
            "run": self.run.folder.name,
            "code": self.code,
            "model": self.model.state_dict(),
            "optimizer": self.engine.optimizer.state_dict(),
            "engine": self.engine.state_dict(),
            "rate": self.rate.state_dict(),
            "own_memory": own_memory,
            "best": self.best,
            "best_ranges": self.best_ranges,
            "log": self.log,
            "measures": self.measures.described,
            "ranks": self.ranks,
        }
        write_state(self.run.state, state)
        write_log(self.run.folder, self.log)

    def _resume(self) -> None:
        if (state := self.processes.first(lambda: resuming.resumed(self.run))) is None:
            return
        resuming.require_same_code(self.run, self.code, state)
        with resuming.fitting(self.run):
            self.model.load_state_dict(state["model"])
            self.engine.optimizer.load_state_dict(state["optimizer"])
            self.rate.load_state_dict(state.get("rate", {}))
            own_memory = state.get("own_memory") or [{}]  # older states know of one process only
            rank = self.processes.rank % len(own_memory)
            self.engine.load_state_dict(state["engine"] | {"own_memory": own_memory[rank]})
            self.best, self.log, self.best_ranges = state["best"], state["log"], state.get("best_ranges", {})
            resuming.require_same_weights(self.run, self.best, self.model.state_dict(), self.log)
            self.ranks = state.get("ranks", [1] * len(self.log))
        self.doubtful = True
        with self.engine.kept():  # whose weights the log is of
            self.measures.resume(self.log, state.get("measures", []))

    def _keep(self) -> None:
        kept = self.log[-1] if self.settings.select_on == "none" else max(self.log, key=self._merit)
        about = {
            "model": str(self.settings.model),
            "channels": self.data.channels,
            "classes": self.network.classes,
            "task": str(self.task),
            "mean": self.data.mean,
            "std": self.data.std,
            "label": self.settings.label,
            "seed": self.settings.seed,
            "epoch": kept["epoch"],
            "log": without_clock(kept),
            "lines": [without_clock(line) for line in self.log],
            "code": self.code,
            "ranks": self.ranks,
            "settings": self.settings.described(),
            "provenance": provenance(),
            **handed_over(self.settings.data, self.named, self.data.name),
        } | ({"ranges": self.best_ranges} if self.best_ranges else {})
        if started := started_in(self.settings.data, self.settings.data_root, self.run.folder):
            about["started_in"] = started
        write_log(self.run.folder, self.log)  # a kill may have come between the last state and its log
        save_checkpoint(self.run.checkpoint, self.best, about)
        self.run.forget()


def _training_data(settings: TrainSettings, splits: Splits) -> tuple[Labelled, Labelled | None]:
    """What is trained on, and what is watched: the held-out part, or the test data when the epoch is chosen on them."""
    if settings.select_on == "test":
        return splits.train, splits.test
    if splits.validation is not None or settings.validation == 0:
        return splits.train, splits.validation
    # Every run holds out the same samples, whatever its seed: replicates differ by training alone.
    return splits.train.split(settings.validation, Stream(0, "validation"))

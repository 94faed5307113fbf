"""Measures of every epoch's weights in the training log; they change nothing that is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from noiserobust.analog.where import Where
from noiserobust.data import Batch, Labelled
from noiserobust.errors import UserError
from noiserobust.minima import Loss, Measure, PathLength, Perturbation, Surface, Training, column, measure
from noiserobust.minima import Path as WeightPath
from noiserobust.rng import Stream
from noiserobust.storage.logs import read_log
from noiserobust.tasks import Task
from noiserobust.tasks.batches import prepare
from noiserobust.training.settings import TrainSettings


class EpochLog:
    """What ``settings.log`` asks for, as columns of a line of the log.

    A measure of the weights alone is a column by its text; one of a loss is a column per set of images,
    ``train/ascent_sharpness:0.05``, beside ``train/loss``. Measured are ``settings.log_images`` images of each set
    (all, if it has fewer), the same in every epoch, without augmentation and in fp32, under the same draws in every
    epoch. Measures at the rule's own perturbation (``training``) see the training step's loss: micro-batches of the
    batch size, each normalised by its own statistics, with label smoothing. All others see what ``evaluate`` sees:
    frozen statistics, no smoothing. With ``log_every`` most lines have no such columns, but for the path's length,
    which every epoch adds to. ``log_images``, ``log_forward``, ``log_backward`` and ``log_seconds`` say what it
    cost: passes in units of one over those images of one set.
    """

    def __init__(
        self,
        settings: TrainSettings,
        model: nn.Module,
        sets: Mapping[str, Labelled | None],
        task: Task,
        where: Where = Where(),
    ) -> None:
        self.settings = settings
        about_data = [one for one in settings.log if one.needs_data]
        # Told apart by what they become when ``training`` is known.
        self.at_rule = [one for one in about_data if one.at_training(Training()) is not one]
        of_data = [one for one in about_data if one not in self.at_rule]
        self.of_data = list(dict.fromkeys([Loss(), *of_data])) if about_data else []
        self.of_weights = [one for one in settings.log if not one.needs_data and not isinstance(one, PathLength)]
        patterns = where.patterns
        self.weights = Surface(model, [], task=task, **patterns)
        seen = {name: _images(settings, name, sets[name]) for name in settings.log_on if about_data}
        self.surfaces = {name: Surface(model, images, task=task, **patterns) for name, images in seen.items()}
        smoothed = task.smoothed(settings.label_smoothing)
        self.steps = {
            name: Surface(model, images, task=smoothed, normalisation="batch", **patterns)
            for name, images in seen.items()
        }
        self.path = WeightPath(self.weights) if PathLength() in settings.log else None
        # What cannot be measured is said now, not after an epoch.
        if self.at_rule and not settings.method.visitable:
            raise UserError(
                f"expected a rule whose update gradient's point is known to measures, got {settings.method.name}; "
                "name a perturbation in place of training, such as ascent(0.05)"
            )
        if self.at_rule and (str(settings.converters) != "none" or "converters" in str(settings.layers)):
            raise UserError(
                "expected ideal converters with measures of the training step, which see the digital network, got "
                f"{settings.converters}; name a perturbation in place of training, such as ascent(0.05)"
            )

    def line(self, epoch: int, perturbation: Perturbation | None) -> dict[str, float]:
        """The columns of ``epoch`` (from 0), ``perturbation`` being that of its last step."""
        if not self.settings.log:
            return {}
        started, columns = time.perf_counter(), dict[str, float]()
        if self.path is not None:  # the sum of every epoch's step
            columns[column(PathLength())] = self.path.step()
        if epoch not in (0, self.settings.epochs - 1) and (epoch + 1) % self.settings.log_every:
            return columns
        streams = Stream(self.settings.seed, "measure").child
        columns |= _columns(self.weights, [(one, one) for one in self.of_weights], streams, "")
        at_rule = []
        if self.at_rule and perturbation is not None:
            stepped_with = perturbation.by_batches(self.settings.batch_size)
            at_rule = [(one, one.at_training(stepped_with)) for one in self.at_rule]
        of_data = [(one, one) for one in self.of_data]
        for name in self.surfaces:
            for surface, measures in ((self.surfaces[name], of_data), (self.steps[name], at_rule)):
                surface.forget()
                columns |= _columns(surface, measures, streams, f"{name}/")
                surface.forget()
        used = [*self.surfaces.values(), *self.steps.values()]
        cost = {f"log_{kind}": sum(surface.passes[kind] for surface in used) for kind in ("forward", "backward")}
        for surface in used:
            surface.passes = dict.fromkeys(surface.passes, 0.0)
        return {
            **columns,
            "log_images": self.settings.log_images,
            **{name: round(passes, 6) for name, passes in cost.items()},
            "log_seconds": round(time.perf_counter() - started, 3),
        }

    def resume(self, log: Sequence[Mapping[str, Any]], described: Sequence[Any]) -> None:
        """Go on from the lines of an interrupted run, which logged what is ``described``."""
        if list(described) != self.described:
            raise UserError(
                f"expected the log of the interrupted run ({_words(described)}), got {_words(self.described)}; "
                "go on with the same log, or train into another folder"
            )
        if self.path is not None:
            self.path = WeightPath(self.weights, log[-1][column(PathLength())] if log else 0.0)

    @property
    def described(self) -> list[Any]:
        """What is logged, as plain values."""
        settings = self.settings
        return [*map(str, settings.log), *settings.log_on, settings.log_images] if settings.log else []


def require_logged(settings: TrainSettings, folder: Path) -> None:
    """Refuse a finished run whose log lacks what ``settings`` ask for: weights say nothing of earlier epochs."""
    if not settings.log:
        return
    log = read_log(folder)
    wanted = [f"{on}/{one}" for one in settings.log if one.needs_data for on in settings.log_on]
    wanted += [str(one) for one in settings.log if not one.needs_data]
    missing = [name for name in wanted if name not in log]
    images = int(log["log_images"].iloc[0]) if "log_images" in log else settings.log_images
    if missing or images != settings.log_images:
        what = f"without {', '.join(missing)}" if missing else f"logged on {images} images"
        raise UserError(
            f"expected a run that logged what is asked for, got {folder}, finished {what}; a log changes no weights: "
            "train into another folder to have it"
        )


def _images(settings: TrainSettings, name: str, data: Labelled | None) -> Sequence[Batch]:
    if data is None:
        raise UserError(f"expected held-out images to log on {name}, got none (validation 0); log on train or test")
    chosen = data.sample(min(settings.log_images, len(data)), Stream(0, "log"))
    return prepare(chosen, torch.device(settings.device), channels_last=settings.channels_last)


def _columns(
    surface: Surface, measures: Sequence[tuple[Measure, Measure]], streams: Callable[[int], Stream], prefix: str
) -> dict[str, float]:
    """Means over draws of ``measures``: the name that was asked for, and what is measured now."""
    values, columns = measure(surface, [now for _, now in measures], streams), {}
    for one, now in measures:
        draws = values[now]
        for part in draws[0]:
            columns[prefix + column(one, part)] = sum(draw[part] for draw in draws) / len(draws)
    return columns


def _words(described: Sequence[Any]) -> str:
    return " ".join(map(str, described)) or "nothing"

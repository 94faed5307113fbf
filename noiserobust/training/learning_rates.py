"""The learning rate of each step of a run: the default cosine, or any scheduler of torch by its text form."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from noiserobust.errors import UserError, reason_of
from noiserobust.spec.parser import read
from noiserobust.spec.references import load, nearest
from noiserobust.training.optimizers import option
from noiserobust.training.schedules import learning_rate, warmup_steps

BY_STEP = ("OneCycleLR", "CyclicLR")
"""Schedulers that count steps where nothing is said; all others count epochs, as torch's own examples do."""
LENGTHS = ("total_steps", "T_max")
"""Parameters that are the length of the whole run, in the scheduler's unit, where nothing is said."""
OF_OTHERS = ("SequentialLR", "ChainedScheduler")
KNOWN = {
    name: kind
    for name, kind in vars(lr_scheduler).items()
    if inspect.isclass(kind) and issubclass(kind, lr_scheduler.LRScheduler) and kind is not lr_scheduler.LRScheduler
    if not name.startswith("_") and name not in OF_OTHERS
}


FUNCTION = "lr_lambda"
"""The setting that names a function from outside the package."""


def functions_of(text: str) -> list[str]:
    """The functions from outside the package that a schedule names."""
    return [argument.value for argument in read(text, "scheduler").arguments if argument.key == FUNCTION]


class LearningRate:
    """Sets the rate of ``optimizer`` for each of ``steps`` steps, ``epoch_steps`` of them in an epoch.

    Without ``text``, the rate rises in a line over the ``warmup`` and falls as half a cosine
    (:func:`~noiserobust.training.schedules.learning_rate`). ``text`` names a class of ``torch.optim.lr_scheduler``,
    with its settings: ``StepLR:step_size=30,gamma=0.1``. ``every=step`` or ``every=epoch`` says what it counts. A
    warm-up multiplies its rates by (step + 1) / (length + 1) while it lasts.
    """

    def __init__(
        self,
        text: str | None,
        optimizer: torch.optim.Optimizer,
        peak: float,
        steps: int,
        epoch_steps: int,
        warmup: int | float = 0,
        imports: bool = True,
    ) -> None:
        self.optimizer, self.peak, self.steps, self.warmup = optimizer, peak, steps, warmup
        self.scheduler: Any = None
        self.text = text
        if text is not None:
            kind, options, self.every = scheduler_of(text, imports)
            length = steps if self.every == "step" else steps // epoch_steps
            known = inspect.signature(kind).parameters
            options = {name: length for name in LENGTHS if name in known and not _has_length(options)} | options
            if "max_lr" in known:
                options.setdefault("max_lr", peak)
            self.scheduler = _made(text, kind, optimizer, options)
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def begin(self, step: int) -> float:
        """Set the rate of ``step`` (from 0), and give it."""
        if self.scheduler is None:
            rate = self.peak * learning_rate(step, self.steps, self.warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            return rate
        length = warmup_steps(self.warmup, self.steps)
        share = min(1.0, (step + 1) / (length + 1)) if step < length else 1.0
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * share
        return float(self.optimizer.param_groups[0]["lr"])

    def end(self) -> None:
        """A step is over."""
        if self.scheduler is None:
            return
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        if self.every == "step":
            self._advance()

    def end_epoch(self, line: Mapping[str, float]) -> None:
        """An epoch is over, with this line of the log."""
        if self.scheduler is None or self.every == "step":
            return
        watches = isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau)
        self._advance(*[line.get("perturbed_loss", line["train_loss"])] if watches else [])

    def _advance(self, *watched: float) -> None:
        with warnings.catch_warnings():  # of a first step that loss scaling skipped, and of torch's own internals
            warnings.simplefilter("ignore", UserWarning)
            try:
                self.scheduler.step(*watched)
            except (TypeError, ValueError, KeyError, ArithmeticError) as error:
                raise UserError(f"scheduler '{self.text}': {reason_of(error)}") from None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beyond the optimizer's state."""
        return {} if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state)


def scheduler_of(text: str, imports: bool = True) -> tuple[Any, dict[str, Any], str]:
    """The class that ``text`` names, its options, and what it counts; :class:`UserError` where there is none.

    Without ``imports`` a function that it names is not looked at: the text may be a file's.
    """
    call = read(text, "scheduler")
    names = {name.lower(): name for name in KNOWN}
    if call.name.lower() not in names:
        raise UserError(
            f"expected a scheduler of torch.optim.lr_scheduler ({', '.join(KNOWN)}), got '{call.name}'"
            f"{nearest(call.name, KNOWN)}"
        )
    name = names[call.name.lower()]
    kind, options = KNOWN[name], dict[str, Any]()
    for argument in call.arguments:
        if argument.key == FUNCTION:
            key, value = FUNCTION, load(argument.value) if imports else float
        else:
            key, value = option(argument, text, words=True)
        if key in options:
            raise UserError(f"scheduler '{text}': {key} is given twice")
        options[str(key)] = value
    every = options.pop("every", "step" if name in BY_STEP else "epoch")
    if every not in ("step", "epoch"):
        raise UserError(f"scheduler '{text}': expected every=step or every=epoch, got {every}")
    if every == "step" and kind is lr_scheduler.ReduceLROnPlateau:
        raise UserError(f"scheduler '{text}': expected every=epoch, which is what it watches")
    return kind, options, every


def check_schedule(text: str, optimizer: str) -> None:
    """Refuse a schedule that cannot be made for an optimizer; functions that it names are left to training."""
    momentum = 0.9 if "momentum=" in optimizer else 0.0
    dummy = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=momentum)
    rate = LearningRate(text, dummy, 0.1, 100, 10, imports=False)
    rate.begin(0)
    with warnings.catch_warnings():  # of a schedule before its optimizer
        warnings.simplefilter("ignore")
        rate.end()
        rate.end_epoch({"train_loss": 1.0})


def _has_length(options: Mapping[str, Any]) -> bool:
    return any(name in options for name in (*LENGTHS, "epochs", "steps_per_epoch"))


def _made(text: str, kind: Any, optimizer: torch.optim.Optimizer, options: dict[str, Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind(optimizer, **options)
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise UserError(f"scheduler '{text}': {error}") from None

"""Distillation: a loss that keeps a network's answers near those of a trained one, whatever the training rule."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from noiserobust.data import Batch, Labelled
from noiserobust.errors import UserError
from noiserobust.models import ModelSpec
from noiserobust.models.lora import LoRA
from noiserobust.models.modes import evaluating
from noiserobust.models.pretrained import Loaded, Transformers
from noiserobust.spec.kinds import typed
from noiserobust.storage.checkpoints import Checkpoint, read_checkpoint
from noiserobust.storage.identity import code as shown_code
from noiserobust.tasks import Task
from noiserobust.tasks.scoring import checked
from noiserobust.training.network import Network, code_of
from noiserobust.training.settings import TrainSettings


class Teacher:
    r"""A trained network that another one learns from, beside its labels.

    A sample's loss becomes :math:`(1 - a) \ell + a \tau^2 \mathrm{KL}(p_t(\tau) \,\|\, p(\tau))`: :math:`\ell` the
    task's loss, :math:`p_t(\tau)` and :math:`p(\tau)` the probabilities that the teacher's and the network's logits
    mean when divided by the temperature :math:`\tau`.

    - ``model``: the teacher. It answers in eval mode, without noise and without gradient, and nothing of it changes.
    - ``weight``: a, in (0, 1]; 1 needs no labels.
    - ``temperature``: tau, above 0.

    The term is part of every loss that a rule takes a gradient of or compares, so that it goes with any of them. The
    task says what the probabilities are (classes, tokens, pixels, yes or no); the mean is over a sample's units.

    Cost: a forward pass of the teacher for each batch, however many passes the rule makes (for each pass, where
    predictions are more than one row a sample: to keep them would outgrow the network).
    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), sections 2 and 3.
    """

    @typed
    def __init__(self, model: nn.Module, weight: float = 0.5, temperature: float = 2.0) -> None:
        check_distillation(weight, temperature)
        self.model, self.weight, self.temperature = model, weight, temperature
        self._answers: dict[int, tuple[Batch, Tensor]] = {}

    def forget(self) -> None:
        """Drop what was kept of the last step's batches."""
        self._answers.clear()

    def guided(self, task: Task, losses: Tensor, predictions: Tensor, part: Batch) -> Tensor:
        """``losses`` (B,) of ``predictions`` (B, ...) with the teacher's term, in float32 or better."""
        divergence = task.divergence(self._answer(task, part), predictions, part, self.temperature)
        return (1 - self.weight) * losses + self.weight * self.temperature**2 * divergence

    @torch.no_grad()
    def _answer(self, task: Task, part: Batch) -> Tensor:
        """The teacher's predictions for a micro-batch."""
        known = self._answers.get(id(part))
        if known is not None:
            return known[1]
        with evaluating(self.model):
            answer = task.predictions(task.call(self.model, part)).detach()
        if answer.dim() <= 2:
            self._answers[id(part)] = part, answer  # with the batch, so that its id is not another's
        return answer


def check_distillation(weight: float, temperature: float) -> None:
    """Refuse weights and temperatures that mean nothing."""
    if not 0 < weight <= 1:
        raise UserError(f"expected a teacher's weight in (0, 1], got {weight}; 0.5 is usual, 1 leaves the labels out")
    if not 0 < temperature < math.inf:
        raise UserError(f"expected a finite temperature above 0, got {temperature}; 1 to 5 is usual")


def teacher_of(settings: TrainSettings, path: str | Path | None, data: Labelled, student: Network) -> Teacher | None:
    """The teacher that lies in ``path``, if there is one: it sees the same inputs, and gives the same outputs."""
    if path is None:
        return None
    checkpoint = read_checkpoint(path)
    about = checkpoint.about
    try:
        model = checkpoint.build(network_of(checkpoint, settings), data.channels, student.outputs)
    except UserError as error:
        said = str(error).replace("--model", "--teacher-model")  # the student's is another flag
        raise UserError(f"the teacher: {said}") from None
    theirs = [about.get(name) for name in ("mean", "std")]
    if None not in theirs and theirs != [list(data.mean), list(data.std)]:
        raise UserError(
            f"expected a teacher that sees {data.normalization} as this run does, got {checkpoint.path} with mean "
            f"{theirs[0]} and std {theirs[1]}; give these as --mean and --std"
        )
    checked(model, student.sample, student.task, student.outputs, f"the teacher {checkpoint.path}")
    return Teacher(model, settings.teacher_weight, settings.temperature)


def with_teacher(code: list[str] | None, teacher: Teacher | None, student: Network) -> list[str] | None:
    """A run's ``code`` (:attr:`~noiserobust.training.network.Network.code`), with that of its ``teacher``, which is
    shown as the student's is: by modules and by an answer."""
    if teacher is None:
        return code
    of_teacher = shown_code(teacher.model, student.task.inputs(teacher.model, student.sample))
    return [*(code or ("", "")), *([] if code and code[2:] else [""]), *of_teacher]


def has_own_code(settings: TrainSettings) -> bool:
    """Whether the teacher of a run is a network of somebody's code. One that is the student's network, too, need not be
    looked at twice."""
    return settings.teacher_model is not None and bool(ModelSpec.parse(settings.teacher_model).names_code)


def names_own_code(settings: TrainSettings) -> bool:
    """Whether any of a run's networks, its rule, task or whatever else it names is code from outside the package."""
    return bool(settings.model.names_code) or has_own_code(settings) or code_of(settings, None) is not None


def network_of(checkpoint: Checkpoint, settings: TrainSettings) -> ModelSpec | None:
    """The network of a teacher's ``checkpoint``: the one that the settings name, or None for the one that it names
    itself. One that names none is the student's, or what the student has adapters on, where the teacher has none."""
    if settings.teacher_model is not None:
        return ModelSpec.parse(settings.teacher_model)
    student, weights, named = settings.model, checkpoint.weights, checkpoint.about.get("model")
    if named is not None:
        return student if named == str(student) else None
    if isinstance(student, LoRA) and not any(".lora_" in name for name in weights):
        student = student.of
    if not isinstance(weights, Loaded):
        return student
    same = isinstance(student, Transformers) and Path(student.folder).resolve() == Path(weights.spec.folder).resolve()
    return student if same else None

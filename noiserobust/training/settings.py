"""Everything that determines a run's weights, and the name that follows from it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.where import Where
from noiserobust.errors import UserError
from noiserobust.limits import check_whole
from noiserobust.spec import Described
from noiserobust.spec.kinds import check_fields
from noiserobust.training.identity import ADDED, identity_of
from noiserobust.training.texts import (
    AverageText,
    ClipText,
    ConvertersText,
    MeasureTexts,
    MethodText,
    ModelText,
    NoiseText,
    TaskText,
)

if TYPE_CHECKING:
    from noiserobust.data import Content, Splits

TAUGHT = ("teacher", "teacher_model", "teacher_weight", "temperature")
"""Settings of distillation."""


@dataclass(frozen=True)
class TrainSettings:
    """Everything that determines a run's weights. Models, methods, noises and measures are given as objects or as texts
    (``TrainSettings(method="sam:0.2")``) and are objects afterwards."""

    data: str = "digits"
    """Training and test data: a name, or the path of an image folder (FOLDER/train/CLASS/*, FOLDER/test/CLASS/*;
    stream:FOLDER leaves it on disk)."""
    data_root: str = "data"
    """Where named data lie or are downloaded to."""
    image_size: int | None = None
    """Resize the images of a folder to this many pixels a side."""
    mean: tuple[float, ...] | None = None
    """With std: the network sees (x - mean) / std, one number each or one per channel; x are pixels / 255, or floats as
    they are (default: the data's own statistics)."""
    std: tuple[float, ...] | None = None
    """See mean."""
    model: ModelText = field(default=cast("Any", "digits"))
    """Network, such as resnet18:width=16, or one of your own: package.module:function(depth=3), or
    factory:package.module:function."""
    task: TaskText = field(default=cast("Any", "classification"))
    """What the network's outputs mean: classification, tokens, regression, multilabel, binary or segmentation."""
    loss: str | None = None
    """A loss of your own, package.module:function: of predictions and labels, one value per sample (default: the
    task's)."""
    lora: str | None = None
    """Train digital adapters of low rank beside the frozen layers of the network: rank=8, or rank=8,alpha=16; the same
    as --model lora:NETWORK,rank=8. The network's weights are those of --initial."""
    initial: str | None = None
    """Checkpoint to start from (fine-tuning); layers that give the logits of another number of classes start anew."""
    teacher: str | None = None
    """Checkpoint whose answers the network is kept near (distillation); initial: that of --initial; plain: the same
    network trained plainly from the same seed, which is trained first."""
    teacher_model: str | None = None
    """Network of a teacher whose checkpoint does not name its own, such as package.module:function(depth=3); the
    checkpoint names code only by your word (default: the student's)."""
    teacher_weight: float = 0.5
    """What the teacher weighs: (1 - weight) loss + weight temperature^2 KL(teacher || network)."""
    temperature: float = 2.0
    """Temperature at which both networks' probabilities are compared."""
    method: MethodText = field(default=cast("Any", "plain"))
    """Training rule, such as sam:0.2 or rwp:gaussian(0.1), or with a schedule: sam:linear(0.5,warmup=0.3)."""
    include: tuple[str, ...] = ()
    """Patterns of further parameters that are analog, with the axis of their outputs: *.kernel@1."""
    exclude: tuple[str, ...] = ()
    """Patterns of parameters that stay digital: no noise, no clipping. A checkpoint keeps both for its evaluation."""
    layers: str | None = None
    """File (TOML) with settings by layer: noise, digital by pattern; in a program a mapping, too."""
    converters: ConvertersText = field(default=cast("Any", "none"))
    """DAC, ADC and output noise around the analog layers in every pass (docs/hardware_aware_training.md):
    io:dac=8,adc=8,noise=0.06; with learnt=true or percentile=99.9 the checkpoint keeps the ranges."""
    input_ranges: str | None = None
    """How ranges that are learnt learn (default: as aihwkit's): learnt:decay=0.01."""
    weight_clip: ClipText = field(default=cast("Any", None))
    """Clip analog weights to this many times their layer's rms after every step (1.25 to 4 is usual), or otherwise:
    rms(2.5,per=column), percentile(99.5), value(0.2); rms(2.5,when=end) etc.: the kept network alone."""
    average: AverageText = field(default=cast("Any", None))
    """Average the weights over steps, evaluate and keep the average: ema:0.999, or swa:0.75 over the last quarter."""
    epochs: int = 30
    """Passes over the training data."""
    batch_size: int = 128
    """Samples per step."""
    drop_last: bool = False
    """Leave out an epoch's last samples where they do not fill a batch."""
    micro_batches: int = 1
    """Parts that a batch is split into to save memory (gradient accumulation)."""
    optimizer: str = "SGD:momentum=0.9"
    """Any optimizer of torch.optim, with its options: AdamW, SGD:momentum=0.9,nesterov=true."""
    lr: float = 0.05
    """Peak learning rate; it falls to 0 as a cosine, or as lr_schedule says."""
    lr_schedule: str | None = None
    """Any scheduler of torch.optim.lr_scheduler, with its options: StepLR:step_size=30,gamma=0.1; it counts epochs
    (OneCycleLR and CyclicLR: steps), or what every=step or every=epoch says."""
    lr_warmup: int | float = 0
    """Steps (whole number) or fraction of all steps over which the learning rate rises from 0."""
    weight_decay: float = 5e-4
    """Weight decay, given to the optimizer."""
    label_smoothing: float = 0.1
    """Label smoothing of the cross-entropy (without effect where labels are no classes)."""
    clip_norm: float | None = None
    """Largest norm of the gradient."""
    crop: int | None = None
    """Zero padding of the random crop in pixels (default: what suits the data)."""
    flip: bool | None = None
    """Random horizontal flips (default: what suits the data)."""
    cutout: int = 0
    """Pixels a side of a random square that is blanked in each training image (16 is usual for CIFAR-10, 8 for
    CIFAR-100)."""
    select_on: Literal["validation", "test", "none"] = "validation"
    """Data whose perturbed accuracy (or other metric of the task) chooses the epoch kept; test leaks (for reproducing
    papers); none: the last."""
    select_noise: NoiseText = field(default=cast("Any", "gaussian:0.1"))
    """Noise of that choice. Its draws are never those that evaluation reports."""
    select_draws: int = 3
    """Noise draws of that choice."""
    validation: float = 0.1
    """Fraction of the training data held out for the log and the choice (unused with select_on test, and where the
    data have such images beside the training data: subset:...,validation=50)."""
    log: MeasureTexts = field(default=cast("Any", ()))
    """Measures of every epoch's weights as further columns of the log, such as ascent_sharpness:0.05 or path_length
    (docs/measures.md); they change no weights and no run's name."""
    log_on: tuple[Literal["train", "validation", "test"], ...] = ("train",)
    """Images that they are measured on."""
    log_images: int = 1000
    """How many of each (a fixed sample, stratified by class; all if there are fewer)."""
    log_every: int = 1
    """Epochs from one such measurement to the next; the first epoch and the last have one, too."""
    seed: int = 0
    """Names initial weights, order, augmentation and training noise; also the replicate of the trained copy."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """fp32, or autocast to bf16 or fp16 (fp16 with loss scaling, for GPUs)."""
    checkpointing: bool = False
    """Keep what blocks of the network were given, and compute what is inside them again in the backward pass: less
    memory, about a third more time, the same weights."""
    compile: bool = False
    """Compile the network by torch.compile for the training passes."""
    channels_last: bool = True
    """Memory format of images and convolutions."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", str(LayerTable.of(self.layers)) or None)  # a mapping in a program
        check_fields(self)
        self._read_texts()
        self._read_normalization()
        for name, value in vars(self).items():
            check_whole(name, value)
        for name in ("epochs", "batch_size", "micro_batches", "select_draws"):
            if getattr(self, name) < 1:
                raise UserError(f"expected {name} >= 1, got {getattr(self, name)}")
        if not 0 <= self.validation < 1 or (self.validation == 0 and self.select_on == "validation"):
            raise UserError(f"expected validation in (0, 1), got {self.validation}; 0 needs select_on none or test")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"expected label_smoothing in [0, 1), got {self.label_smoothing}")
        if self.cutout < 0:
            raise UserError(f"expected a cutout of 0 pixels or more, got {self.cutout}")
        for name in ("lr", "weight_decay", "label_smoothing", "validation"):
            # 1 and 1.0 are the same setting, so they must give the run the same name.
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("lr", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"expected a finite {name} >= 0, got {getattr(self, name)}")
        log_on = (self.log_on,) if isinstance(self.log_on, str) else self.log_on
        object.__setattr__(self, "log_on", tuple(dict.fromkeys(log_on)))
        if self.log_every < 1:
            raise UserError(f"expected log_every of 1 epoch or more, got {self.log_every}")
        if self.log_images < 1 or (self.log and not self.log_on):
            where = ", ".join(self.log_on) or "none"
            raise UserError(f"expected log_images >= 1 on train, validation or test, got {self.log_images} on {where}")
        from noiserobust.training.schedules import check_warmup

        check_warmup("expected lr_warmup", self.lr_warmup)
        if self.lr_schedule is not None:
            from noiserobust.training.learning_rates import check_schedule

            check_schedule(self.lr_schedule, self.optimizer)
        if self.loss is not None and self.loss.count(":") != 1:
            raise UserError(f"expected a loss as package.module:function, got '{self.loss}'")
        if self.compile and (self.checkpointing or str(self.converters) != "none"):
            raise UserError("expected no converters and no checkpointing beside compile, which would not see them")
        self._check_teacher()
        check_clipping(self.clip_norm)
        if self.clip_norm is not None:
            object.__setattr__(self, "clip_norm", float(self.clip_norm))
        _check_device(self.device)

    def _read_texts(self) -> None:
        """Texts become the objects that they describe."""
        for name in ("include", "exclude"):
            given: Any = getattr(self, name)
            patterns = given.split() if isinstance(given, str) else given
            object.__setattr__(self, name, tuple(one for one in patterns if one != "none"))
        from noiserobust.analog.converters import Converters
        from noiserobust.analog.ranges import InputRanges
        from noiserobust.minima import Measure
        from noiserobust.models import ModelSpec
        from noiserobust.noise import NoiseModel
        from noiserobust.tasks import Task
        from noiserobust.training.rules.base import Method

        kinds: dict[str, type[Described]] = {"model": ModelSpec, "method": Method, "task": Task}
        for name, kind in (kinds | {"select_noise": NoiseModel, "converters": Converters}).items():
            object.__setattr__(self, name, kind.parse(getattr(self, name)))
        from noiserobust.models.lora import adapted

        object.__setattr__(self, "model", adapted(self.model, self.lora, self.initial))
        object.__setattr__(self, "lora", None)  # the network says it now
        if self.input_ranges is not None:
            learning = str(InputRanges.parse(self.input_ranges))
            if "learnt=true" not in f"{self.converters} {self.layers}":
                raise UserError(f"expected converters with learnt=true beside input_ranges, got {self.converters}")
            object.__setattr__(self, "input_ranges", None if learning == str(InputRanges()) else learning)
        self._read_kept()
        log: Any = self.log
        measures = map(Measure.parse, log if isinstance(log, (list, tuple)) else (log,))
        object.__setattr__(self, "log", tuple(dict.fromkeys(measures)))

    def _read_kept(self) -> None:
        from noiserobust.training.averages import Average
        from noiserobust.training.clipping import RMS, Clip

        if self.average is not None:
            object.__setattr__(self, "average", Average.parse(self.average))
        if self.weight_clip is not None:
            clip: Clip = Clip.parse(self.weight_clip)
            # The usual one is the number that it always was.
            object.__setattr__(
                self, "weight_clip", float(clip.times) if clip == RMS(getattr(clip, "times", 2.0)) else clip
            )

    def _check_teacher(self) -> None:
        from noiserobust.training.teacher import check_distillation

        for name in ("teacher_weight", "temperature"):
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in TAUGHT:
            if self.teacher is None and getattr(self, name) != ADDED[name]:
                raise UserError(f"expected a teacher beside {name}, got none; give --teacher CHECKPOINT")
        check_distillation(self.teacher_weight, self.temperature)
        if self.teacher_model is not None:
            from noiserobust.models import ModelSpec

            object.__setattr__(self, "teacher_model", str(ModelSpec.parse(self.teacher_model)))
            if self.teacher == "plain":
                raise UserError(f"expected no teacher_model, got {self.teacher_model}; a plain teacher is {self.model}")
        if self.teacher == "initial" and self.initial is None:
            raise UserError("expected an initial checkpoint for the teacher 'initial', got none; give --initial too")

    @property
    def teacher_path(self) -> str | None:
        """Where the teacher's checkpoint lies, if it is a given one."""
        return {"initial": self.initial, "plain": None}.get(str(self.teacher), self.teacher)

    @property
    def teacher_run(self) -> TrainSettings | None:
        """The run that makes the teacher ``plain``: this one without noise, converters, clipping, averages and log."""
        if self.teacher != "plain":
            return None
        left_out = (*TAUGHT, "converters", "input_ranges", "layers", "average")
        rest: dict[str, Any] = {name: ADDED[name] for name in left_out}
        return dataclasses.replace(self, method="plain", weight_clip=None, log=(), **rest)

    def _read_normalization(self) -> None:
        from noiserobust.data.labelled import normalization_of

        for name, values in zip(("mean", "std"), normalization_of(self.mean, self.std) or (None, None), strict=True):
            object.__setattr__(self, name, values)

    @property
    def where(self) -> Where:
        """Which weights are analog."""
        return Where(self.include, self.exclude, self.layers)

    @property
    def label(self) -> str:
        """The method as it stands in tables: ``sam:0.2``, ``plain, clip 2.5 rms``."""
        clip, average = self.weight_clip, self.average
        clipping = "" if clip is None else f", clip {clip:g} rms" if isinstance(clip, float) else f", clip {clip}"
        averaged = "" if average is None else f", averaged {average}"
        teacher = "" if self.teacher is None else f", distilled {self.teacher_weight:g} tau {self.temperature:g}"
        ranges = "" if self.input_ranges is None else f", {self.input_ranges}"
        converters = "" if str(self.converters) == "none" else f", {self.converters}{ranges}"
        return f"{self.method}{clipping}{averaged}{teacher}{converters}"

    def described(self) -> dict[str, Any]:
        """The settings as plain values, in their text forms."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in values.items()}

    def normalized(self, splits: Splits) -> Splits:
        """``splits`` seen through the normalisation that is set, if one is."""
        if self.mean is None or self.std is None:
            return splits
        parts = {"train": splits.train, "test": splits.test, "validation": splits.validation}
        seen = {name: part and part.with_normalization(self.mean, self.std) for name, part in parts.items()}
        return dataclasses.replace(splits, **seen).loaded_by(*splits.named)  # type: ignore[arg-type]

    def augmentation(self, splits: Splits | Content) -> tuple[int, bool]:
        """Crop padding and flips: those set, or what suits the data."""
        return (
            splits.crop if self.crop is None else self.crop,
            splits.flip if self.flip is None else self.flip,
        )

    def identity(self, data: Splits | Content) -> str:
        """8 hex digits that name the run: its settings, its data's content and the version of what training means."""
        from noiserobust.data import Content

        return identity_of(self, data if isinstance(data, Content) else data.content)


def _plain(value: Any) -> Any:
    """``value`` as it can stand in JSON."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Described) else value


def check_clipping(clip_norm: float | None) -> None:
    """Refuse a limit of gradients that is not above 0."""
    if clip_norm is not None and not clip_norm > 0:
        raise UserError(f"expected clip_norm > 0, got {clip_norm}; leave it out for no gradient clipping")


def _check_device(device: str) -> None:
    """Refuse what is no device. That a GPU is there is asked by whoever computes on it: what was computed on one
    is found by its settings on any machine."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise UserError(f"expected a device such as cpu or cuda, got '{device}'") from None
    if kind not in ("cpu", "cuda"):
        from noiserobust.models.compute import known_device

        known_device(device)

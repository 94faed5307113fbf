"""Scales, the sizes of all experiments: minutes on digits, hours on CIFAR-10's images, or as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from noiserobust.data.cifar import CIFAR10
from noiserobust.data.folder import Folder
from noiserobust.data.source import DataSource
from noiserobust.data.subset import Subset
from noiserobust.errors import UserError
from noiserobust.models import ModelSpec
from noiserobust.models.compute import Precision
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.training import TrainSettings
from noiserobust.training.rules.base import Method


@dataclass(frozen=True)
class Scale:
    """What stands for a paper's data, networks and budget, and how often each run and draw is made.

    ``recipe``: settings of every run whatever the paper, or ``None`` for each paper's own. ``sigma``, ``rho`` and
    ``gamma`` multiply the published strengths of noise, of ascent steps and of filter-wise noise. ``says`` states in
    words what differs from the papers; it stands under every table.
    """

    name: str
    recipe: TrainSettings | None
    data: Mapping[str, str]
    networks: Mapping[str, str]
    seeds: int = 3
    draws: int = 10
    images: int | None = None
    evaluation_precision: Precision = "fp32"
    sigma: float = 1.0
    rho: float = 1.0
    gamma: float = 1.0
    adam_lr: float = 1e-3
    log_images: int = 1000
    log_every: int = 1
    says: tuple[str, ...] = ()
    seeds_of: Mapping[str, int] = field(default_factory=dict)
    """Trained copies where a paper has others than ``seeds``."""

    def of(self, paper: str) -> Scale:
        """The scale of one paper."""
        return replace(self, seeds=self.seeds_of[paper]) if paper in self.seeds_of else self


SETS = ("CIFAR-10", "CIFAR-100", "ImageNet")
VITS = ("ViT", "ViT-S/32", "DeiT-S", "ViT-S/16 for CIFAR")

MINI = Scale(
    "mini",
    TrainSettings(
        data="digits",
        model=ModelSpec.parse("digits:16"),
        epochs=20,
        batch_size=64,
        select_on="none",
        select_noise=Gaussian(0.075, reading="literal"),
        select_draws=5,
    ),
    data=dict.fromkeys(SETS, "digits"),
    networks={
        "ResNet-18": "digits:16",
        "VGG16-BN": "digits:8",
        "PyramidNet-110": "digits:24",
        "WRN-16-8": "digits:32",
        "WRN-28-10": "digits:32",
        "ImageNet ResNet-18": "digits:16",
        "ImageNet VGG16-BN": "digits:8",
        "ResNet-50": "digits:24",
        "ResNet-101": "digits:32",
        "ResNet-152": "digits:40",
        "ResNet-101 for CIFAR": "digits:32",
        **dict.fromkeys(VITS, "vit-cifar:width=32,image_size=8,patch=2,depth=2,heads=4"),
        # Where a table compares architectures they are those architectures, narrow.
        "narrow ResNet-9": "resnet9:width=8",
        "narrow ResNet-18": "resnet18:width=8",
        "narrow ResNet-34": "resnet34:width=8",
        "narrow ResNet-50": "resnet50:width=4",
        "narrow WRN-16-5": "wrn:16-2,width=4",
        "narrow WRN-16-10": "wrn:16-4,width=4",
        "narrow WRN-16-15": "wrn:16-6,width=4",
    },
    sigma=1.5,
    gamma=4.0,
    adam_lr=1e-2,
    log_images=300,
    says=(
        "data: the 8 x 8 digits (1,167 images trained on, 130 watched, 500 test images) stand for every data set",
        "networks: small convolutional nets (where architectures are compared: those, 4 to 8 channels wide)",
        "training: 20 epochs of batch 64, one recipe for all papers, 3 seeds; the last epoch is kept, none is chosen",
        "strengths: published sigma and b times 1.5, where this net falls as the published one does; four times the "
        "published gamma, which holds noise and weight in proportion where filters have sixteen times fewer inputs; "
        "rho and all other settings as published",
    ),
)

REGIME = "subset:cifar10,per_class=500,validation=50"
"""500 images a class: trained to the end, plain training overfits there, as in the papers (docs/regime.md)."""

SMALL = Scale(
    "small",
    TrainSettings(
        data=REGIME,
        model=ModelSpec.parse("resnet18:width=16"),
        epochs=60,
        precision="bf16",
        select_on="none",
        validation=0.0,
        select_noise=Gaussian(0.05, reading="literal"),
        select_draws=2,
    ),
    data=dict.fromkeys(SETS, REGIME),
    networks={
        "ResNet-18": "resnet18:width=16",
        "VGG16-BN": "vgg16-bn:width=16",
        "PyramidNet-110": "pyramidnet:110,alpha=48",
        "WRN-16-8": "wrn:16-2",
        "WRN-28-10": "wrn:28-2",
        "ImageNet ResNet-18": "resnet18:width=16",
        "ImageNet VGG16-BN": "vgg16-bn:width=16",
        "ResNet-50": "resnet50:width=16",
        "ResNet-101": "resnet101:width=16",
        "ResNet-152": "resnet101:width=16",
        "ResNet-101 for CIFAR": "resnet101:width=16",
        **dict.fromkeys(VITS, "vit-cifar:width=192"),
        "narrow ResNet-9": "resnet9:width=16",
        "narrow ResNet-18": "resnet18:width=16",
        "narrow ResNet-34": "resnet34:width=16",
        "narrow ResNet-50": "resnet50:width=16",
        "narrow WRN-16-5": "wrn:16-1",
        "narrow WRN-16-10": "wrn:16-2",
        "narrow WRN-16-15": "wrn:16-3",
    },
    images=2000,
    evaluation_precision="bf16",
    rho=0.5,
    gamma=2.0,
    log_images=256,
    log_every=20,
    says=(
        "data: 500 images a class of CIFAR-10's training images stand for every data set",
        "networks: a quarter as wide as the published ones",
        "training: 60 epochs of batch 128, bf16 autocast, one recipe for all papers (lr 0.05, weight decay 5e-4, label "
        "smoothing 0.1), 3 seeds; the last epoch is kept, none is chosen",
        "strengths: published sigma; half of the published rho, which holds it and the norm of the weights in "
        "proportion at a quarter of the width; twice the published gamma, which holds noise and weight in proportion",
        "evaluation: 2,000 test images (stratified), bf16",
    ),
)

SMALL_GPU = replace(
    SMALL,
    recipe=replace(SMALL.recipe or TrainSettings(), model=ModelSpec.parse("resnet18")),
    networks={**SMALL.networks, "ResNet-18": "resnet18", "narrow ResNet-18": "resnet18"},
    images=None,
    rho=1.0,
    gamma=1.0,
    says=(
        "data: 500 images a class of CIFAR-10's training images stand for every data set",
        "networks: ResNet-18 as published, all others a quarter as wide",
        "training: 60 epochs of batch 128, bf16 autocast, one recipe for all papers (lr 0.05, weight decay 5e-4, label "
        "smoothing 0.1), 3 seeds; the last epoch is kept, none is chosen",
        "strengths: as published",
        "evaluation: bf16",
    ),
)

PAPER = Scale(
    "paper",
    None,
    data={"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "ImageNet": "imagenet"},
    networks={
        "ResNet-18": "resnet18",
        "VGG16-BN": "vgg16-bn",
        "PyramidNet-110": "pyramidnet:110",
        "WRN-16-8": "wrn:16-8",
        "WRN-28-10": "wrn:28-10",
        "ImageNet ResNet-18": "torchvision:resnet18",
        "ImageNet VGG16-BN": "torchvision:vgg16_bn",
        "ResNet-50": "torchvision:resnet50",
        "ResNet-101": "torchvision:resnet101",
        "ResNet-152": "torchvision:resnet152",
        "ViT": "vit-cifar",
        "ViT-S/32": "vit-s32",
        "DeiT-S": "deit-s:resize=true",
        "ResNet-101 for CIFAR": "resnet101",
        "ViT-S/16 for CIFAR": "vit-s16:resize=true",
        "narrow ResNet-9": "resnet9",
        "narrow ResNet-18": "resnet18",
        "narrow ResNet-34": "resnet34",
        "narrow ResNet-50": "resnet50",
        "narrow WRN-16-5": "wrn:16-5",
        "narrow WRN-16-10": "wrn:16-10",
        "narrow WRN-16-15": "wrn:16-15",
    },
    seeds_of={"rst": 5},
    says=("as published; what a paper leaves open stands beside its recipe in noiserobust/papers/",),
)

SCALES = {"mini": MINI, "small": SMALL, "paper": PAPER}


@dataclass(frozen=True)
class Grid:
    """A paper at a scale: its artefacts ask it for runs and strengths in the paper's own terms.

    ``recipe`` is the paper's own; ``place`` are settings of the machine (device, where data lie) that are no part of
    what is trained. ``networks`` and ``noise`` vary the paper: somebody's networks in place of its own, another noise
    at the strengths of its Gaussian.
    """

    scale: Scale
    recipe: TrainSettings
    place: Mapping[str, Any] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    noise: NoiseModel | None = None

    def run(
        self, data: str, network: str, method: Method | str = "plain", length: float = 1.0, **changes: Any
    ) -> TrainSettings:
        """The run of ``method`` that the paper makes with ``network`` on ``data``, without its seed.

        ``length`` multiplies the recipe's epochs. ``changes`` are the paper's own settings of this run; at the smaller
        scales only those are kept that make an experiment what it is: optimizer, weight clipping and cutout.
        """
        scale = self.scale
        base = scale.recipe or self.recipe
        kept = dict(changes)
        if scale.recipe is not None:
            kept = {name: changes[name] for name in ("optimizer", "weight_clip", "cutout") if name in changes}
            if "Adam" in str(kept.get("optimizer", "")):
                kept["lr"] = scale.adam_lr
            if kept.get("cutout"):
                kept["cutout"] = 4 if scale.data[data] == "digits" else kept["cutout"]
        model = ModelSpec.parse(self.networks.get(network) or _known(scale.networks, network, "network"))
        data_set, rule = _known(scale.data, data, "data set"), Method.parse(method)
        settings = replace(base, data=data_set, model=model, method=rule, **kept)
        return replace(settings, epochs=max(1, round(length * settings.epochs)), **self._where(settings.data))

    @property
    def says(self) -> list[str]:
        """What differs from the papers, by the scale and as somebody varied it."""
        varied = [f"varied: {text} in place of {name}" for name, text in self.networks.items()]
        varied += [] if self.noise is None else [f"varied: {self.noise}, at the strengths of the papers' Gaussian"]
        return [*self.scale.says, *varied]

    @property
    def as_published(self) -> bool:
        """Whether this is the papers' own size."""
        return self.scale.recipe is None

    def lying(self, name: str) -> str:
        """Where in the folder of data a file or folder lies that only a user can put there."""
        return str(Path(str(self.place.get("data_root", self.recipe.data_root))) / name)

    def sigma(self, published: float) -> float:
        """A published noise strength (sigma, b) at this scale."""
        return _times(published, self.scale.sigma)

    def rho(self, published: float) -> float:
        """A published radius of an ascent step at this scale."""
        return _times(published, self.scale.rho)

    def gamma(self, published: float) -> float:
        """A published size of filter-wise noise at this scale."""
        return _times(published, self.scale.gamma)

    def gaussian(self, published: float, **reading: Any) -> NoiseModel:
        """Gaussian noise of a published sigma at this scale, or what stands for it at that strength."""
        if self.noise is not None:
            return self.noise.scaled(self.sigma(published) / self.noise.strength)
        return Gaussian(self.sigma(published), **reading)

    def few(self, values: Sequence[float], small: Sequence[float]) -> list[float]:
        """``values``, or at the scale ``small`` on a CPU only those of ``small``."""
        return [value for value in values if self.scale is not SMALL or value in small]

    def _where(self, data: str) -> dict[str, Any]:
        where = dict(self.place)
        folder = where.pop("cifar10", None)
        return where | ({"data": _exchanged(data, CIFAR10(), Folder(folder))} if folder else {})


def _known(names: Mapping[str, str], name: str, what: str) -> str:
    if name not in names:
        raise UserError(f"expected a {what} of the scale ({', '.join(names)}), got '{name}'")
    return names[name]


def unplaced(data: str) -> str:
    """Data by the name that a scale gives them, where they lie in a folder of somebody's."""
    source = DataSource.parse(data, imports=False)
    whole = source.of if isinstance(source, Subset) else source
    return _exchanged(data, whole, CIFAR10()) if isinstance(whole, Folder) else data


def _exchanged(data: str, old: DataSource, new: DataSource) -> str:
    """``data`` with ``new`` for ``old``, all of it or what it is a part of; other data as they are."""
    source = DataSource.parse(data, imports=False)
    if source == old:
        return new.folder if isinstance(new, Folder) else str(new)
    if isinstance(source, Subset) and source.of == old:
        return str(replace(source, of=new))
    return data


def _times(published: float, factor: float) -> float:
    # 0.07 * 1.5 is 0.105, not 0.10500000000000001, in a run's name.
    return float(f"{published * factor:.6g}")

"""The name of a run: which of its settings count, since when, and what they have come to mean."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noiserobust.data import Content
    from noiserobust.training.settings import TrainSettings

SEMANTICS = 1
"""Raise when a change makes the same settings train different weights, so that no stale run is taken for a new one."""

WITHOUT_EFFECT = ("data", "data_root", "mean", "std", "log", "log_on", "log_images", "log_every", "checkpointing")
"""Settings that the weights do not depend on (data count by their content and normalisation)."""
ADDED: dict[str, Any] = {
    "drop_last": False,
    "cutout": 0,
    "lora": None,
    "initial": None,
    "task": "classification",
    "include": [],
    "exclude": [],
    "layers": None,
    "teacher": None,
    "teacher_model": None,
    "teacher_weight": 0.5,
    "temperature": 2.0,
    "average": None,
    "converters": "none",
    "input_ranges": None,
    "lr_schedule": None,
    "loss": None,
    "compile": False,
}
"""Settings younger than SEMANTICS: at these values they change nothing, and no run's name has them."""


def identity_of(settings: TrainSettings, data: Content) -> str:
    """8 hex digits that name a run of ``settings`` on ``data``."""
    values = settings.described()
    named = {k: v for k, v in values.items() if k not in WITHOUT_EFFECT and ADDED.get(k, ...) != v}
    for name, path in {"initial": settings.initial, "teacher": settings.teacher_path}.items():
        if path is not None:
            from noiserobust.storage.checkpoints import read_checkpoint

            named[name] = read_checkpoint(path).digest  # what it holds counts, not where it lies
    if settings.teacher_run is not None:
        named["teacher"] = f"plain {settings.teacher_run.identity(data)}"
    crop, flip = settings.augmentation(data)
    train, test, *watched = data.fingerprints
    own = None not in (settings.mean, settings.std)
    mean, std = (settings.mean, settings.std) if own else (data.mean, data.std)
    content = [train, test, mean, std, *watched]
    words = [SEMANTICS, named | {"crop": crop, "flip": flip}, content, *revised(settings)]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:8]


def revised(settings: TrainSettings) -> list[str]:
    """What ``settings`` mean now and did not always, without a change of SEMANTICS, which all other runs keep."""
    from noiserobust.noise.additive import names_laplace

    method, converters = str(settings.method), f"{settings.converters} {settings.layers or ''}"
    noises = (method, settings.select_noise, settings.layers, *settings.log)
    mixes = any(name in method for name in ("arwp-mixed", "g-rst", "alpha="))
    changes = {
        "clipped weights keep their limit": settings.weight_clip is not None,
        "norm of the whole gradient": "scaling=paper" in method.partition("esam")[2],
        "averaged with its ranges and converters": settings.average is not None and "io:" in converters,
        "Laplace noise of one uniform number": names_laplace(*noises),
        "ranges learn of every loss": mixes and "learnt=true" in converters,
    }
    return [change for change, is_so in changes.items() if is_so]

"""Names of methods that tell trained copies apart: where two differ in a setting, the names show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SAID = (
    *("method", "weight_clip", "average", "teacher", "teacher_weight", "temperature", "converters", "input_ranges"),
    *("seed", "data_root", "device", "checkpointing", "log", "log_on", "log_images", "log_every"),
)
"""Settings that a run's own label says already, and those that make no other method of it."""


def told_apart(abouts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The label of each checkpoint (its ``about``), with the settings in which those of one label differ:
    ``plain, lr 0.1``. A label that a person gave stays; settings that an older file does not hold are not compared.

    >>> told_apart([{"label": "plain", "settings": {"lr": lr}} for lr in (0.05, 0.1)])
    ['plain, lr 0.05', 'plain, lr 0.1']
    """
    labels = [str(about.get("label", "")) for about in abouts]
    for label in set(labels):
        places = [i for i, about in enumerate(abouts) if labels[i] == label and not about.get("labelled")]
        settings = [abouts[i].get("settings") or {} for i in places]
        shared = [name for name in (settings or [{}])[0] if all(name in one for one in settings) and name not in SAID]
        differing = [name for name in shared if any(one[name] != settings[0][name] for one in settings)]
        for i, one in zip(places, settings, strict=True):
            labels[i] = ", ".join([label, *(f"{name.replace('_', ' ')} {_text(one[name])}" for name in differing)])
    return labels


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_text, value)) or "none"
    if value is None or isinstance(value, bool):
        return "default" if value is None else "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)

"""The one place that writes text forms; :mod:`noiserobust.spec.parser` reads them."""

from __future__ import annotations

import numbers
import typing
from pathlib import PurePath
from typing import Any

from noiserobust.spec.duration import Duration
from noiserobust.spec.fields import settings_of


def write(described: Any, nested: bool = False, without: float | None = None, label: bool = False) -> str:
    """The text form of a described object: ``gaussian:0.05,reference=layer``, or ``gaussian(...)`` inside another one.

    ``without``: the first stage of that strength is written without it. The first setting is always written, so that a
    label names its strength (but see ``leading``); later ones by key, defaults not at all. A ``label`` has the last
    part of a path alone, where a digest names what lies there.
    """
    texts = []
    for stage in described.stages:
        swept = without is not None and getattr(stage, "strength_field", None) is not None and stage.strength == without
        texts.append(_call(stage, nested, without if swept else None, label))
        without = None if swept else without
    return "+".join(texts)


def format_value(value: Any) -> str:
    """One value as text that :func:`~noiserobust.spec.parse_value` reads back to an equal value."""
    if hasattr(value, "nested"):
        return value.nested()
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, Duration):
        return str(value)
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        value = float(value)  # of numpy too, whose repr is np.float64(...)
        short = f"{value:g}" if float(f"{value:g}") == value else repr(value)
        # A float keeps its point, so that a warm-up of 1.0 (a fraction) never reads back as 1 (a step).
        return short if set(short) & set(".en") else f"{short}.0"
    return str(value)


def typed(value: Any, kind: Any) -> Any:
    """``value`` as its field's type reads it back: sigma=1 is gaussian:1.0, so that equal settings have one text."""
    options = typing.get_args(kind) or (kind,)
    return float(value) if isinstance(value, int) and float in options and int not in options else value


def _same(value: Any, default: Any) -> bool:
    """Whether a reader need not be told: a warm-up of 1 (a step) is not one of 1.0 (all of training)."""
    return bool(value == default) and isinstance(value, float) is isinstance(default, float)


def _call(one: Any, nested: bool, without: float | None, label: bool) -> str:
    arguments = []
    kind: Any = type(one)
    for index, setting in enumerate(settings_of(kind)):
        value = typed(getattr(one, setting.name), setting.kind)
        positional = index == 0 and one.leading != "by key"
        if without is not None and setting.name == one.strength_field:
            if not hasattr(value, "stages"):
                continue
            text = write(value, nested=True, without=without, label=label)
        elif (positional and one.leading == "always") or setting.required or not _same(value, setting.default):
            text = write(value, nested=True, label=True) if label and hasattr(value, "stages") else format_value(value)
            if label and setting.name == one.path_field and one.digest:
                text = PurePath(text).name
        else:
            continue
        arguments.append(text if positional else f"{setting.name}={text}")
    return called(one.name, arguments, nested or one.enclosed)


def called(name: str, arguments: list[str], nested: bool = False) -> str:
    """``name``, ``name:arguments`` or ``name(arguments)``; the last, too, where the name has a colon of its own."""
    written = ",".join(arguments)
    if not arguments:
        return name
    return f"{name}({written})" if nested or ":" in name else f"{name}:{written}"

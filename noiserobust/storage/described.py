"""What files and people say by name, read strictly: of the types that are declared, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

from noiserobust.errors import UserError, reason_of
from noiserobust.limits import within
from noiserobust.spec.kinds import fits, hints, named, shortly


@dataclass(frozen=True)
class Trained:
    """What others than training itself read of a run's settings."""

    data: str = ""
    data_root: str = ""
    image_size: int | None = None
    model: str = ""
    include: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    layers: str | None = None


@dataclass(frozen=True)
class About:
    """What a checkpoint says of its weights; a file of another program says less."""

    model: str = ""
    """Text of the network (:class:`~noiserobust.models.ModelSpec`)."""
    channels: int = 1
    classes: list[str | int] = field(default_factory=list)
    task: str = ""
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    label: str = ""
    """The method."""
    seed: int = 0
    epoch: int = 0
    log: dict[str, float | int | str | None] = field(default_factory=dict)
    """The line of the epoch kept."""
    ranks: list[int] = field(default_factory=list)
    settings: Trained = field(default_factory=Trained)
    started_in: str = ""
    """Where relative paths of its data begin, seen from its folder."""
    provenance: dict[str, Any] = field(default_factory=dict)


def read_json(text: str, what: str) -> Any:
    """The value of a JSON text; :class:`UserError` for one that is none, too long, or too deep."""
    within(f"characters of {what}", "table", len(text))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected {what} as JSON, got what cannot be read: {reason_of(error)}") from None
    level, depth = [value], 0
    while level := [part for one in level for part in _parts(one)]:
        depth += 1
        within(f"levels of {what}", "depth", depth)
    return value


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def strict(kind: Any, given: Any, what: str) -> dict[str, Any]:
    """``given`` as it is, when every value that the dataclass ``kind`` has a field for is of that field's type."""
    if not isinstance(given, Mapping):
        raise UserError(f"expected {what} as names with values, got {shortly(given)}")
    for one in fields(kind):
        if one.name not in given:
            if one.default is MISSING and one.default_factory is MISSING:
                raise UserError(f"expected {one.name} in {what}, got {', '.join(map(str, given)) or 'nothing'}")
            continue
        value, hint = given[one.name], hints(kind)[one.name]
        if is_dataclass(hint):
            strict(hint, value, f"{one.name} in {what}")
        elif not fits(value, hint):
            raise UserError(f"expected {named(hint)} as {one.name} in {what}, got {shortly(value)}")
    return dict(given)

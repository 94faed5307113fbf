"""Settings by layer: a table of patterns, each with the noise, converters or "digital" of the weights it matches.

Importing it loads no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser under its older name
    import tomli as tomllib

from noiserobust.errors import UserError, reason_of
from noiserobust.file_kinds import require_kind
from noiserobust.limits import read_text_bytes

MOST_DOTS = 1000
"""Dots of a line: for as many parts of a key, readers of TOML take the square of the time."""


@dataclass(frozen=True)
class LayerSettings:
    """What a table says of a weight; ``None`` where it leaves a setting to what holds for all others."""

    noise: str | None = None
    """The weight's noise, such as gaussian:0.02, in place of the one asked for."""
    converters: str | None = None
    """Its converters, such as io:adc=6 or none."""
    digital: bool | None = None
    """Whether it stays digital; false makes it analog, also where a pattern before says otherwise."""
    reference: str | None = None
    """The reference of its noise: layer, filter, tile."""
    on_off: float | None = None
    """g_max / g_min of its noise, the on/off ratio of devices in use."""
    g_max: float | None = None
    """The conductance (µS) that its largest weight is stored as."""

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"digital": bool, "on_off": (int, float), "g_max": (int, float)}
        for field in fields(self):
            value, kind = getattr(self, field.name), kinds.get(field.name, str)
            if value is not None and not isinstance(value, kind):
                what = {bool: "true or false", str: "a text"}.get(kind, "a number")
                raise UserError(f"layers: expected {what} as {field.name}, got {value!r}")

    @property
    def read(self) -> list[Any]:
        """What its texts describe; this loads torch."""
        from noiserobust.analog.converters import Converters
        from noiserobust.noise import NoiseModel

        kinds: list[tuple[Any, str | None]] = [(NoiseModel, self.noise), (Converters, self.converters)]
        return [kind.parse(text) for kind, text in kinds if text is not None]

    def checked(self) -> LayerSettings:
        """Itself, its texts read."""
        _ = self.read
        return self

    @property
    def given(self) -> dict[str, Any]:
        """Those that are stated."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def then(self, later: LayerSettings) -> LayerSettings:
        """The settings of a ``later`` pattern over these."""
        return LayerSettings(**(self.given | later.given))


PLAIN = LayerSettings()
"""Nothing said of a weight."""


@dataclass(frozen=True)
class LayerTable:
    """Patterns of weights, in order, with the settings of what they match; of two that state a setting the last wins.

    A pattern is a shell pattern on a weight's name, with the axes of its outputs for a layer that nobody registered:
    ``*.kernel@1``. As a file it is TOML (or YAML), a section per pattern::

        ["*"]
        noise = "gaussian:0.05"
        ["head.*"]
        digital = true
    """

    rows: tuple[tuple[str, LayerSettings], ...] = ()

    @classmethod
    def of(cls, given: Any) -> LayerTable:
        """The table that a file's path, its text, or a mapping from patterns to settings describes."""
        if given is None or isinstance(given, LayerTable):
            return given or cls()
        if isinstance(given, (str, Path)):
            given = _read(given)
        if not isinstance(given, Mapping):
            raise UserError(f"layers: expected a file, or a mapping from patterns to settings, got {given!r}")
        return cls(tuple((str(pattern), _settings(str(pattern), value)) for pattern, value in given.items()))

    def __bool__(self) -> bool:
        return bool(self.rows)

    def with_digital(self, names: Iterable[str], digital: bool = True) -> LayerTable:
        """The same, and the weights that these patterns match digital, or analog."""
        return LayerTable((*self.rows, *((name, LayerSettings(digital=digital)) for name in names)))

    def without_noise(self) -> LayerTable:
        """The same without any noise or converters: the digital network of the same layers."""
        keep = ((pattern, LayerSettings(digital=one.digital)) for pattern, one in self.rows)
        return LayerTable(tuple(keep))

    def about(self, matching: Iterable[str]) -> LayerSettings:
        """What it says of a weight that the patterns ``matching`` match."""
        known = set(matching)
        return reduce(LayerSettings.then, (one for pattern, one in self.rows if pattern in known), PLAIN)

    @property
    def read(self) -> list[Any]:
        """What the texts of its settings describe; this loads torch."""
        return [thing for _, one in self.rows for thing in one.read]

    @property
    def digest(self) -> str:
        """12 hex digits of its content."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """As TOML."""
        sections = (
            "\n".join([f"[{json.dumps(pattern)}]", *(f"{name} = {json.dumps(v)}" for name, v in one.given.items())])
            for pattern, one in self._merged()
        )
        return "\n".join(sections) + "\n" if self.rows else ""

    def _merged(self) -> Iterable[tuple[str, LayerSettings]]:
        """One row per pattern, where it stands last: a section of TOML may not come twice."""
        merged: dict[str, LayerSettings] = {}
        for pattern, one in self.rows:
            merged[pattern] = merged.pop(pattern, LayerSettings()).then(one)
        return merged.items()


def _settings(pattern: str, value: Any) -> LayerSettings:
    if isinstance(value, LayerSettings):
        return value
    names = [field.name for field in fields(LayerSettings)]
    if not isinstance(value, Mapping) or (unknown := sorted(set(value) - set(names))):
        got = value if not isinstance(value, Mapping) else ", ".join(unknown)
        raise UserError(f"layers: expected {', '.join(names)} of '{pattern}', got {got}")
    return LayerSettings(**value)


def _read(given: str | Path) -> Any:
    """The mapping in a file, or in a text of several lines as checkpoints hold it."""
    if isinstance(given, str) and re.match(r"\s*\[.*\n", given):
        return _parsed(given, "its text", tomllib.loads)
    path = Path(given)
    require_kind(path, "settings by layer (.toml: a section per pattern)", "layers", "toml")
    try:
        text = read_text_bytes(path, "settings by layer (.toml)").decode()
    except UnicodeDecodeError as error:
        raise UserError(f"layers: expected settings by layer in UTF-8, got {path}: {error}") from None
    if path.suffix not in (".yaml", ".yml"):
        return _parsed(text, str(path), tomllib.loads)
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(f"layers: expected PyYAML to read {path}; pip install pyyaml, or write it as TOML") from None

    class Loader(yaml.SafeLoader):
        """Without aliases, by which a small file stands for an endless one."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases (*name) are not taken")
            return super().compose_node(parent, index)

    return _parsed(text, str(path), lambda one: yaml.load(one, Loader))


def _parsed(text: str, name: str, load: Any) -> Any:
    try:
        if any(line.count(".") > MOST_DOTS for line in text.splitlines()):
            raise ValueError(f"a line has more than {MOST_DOTS} dots")
        return load(text) or {}
    except Exception as error:  # of either library
        line = reason_of(error)
        raise UserError(f"layers: expected a section per pattern in {name}, got what cannot be read: {line}") from None

"""Which weights are analog, as one small value that evaluation and training take; importing it loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from noiserobust.analog.layer_table import LayerTable
from noiserobust.spec.kinds import check_fields


@dataclass(frozen=True)
class Where:
    """Which weights are analog (:func:`noiserobust.analog_weights`), and which settings single layers have.

    Without any of these a trained checkpoint is evaluated with those that it was trained with. The pattern ``none``
    stands for no pattern at all: ``Where(exclude=["none"])`` does not look at the checkpoint.
    """

    include: Sequence[str] = ()
    """Patterns of further parameters that are analog, with the axis of outputs of a layer that is not registered:
    *.kernel@1."""
    exclude: Sequence[str] = ()
    """Patterns of parameters that stay digital."""
    layers: Any = None
    """File (TOML) with settings by layer: noise, converters, digital by pattern; in a program a mapping, too."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("include", "exclude"):
            patterns: Any = getattr(self, name)
            object.__setattr__(self, name, patterns.split() if isinstance(patterns, str) else patterns)
        if self.layers is not None:
            object.__setattr__(self, "layers", LayerTable.of(self.layers))

    @property
    def table(self) -> LayerTable:
        """The settings of single layers."""
        return LayerTable.of(self.layers)

    @property
    def patterns(self) -> dict[str, Any]:
        """The patterns as arguments of :func:`noiserobust.analog_weights`."""
        lists = {"include": self.include, "exclude": self.exclude}
        named = {name: [one for one in patterns if one != "none"] for name, patterns in lists.items()}
        return named | ({"layers": self.layers} if self.layers else {})

    def __bool__(self) -> bool:
        """Whether anything was asked for."""
        return bool(self.include or self.exclude or self.layers)

    def __str__(self) -> str:
        """``+h.*.weight@1 -head.* layers=0123456789ab``; empty where every weight is what its layer says."""
        patterns = self.patterns
        table = [f"layers={self.layers.digest}"] if self.layers else []
        return " ".join(
            [*(f"+{one}" for one in patterns["include"]), *(f"-{one}" for one in patterns["exclude"]), *table]
        )

    def clean(self) -> Where:
        """The same weights without settings of their own, so that noise 0 is the digital network."""
        return replace(self, layers=self.layers.without_noise()) if self.layers else self

    def including(self, patterns: Iterable[str]) -> Where:
        """The same with further patterns included."""
        return replace(self, include=[*self.include, *patterns]) if patterns else self

    def with_digital(self, names: Iterable[str], digital: bool = True) -> Where:
        """The same with a table that makes the weights of these patterns digital, or analog, after all else."""
        return replace(self, layers=self.table.with_digital(names, digital))

    @classmethod
    def trained(cls, settings: Any) -> Where:
        """That of a training run's ``settings``, plain values as a checkpoint holds them."""
        known = settings if isinstance(settings, Mapping) else {}
        include, exclude = (list(known.get(name) or ()) for name in ("include", "exclude"))
        return cls(include, exclude, known.get("layers") or None)

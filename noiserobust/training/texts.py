"""Types of fields that take an object or its text form; the command line reads the texts without what they describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Generic, TypeVar

    from noiserobust.analog.converters import Converters
    from noiserobust.minima import Measure
    from noiserobust.models import ModelSpec
    from noiserobust.noise import NoiseModel
    from noiserobust.tasks import Task
    from noiserobust.training.averages import Average
    from noiserobust.training.clipping import Clip
    from noiserobust.training.rules.base import Method

    T = TypeVar("T")

    class Text(Generic[T]):
        """Type of a field that takes an object or its text form, and is the object afterwards."""

        def __get__(self, instance: object, owner: type | None = None) -> T: ...
        def __set__(self, instance: object, value: T | str) -> None: ...

    ModelText = Text[ModelSpec]
    MethodText = Text[Method]
    TaskText = Text[Task]
    NoiseText = Text[NoiseModel]
    MeasureTexts = Text[tuple[Measure, ...]]
    ConvertersText = Text[Converters]
    ClipText = Text[Clip | float | None]
    AverageText = Text[Average | None]
else:
    ModelText = MethodText = NoiseText = TaskText = ConvertersText = str
    MeasureTexts = tuple[str, ...]
    ClipText = None | float | str
    AverageText = None | str

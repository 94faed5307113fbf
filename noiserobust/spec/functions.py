"""Functions from outside the package as members of a family: ``package.module:function(setting=value)``."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from noiserobust.errors import UserError
from noiserobust.spec.fields import bind, parameters_of
from noiserobust.spec.parser import Argument
from noiserobust.spec.references import home, load, one_line, working_folder
from noiserobust.spec.writer import called, format_value


@dataclass(frozen=True)
class OfFunction:
    """Mixin of a family's member that stands for a function, called with the settings that its text gives.

    Declared as ``class ModelOfFunction(OfFunction, ModelSpec)``; the family's root then takes functions where it takes
    names. ``reference`` is ``package.module:function``.
    """

    given: ClassVar[Collection[str] | int] = ()
    """Parameters that the caller sets and no text does: their names, or how many come first."""
    reference: str
    options: tuple[tuple[str, Any], ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        root = next(base for base in cls.__mro__ if "registry" in vars(base))
        root.of_functions = cls  # type: ignore[attr-defined]

    @classmethod
    def bound(cls, reference: str, function: Any, arguments: list[Argument], text: str, imports: bool) -> Any:
        """The member for a call of ``function`` with written arguments; settings at their default are left out."""
        settings = parameters_of(function, cls.given_to(function))
        values = bind(reference, settings, arguments, text, imports)
        changed = [s.name for s in settings if s.name in values and values[s.name] != s.default]
        return cls(reference, tuple((name, values[name]) for name in changed))

    @classmethod
    def given_to(cls, function: Any) -> Collection[str] | int:
        """:attr:`given`, of this very function."""
        return cls.given

    def call(self, expected: str, *values: Any, **named: Any) -> Any:
        """What the function returns; any error in it becomes one line that begins with ``expected``."""
        function = load(self.reference)
        with one_line(f"{self}: {expected}"):
            return function(*values, **named, **dict(self.options))

    def nested(self) -> str:
        return called(self.reference, [f"{name}={format_value(value)}" for name, value in self.options])

    def __str__(self) -> str:
        return self.nested()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _found_again, (type(self), self.reference, home(self.reference.partition(":")[0])), vars(self)


def _found_again(kind: Any, reference: str, folder: str | None) -> Any:
    """An object without its state, for unpickling; its function is imported from the folder where it was, if it is
    there."""
    with suppress(UserError), working_folder(*[folder] if folder else []):
        if folder is not None:
            load(reference)
    return kind.__new__(kind)

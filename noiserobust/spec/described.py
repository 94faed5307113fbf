"""The base of everything that has a name and settings, and is written as text: noises, rules, models, ..."""

from __future__ import annotations

import typing
from dataclasses import replace
from functools import wraps
from html import escape
from typing import Any, ClassVar, Literal, TypeVar

from noiserobust.errors import UserError
from noiserobust.spec.fields import bind, settings_of
from noiserobust.spec.kinds import read_fields
from noiserobust.spec.parser import Argument, read, shown
from noiserobust.spec.references import home, is_module, load, nearest, reference_to, working_folder
from noiserobust.spec.writer import write

D = TypeVar("D", bound="Described")
S = TypeVar("S", bound="Scalable")
INSIDE = __name__.partition(".")[0]


class Described:
    """Base of every dataclass that has a text form, such as ``gaussian:0.05,reference=layer``.

    A family's root is declared with ``class NoiseModel(Described, family="noise model")``, a member with
    ``class Gaussian(NoiseModel, name="gaussian")``, which also registers it. A class of your own needs no name: it is
    written, and found, as ``package.module:Name(arguments)``.
    """

    family: ClassVar[str] = ""
    name: ClassVar[str] = ""
    registry: ClassVar[dict[str, type[Any]]] = {}
    example: ClassVar[str] = ""
    """One text form, for lists of what there is."""
    leading: ClassVar[Literal["always", "changed", "by key"]] = "always"
    """When the first setting is written without its key: always; only where it was changed; or never."""
    enclosed: ClassVar[bool] = False
    """Whether the text form always has parentheses: in families that join by + what has such a family inside."""
    path_field: ClassVar[str | None] = None
    """The setting that is a path, of what has a ``digest`` that names the content there."""
    of_functions: ClassVar[type[Any] | None] = None
    """Member that stands for ``package.module:function``, in families that take functions; else None."""

    def __init_subclass__(cls, *, family: str | None = None, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__post_init__" in vars(cls):
            cls.__post_init__ = _read_first(cls.__post_init__)  # type: ignore[method-assign]
        if family is not None:
            cls.family, cls.registry = family, {}
        if name is not None:
            taken = cls.registry.get(name)
            # The same class once more is a module that was imported again, or a notebook's cell.
            if taken is not None and reference_to(taken) != reference_to(cls):
                raise UserError(
                    f"expected another name for the {cls.family} {reference_to(cls)}, got '{name}', which is that of "
                    f"{reference_to(taken)}"
                )
            cls.name, cls.registry[name] = name, cls
        elif family is None and cls.__module__.partition(".")[0] != INSIDE:
            cls.name = reference_to(cls)

    def __post_init__(self) -> None:
        read_fields(self, self.name or type(self).__name__)

    @classmethod
    def parse(cls: type[D], text: str | D, imports: bool = True) -> D:
        """The object that ``text`` describes (or is); raises :class:`UserError` when it describes none.

        ``imports=False`` is for text that comes out of a file: it never imports a module (``package.module:Name`` is
        then known only where this process has imported it already), since importing runs its code.
        """
        if isinstance(text, cls):
            return text
        if not isinstance(text, str):
            raise UserError(f"expected a {cls.family} or its text, got {text!r}")
        call = read(text, cls.family)
        if call.name in cls.registry:
            member, arguments = typing.cast(Any, cls.registry[call.name]), call.arguments
        else:
            reference, arguments = call.reference() or ("", [])
            if not reference or (imports and not is_module(reference)):
                raise cls.unknown(call.name, text)
            member = load(reference, imports)
            if not isinstance(member, type) or not issubclass(member, Described):
                return cls._from_function(reference, member, arguments, text, imports)
        if not issubclass(member, cls):
            raise UserError(f"expected a {cls.name or cls.family}, got '{shown(text)}'")
        if "__dataclass_fields__" not in vars(member):
            raise UserError(f"expected a dataclass, got {reference_to(member)}; write @dataclass(frozen=True) above it")
        return member(**bind(member.name, settings_of(member), arguments, text, imports, member.example))

    @classmethod
    def _from_function(
        cls: type[D], reference: str, function: Any, arguments: list[Argument], text: str, imports: bool
    ) -> D:
        if cls.of_functions is None or not callable(function):
            raise UserError(f"expected a {cls.family}, got '{shown(text)}', which is no class of these")
        if not imports:
            raise UserError(f"expected code that you name yourself, got {reference} out of a file: calling it runs it")
        return cls.of_functions.bound(reference, function, arguments, text, imports)

    @classmethod
    def offered(cls) -> str:
        """What a text may name, in words: the begin of an error."""
        return f"a {cls.family} ({', '.join(sorted(cls.registry))})"

    @classmethod
    def unknown(cls, name: str, text: str) -> UserError:
        """The error for an unknown name: the known ones, and the nearest of them."""
        end = nearest(name, cls.registry, arrays=cls.family == "data set")
        return UserError(f"expected {cls.offered()}, got '{shown(text)}'{end}")

    @property
    def stages(self) -> tuple[Any, ...]:
        """The parts that the text form joins by ``+``; only itself for most."""
        return (self,)

    def nested(self) -> str:
        """The text form as it stands inside another one: ``gaussian(0.05)``."""
        return write(self, nested=True)

    @property
    def label(self) -> str:
        """The text form as it stands in rows: without the folders of a path whose content a digest names."""
        return write(self, label=True)

    def __str__(self) -> str:
        return write(self)

    def _repr_html_(self) -> str:
        return f"<code>{escape(str(self))}</code>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Another process imports a class of your own from the folder where it is here.
        module = type(self).__module__
        if module == "__main__" or module.partition(".")[0] == INSIDE or "<locals>" in type(self).__qualname__:
            return super().__reduce_ex__(protocol)
        return _blank, (reference_to(type(self)), home(module)), vars(self)


class Scalable(Described):
    """Something described that has a strength, which sweeps scale: one of its fields, or the strength of its value."""

    strength_field: ClassVar[str | None] = ""
    """Name of the field that :meth:`scaled` multiplies; None where there is no strength (it is 0)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "strength" in vars(cls).get("__annotations__", {}) and "strength" not in vars(cls):
            # The property below would become its default.
            raise UserError(f"expected a default of the field strength of {reference_to(cls)}, or another name for it")

    @property
    def strength(self) -> float:
        """The number that :meth:`scaled` multiplies; 0 is exactly the identity."""
        value = 0.0 if self.strength_field is None else self._scaled_field
        return value.strength if isinstance(value, Scalable) else value

    def scaled(self: S, factor: float) -> S:
        """The same with its strength multiplied by ``factor``."""
        if self.strength_field is None:
            return self
        value = self._scaled_field
        changed = value.scaled(factor) if isinstance(value, Scalable) else value * factor
        return replace(self, **{self.strength_field: changed})  # type: ignore[type-var]

    @property
    def _scaled_field(self) -> Any:
        if not self.strength_field:
            raise UserError(
                f"expected {reference_to(type(self))} to say what its strength is: strength_field = 'sigma' names the "
                "field that sweeps scale, None says that there is none"
            )
        return getattr(self, self.strength_field)

    @property
    def is_identity(self) -> bool:
        """Whether nothing is changed."""
        return self.strength == 0

    def without_strength(self, strength: float) -> str:
        """The text form without the number ``strength``, where that is the strength of this (or of a stage).

        >>> from noiserobust.noise import NoiseModel
        >>> NoiseModel.parse("gaussian:0.05,reference=layer").without_strength(0.05)
        'gaussian:reference=layer'
        >>> NoiseModel.parse("gaussian:0.02+quantize:6").without_strength(0.02)
        'gaussian+quantize:6'
        """
        return write(self, without=strength)


def _read_first(post_init: Any) -> Any:
    """A ``__post_init__`` that finds values of the declared types."""

    @wraps(post_init)
    def read(self: Any) -> None:
        Described.__post_init__(self)
        post_init(self)

    return read


def _blank(reference: str, folder: str | None) -> Any:
    """An object without its state, of a class from outside the package, for unpickling."""
    with working_folder(*[folder] if folder else []):
        kind = load(reference)
    return kind.__new__(kind)

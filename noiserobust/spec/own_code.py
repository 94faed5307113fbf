"""Code from outside the package that a value is made of: named with digests, so that stored results are told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from noiserobust.spec.described import INSIDE, Described
from noiserobust.spec.functions import OfFunction
from noiserobust.spec.references import digest_of, load, reference_to


def own_code(*things: Any) -> str:
    """``package.module:Name=digest`` of every class and function from outside the package that ``things`` are made of,
    inner ones (a noise in a rule, a stage of a sum) included; empty where there is none.

    The digest is of their text and plain values (:func:`~noiserobust.spec.references.digest_of`); what they call is
    not looked at.
    """
    found = dict(_within(things))
    return " ".join(f"{name.replace(' ', '_')}={digest}" for name, digest in sorted(found.items()))


def _within(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, OfFunction):
        yield value.reference, digest_of(load(value.reference), value.reference)
    if isinstance(value, Described):
        for kind in type(value).__mro__:
            if issubclass(kind, Described) and kind.__module__.partition(".")[0] != INSIDE:
                yield reference_to(kind), digest_of(kind, reference_to(kind))
    if isinstance(value, Mapping):
        value = list(value.values())
    elif is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in fields(value)]
    for one in value if isinstance(value, (tuple, list)) else ():
        yield from _within(one)

"""``noiserobust list``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from noiserobust.cli.flags import Command
from noiserobust.cli.help import filled
from noiserobust.cli.output import Part
from noiserobust.spec.listing import FAMILIES, Member, members

# fmt: off
Family = Literal["noises", "methods", "measures", "tasks", "metrics", "models", "data", "schedules",
                 "probabilities", "averages", "clippings", "converters", "ranges", "perturbations", "backends"]
# fmt: on


@dataclass(frozen=True)
class List(Command):
    """List what there is by name, with settings, defaults and an example: of one family, or the names of all."""

    examples = ("noiserobust list", "noiserobust list noises")
    positional = ("family",)

    family: Family | None = None
    """Family to list: noises, methods, measures, tasks, metrics, models, data, schedules, probabilities, averages,
    clippings, converters, ranges, perturbations or backends."""

    def run(self) -> Iterator[Part]:
        families = FAMILIES if self.family is None else [self.family]
        yield Part(
            listing(self.family), values={name: [_values(one) for one in members(name).values()] for name in families}
        )


def listing(family: Family | None = None) -> str:
    """The members of ``family`` with their settings, defaults and one example; without one, the names of all families.

    Lines have at most 80 characters. Raises :class:`~noiserobust.UserError` for a family that there is none of.
    """
    if family is None:
        lines = [line for name in FAMILIES for line in filled(f"{name}: {', '.join(members(name))}", "", "  ")]
        return "\n".join([*lines, "", "noiserobust list FAMILY shows settings, defaults and examples."])
    entries = members(family).values()
    lines = filled(f"{family}: {FAMILIES[family].text}")
    for member in entries:
        lines += ["", *_member(member)]
    return "\n".join([*lines, "", "One of your own: package.module:Name(SETTING=VALUE), docs/extending.md."])


def _values(member: Member) -> dict[str, Any]:
    settings = [{"name": name, "meaning": words, "default": default} for name, words, default in member.fields]
    return {"name": member.name, "summary": member.summary, "settings": settings, "example": member.example}


def _member(member: Member) -> Iterator[str]:
    yield from filled(f"{member.name}  {member.summary}.", "", "    ")
    settings = [name.upper() if default is None else f"{name}={default}" for name, _, default in member.fields]
    if settings:
        yield from filled("settings: " + ", ".join(settings), "    ", "      ")
    for name, words, _ in member.fields:
        if words:
            yield from filled(f"{name}: {words}", "      ", "        ")
    yield f"    example:  {member.example}"

"""``noiserobust list``."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal

from noiserobust.cli.flags import Command
from noiserobust.spec.listing import FAMILIES, Member, members

WIDTH = 80
# fmt: off
Family = Literal["noises", "methods", "measures", "metrics", "models", "data", "schedules", "probabilities",
                 "converters", "perturbations", "backends"]
# fmt: on


@dataclass(frozen=True)
class List(Command):
    """List what there is by name, with settings, defaults and an example: of one family, or the names of all."""

    examples = ("noiserobust list", "noiserobust list noises")
    positional = ("family",)

    family: Family | None = None
    """Family to list: noises, methods, measures, metrics, models, data, schedules, probabilities, converters,
    perturbations or backends."""

    def run(self) -> None:
        print(listing(self.family))


def listing(family: Family | None = None) -> str:
    """The members of ``family`` with their settings, defaults and one example; without one, the names of all families.

    Lines have at most 80 characters. Raises :class:`~noiserobust.UserError` for a family that there is none of.
    """
    if family is None:
        blocks = [_wrapped(f"{name}: {', '.join(members(name))}", "  ") for name in FAMILIES]
        return "\n".join([*blocks, "", "noiserobust list FAMILY shows settings, defaults and examples."])
    blocks = [_member(member) for member in members(family).values()]
    own = "One of your own: package.module:Name(SETTING=VALUE), docs/extending.md."
    return "\n\n".join([_wrapped(f"{family}: {FAMILIES[family].text}"), *blocks, own])


def _member(member: Member) -> str:
    settings = [name.upper() if default is None else f"{name}={default}" for name, _, default in member.fields]
    lines = [_wrapped(f"{member.name}  {member.summary}.", "    ")]
    if settings:
        lines.append(_wrapped("settings: " + ", ".join(settings), "      ", "    "))
        lines += [_wrapped(f"{name}: {words}", "        ", "      ") for name, words, _ in member.fields if words]
    return "\n".join([*lines, f"    example:  {member.example}"])


def _wrapped(text: str, further: str = "", first: str = "") -> str:
    lines = textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False)
    return "\n".join(lines)

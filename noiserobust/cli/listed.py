"""``noiserobust list``."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal

from noiserobust.cli.flags import Command
from noiserobust.cli.listing import members


@dataclass(frozen=True)
class List(Command):
    """What has a name: every member of a family with its settings, their defaults and an example. What is your own is
    named by package.module:Name."""

    examples = ("noiserobust list", "noiserobust list noises")
    positional = ("family",)

    family: Literal["all", "noises", "methods", "measures", "metrics", "models", "data"] = "all"
    """noises, methods, measures, metrics, models or data (default: all, in short)."""

    def run(self) -> None:
        if self.family == "all":
            for family in ("noises", "methods", "measures", "metrics", "models", "data"):
                print(f"\n{family}")
                for member in members(family).values():
                    print(textwrap.shorten(f"  {member.example:24}  {member.summary}", 80, placeholder=" ..."))
            return
        for member in members(self.family).values():
            print(member.name)
            for text in (member.summary, f"example: {member.example}"):
                print(textwrap.fill(text, 80, initial_indent="    ", subsequent_indent="    "))
            for name, kind, default in member.fields:
                print(f"    {name}: {kind}" + (f" = {default}" if default else ""))

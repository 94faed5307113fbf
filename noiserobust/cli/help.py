"""Help as text of 80 columns: a command's common options first, then the rare ones in groups that have names."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from noiserobust.cli.flags import OUTPUT, SEVERAL, Command, Flag, flags_of
from noiserobust.spec.listing import members

WIDTH, INDENT = 80, 24
METAVARS = {Path: "PATH", str: "TEXT", float: "X", int: "N"}


def command_help(command: type[Command], prog: str) -> str:
    """What a command does, two invocations of it, and its flags with their defaults."""
    flags = sorted(flags_of(command), key=lambda flag: not flag.positional)
    words = [f"[{_metavar(flag)}]" if flag.optional else _metavar(flag) for flag in flags if flag.positional]
    usage = " ".join([prog, *words, "[options]"])
    lines = [f"usage: {usage}", "", *filled(" ".join((command.__doc__ or "").split())), ""]
    lines += [*(f"  {example}" for example in command.examples), ""]
    groups = {**command.rare, **OUTPUT}
    titles = {name: title for title, names in groups.items() for name in names}
    for title in ("", *groups):
        group = [flag for flag in flags if titles.get(flag.name, "") == title]
        lines += ["", f"{title}:"] if title and group else []
        for flag in group:
            lines += _described(flag, common=not title)
    return "\n".join(lines)


def overview(groups: Mapping[str, Mapping[str, str]], prog: str, says: str, examples: tuple[str, ...]) -> str:
    """All commands, one line each; ``groups``: title -> command -> what it does."""
    lines = [f"usage: {prog} COMMAND [options]", "", *filled(says), "", *(f"  {example}" for example in examples)]
    for title, commands in groups.items():
        lines += ["", f"{title}:", *(f"  {name:14}{summary}" for name, summary in commands.items())]
    return "\n".join([*lines, "", f"{prog} COMMAND --help shows a command's options, --version the version."])


def filled(text: str, first: str = "", further: str | None = None) -> list[str]:
    """``text`` in lines of 80 columns; ``first`` and ``further`` indent the first line and the others."""
    indent = first if further is None else further
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def _metavar(flag: Flag) -> str:
    """What stands for a flag's words: ``NOISE...``, ``N``, ``FILE``."""
    if flag.positional:
        word = flag.name.upper()
    elif flag.choices:
        word = "|".join(map(str, flag.choices))
    elif flag.family:
        word = flag.family.removesuffix("s").upper()
    else:
        word = next((name for kind, name in METAVARS.items() if kind in flag.kinds), "TEXT")
    return f"{word}..." if flag.count == SEVERAL else " ".join([word] * int(flag.count or 1))


def _described(flag: Flag, common: bool) -> Iterator[str]:
    if bool in flag.kinds:
        left = flag.option if flag.default is False else f"--[no-]{flag.option[2:]}"
    else:
        left = _metavar(flag) if flag.positional else f"{flag.option} {_metavar(flag)}"
    names = f" {flag.family.capitalize()}: {', '.join(members(flag.family))}." if flag.family and common else ""
    text = re.sub("; None: (.*)[.]$", r" (default: \1).", flag.text)
    if default := _default(flag):
        text = f"{text if text.endswith('...') else text.removesuffix('.')} (default: {default})."
    lines = filled(text + names, " " * INDENT)
    if len(left) + 4 > INDENT:
        yield f"  {left}"
    else:
        lines[0] = f"  {left}".ljust(INDENT) + lines[0].lstrip()
    yield from lines


def _default(flag: Flag) -> str:
    """The default as words; none where the flag's text says it, or there is nothing to say."""
    if flag.positional or isinstance(flag.default, bool) or "(default: " in flag.text or "; None: " in flag.text:
        return ""
    values = flag.default if isinstance(flag.default, tuple) else (flag.default,)
    return " ".join(str(value) for value in values if value is not None)

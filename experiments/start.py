"""How the programs here start: flags and help from their docstrings; bad input is one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tyro

from noiserobust.errors import UserError


def start(program: Callable[..., Any]) -> None:
    """Call ``program`` with what the command line says; ``run`` what comes out of it, if that can be.

    A function's flags are its arguments (those of an argument that is a dataclass stand by themselves), a dataclass's
    its fields.
    """
    about = sys.modules["__main__"].__doc__
    try:
        made = tyro.cli(
            program, description=about, config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
        )
        if hasattr(made, "run"):
            made.run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

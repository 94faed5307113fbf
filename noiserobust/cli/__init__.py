"""The command line: one file per command."""

from noiserobust.cli.app import COMMANDS, main

__all__ = ["COMMANDS", "main"]

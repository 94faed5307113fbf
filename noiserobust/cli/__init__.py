"""The command line: one file per command."""

from noiserobust.cli.app import COMMANDS, command_class, main

__all__ = ["COMMANDS", "command_class", "main"]

"""The command line, ``noiserobust COMMAND``: one file per command."""

from noiserobust.cli.app import COMMANDS, main
from noiserobust.cli.corrupted import Corrupted
from noiserobust.cli.curves import Curves
from noiserobust.cli.evaluate import Evaluate
from noiserobust.cli.landscape import Landscape
from noiserobust.cli.report import Report
from noiserobust.cli.sharpness import Sharpness
from noiserobust.cli.train import Train

__all__ = ["COMMANDS", "Corrupted", "Curves", "Evaluate", "Landscape", "Report", "Sharpness", "Train", "main"]

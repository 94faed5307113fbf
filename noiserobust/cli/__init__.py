"""The command line: ``noiserobust train``, ``evaluate``, ``report``: one file per command."""

from noiserobust.cli.app import COMMANDS, main
from noiserobust.cli.evaluate import Evaluate
from noiserobust.cli.report import Report
from noiserobust.cli.train import Train
from noiserobust.cli.yields import Yield

__all__ = ["COMMANDS", "Evaluate", "Report", "Train", "Yield", "main"]

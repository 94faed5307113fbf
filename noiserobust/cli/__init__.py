"""The command line: ``noiserobust train``, ``evaluate``, ``report`` and more: one file per command."""

from noiserobust.cli.app import COMMANDS, main
from noiserobust.cli.budget import Budget
from noiserobust.cli.evaluate import Evaluate
from noiserobust.cli.keep_digital import KeepDigital
from noiserobust.cli.report import Report
from noiserobust.cli.sensitivity import Sensitivity
from noiserobust.cli.train import Train

__all__ = ["COMMANDS", "Budget", "Evaluate", "KeepDigital", "Report", "Sensitivity", "Train", "main"]

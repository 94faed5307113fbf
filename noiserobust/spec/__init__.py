"""Text forms such as ``gaussian:0.05,reference=layer``, and what their names stand for. Standard library only."""

from noiserobust.spec.described import Described, Scalable
from noiserobust.spec.duration import Duration
from noiserobust.spec.fields import parse_value
from noiserobust.spec.functions import OfFunction
from noiserobust.spec.parser import read
from noiserobust.spec.references import load, one_line, reference_to, working_folder
from noiserobust.spec.writer import format_value

__all__ = [
    "Described",
    "Duration",
    "OfFunction",
    "Scalable",
    "format_value",
    "load",
    "one_line",
    "parse_value",
    "read",
    "reference_to",
    "working_folder",
]

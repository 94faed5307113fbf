"""What computes with a chip's weights: torch itself, or aihwkit's simulation of the whole chip."""

from noiserobust.analog.backends.base import Backend, Direct, Opened
from noiserobust.analog.backends.tiles import Aihwkit

__all__ = ["Aihwkit", "Backend", "Direct", "Opened"]

"""A backend computes a network's outputs from what its arrays give: one small interface, and its plain twin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from noiserobust.analog.layers import tiles_of
from noiserobust.analog.noisy import NoisyWeights, Programmed
from noiserobust.models.compute import Precision
from noiserobust.noise import Compensation, NoiseModel
from noiserobust.rng import Stream
from noiserobust.spec import Described


class Opened:
    """One network, ready to compute with the weights of chip after chip; here the network itself, its parameters
    holding what the arrays give."""

    report: str = ""
    """One line: what of the network this backend computes, and what it leaves to the direct path and why."""
    plain: bool = True
    """Whether layers compute with their parameters and nothing else, so that norms can be multiplied into them."""
    exact: bool = True
    """Whether equal weights always give equal outputs."""
    text: str = "direct"
    """What the column ``backend`` of the rows says."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def program(self, noisy: NoisyWeights, noise: NoiseModel, stream: Stream, read_once: bool) -> Programmed:
        """The chip that ``stream`` names."""
        return Programmed(noisy, noise, stream, read_once)

    @contextmanager
    def reading(
        self,
        programmed: Programmed | None,
        stream: Stream,
        t: float | None = None,
        read: int = 0,
        compensation: Compensation = "none",
    ) -> Iterator[nn.Module]:
        """Inside, the module it gives computes with what the arrays of ``programmed`` give at ``t`` (s) and ``read``.

        ``None`` is a chip without weight noise. ``stream`` names the chip: whatever else is random comes from it. The
        network is restored bit for bit afterwards, also after an exception.
        """
        with nullcontext() if programmed is None else programmed.read(t, read, compensation):
            yield self.network


Run = Callable[[], object]


@dataclass(frozen=True)
class Backend(Described, family="backend"):
    """What computes: :class:`Direct` or :class:`~noiserobust.analog.backends.Aihwkit`."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether equal weights always give equal outputs."""

    @classmethod
    def parse(cls, text: Any, imports: bool = True) -> Any:
        """The backend that is described, or that computes with an ``RPUConfig`` of aihwkit."""
        from noiserobust.analog.backends.configured import Configured, is_config

        return Configured.of(text) if is_config(text) else super().parse(text, imports)

    @abstractmethod
    def open(self, network: nn.Module, noisy: NoisyWeights, run: Run, precision: Precision = "fp32") -> Opened:
        """``network`` made ready, whose analog weights are ``noisy``; ``run`` has it compute with a few inputs.

        Raises :class:`~noiserobust.UserError` where it cannot be computed this way.
        """


@dataclass(frozen=True)
class Direct(Backend, name="direct"):
    """The network itself computes, with the arrays' weights in its parameters: perfect inputs and outputs."""

    example: ClassVar[str] = "direct"

    @property
    def exact(self) -> bool:
        return True

    def open(self, network: nn.Module, noisy: NoisyWeights, run: Run, precision: Precision = "fp32") -> Opened:
        """An analog model of aihwkit is taken as it stands."""
        from noiserobust.analog.backends.analog_model import AnalogModel

        return AnalogModel(network) if tiles_of(network) else Opened(network)

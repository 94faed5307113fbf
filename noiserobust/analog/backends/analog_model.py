"""An analog model of aihwkit, evaluated as it stands: its own tiles compute, programmed by their own noise models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from noiserobust.analog.backends.base import Opened
from noiserobust.analog.backends.configured import NOISES, digest_of, unnamed_noise
from noiserobust.analog.backends.tiles import TileNoise
from noiserobust.analog.converters import output_stream
from noiserobust.analog.layers import tiles_of
from noiserobust.analog.noisy import NoisyWeights, Programmed
from noiserobust.errors import UserError
from noiserobust.models.compute import device_of
from noiserobust.models.wrappers import Names
from noiserobust.noise import Compensation, NoiseModel
from noiserobust.noise.own import Own
from noiserobust.rng import Stream, seeded
from noiserobust.spec.references import reference_to

STATE = (
    "reference_combined_weights",
    "programmed_weights",
    "drift_noise_parameters",
    "drift_baseline",
    "drift_readout_tensor",
    "alpha",
)
"""What programming and drifting leave in a tile, beside its weights."""


class AnalogModel(Opened):
    """A network with tiles of aihwkit. Under the noise ``aihwkit`` they program and drift themselves; other noises move
    their conductances. Converters and their noise are what the tiles say, drawn from named streams."""

    plain = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        names = Names(network)
        self.tiles = {names(name): tile for name, tile in tiles_of(network).items()}
        configs = [tile.rpu_config for tile in self.tiles.values()]
        self.exact = all(
            forward.is_perfect or not any(getattr(forward, name, 0) for name in NOISES)
            for forward in (getattr(config, "forward", None) for config in configs)
            if forward is not None
        )
        kinds = " ".join(dict.fromkeys(reference_to(type(config)) for config in configs))
        self.text = f"{kinds}(digest={digest_of(*configs)})"
        self.report = f"an analog model as it stands, {len(configs)} tiles of {self.text}"
        self.report += "" if self.exact else unnamed_noise(configs)

    def program(self, noisy: NoisyWeights, noise: NoiseModel, stream: Stream, read_once: bool) -> Programmed:
        if isinstance(noise, Own) and len(noisy.weights) < len(self.tiles):
            raise UserError(
                f"expected all tiles to be analog with noise aihwkit, which programs them all, got "
                f"{len(noisy.weights)} of {len(self.tiles)}; leave include and exclude out, or name a noise such as pcm"
            )
        # Its own tiles are programmed when they are read.
        return Programmed(noisy, noise, stream, read_once or isinstance(noise, Own))

    @contextmanager
    def reading(
        self,
        programmed: Programmed | None,
        stream: Stream,
        t: float | None = None,
        read: int = 0,
        compensation: Compensation = "none",
    ) -> Iterator[nn.Module]:
        own = programmed is not None and isinstance(programmed.noise, Own)
        if own and compensation != "none":
            raise UserError(
                f"expected compensation none with noise aihwkit, whose RPUConfig has drift_compensation, got "
                f"{compensation}"
            )
        outputs = output_stream(stream, t, read)
        with ExitStack() as stack:
            if own:
                stack.enter_context(self._programmed(stream, t, read))
            else:
                stack.enter_context(super().reading(programmed, stream, t, read, compensation))
            stack.enter_context(seeded(outputs, device_of(self.network)))
            stack.enter_context(TileNoise({tile: outputs.child(name) for name, tile in self.tiles.items()}))
            yield self.network

    @contextmanager
    def _programmed(self, stream: Stream, t: float | None, read: int) -> Iterator[None]:
        """Inside, the tiles hold one programming of theirs, drifted to ``t`` (None: not at all)."""
        device = device_of(self.network)
        with ExitStack() as stack:
            for name, tile in self.tiles.items():
                if not hasattr(tile.rpu_config, "noise_model"):
                    kind = type(tile.rpu_config).__name__
                    raise UserError(f"expected tiles for inference with noise aihwkit, got {kind} at {name}")
                stack.callback(_kept(tile))
            with seeded(stream.child("program"), device):
                for tile in self.tiles.values():
                    tile.program_weights()
            if t is not None:
                with seeded(stream.child("read", read, repr(float(t))), device):
                    for tile in self.tiles.values():
                        tile.drift_weights(t)
            yield


def _kept(tile: Any) -> Any:
    """What puts the tile back as it is now, bit for bit."""
    state = {name: getattr(tile, name) for name in STATE}
    weight = tile.tile.weight if isinstance(tile.tile, nn.Module) else None
    held = tile.tile.get_weights().clone() if weight is None else weight.data

    def put_back() -> None:
        for name, value in state.items():
            setattr(tile, name, value)
        if weight is None:
            tile.tile.set_weights(held)
        else:
            weight.data = held

    return put_back

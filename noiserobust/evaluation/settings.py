"""How networks are evaluated: what happens around a chip, what computes, and which weights are analog.

Small values that every function of this package takes by the same names; importing them loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from noiserobust.data.labelled import Normalization

from noiserobust.analog.where import Where
from noiserobust.errors import UserError
from noiserobust.spec.kinds import check_fields

__all__ = ["Chips", "Compute", "Where", "grouped"]


@dataclass(frozen=True)
class Chips:
    """What happens around a chip between programming and scoring."""

    times: float | str | Sequence[float | str | None] = (None,)
    """Seconds since programming at which every chip is read, or texts such as 1h; None: the noise model's own time."""
    reads: int = 1
    """Reads of every chip at each time."""
    compensation: str | Sequence[str] = "none"
    """Drift compensation: none, global, column; several are compared on the same chips."""
    converters: Any | Sequence[Any] = "none"
    """ADC, DAC and output noise around the arrays: none, or io:dac=8,adc=8,noise=0.06; several on the same chips."""
    ranges: Any = "trained"
    """Fixed ranges of converters: trained (those that training found, where it had the same converters), or new
    (calibrated anew); in a program also ranges by layer, as Engine.ranges has them."""
    recalibration: int = 0
    """Training images from which each chip's batch norms learn their statistics anew (0: they do not)."""
    calibration: Any = None
    """Those images; None: the training part of data that have a name."""
    backend: Any = "direct"
    """What computes: direct (the network itself), or aihwkit, a full chip with converters, output noise and tiles; an
    RPUConfig of aihwkit of your own, or package.module:Name of one."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Compute:
    """Where and how networks compute."""

    device: Any = None
    """cpu, cuda, cuda:1, ...; None: where the network is."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """fp32, or autocast to bf16 or fp16."""
    batch_size: int | None = None
    """Images per forward pass; None: what suits the device, or the measure."""
    channels_last: bool | None = None
    """Memory format of the images; None: channels last for networks built from checkpoints."""
    fold: bool = True
    """Multiply batch norms into the noisy weights of the layers before them: equal to rounding, and faster."""
    compile: bool = False
    """Compile the network by torch.compile, once for all draws."""
    reuse: int = 1024
    """MiB of layers' outputs that sensitivity and keep-digital keep and use again: equal, and faster (0: none)."""
    mean: float | Sequence[float] | None = None
    """With std: networks see (x - mean) / std, one number each or one per channel; x are pixels / 255, or floats as
    they are (default: as the checkpoint says, else the data's)."""
    std: float | Sequence[float] | None = None
    """See mean."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def normalization(self) -> Normalization | None:
        """The normalisation that was asked for."""
        from noiserobust.data.labelled import normalization_of

        return normalization_of(self.mean, self.std)

    def with_batches_of(self, images: int) -> Compute:
        """The same with that many images per pass, where no other number was asked for."""
        return self if self.batch_size is not None else replace(self, batch_size=images)


def check_seed(seed: int) -> None:
    """Refuse a seed that rows cannot hold: it would spoil the file of every later run."""
    if not -(2**63) <= seed < 2**63:
        raise UserError(f"expected a seed of at most 64 bits, got {seed}; name a smaller number")


def grouped(options: Mapping[str, Any]) -> dict[str, Any]:
    """Flat ``options``, as flags are, with those of :class:`Chips`, :class:`Compute` and :class:`Where` in such values.

    >>> grouped({"draws": 3, "device": "cuda"})["compute"].device
    'cuda'
    """
    options, kinds = dict(options), {"chips": Chips, "compute": Compute, "where": Where}
    for name, kind in kinds.items():
        values = {field.name: options.pop(field.name) for field in fields(kind) if field.name in options}
        if values:
            options[name] = kind(**values)
    return options

"""The full chip: layers run on aihwkit's simulated crossbar tiles, written with our chips' weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from noiserobust.analog.backends.base import Backend, Opened, Run
from noiserobust.analog.converters import output_stream
from noiserobust.analog.layer_converters import endless_rows
from noiserobust.analog.layers import tiles_of
from noiserobust.analog.noisy import NoisyWeights, Programmed
from noiserobust.analog.weights import AnalogWeight, users
from noiserobust.errors import UserError
from noiserobust.models.compute import Precision, device_of, exact_products
from noiserobust.models.modes import evaluating
from noiserobust.models.wrappers import unwrap
from noiserobust.noise import Compensation
from noiserobust.rng import Stream, seeded

ROUNDING = 1e-4
"""A layer runs on tiles only if, with perfect converters, it gives what the network's own layer gives, up to this
fraction of the largest output."""


@dataclass(frozen=True)
class OnTiles(Backend):
    """A backend whose layers run on aihwkit's tiles, written with our chips' weights."""

    @abstractmethod
    def config(self, aihwkit: SimpleNamespace, perfect: bool = False) -> Any:
        """The ``RPUConfig`` of a layer's tiles, without drift compensation; ``perfect`` leaves converters out."""

    @property
    def note(self) -> str:
        """What has to be said of it beside its text."""
        return ""

    def open(self, network: nn.Module, noisy: NoisyWeights, run: Run, precision: Precision = "fp32") -> Opened:
        """Raises :class:`~noiserobust.UserError` without aihwkit, and for any precision but float32."""
        if tiles_of(network):
            raise UserError(
                f"expected a network of plain layers with backend {self}, got an analog model of aihwkit; leave the "
                "backend out, or make a plain network of it (noiserobust.integrations.aihwkit.from_analog)"
            )
        low = {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}
        if precision != "fp32" or low:
            got = precision if precision != "fp32" else f"a network in {', '.join(map(str, low))}"
            raise UserError(f"expected fp32 with backend aihwkit, whose converters need it, got {got}")
        return Tiles(self, network, noisy, run)


@dataclass(frozen=True)
class Aihwkit(OnTiles, name="aihwkit"):
    r"""aihwkit's inference tiles (``TorchInferenceRPUConfig``), its defaults for what is not said.

    Per crossbar tile, with W its conductances in units of g_max, and a the largest \|x\| of that input vector:

    .. math:: y = a\,s\,\mathrm{ADC}(W\,\mathrm{DAC}(x / a) + \sigma\,\xi),\quad \xi \sim N(0, 1)

    DAC rounds to ``inp_bits`` bits on [-1, 1], ADC clips to ± ``out_bound`` and rounds to ``out_bits`` bits there (0
    bits: no rounding; ``out_bound=0``: no clipping); sigma is ``out_noise``. A tile has at most ``tile`` x ``tile``
    weights, larger layers are cut evenly and summed digitally (0: one tile as large as the layer). Its scale s is the
    *clean* weight's maximum, per output column of a tile (``columnwise``) or per tile. ``perfect`` switches converters
    and output noise off. Biases are digital. A value outside the ADC's range saturates: aihwkit's default repeats the
    whole batch with smaller inputs until nothing does, so that results would depend on the batch.

    The torch tiles are used rather than the compiled ones because their noise can be drawn from a named stream, and
    because compiled tiles draw from a generator that cannot be seeded per chip.

    >>> str(Aihwkit()), str(Aihwkit(inp_bits=8, tile=256))
    ('aihwkit', 'aihwkit:inp_bits=8,tile=256')
    """

    example: ClassVar[str] = "aihwkit:inp_bits=8,tile=256"
    leading: ClassVar[Literal["by key"]] = "by key"

    inp_bits: int = 7
    out_bits: int = 9
    out_noise: float = 0.06
    out_bound: float = 12.0
    tile: int = 512
    columnwise: bool = True
    perfect: bool = False

    def __post_init__(self) -> None:
        for name in ("inp_bits", "out_bits"):
            if getattr(self, name) != 0 and not 2 <= getattr(self, name) <= 24:
                raise UserError(f"aihwkit: expected {name} of 2 to 24, or 0 for no rounding, got {getattr(self, name)}")
        for name in ("out_noise", "out_bound"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"aihwkit: expected a finite {name} >= 0, got {getattr(self, name)}")
        if self.out_bits and not self.out_bound:
            raise UserError("aihwkit: expected an out_bound > 0 to round outputs within, got 0; or use out_bits=0")
        if self.tile < 0:
            raise UserError(f"aihwkit: expected tile >= 1, or 0 for tiles as large as their layer, got {self.tile}")

    @property
    def exact(self) -> bool:
        return self.perfect or self.out_noise == 0

    def config(self, aihwkit: SimpleNamespace, perfect: bool = False) -> Any:
        """aihwkit's words for these settings."""
        config = aihwkit.TorchInferenceRPUConfig()
        config.forward = aihwkit.IOParameters(
            is_perfect=self.perfect or perfect,
            inp_res=1 / (2**self.inp_bits - 2) if self.inp_bits else -1.0,
            out_res=1 / (2**self.out_bits - 2) if self.out_bits else -1.0,
            out_noise=self.out_noise,
            out_bound=self.out_bound,
            bound_management=aihwkit.BoundManagementType.NONE,
        )
        config.mapping.max_input_size = config.mapping.max_output_size = self.tile
        config.mapping.weight_scaling_omega = 1.0
        config.mapping.weight_scaling_columnwise = self.columnwise
        config.drift_compensation = None  # ours, in Layer.write
        return config


class Tiles(Opened):
    """A network whose layers are swapped for aihwkit's while a chip is read; nothing else of it is copied."""

    def __init__(self, backend: OnTiles, network: nn.Module, noisy: NoisyWeights, run: Run) -> None:
        super().__init__(unwrap(network))
        self.backend, self.noisy = backend, noisy
        self.plain, self.exact, self.text = False, backend.exact, str(backend)
        self.layers: dict[str, list[Layer]] = {}
        """The layers on tiles, by the name of the weight that they compute with."""
        aihwkit, left = load_aihwkit(), {}
        layers: dict[str, list[nn.Module]] = {weight.name: [] for weight in noisy.weights}
        for _, module, weight in users(self.network, noisy.weights):
            layers[weight.name].append(module)
        with exact_products():  # two ways to compute the same are compared
            calls = _calls(self.network, [module for modules in layers.values() for module in modules], run)
            for name, module in ((name, module) for name, modules in layers.items() for module in modules):
                try:
                    layer = Layer(aihwkit, backend, self.network, module, calls.get(module))
                except _Refused as refused:
                    left[name] = str(refused)
                else:
                    self.layers.setdefault(name, []).append(layer)
        if left and not self.layers:
            reasons = "; ".join(dict.fromkeys(left.values()))
            raise UserError(f"expected a layer that runs on tiles of {backend}, got none: {reasons}")
        self.report = self._report(left)

    @contextmanager
    def reading(
        self,
        programmed: Programmed | None,
        stream: Stream,
        t: float | None = None,
        read: int = 0,
        compensation: Compensation = "none",
    ) -> Iterator[nn.Module]:
        def written(weight: AnalogWeight) -> Tensor:
            """The layers of ``weight`` get what its array gives; also what the direct path puts in the parameter."""
            layers = self.layers.get(weight.name, [])
            if programmed is None:
                rows, factor = weight.as_rows(weight.value()), None
            elif not layers:
                rows, factor = programmed.weight(weight.name, t, read, compensation), None
            else:
                rows, factor = programmed.read_out(weight.name, t, read, compensation)
            for layer in layers:
                layer.write(rows, factor)
            return weight.from_rows(rows if factor is None else rows * factor)

        layers = [layer for layers in self.layers.values() for layer in layers]
        with ExitStack() as stack:
            stack.enter_context(self.noisy.replaced(written))
            for layer in layers:
                stack.enter_context(layer.swapped_in())
            if not self.backend.exact:
                outputs = output_stream(stream, t, read)
                stack.enter_context(seeded(outputs, device_of(self.network)))  # for what is not normal: random rounding
                stack.enter_context(TileNoise(self._streams(outputs)))
            yield next((layer.analog for layer in layers if layer.module is self.network), self.network)

    def _streams(self, stream: Stream) -> dict[Any, Stream]:
        """The names of the tiles' noise."""
        return {
            tile: stream.child(name, user, place)
            for name, users in self.layers.items()
            for user, layer in enumerate(users)
            for place, (tile, _, _) in enumerate(layer.tiles)
        }

    def _report(self, left: dict[str, str]) -> str:
        tiles = sum(len(layer.tiles) for layers in self.layers.values() for layer in layers)
        mapping = self.backend.config(load_aihwkit()).mapping
        sizes = mapping.max_output_size, mapping.max_input_size
        size = f" of at most {sizes[0]} x {sizes[1]}" if all(sizes) else ""
        text = f"{self.backend}: {len(self.layers)} of {len(self.noisy.weights)} noisy weights on {tiles} tiles{size}"
        text += self.backend.note
        reasons = [f"{name} ({reason})" for name, reason in left.items()]
        return text + (f"; computed directly: {', '.join(reasons)}" if reasons else "")


class Layer:
    """One layer of the network and aihwkit's in its place; raises when that would compute something else."""

    def __init__(
        self, aihwkit: SimpleNamespace, backend: OnTiles, network: nn.Module, module: nn.Module, call: Any
    ) -> None:
        self.module = module
        self._places = [
            (parent, key) for parent in network.modules() for key, child in parent._modules.items() if child is module
        ]
        kind = type(module).__name__
        if module._forward_hooks or module._forward_pre_hooks:
            raise _Refused(f"{kind}: it has hooks")
        try:
            self.analog = _converted(aihwkit, module, backend.config(aihwkit, perfect=True))
            if type(self.analog) is type(module):
                raise _Refused("no layer that aihwkit converts")
            if call is None:
                raise _Refused("its weight is used without a call of the layer")
            inputs, outputs = call
            with torch.no_grad():
                y = self.analog(inputs)
            if y.shape != outputs.shape or (y - outputs).abs().max() > ROUNDING * outputs.abs().max():
                raise _Refused("aihwkit's gives another output")
            # Compiled tiles keep the converters that they are made with.
            self.analog = _converted(aihwkit, module, backend.config(aihwkit))
        except Exception as error:  # whatever aihwkit cannot do
            raise _Refused(f"{kind}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
        # Tiles leave channels last; what follows may be a view that needs the network's own format.
        last = outputs.dim() == 4 and not outputs.is_contiguous()
        memory = torch.channels_last if last else torch.contiguous_format
        self.analog.register_forward_hook(lambda layer, args, out: out.contiguous(memory_format=memory))
        self.tiles = list(_tiles(self.analog.analog_module))
        self.scales = [scales_of(tile) for tile, _, _ in self.tiles]

    def write(self, rows: Tensor, factor: Tensor | None) -> None:
        """Put ``rows`` (outputs, inputs...) into the tiles; ``factor``, of the same shape, compensates their drift.

        Hardware multiplies the digital outputs, so that noise and rounding of the output grow with it: here, too, as
        far as a tile's columns have one factor each. The rest (tiles of the noise cut otherwise) goes to the weights.
        """
        for (tile, outputs, inputs), scale in zip(self.tiles, self.scales, strict=True):
            part = rows.flatten(1)[outputs, inputs]
            gain = torch.ones_like(scale)
            if factor is not None:
                columns = factor.flatten(1)[outputs, inputs]
                gain = columns[:, 0]
                part = part * (columns / gain[:, None])
            tile.set_mapping_scales(scale * gain)
            tile.set_weights(part / scale[:, None], apply_weight_scaling=False)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the network calls the tiles."""
        try:
            for parent, key in self._places:
                parent._modules[key] = self.analog
            yield
        finally:
            for parent, key in self._places:
                parent._modules[key] = self.module


class TileNoise(TorchFunctionMode):
    """Inside, tiles' ``randn_like`` is the named noise of that tile, sample by sample, whatever the batch size."""

    def __init__(self, streams: Mapping[Any, Stream]) -> None:
        super().__init__()
        self.at: tuple[Stream, int] | None = None
        """The noise of the tile that computes, and how many samples it has seen before."""
        self._streams, self._seen = streams, dict.fromkeys(streams, 0)
        self._drawn = 0

    def __enter__(self) -> TileNoise:
        self._handles = [tile.register_forward_pre_hook(self._computing) for tile in self._streams]
        self._handles += [tile.register_forward_hook(self._computed) for tile in self._streams]
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*raised)

    def _computing(self, tile: Any, args: tuple[Any, ...]) -> None:
        self.at, self._drawn = (self._streams[tile], self._seen[tile]), 0
        self._seen[tile] += len(args[0])

    def _computed(self, tile: Any, args: tuple[Any, ...], output: Any) -> None:
        self.at = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is torch.randn_like and self.at is not None:
            (stream, seen), like = self.at, args[0]
            # A tile may draw more than once: noise of its inputs, or of outputs that are made again.
            own = stream.child("again", self._drawn) if self._drawn else stream
            self._drawn += 1
            return endless_rows(own, seen, like.shape, like.device)
        return func(*args, **(kwargs or {}))


def _converted(aihwkit: SimpleNamespace, module: nn.Module, config: Any) -> Any:
    """aihwkit's layer in place of ``module``."""
    with seeded(Stream(0, "aihwkit")):  # layers draw initial weights before they are given theirs
        return aihwkit.convert_to_analog(module, config, ensure_analog_root=False).eval()


def scales_of(tile: Any) -> Tensor:
    """(outputs,): what a tile's outputs are multiplied by, digitally: weights are its conductances times these."""
    scales = tile.get_scales()
    ones = torch.ones(tile.out_size, device=tile.device)
    return ones if scales is None else scales.detach().flatten().expand(tile.out_size).clone()


class _Refused(Exception):
    """Why a layer does not run on tiles."""


def load_aihwkit() -> SimpleNamespace:
    """What is used of aihwkit's compiled part; :class:`~noiserobust.UserError` where that cannot be imported."""
    try:
        from aihwkit.nn.conversion import convert_to_analog
        from aihwkit.simulator.configs import TorchInferenceRPUConfig
        from aihwkit.simulator.parameters import IOParameters
        from aihwkit.simulator.parameters.enums import BoundManagementType
    except (ImportError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"expected aihwkit 1.1.0 and its compiled part for backend aihwkit, got: {reason}; install it with pip "
            f"install aihwkit==1.1.0 (Linux x86-64, torch 2.10 or 2.11; this is torch {torch.__version__})"
        ) from None
    return SimpleNamespace(
        convert_to_analog=convert_to_analog,
        TorchInferenceRPUConfig=TorchInferenceRPUConfig,
        IOParameters=IOParameters,
        BoundManagementType=BoundManagementType,
    )


def _calls(network: nn.Module, modules: Sequence[nn.Module], run: Run) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """What each module was given and what it gave, when ``run`` of the network first called it with one tensor."""
    calls: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if module not in calls and len(args) == 1 and all(isinstance(one, Tensor) for one in (*args, output)):
            # Copies, since what follows may work in place.
            calls[module] = (args[0].clone(), output.clone())

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        with evaluating(network), torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _tiles(module: Any) -> Iterator[tuple[Any, slice, slice]]:
    """Every tile of a layer, with the outputs and inputs of the weight that it holds."""
    if not hasattr(module, "array"):
        yield module, slice(None), slice(None)
        return
    first_input = 0
    for inputs, column in zip(module.in_sizes, module.array, strict=True):
        first_output = 0
        for outputs, tile in zip(module.out_sizes, column, strict=True):
            yield tile, slice(first_output, first_output + outputs), slice(first_input, first_input + inputs)
            first_output += outputs
        first_input += inputs

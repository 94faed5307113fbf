"""Layers cut into crossbars, and ranges per patch: against loops over single products, and against aihwkit's tiles."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from noiserobust import UserError, evaluate
from noiserobust.analog.converters import Converters, Converting, converted
from noiserobust.evaluation import Chips
from noiserobust.noise import NoiseModel
from noiserobust.rng import Stream, seeded

STREAM = Stream(3, "test", "crossbars")
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (3, 7)),
    "tokens": (lambda: nn.Linear(7, 5), (3, 2, 7)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=2, stride=2, dilation=2, padding_mode="circular"), (3, 3, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding="valid", groups=2), (3, 4, 5, 4)),
    "same": (lambda: nn.Conv2d(2, 3, (3, 1), padding="same", dilation=(1, 2)), (3, 2, 3, 3)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), (2, 2, 3, 3, 2)),
    "transposed2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (3, 4, 3, 2),
    ),
}
each_layer = pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS)


def made(build: Callable[[], nn.Module]) -> nn.Module:
    with seeded(Stream(0, "layer")):
        return build().double()


def vectors_by_hand(layer: nn.Module, x: Tensor, output: Tensor) -> dict[tuple[int, ...], list[float]]:
    """By (sample, output, position...): what the output's column of weights is multiplied by, in the weight's order."""
    found = {}
    for place in itertools.product(*map(range, output.shape)):
        if isinstance(layer, nn.Linear):
            found[place] = x[place[:-1]].tolist()
            continue
        sample, channel, *position = place
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        kernel, per_group = layer.kernel_size, x.shape[1] // layer.groups
        first = channel // (output.shape[1] // layer.groups) * per_group
        vector = []
        for c, *offsets in itertools.product(range(first, first + per_group), *map(range, kernel)):
            at: list[int] | None = [c]
            for axis, (p, k) in enumerate(zip(position, offsets, strict=True)):
                size, stride, dilation = x.shape[2 + axis], layer.stride[axis], layer.dilation[axis]
                if transposed:
                    there, rest = divmod(p + layer.padding[axis] - k * dilation, stride)
                    outside = rest or not 0 <= there < size
                else:
                    # "same" puts the smaller half before.
                    padding = {"same": (kernel[axis] - 1) // 2, "valid": 0}.get(layer.padding)
                    padding = layer.padding[axis] if padding is None else padding
                    there = p * stride - padding + k * dilation
                    there = there % size if layer.padding_mode == "circular" else there
                    outside = not 0 <= there < size
                at = None if at is None or outside else [*at, there]
            vector.append(0.0 if at is None else float(x[(sample, *at)]))
        found[place] = vector
    return found


def columns_by_hand(layer: nn.Module) -> list[list[float]]:
    """The weights of each output, flattened."""
    weight = layer.weight.detach()
    if not isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return weight.flatten(1).tolist()
    groups, outputs = layer.groups, weight.shape[1]
    per_group = weight.shape[0] // groups
    return [
        weight[g * per_group : (g + 1) * per_group, o].flatten().tolist() for g in range(groups) for o in range(outputs)
    ]


def cuts(size: int, largest: int) -> list[range]:
    parts = -(-size // largest)
    sizes = [size // parts + (n < size % parts) for n in range(parts)]
    return [range(sum(sizes[:n]), sum(sizes[: n + 1])) for n in range(parts)]


def level(value: float, bound: float, bits: int) -> float:
    n = 2 ** (bits - 1) - 1
    return round(max(-1.0, min(1.0, value / bound)) * n) / n * bound if bound else 0.0


def by_hand(layer: nn.Module, x: Tensor, io: Converters) -> Tensor:
    """The docstring's equations, one product after the other."""
    output = layer(x).detach()
    channel_axis = 1 if layer.weight.dim() > 2 else output.dim() - 1
    columns, vectors = columns_by_hand(layer), vectors_by_hand(layer, x, output)
    tiled = io.reference.startswith("tile")
    rows = cuts(len(columns[0]), io.rows) if tiled else [range(len(columns[0]))]
    beside = cuts(len(columns), io.columns) if tiled else [range(len(columns))]
    fields = [
        (STREAM.child("weight", "crossbar", k) if k else STREAM.child("weight"))
        .child(0)
        .normal((64, *output.shape[1:]))
        for k in range(len(rows))
    ]
    result = torch.zeros_like(output)
    for place, vector in vectors.items():
        o = place[channel_axis]
        group = next(part for part in beside if o in part)
        total = 0.0 if layer.bias is None else float(layer.bias.detach()[o])
        for k, inputs in enumerate(rows):
            others = [o] if io.reference in ("filter", "tile-column") else group
            scale = max(abs(columns[other][i]) for other in others for i in inputs)
            seen = {"sample": x[place[0]].flatten().tolist(), "patch": vector, "tile": [vector[i] for i in inputs]}
            reach = max(
                map(abs, seen["patch" if isinstance(layer, nn.Linear) and io.inputs == "sample" else io.inputs])
            )
            y = sum(level(vector[i], reach, io.dac) * columns[o][i] for i in inputs)
            y += io.noise * reach * scale * float(fields[k][place])
            total += level(y, io.bound * reach * scale, io.adc)
        result[place] = total
    return result


@each_layer
@pytest.mark.parametrize("inputs", ["sample", "patch", "tile"])
@pytest.mark.parametrize("reference", ["filter", "tile,rows=5,columns=2", "tile-column,rows=5,columns=2"])
def test_against_loops(build: Callable[[], nn.Module], shape: tuple[int, ...], inputs: str, reference: str) -> None:
    layer, text = made(build), f"io:dac=4,adc=5,noise=0.05,bound=2.0,inputs={inputs},reference={reference}"
    if inputs == "tile" and reference == "filter":  # a filter has no tiles
        with pytest.raises(UserError, match="expected reference tile or tile-column beside inputs=tile"):
            Converters.parse(text)
        return
    io = Converters.parse(text)
    x = Stream(0, "x").normal(shape).double() * torch.logspace(-1, 1, shape[-1]).double()
    with Converting(layer, io).applied(STREAM), torch.no_grad():
        found = layer(x)
    torch.testing.assert_close(found, by_hand(layer, x, io), rtol=1e-9, atol=1e-9)


@each_layer
def test_samples_one_by_one_and_gradients(
    build: Callable[[], nn.Module], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, or a batch, or a sample without a batch: the same. Gradients are the layer's."""
    layer, text = made(build), "io:adc=5,noise=0.1,inputs=tile,reference=tile,rows=5,columns=3"
    x = Stream(0, "x").normal(shape).double().requires_grad_()
    with converted(layer, text):
        whole = layer(x)
    whole.sum().backward()
    found = x.grad, layer.weight.grad
    x.grad = layer.weight.grad = None
    layer(x).sum().backward()
    torch.testing.assert_close(found, (x.grad, layer.weight.grad))
    with torch.no_grad():
        monkeypatch.setattr("noiserobust.analog.layer_converters.AT_ONCE", 1)
        with converted(layer, text):
            torch.testing.assert_close(torch.cat([layer(x[:1]), layer(x[1:])]), whole.detach())
        with converted(layer, text):
            torch.testing.assert_close(layer(x[0]), whole[0].detach())
        with converted(layer, text):
            assert layer(x[:0]).shape == (0, *whole.shape[1:])


def test_percentiles_are_those_of_each_crossbar() -> None:
    layer, x = nn.Conv2d(2, 3, 2, bias=False).double(), Stream(0, "x").normal((6, 2, 4, 4)).double()
    x[:, 1] *= 30
    io = Converters.parse("io:dac=6,adc=6,percentile=100.0,reference=tile,rows=4,columns=3")
    converting = Converting(layer, io, calibration=[x])
    for channel, crossbar in enumerate(converting.layers[0].crossbars):
        partial = nn.functional.conv2d(x[:, channel : channel + 1], layer.weight.detach()[:, channel : channel + 1])
        ranges = [float(one) for one in (crossbar.ranges.inputs, crossbar.ranges.outputs)]
        assert ranges == pytest.approx([float(x[:, channel].abs().max()), float(partial.abs().max())])


def net() -> nn.Module:
    with seeded(Stream(0, "net")):
        return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)).eval()


DATA = Stream(0, "images").normal((20, 2, 4, 4)), torch.arange(20) % 5


@pytest.mark.parametrize("noise", ["gaussian:0.1", "pcm:reference=tile-column,rows=10,columns=10"])
@pytest.mark.parametrize("compensation", ["none", "global", "column"])
def test_aihwkits_tiles_give_the_same(noise: str, compensation: str) -> None:
    """Converters, crossbars and compensation on, output noise off, with its ranges, which are per tile and vector."""
    pytest.importorskip("aihwkit.simulator.configs", exc_type=ImportError)
    found = {}
    for chips in (
        {"backend": "aihwkit:inp_bits=6,out_bits=7,out_noise=0.0,tile=10"},
        {"converters": "io:dac=6,adc=7,reference=tile-column,rows=10,columns=10,inputs=tile"},
        {"converters": "io:dac=6,adc=7,reference=tile-column,rows=10,columns=10"},
    ):
        settings = Chips(times=["1y"], compensation=compensation, **chips)
        rows = evaluate(net(), DATA, noise, draws=2, chips=settings).rows
        found[str(chips)] = rows.value[rows["metric"] == "loss"].to_numpy()
    tiles, same, per_sample = found.values()
    assert same == pytest.approx(tiles, abs=1e-5)
    assert abs(per_sample - tiles).max() > 1e-4


def test_a_layer_that_fits_into_one_crossbar_is_not_cut() -> None:
    values = [
        evaluate(net(), DATA, "gaussian:0.05", draws=1, chips=Chips(converters=io)).rows.value.tolist()
        for io in ("io:adc=6,noise=0.1", "io:adc=6,noise=0.1,reference=tile-column")
    ]
    assert values[0] == values[1]


def test_rows_without_a_tile_reference_are_refused() -> None:
    for text in ("gaussian:0.05,rows=64", "pcm:columns=64", "quantize:5,rows=64", "sliced(pcm,bits=2,slices=2,rows=9)"):
        with pytest.raises(UserError, match="expected reference tile or tile-column beside rows and columns"):
            NoiseModel.parse(text)
    tiles = NoiseModel.parse("gaussian:0.05,reference=tile,rows=64")
    assert str(tiles.changed(reference="filter")) == "gaussian:0.05"

"""Checks of sharded weights (DTensor), run on every rank by ddp_worker.py."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from methods import same_bits
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DeviceMesh, Placement, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from noiserobust import UserError, coverage, evaluate, landscape, perturbed
from noiserobust.data import Batch
from noiserobust.evaluation import Chips
from noiserobust.noise import NoiseModel
from noiserobust.rng import BLOCK, Stream, seeded
from noiserobust.training import Engine, Method, Progress

NOISES = [
    "gaussian:0.1",
    "gaussian:0.1,reference=layer",
    "gaussian:0.1,reading=literal",
    "laplace:0.1",
    "laplace:0.1,reference=layer",
    "gaussian:0.1+laplace:0.1,reference=layer",
    "cells(gaussian(0.1),number=2)",
    "correlated(gaussian(0.1)+laplace(0.1),share=0.5)",
]
SHAPES = [(37, 50), (9, 6, 3, 3), (1100, 1024), (2, 600_000), (5, 8)]
"""The third and fourth are several blocks of the stream; of the last, four ranks have no row for the fourth."""


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def part(whole: Tensor, placement: Placement) -> Tensor:
    """This rank's slice, cut by torch.chunk."""
    if not isinstance(placement, Shard):
        return whole
    pieces = whole.chunk(dist.get_world_size(), placement.dim)
    rank = dist.get_rank()
    return pieces[rank] if rank < len(pieces) else whole.narrow(placement.dim, 0, 0)


def shards_are_slices() -> None:
    """Every rank's noisy shard is that slice of the noisy whole, bit for bit."""
    for shape in SHAPES:
        weight = Stream(0, "test", *shape).normal(shape)
        for dtype in (torch.float32, torch.bfloat16):
            clean, placements = weight.to(dtype), (Shard(0), Shard(1), Replicate())
            shards = [distribute_tensor(clean, mesh(), [placement]) for placement in placements]
            few = dtype != torch.float32 or weight.numel() > BLOCK
            for text in NOISES[:1] + NOISES[4:5] if few else NOISES:
                stream, noise = Stream(3, "report", 0, 1, "layer"), NoiseModel.parse(text)
                expected = noise.sample(clean, stream)
                assert not torch.equal(expected, clean)
                for sharded, placement in zip(shards, placements, strict=True):
                    about = f"{text} {shape} {placement} {dtype}"
                    assert torch.equal(sharded.to_local(), part(clean, placement)), about
                    found = noise.sample(sharded, stream)
                    assert found.dtype == dtype, about
                    assert torch.equal(found.to_local(), part(expected, placement)), about


def two_mesh_axes() -> None:
    """Rows over one axis of the mesh and columns over the other; or rows over both."""
    if dist.get_world_size() < 4:
        return
    grid = init_device_mesh("cpu", (2, 2))
    weight = Stream(0, "test").normal((11, 7))
    for placements in ([Shard(0), Shard(1)], [Shard(0), Shard(0)], [Replicate(), Shard(0)]):
        sharded = distribute_tensor(weight, grid, placements)
        for text in NOISES:
            noise = NoiseModel.parse(text)
            expected = distribute_tensor(noise.sample(weight, Stream(0, "a")), grid, placements)
            assert torch.equal(noise.sample(sharded, Stream(0, "a")).to_local(), expected.to_local()), placements


@contextmanager
def blocks_drawn() -> Iterator[list[int]]:
    """The blocks of fields for which a generator is made inside."""
    seen: list[int] = []
    generator = Stream.generator

    def spy(self: Stream, device: torch.device | str = "cpu", block: int = 0) -> torch.Generator:
        seen.append(block)
        return generator(self, device, block)

    Stream.generator = spy  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Stream.generator = generator  # type: ignore[method-assign]


def only_its_own_rows() -> None:
    """A rank draws the blocks that hold its rows, and no others; with columns sharded, each block once."""
    rows, width = 64, BLOCK // 4  # blocks of 4 rows
    weight = torch.ones(rows, width)
    own = rows // dist.get_world_size()
    first = dist.get_rank() * own
    for placement, expected in ((Shard(0), range(first // 4, (first + own) // 4)), (Shard(1), range(16))):
        sharded = distribute_tensor(weight, mesh(), [placement])
        with blocks_drawn() as seen:
            NoiseModel.parse("gaussian:0.1").sample(sharded, Stream(0, "a"))
        assert sorted(seen) == list(expected), (placement, seen)


def net() -> nn.Module:
    with seeded(Stream(0, "test", "net")):
        return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def column_and_row_parallel(model: nn.Module) -> None:
    parallelize_module(model, mesh(), {"0": ColwiseParallel(), "2": RowwiseParallel()})


def fully_sharded(model: nn.Module) -> None:
    for layer in (model[0], model[2], model[4]):
        fully_shard(layer, mesh=mesh())
    fully_shard(model, mesh=mesh())


def fully_sharded_and_kept(model: nn.Module) -> None:
    """The first layer's weights are left gathered after every forward pass."""
    fully_shard(model[0], mesh=mesh(), reshard_after_forward=False)
    fully_shard(model, mesh=mesh())


def perturbed_models(shard: Callable[[nn.Module], None]) -> None:
    """``perturbed`` gives a sharded network the outputs of the whole one under the same draw, and its bits back."""
    whole, model = net(), net()
    shard(model)
    inputs = Stream(0, "test", "inputs").normal((6, 12))
    clean = [p.to_local().clone() if hasattr(p, "to_local") else p.clone() for p in model.parameters()]
    outputs = []
    with torch.no_grad():
        for text in NOISES[:2]:
            for draw in range(2):
                with perturbed(whole, text, draw=draw):
                    expected = whole(inputs)
                with perturbed(model, text, draw=draw):
                    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-6)
                outputs.append(expected)
                torch.testing.assert_close(model(inputs), whole(inputs), rtol=1e-5, atol=1e-6)
        try:
            with perturbed(model, "gaussian:0.1"):
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    assert not torch.equal(outputs[0], outputs[1])
    after = [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]
    assert same_bits([p.detach() for p in after], [p.detach() for p in clean])
    assert str(coverage(model)) == str(coverage(whole))


def refusals() -> None:
    """What cannot be cut into shards says so on every rank, in one line."""
    sharded = distribute_tensor(torch.randn(8, 8), mesh(), [Shard(0)])
    for text in ("gaussian:0.1,reference=tile", "pcm", "gaussian:0.1+pcm", "laplace:0.1,reference=tile-column"):
        said = ""
        try:
            NoiseModel.parse(text).sample(sharded, Stream(0, "a"))
        except UserError as error:
            said = str(error)
        assert "expected a whole weight, got one that is sharded" in said
        assert "\n" not in said
    column = nn.Sequential(copy.deepcopy(nn.ConvTranspose2d(8, 8, 3)))
    column[0].weight = nn.Parameter(distribute_tensor(column[0].weight.detach(), mesh(), [Shard(0)]))
    try:
        with perturbed(column, "gaussian:0.1"):
            pass
    except UserError as error:
        said = str(error)
    assert "expected outputs in dimension 0 of a weight sharded over processes" in said
    model = net()
    fully_sharded(model)
    engine, data = Engine(model, torch.optim.SGD(model.parameters(), 0.1)), Batch(torch.ones(2, 12), torch.arange(2))
    for method in ("sam:0.1,sync=true", "rwp-mixed:0.1", "mesa", "rst:sam(0.1),p=0.5"):
        said = ""
        try:
            Method.parse(method).step(engine, data, Progress(0, 9))
        except UserError as error:
            said = str(error)
        assert "expected plain or rwp for weights sharded over processes" in said, method
    said = ""
    try:
        landscape(model, (data.inputs, data.labels))
    except UserError as error:
        said = str(error)
    assert "expected a whole network, got Sequential[0] with weights sharded over processes" in said


class Language(nn.Module):
    """A small language model, with or without a head that is the embedding."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(11, 8), nn.LayerNorm(8)
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(torch.tanh(self.norm(self.first(self.embedding(x))))).mean(1))


def language(tied: bool, shard: bool) -> Language:
    with seeded(Stream(0, "test", "language")):
        model = Language(tied)
    if shard:
        for layer in (model.first, model.second):
            fully_shard(layer, mesh=mesh())
        fully_shard(model, mesh=mesh())
    return model


TOKENS, NEXT = torch.arange(96).reshape(24, 4) * 5 % 11, torch.arange(24) * 7 % 11


def perturbed_language(tied: bool) -> None:
    """Answers and gradients under a draw are those of the whole network, and so is the clean one."""
    for text in NOISES[:2]:
        whole, model = language(tied, shard=False), language(tied, shard=True)
        clean, answers = whole(TOKENS).detach(), []
        for one in (whole, model):
            with perturbed(one, text):
                answers.append(one(TOKENS))
                nn.functional.cross_entropy(answers[-1], NEXT).backward()
        torch.testing.assert_close(*answers)
        assert not torch.allclose(answers[0], clean)
        for p, q in zip(model.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(p.grad.full_tensor(), q.grad)
        torch.testing.assert_close(model(TOKENS), clean)


def evaluated() -> None:
    """Rows of a sharded network are those of the whole one; rank 0 stores them, and every rank finds them again."""
    tied = dist.get_world_size() == 4
    whole, model = language(tied, shard=False), language(tied, shard=True)
    folders: list[str | None] = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folders, 0)
    out = Path(folders[0] or "") / "rows.parquet"
    options = {"noises": ["gaussian:0.1", "gaussian:0", "laplace:0.2"], "draws": 2}
    converters = Chips(converters=["none", "io:adc=6,noise=0.1"])
    for further in ({}, {"chips": converters}, {"precision_target": 10.0, "noises": "gaussian:0.3"}):
        settings: dict[str, Any] = options | further
        expected = evaluate(whole, (TOKENS, NEXT), **settings).rows
        for _ in range(2):
            found = evaluate(model, (TOKENS, NEXT), **settings, out=out).rows
            assert list(found.weights) == list(expected.weights)
            assert list(found.metric) == list(expected.metric)
            torch.testing.assert_close(torch.tensor(found.value), torch.tensor(expected.value))
    dist.barrier()
    assert out.is_file()


def trained(method: str, tied: bool) -> None:
    """Steps of ranks with a part of the batch each are those of one process with the whole batch, to rounding."""
    whole, model = language(tied, shard=False), language(tied, shard=True)
    alone, engine = (
        Engine(one, torch.optim.AdamW(one.parameters(), lr=0.02), seed=3, clip_norm=0.5, weight_clip=2.0)
        for one in (whole, model)
    )
    count, rank = dist.get_world_size(), dist.get_rank()
    for step in range(4):
        at = Progress(step, 9)
        expected = Method.parse(method).step(alone, Batch(TOKENS, NEXT), at).losses
        own = Batch(TOKENS.chunk(count)[rank], NEXT.chunk(count)[rank])
        found = Method.parse(method).step(engine, own, at).losses
        torch.testing.assert_close(found, expected.chunk(count)[rank])
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p.full_tensor(), q, rtol=1e-4, atol=1e-6)


SHARD_CHECKS: dict[str, Callable[[], None]] = {
    "shards are slices": shards_are_slices,
    "two mesh axes": two_mesh_axes,
    "only its own rows": only_its_own_rows,
    "perturbed, tensor parallel": lambda: perturbed_models(column_and_row_parallel),
    "perturbed, fully sharded": lambda: perturbed_models(fully_sharded),
    "perturbed, gathered and kept": lambda: perturbed_models(fully_sharded_and_kept),
    "sharding refused": refusals,
    **{f"perturbed, tied {tied}": lambda tied=tied: perturbed_language(tied) for tied in (False, True)},
    "evaluated": evaluated,
    **{
        f"trained by {method}, tied {tied}": lambda method=method, tied=tied: trained(method, tied)
        for method in ("plain", "rwp:gaussian(0.2)", "rwp:laplace(0.1),draws=2")
        for tied in (False, True)
    },
}

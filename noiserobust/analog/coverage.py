"""What noise would touch in a network, what it would leave alone, and why."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from html import escape
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.analog.digital import packed
from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.macs import Call, pass_of
from noiserobust.analog.places import Stored, Untied
from noiserobust.analog.tracing import Trace
from noiserobust.analog.weights import EXCLUDED, LATENT, AnalogWeight, Unused, classified
from noiserobust.analog.where import Where
from noiserobust.errors import UserError
from noiserobust.models.compute import call
from noiserobust.models.wrappers import Names, unwrap
from noiserobust.noise.sharded import is_sharded, whole
from noiserobust.spec.kinds import typed

ENOUGH = 50.0
"""Percent of the multiply-accumulates below which a network counts as mostly digital."""
BUFFER = "buffer"
NAMED = 4
"""How many patterns a remedy names at most."""


@dataclass(frozen=True)
class CoverageRow:
    """What becomes of one parameter: ``reason`` says why it is left digital, and is empty where it is noisy."""

    name: str
    shape: tuple[int, ...]
    noisy: bool
    reason: str
    max_over_rms: float
    """max|w| / rms(w): with noise proportional to the maximum, a layer with outliers is hit hardest."""
    macs: float = math.nan
    """Multiply-accumulates per input; NaN where none was seen, or no inputs were given."""
    include: str = ""
    """The pattern, with the axes of its outputs that a pass showed, which would make it noisy; empty where it is, or
    where no matrix product read it as it is stored."""

    @property
    def weights(self) -> int:
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Coverage:
    """Which parameters are noisy and which are not, layer by layer: in weights, and in multiply-accumulates where
    inputs were given."""

    rows: tuple[CoverageRow, ...]
    products: Mapping[str, float] = field(default_factory=dict)
    """Multiply-accumulates per input of no parameter: of ``activations`` with each other (attention), and by the
    names of buffers."""
    note: str = ""
    """Which patterns were used, where a checkpoint has some of its own."""
    heads: tuple[str, ...] = ()
    """Patterns of the matrices that a pass looked up and multiplied by, with the axis that it showed: they are
    included, noisy where they are multiplied."""

    @property
    def noisy(self) -> int:
        """Number of noisy weights."""
        return sum(row.weights for row in self.rows if row.noisy)

    @property
    def total(self) -> int:
        """Number of all weights; one that is computed counts as itself, and not as what it is computed from."""
        return sum(row.weights for row in self.rows if not row.reason.startswith(LATENT))

    @property
    def counted(self) -> bool:
        """Whether multiply-accumulates were counted."""
        return bool(self.products)

    @property
    def noisy_macs(self) -> float:
        """Multiply-accumulates per input of the noisy weights; NaN where they were not counted."""
        return _total(row for row in self.rows if row.noisy) if self.counted else math.nan

    @property
    def macs(self) -> float:
        """All multiply-accumulates per input, those of activations included; NaN where they were not counted."""
        return _total(self.rows) + math.fsum(self.products.values()) if self.counted else math.nan

    @property
    def summary(self) -> str:
        """One line: how many weights of how many were noisy, and what was left out and why."""
        left: dict[str, list[int]] = {}
        for row in self.rows:
            if not row.noisy:
                left.setdefault(row.reason, []).append(row.weights)
        layers = sum(row.noisy for row in self.rows)
        text = (
            f"{self.noisy:,} of {self.total:,} weights noisy ({_share(self.noisy, self.total):.1f} %, {layers} tensors)"
        )
        if self.counted:
            text += f", {_share(self.noisy_macs, self.macs):.1f} % of {self.macs:,.0f} multiply-accumulates"
        parts = [f"{sum(sizes):,} in {len(sizes)} x {reason}" for reason, sizes in left.items()]
        parts += [_product(name, macs, self.macs) for name, macs in self.products.items() if macs]
        heads = f"looked up and multiplied: include {_quoted(self.heads)}" if self.heads else ""
        digital = f"digital: {', '.join(parts)}" if parts else ""
        return "; ".join(filter(None, [text, digital, heads, self.note]))

    @property
    def warning(self) -> str:
        """What to do where less than half of the multiply-accumulates are noisy though nobody asked for that; empty
        otherwise."""
        asked = _total(row for row in self.rows if row.reason == EXCLUDED)
        if not self.counted or not self.macs or _share(self.noisy_macs + asked, self.macs) >= ENOUGH:
            return ""
        text = f"only {_share(self.noisy_macs, self.macs):.1f} % of the multiply-accumulates are noisy"
        return "; ".join([text, *self._remedies()])

    def _remedies(self) -> Iterator[str]:
        """What makes the largest digital layers noisy, and what nothing does."""
        digital = [row for row in self.rows if not row.noisy and row.reason != EXCLUDED and row.macs > 0]
        digital.sort(key=lambda row: -row.macs)
        patterns: list[str] = []
        covered = self.noisy_macs
        for pattern, rows in self._patterns([row for row in digital if row.include and row.reason != BUFFER]):
            if len(patterns) < NAMED and _share(covered, self.macs) < 90:
                patterns.append(pattern)
                covered += _total(rows)
        if patterns:
            share = _share(covered, self.macs)
            yield f"include {_quoted(patterns)} (--include, Where(include=[...])) for {share:.1f} %"
        for row in digital:
            if row.reason == BUFFER and _share(row.macs, self.macs) > 5:
                share = _share(row.macs, self.macs)
                yield f"include '{row.include}' for {share:.1f} % more if that buffer is a weight"
        closed = [row for row in digital if not row.include]
        if _share(_total(closed), self.macs) > 5:
            names = ", ".join(row.name for row in closed[:NAMED])
            yield (
                f"{_share(_total(closed), self.macs):.1f} % are of weights that are changed before they are multiplied "
                f"({names}): register_layer(type, {{attribute: Outputs(axes)}}) where the stored value is the array's"
            )
        for name, macs in self.products.items():
            if _share(macs, self.macs) > 5:
                yield f"{_product(name, macs, self.macs)}, and stay digital"

    def _patterns(self, rows: Sequence[CoverageRow]) -> Iterator[tuple[str, list[CoverageRow]]]:
        """Patterns for weights that are digital, those of all layers of one kind together where they are alike."""
        left = {row.name: row for row in rows}
        for row in rows:
            if row.name not in left:
                continue
            axes = row.include.rpartition("@")[2]
            parts = (part if not part.isdigit() else "*" for part in row.name.split("."))
            general = ".".join(part if part == "*" else glob.escape(part) for part in parts)
            matched = [one for one in self.rows if fnmatchcase(one.name, general)]
            alike = all(len(one.shape) < 2 or one.include.rpartition("@")[2] == axes for one in matched)
            group = [left.pop(one.name) for one in matched if one.name in left] if alike else [left.pop(row.name)]
            yield f"{general}@{axes}" if alike else row.include, group

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=4)
        heads = ["shape", "max/rms", *(["MACs", "share"] if self.counted else [])]
        sizes = [18, 7, 15, 7]
        lines = [f"{'weight':{width}}  {'  '.join(f'{h:>{n}}' for h, n in zip(heads, sizes, strict=False))}  noise"]
        for row in self.rows:
            cells = ["x".join(map(str, row.shape)), f"{row.max_over_rms:.2f}"]
            if self.counted:
                known = row.macs == row.macs
                cells += [f"{row.macs:,.0f}", f"{_share(row.macs, self.macs):.1f} %"] if known else ["-", "-"]
            answer = "yes" if row.noisy else f"no: {row.reason}"
            lines.append(
                f"{row.name:{width}}  {'  '.join(f'{c:>{n}}' for c, n in zip(cells, sizes, strict=False))}  {answer}"
            )
        return "\n".join([*lines, self.summary])

    def _repr_html_(self) -> str:
        return _html(self)


def _html(coverage: Coverage) -> str:
    heads = ["weight", "shape", "max/rms", *(["multiply-accumulates"] if coverage.counted else []), "noise"]
    lines = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    for row in coverage.rows:
        cells = [row.name, "x".join(map(str, row.shape)), f"{row.max_over_rms:.2f}"]
        cells += [f"{row.macs:,.0f}" if row.macs == row.macs else "-"] if coverage.counted else []
        cells.append("yes" if row.noisy else f"no: {row.reason}")
        lines.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    return f"<div><table>{''.join(lines)}</table>{escape(coverage.summary)}</div>"


@typed
def coverage(
    model: nn.Module,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    layers: Any = None,
    inputs: Any = None,
    call: Call = call,
) -> Coverage:
    """What noise would touch in ``model``, what it would leave alone, and why.

    - ``include``, ``exclude``, ``layers``: as in :func:`analog_weights`.
    - ``inputs``: one or two inputs, (B, ...), a tuple (``model(*inputs)``) or a dict (``model(**inputs)``). One pass of
      them, in eval mode, counts the multiply-accumulates per input of every weight and of activations with each
      other, by the formulas of :func:`~noiserobust.analog.macs.count_macs`. A matrix that it looks up *and* multiplies
      by (an embedding whose weight a head reads) is analog where it is multiplied, unless it is excluded: ``heads``
      are the patterns that include it where there are no inputs, as in :func:`~noiserobust.perturbed`.
    - ``call(model, inputs)``: how the network is asked, where it is not as above.

    >>> print(coverage(nn.Linear(3, 2, bias=False), inputs=torch.zeros(1, 3)).summary)
    6 of 6 weights noisy (100.0 %, 1 tensors), 100.0 % of 6 multiply-accumulates
    """
    classes = list(classified(model, include, exclude, LayerTable.of(layers)))
    traces, products = [Trace()] * len(classes), dict[str, float]()
    if inputs is not None:
        traces, products = _traces(model, classes, inputs, call)
    if heads := tuple(_heads(classes, traces)):
        again = coverage(model, include=[*include, *heads], exclude=exclude, layers=layers, inputs=inputs, call=call)
        return replace(again, heads=heads)
    rows = []
    for (one, reason), trace in zip(classes, traces, strict=True):
        name, tensor = (one.name, one.value()) if isinstance(one, AnalogWeight) else one
        size = tensor.detach().abs() if tensor.is_complex() else tensor.detach()
        values = whole(size).float() if tensor.layout == torch.strided else torch.zeros(0)
        rms = values.square().mean().sqrt()
        known = not values.is_meta and rms > 0  # NaN is not > 0: no weights, no ratio
        ratio = float(values.abs().amax() / rms) if known else math.nan
        macs = math.nan if trace.macs is None else trace.macs
        hint = _named_axes(name, tuple(tensor.shape), trace) if reason and not packed(tensor) else ""
        rows.append(CoverageRow(name, tuple(tensor.shape), not reason, reason, ratio, macs, hint))
    return Coverage(tuple(rows), products)


def weight_counts(model: nn.Module, where: Where) -> dict[str, int]:
    """How many weights are noisy and how many there are, as :class:`Coverage` counts them, with nothing else."""
    every = [
        (one.numel if isinstance(one, AnalogWeight) else one[1].numel(), reason)
        for one, reason in classified(model, **where.patterns)
    ]
    noisy = sum(size for size, reason in every if not reason)
    return {"noisy_weights": noisy, "all_weights": sum(n for n, reason in every if not reason.startswith(LATENT))}


def coverage_of(model: nn.Module, where: Where, call: Call, batch: Any = None) -> Coverage:
    """:func:`coverage` of the first sample of ``batch``, or of two where norms need them; without multiply-accumulates
    where that cannot be watched."""
    # Of a sharded network a process sees a part of the products.
    if batch is not None and not any(map(is_sharded, model.parameters())):
        for count in (1, 2):
            # A network that computes, but cannot be watched.
            with suppress(UserError):
                return coverage(model, **where.patterns, inputs=batch[:count], call=call)
    return coverage(model, **where.patterns)


def _traces(
    model: nn.Module, classes: Sequence[tuple[AnalogWeight | Unused, str]], inputs: Any, call: Call
) -> tuple[list[Trace], dict[str, float]]:
    """What one pass did with each weight, per input, and the multiply-accumulates of none of them."""
    noisy = [latent for one, _ in classes if isinstance(one, AnalogWeight) for latent in one.latents]
    watch, count = pass_of(model, inputs, noisy, call)
    traces, left = [], watch.traces()

    def taken(tensors: Sequence[Tensor]) -> Trace:
        """What was done with them, each product given to the first weight that asks."""
        found = [left.pop(id(trace)) for trace in map(watch.of, tensors) if id(trace) in left]
        macs = [trace.macs / count for trace in found if trace.macs is not None]
        if len(found) != 1:
            return Trace(macs=math.fsum(macs) if macs else None, changed=True)
        return replace(found[0], macs=macs[0] if macs else None)

    # Noisy ones ask first: what a tied head multiplies is the head's, and not the embedding's. Then those computed
    # from others, which are listed, too.
    latents: dict[str, list[Tensor]] = {}
    for one, reason in classes:
        if isinstance(one, tuple) and reason.startswith(LATENT):
            latents.setdefault(reason.removeprefix(f"{LATENT} "), []).append(one[1])
    by_name = {one.name: taken(one.latents) for one, _ in classes if isinstance(one, AnalogWeight)}
    by_name |= {name: taken(tensors) for name, tensors in latents.items() if name not in by_name}
    for one, _ in classes:
        name, tensors = (one.name, one.latents) if isinstance(one, AnalogWeight) else (one[0], [one[1]])
        traces.append(by_name[name] if name in by_name else taken(tensors))
    products = {"activations": watch.activations / count}
    names = Names(model)
    for path, buffer in unwrap(model).named_buffers():
        if macs := taken([buffer]).macs:
            products[f"buffer {names(path)}"] = macs
    return traces, products


def _heads(classes: Sequence[tuple[AnalogWeight | Unused, str]], traces: Sequence[Trace]) -> Iterator[str]:
    """The patterns of matrices that were looked up and multiplied by, and are not known as such."""
    for (one, reason), trace in zip(classes, traces, strict=True):
        if isinstance(one, Untied):
            # A product that its layer does not compute reads the embedding's weight.
            name, shape, open_ = one.name, one.shape, trace.outside > 0
        elif isinstance(one, AnalogWeight):
            name, shape, open_ = one.name, one.shape, type(one) is Stored
        else:
            name, shape, open_ = one[0], tuple(one[1].shape), reason != EXCLUDED and not reason.startswith(LATENT)
        head = open_ and trace.looked_up and bool(trace.macs) and len(shape) == 2
        pattern = _named_axes(name, shape, trace) if head else ""
        if pattern.endswith("@0"):
            yield pattern


def _named_axes(name: str, shape: tuple[int, ...], trace: Trace) -> str:
    """The pattern that includes a weight along the axes that a pass showed."""
    if trace.changed or len(trace.axes) != 1:
        return ""
    (axes,) = trace.axes
    axes = axes or tuple(axis for axis, size in enumerate(shape) if size == 1)[:1]  # a pass shows no axis of size 1
    return f"{glob.escape(name)}@{','.join(map(str, axes))}" if 0 < len(axes) < len(shape) else ""


def _quoted(patterns: Sequence[str]) -> str:
    return " ".join(f"'{pattern}'" for pattern in patterns)


def _total(rows: Any) -> float:
    return math.fsum(row.macs for row in rows if row.macs == row.macs)


def _share(part: float, of: float) -> float:
    return 100 * part / of if of else 0.0


def _product(name: str, macs: float, of: float) -> str:
    what = "products of activations" if name == "activations" else f"products with {name}"
    return f"{_share(macs, of):.1f} % of the multiply-accumulates are {what}"

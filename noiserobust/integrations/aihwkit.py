"""aihwkit's analog models and plain networks, one made of the other: a draw of ours on their tiles, and back."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.analog.backends import Backend
from noiserobust.analog.backends.tiles import OnTiles, load_aihwkit, scales_of
from noiserobust.analog.layers import tiles_of
from noiserobust.analog.noisy import NoisyWeights, report_stream
from noiserobust.errors import UserError
from noiserobust.evaluation.evaluated_models import OneModel, trained_copies
from noiserobust.models import ModelSpec
from noiserobust.models.wrappers import unwrap
from noiserobust.noise import NoiseModel
from noiserobust.rng import Stream, seeded
from noiserobust.spec.references import one_line

__all__ = ["from_analog", "to_analog"]


@torch.no_grad()
def to_analog(
    model: OneModel,
    noise: NoiseModel | str = "gaussian:0",
    *,
    seed: int = 0,
    replicate: int = 0,
    draw: int = 0,
    t: float | None = None,
    rpu_config: Any = "aihwkit",
    spec: ModelSpec | str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Any:
    """An analog model of aihwkit, in eval mode, whose tiles hold this draw of ``noise``.

    Its weights are those of ``noiserobust.perturbed(model, noise, seed=seed, replicate=replicate, draw=draw, t=t)`` to
    float32 rounding. Outputs are scaled by the *clean* weights, as of a chip that was programmed with them.

    - ``model``: a network, which stays as it is, or a checkpoint, a run, or the path of either; ``spec`` says how to
      build the network of a file that does not.
    - ``t``: seconds after programming.
    - ``rpu_config``: an ``RPUConfig`` (for inference), its class, or the text of a backend: ``aihwkit``,
      ``aihwkit:inp_bits=8,tile=256``, ``package.module:Name``.
    - ``include``, ``exclude``: which weights are noisy, as of :func:`noiserobust.perturbed`; excluded layers are on
      tiles without noise.

    Layers that aihwkit has no tiles for (grouped convolutions, padding that is not zeros, attention, recurrent ones,
    layers with parametrizations) stay plain, and hold their noise, too. Drift compensation is none of the model's:
    ``program_analog_weights`` would program it anew, on top of this draw.

    Raises :class:`~noiserobust.UserError` where there is no such network, config or noise.
    """
    copies = trained_copies(model)
    if len(copies) != 1:
        raise UserError(f"expected one network, got {len(copies)}: {', '.join(copy.name for copy in copies)}")
    source = copies[0].source
    if not isinstance(source, nn.Module):
        source = source.build(None if spec is None else ModelSpec.parse(spec))
    network = unwrap(source)
    if tiles_of(network):
        raise UserError("expected a plain network, got an analog model of aihwkit; from_analog makes one of it")
    backend = Backend.parse(rpu_config)
    if not isinstance(backend, OnTiles):
        raise UserError(f"expected an RPUConfig of aihwkit or the text of such a backend, got {backend}")
    if wide := {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}:
        raise UserError(f"expected a network in float32, which tiles compute in, got {', '.join(map(str, wide))}")
    noisy = NoisyWeights(network, include=include, exclude=exclude)
    with noisy.replaced(lambda weight: weight.value()):
        clean = _converted(network, backend)
    with noisy.perturbed(NoiseModel.parse(noise), report_stream(seed, replicate, draw), t):
        analog = _converted(network, backend)
    # A chip's scales are those of what it was programmed with.
    for tile, target in zip(tiles_of(analog).values(), tiles_of(clean).values(), strict=True):
        scales = target.get_scales()
        if scales is not None:
            weight = tile.tile.get_weights()
            tile.tile.set_weights(weight * (scales_of(tile) / scales_of(target)).view(-1, 1).to(weight))
            tile.set_scales(scales.detach().clone())
    return analog


@torch.no_grad()
def from_analog(model: nn.Module) -> nn.Module:
    """A plain network with the weights that an analog model of aihwkit computes with now, in eval mode.

    Each weight is conductance x digital scale x drift compensation, of what is on the tiles: what was trained, or,
    after ``program_analog_weights`` and ``drift_analog_weights``, what was programmed and has drifted. Converters,
    their noise and input ranges stay behind. ``model`` stays as it is.

    Raises :class:`~noiserobust.UserError` for a network without tiles, and for layers that aihwkit makes no plain ones
    of.
    """
    from aihwkit.nn.conversion import convert_to_digital

    if not isinstance(model, nn.Module) or not tiles_of(model):
        raise UserError(f"expected an analog model of aihwkit, got {type(model).__name__}; to_analog makes one")
    analog = deepcopy(model)
    for tile in tiles_of(analog).values():
        alpha = _compensation(tile)
        if alpha is not None:
            weight = tile.tile.get_weights()
            tile.tile.set_weights(weight * alpha.detach().flatten().view(-1, 1).to(weight))
    with seeded(Stream(0, "aihwkit")):  # plain layers draw initial weights before they are given theirs
        digital = convert_to_digital(analog, inplace=True)
    if left := [name.partition(".analog_module")[0] for name in tiles_of(digital)]:
        raise UserError(f"expected layers that aihwkit makes plain ones of, got others: {', '.join(left)}")
    return digital.eval()


def _converted(network: nn.Module, backend: OnTiles) -> Any:
    aihwkit = load_aihwkit()
    plain = [name for name, module in network.named_modules() if _computes_otherwise(module)]
    with seeded(Stream(0, "aihwkit")), one_line("expected a network that aihwkit converts"):
        return aihwkit.convert_to_analog(network, backend.config(aihwkit), exclude_modules=plain).eval()


def _computes_otherwise(module: nn.Module) -> bool:
    """Whether aihwkit's layer would not do what this convolution does."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        return False
    return module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str)


def _compensation(tile: Any) -> Tensor | None:
    """What a tile's outputs are multiplied by against drift, in eval mode."""
    return None if getattr(tile.rpu_config, "drift_compensation", None) is None else getattr(tile, "alpha", None)

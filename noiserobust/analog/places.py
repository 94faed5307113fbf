"""Where a weight computes: how the value in the array is read, and how its layer is made to compute with another.

One class per kind: a parameter as it is, one that an embedding shares, and values that are computed from parameters,
by a parametrization, by a hook, or in a layer's own forward method.
"""

from __future__ import annotations

import glob
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from noiserobust.analog.backup import Backup
from noiserobust.analog.forwards import weight_in_forward
from noiserobust.analog.holders import replaced
from noiserobust.analog.layer_table import PLAIN, LayerSettings
from noiserobust.analog.layers import Outputs
from noiserobust.analog.openings import opened
from noiserobust.analog.probing import Operand, Products, products_of
from noiserobust.errors import UserError
from noiserobust.models.modes import evaluating
from noiserobust.noise import NoiseModel
from noiserobust.noise.sharded import is_sharded, whole


class AnalogWeight(ABC):
    """A weight that would sit in a crossbar, at the place where its value computes.

    - ``name``: its place in the network, which names its randomness.
    - ``owner``, ``attribute``: the layer that computes with it, and what that calls it.
    - ``outputs``: which of its dimensions count outputs.
    - ``latents``: the parameters that its value is made of; itself, where it is a parameter.
    """

    tied = False
    """Whether an embedding shares it: the look-up stays digital, so that only this layer sees the noise."""

    def __init__(
        self, name: str, owner: nn.Module, attribute: str, outputs: Outputs, latents: Sequence[nn.Parameter]
    ) -> None:
        self.name, self.owner, self.attribute, self.outputs = name, owner, attribute, outputs
        self.latents = tuple(latents)
        self.settings: LayerSettings = PLAIN
        """What a table of settings by layer says of it."""
        self.axes = ""
        """Its axes where a person named them: a pattern for it needs them, too."""

    @property
    def pattern(self) -> str:
        """What includes this weight alone."""
        return f"{glob.escape(self.name)}@{self.axes}" if self.axes else glob.escape(self.name)

    def noise(self, asked: NoiseModel, factor: float = 1.0) -> NoiseModel:
        """The noise of its array: that of its own settings, its strength times ``factor``, or the one ``asked`` for,
        under its own reference."""
        own = self.settings
        if own is PLAIN:
            return asked
        noise: NoiseModel = asked if own.noise is None else NoiseModel.parse(own.noise)
        if own.noise is not None and factor != 1:
            noise = noise.scaled(factor)
        changes = {name: own.given[name] for name in ("reference", "on_off", "g_max") if name in own.given}
        return noise.changed(**changes) if changes and not noise.is_identity else noise

    @abstractmethod
    def value(self) -> Tensor:
        """The value that computes now, detached; nothing in the layer changes."""

    @abstractmethod
    def opened(self, value: Tensor) -> AbstractContextManager[None]:
        """Inside, the layer computes with ``value``, whose gradient goes straight to what it was computed from."""

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that holds it, or the largest of those that its value is computed from."""
        return max(self.latents, key=lambda latent: latent.numel())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its value."""
        return tuple(self.value().shape)

    @property
    def numel(self) -> int:
        """The number of weights."""
        return int(torch.Size(self.shape).numel())

    def as_rows(self, tensor: Tensor) -> Tensor:
        """``tensor``, shaped like the weight, with one row per output: (outputs, inputs...)."""
        if not self.outputs.lead and is_sharded(tensor):
            raise UserError(f"{self.name}: expected outputs in dimension 0 of a weight sharded over processes")
        return self.outputs.rows(tensor)

    def from_rows(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`as_rows`."""
        return rows if self.outputs.lead else self.outputs.weight(rows, self.shape)


class Stored(AnalogWeight):
    """A parameter that its layer multiplies by as it is: it is written in place."""

    def value(self) -> Tensor:
        return self.latents[0].detach()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.latents[0].shape)

    @contextmanager
    def opened(self, value: Tensor) -> Iterator[None]:
        with opened(self.latents) as opening:
            opening.enter_context(self.written())
            Backup(self.latents).save(opening)
            with torch.no_grad():
                self.latents[0].copy_(value)
            yield

    def written(self) -> AbstractContextManager[None]:
        """Inside, it may be written: what else must change meanwhile."""
        return nullcontext()


class Untied(AnalogWeight):
    """A parameter that an embedding shares: for the opening the layer has one of its own, so that whatever is saved,
    copied, exported or converted meanwhile holds the noise. Its gradient goes to the shared one."""

    tied = True

    def __init__(
        self,
        name: str,
        owner: nn.Module,
        attribute: str,
        outputs: Outputs,
        latents: Sequence[nn.Parameter],
        configs: Sequence[Any] = (),
    ) -> None:
        super().__init__(name, owner, attribute, outputs, latents)
        self.owners = [owner]
        self.configs = configs
        """What tells libraries to tie the two again after loading."""

    def value(self) -> Tensor:
        held = self.owner._parameters[self.attribute]
        assert held is not None
        return held.detach()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.latents[0].shape)

    @contextmanager
    def opened(self, value: Tensor) -> Iterator[None]:
        before = [(owner._parameters, owner._parameters[self.attribute]) for owner in self.owners]
        shared = before[0][1]
        assert shared is not None
        if is_sharded(value):
            with ExitStack() as stack:
                for owner in self.owners:
                    stack.enter_context(weight_in_forward(owner, self.attribute, whole(value)))
                yield
            return
        value = value.detach().to(shared.dtype)
        if torch.is_grad_enabled() and shared.requires_grad:
            own: nn.Parameter = (value + (shared - shared.detach())).as_subclass(_OfItsOwn)
        else:
            own = nn.Parameter(value, requires_grad=False)
        flags = [(config, config.tie_word_embeddings) for config in self.configs]
        try:
            for parameters, _ in before:
                parameters[self.attribute] = own  # register_parameter would refuse one that has a history
            for config, _ in flags:
                config.tie_word_embeddings = False
            yield
        finally:
            lost = any(parameters.get(self.attribute) is not own for parameters, _ in before)
            for parameters, tied in before:
                parameters[self.attribute] = tied
            for config, flag in flags:
                config.tie_word_embeddings = flag
            if lost:
                raise replaced([self.name])


class _OfItsOwn(nn.Parameter):
    """A parameter whose gradient goes on to another one; copies of it are plain parameters."""

    @property
    def grad(self) -> None:  # type: ignore[override]
        """None: it is the shared parameter's, and asking a tensor that is no leaf would be warned of."""
        return

    @property
    def grad_fn(self) -> None:  # type: ignore[override]
        """None, since modules refuse parameters that have one."""
        return

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        return memo.setdefault(id(self), nn.Parameter(self.detach().clone(), self.requires_grad))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Parameter(self.detach(), self.requires_grad).__reduce_ex__(protocol)


class Parametrised(AnalogWeight):
    """A weight behind torch's parametrizations (weight or spectral norm, orthogonal, one's own)."""

    @property
    def _list(self) -> Any:
        return self.owner.parametrizations[self.attribute]  # type: ignore[index]

    def value(self) -> Tensor:
        with torch.no_grad(), evaluating(self._list):  # spectral norm would learn in train mode
            return self._list().detach()

    @contextmanager
    def opened(self, value: Tensor) -> Iterator[None]:
        self._list.append(_Given(value.detach()))
        self._forget()
        try:
            yield
        finally:
            self._list.pop(-1)
            self._forget()

    def _forget(self) -> None:
        """Leave nothing in the cache of an open ``parametrize.cached()``."""
        parametrize._cache.pop((id(self.owner), self.attribute), None)


class _Given(nn.Module):
    """A last parametrization that gives the value it holds, with the gradient of what it is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, computed: Tensor) -> Tensor:
        return straight(self.value, computed)


class Hooked(AnalogWeight):
    """A weight that a hook before the layer's forward method computes: ``torch.nn.utils.weight_norm`` and
    ``spectral_norm`` as they were, ``torch.nn.utils.prune``."""

    def __init__(self, *arguments: Any, hooks: Sequence[Callable[..., Any]]) -> None:
        super().__init__(*arguments)
        self.hooks = hooks

    def value(self) -> Tensor:
        attribute, before = self.attribute, vars(self.owner)[self.attribute]
        if self._held in self.owner._buffers:
            return before.detach()
        try:
            with torch.no_grad(), evaluating(self.owner):
                for hook in self.hooks:
                    hook(self.owner, ())
            return vars(self.owner)[attribute].detach()
        finally:
            setattr(self.owner, attribute, before)

    @contextmanager
    def opened(self, value: Tensor) -> Iterator[None]:
        owner, attribute, before = self.owner, self.attribute, vars(self.owner)[self.attribute]
        with _held(owner, self._held, value) as nested, ExitStack() as stack:
            if not nested:
                stack.callback(owner.register_forward_pre_hook(_AfterHooks(attribute, self._held)).remove)
            setattr(owner, attribute, value.detach())
            try:
                yield
            finally:
                setattr(owner, attribute, before)

    @property
    def _held(self) -> str:
        return held_name(self.attribute)


class _AfterHooks:
    """A hook behind those that compute a weight: the layer computes with the held value and their gradient."""

    def __init__(self, attribute: str, held: str) -> None:
        self.attribute, self.held = attribute, held

    def __call__(self, module: nn.Module, args: Any) -> None:
        setattr(module, self.attribute, straight(module._buffers[self.held], getattr(module, self.attribute)))


class Inside(AnalogWeight):
    """A value that a layer's own forward method makes of a parameter: replaced at the product that uses it."""

    def __init__(self, *arguments: Any, operand: Operand) -> None:
        super().__init__(*arguments)
        self.operand = operand

    def value(self) -> Tensor:
        held = self.owner._buffers.get(self._held)
        value = held if held is not None else self.operand.of(products_of(self.owner, self.latents[0]))
        if value is None:
            raise UserError(f"{self.name}: {type(self.owner).__name__} no longer multiplies by it as it did")
        return value.detach()

    @contextmanager
    def opened(self, value: Tensor) -> Iterator[None]:
        with _held(self.owner, self._held, value) as nested, ExitStack() as stack:
            if not nested:
                swap = _Swap(self.name, self._held, self.operand, value.numel())
                stack.callback(self.owner.register_forward_pre_hook(swap.begin).remove)
                stack.callback(self.owner.register_forward_hook(swap.end, always_call=True).remove)
            yield

    @property
    def _held(self) -> str:
        return held_name(self.attribute)


class _Swap:
    """Hooks around a layer's forward method that replace the operand of one product."""

    def __init__(self, name: str, held: str, operand: Operand, size: int) -> None:
        self.name, self.held, self.operand, self.size = name, held, operand, size
        self.open: list[Products] = []

    def begin(self, module: nn.Module, args: Any) -> None:
        watch = Products(self.size, self.operand, lambda computed: straight(module._buffers[self.held], computed))
        self.open.append(watch.__enter__())

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        watch = self.open.pop()
        watch.__exit__(None, None, None)
        watch.seen.clear()
        if output is not None and not watch.replaced:
            raise UserError(f"{self.name}: {type(module).__name__} did not multiply by it as it does alone; exclude it")


def held_name(attribute: str) -> str:
    """The buffer in which a layer holds the value of a computed weight while it is open, so that copies have it."""
    return f"{attribute}_in_array"


@contextmanager
def _held(owner: nn.Module, name: str, value: Tensor) -> Iterator[bool]:
    """Inside, ``owner`` has the buffer ``name``; gives whether it had one before, from an opening around this one."""
    before = owner._buffers.get(name)
    owner.register_buffer(name, value.detach())
    try:
        yield before is not None
    finally:
        del owner._buffers[name]
        if before is not None:
            owner._buffers[name] = before


def straight(value: Any, computed: Tensor) -> Tensor:
    """Exactly ``value``, with the gradient of ``computed``."""
    value = value.to(computed.dtype)
    return value + (computed - computed.detach()) if computed.requires_grad else value


def parametrised(module: Any) -> list[str]:
    """The attributes of a module that torch's parametrizations compute."""
    return list(module.parametrizations) if parametrize.is_parametrized(module) else []


def computing_hooks(module: nn.Module) -> dict[str, list[Callable[..., Any]]]:
    """The attributes that hooks before the forward method compute (plain tensors there), and those hooks."""
    found: dict[str, list[Callable[..., Any]]] = {}
    for hook in module._forward_pre_hooks.values():
        attribute = getattr(hook, "_tensor_name", getattr(hook, "name", None))
        if isinstance(attribute, str) and isinstance(vars(module).get(attribute), Tensor):
            found.setdefault(attribute, []).append(hook)
    return found


def hook_latents(module: nn.Module, attribute: str) -> list[nn.Parameter]:
    """The parameters that such hooks compute from."""
    found = (module._parameters.get(f"{attribute}_{end}") for end in ("orig", "v", "g"))
    return [parameter for parameter in found if parameter is not None]

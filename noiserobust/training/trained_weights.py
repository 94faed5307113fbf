"""The parameters that an optimizer trains, read from it anew at every step, and the gradients that lie in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from noiserobust.analog.coverage import coverage_of
from noiserobust.analog.macs import Call
from noiserobust.analog.vectors import Vector, clip
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.analog.where import Where
from noiserobust.data import Batch, nests
from noiserobust.errors import UserError
from noiserobust.models.wrappers import unwrap


class TrainedWeights:
    """Those parameters of ``optimizer`` that are not frozen: ``space``, as they were when last :meth:`read`.

    A layer that was frozen or unfrozen since, or a group that was added, is seen by the next :meth:`read`.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, where: Where) -> None:
        self.model, self.optimizer, self.where = model, optimizer, where
        _require_supported(model, optimizer)
        self._sparse: set[int] = set()
        self._every = self._given()
        self.space = self._new_space()

    def read(self) -> WeightSpace:
        """The weights as they are now; the same object as long as they are the same parameters."""
        every = self._given()
        trained = [parameter for parameter in every if parameter.requires_grad]
        # By identity: == would compare elements.
        if list(map(id, trained)) != self._ids or len(every) != len(self._every):
            self._every = every
            self.space = self._new_space()
        return self.space

    def find_heads(self, call: Call, batch: Batch) -> None:
        """Count as analog what ``call(model, batch)`` looks up, by whole numbers, and multiplies by."""
        if not any(not values.is_floating_point() for values in nests.tensors(batch.inputs)):
            return
        with suppress(Exception):  # whatever a network does when it is watched; if it cannot compute, the step says so
            heads = coverage_of(unwrap(self.model), self.where, call, batch).heads
            self.where = self.where.including(heads)
            self.space = self._new_space() if heads else self.space

    def remembered(self, vector: Vector) -> Vector:
        """``vector`` with a place for every parameter of the optimizer, so that it outlives freezing and unfreezing."""
        place = {id(parameter): v for parameter, v in zip(self.space.parameters, vector, strict=True)}
        return [place.get(id(parameter)) for parameter in self._every]

    def recalled(self, vector: Vector) -> Vector:
        """What :meth:`remembered` gave, for the parameters of now; ``None`` for those that were not there."""
        place = dict(zip(map(id, self._every), vector, strict=False))  # groups are added at the end
        return [place.get(id(parameter)) for parameter in self.space.parameters]

    def require_ready(self) -> None:
        """Refuse a step without anything to train, or with gradients that somebody else's backward pass left."""
        if not self.space.parameters:
            raise UserError("expected a parameter to train, got none: all that the optimizer has are frozen")
        for parameter, name in zip(self.space.parameters, self.space.names, strict=True):
            if parameter.grad is None:
                continue
            if bool(parameter.grad.to_dense().any()):
                raise UserError(
                    f"expected no gradients when a step begins, got one in {name or 'a parameter'} of an earlier "
                    "backward() or another Engine's unfinished step; call optimizer.zero_grad() before the step (and "
                    "give terms of your own to the loss)"
                )
            parameter.grad = None  # zeros, as zero_grad(set_to_none=False) leaves them

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, backward passes leave the gradients of all other parameters of the model as they were."""
        others = [(parameter, parameter.grad) for parameter in self._others if parameter.requires_grad]
        for parameter, _ in others:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in others:
                parameter.grad = gradient

    def backward(self, loss: Tensor, inputs: Sequence[nn.Parameter] | None) -> None:
        """Add the gradient of ``loss`` to that of ``inputs`` (None: of all), skipping the rest of the backward pass."""
        if not loss.requires_grad:
            raise UserError(
                "expected a loss that depends on trained weights, got one that does not: the network or the loss cuts "
                "its answer off (detach, no_grad, argmax), or computes it from none of them"
            )
        if inputs is None or _reaches(loss, inputs):
            torch.autograd.backward(loss, inputs=inputs)
            return
        wanted = set(map(id, inputs))
        others = [(parameter, parameter.grad) for parameter in self.space.parameters if id(parameter) not in wanted]
        for parameter, _ in others:
            parameter.grad = None
        torch.autograd.backward(loss)
        for parameter, gradient in others:
            parameter.grad = gradient

    def lifted(self) -> Vector:
        """The gradients, dense, ``None`` where there is none; the parameters hold none afterwards."""
        # As views into DDP's buckets they would change under their holder's hands with the next backward pass.
        views = getattr(self.model, "gradient_as_bucket_view", False)
        gradients: Vector = []
        for parameter in self.space.parameters:
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None and gradient.layout != torch.strided:
                self._sparse.add(id(parameter))
                gradient = gradient.to_dense()
            gradients.append(gradient.clone() if views and gradient is not None else gradient)
        return gradients

    def add(self, parameters: Sequence[nn.Parameter], gradients: Vector, weight: float | Tensor) -> None:
        """Add ``weight`` times ``gradients``, whose memory is used, to those of ``parameters``; sparse where they were
        when they were :meth:`lifted`."""
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            if isinstance(weight, Tensor) or weight != 1.0:
                gradient.mul_(weight)
            gradient = gradient.to(parameter.dtype)
            if id(parameter) in self._sparse:
                gradient = gradient.to_sparse(1)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def clip(self, limit: float) -> None:
        """Scale all gradients so that their common norm is at most ``limit``."""
        gradients: Vector = []
        for parameter in self.space.parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                gradients.append(parameter.grad._values())
            else:
                gradients.append(parameter.grad)
        clip(gradients, limit)

    def _given(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _new_space(self) -> WeightSpace:
        _require_averaged(self.model)
        space = WeightSpace(self.model, self._every, **self.where.patterns)
        self._ids = list(map(id, space.parameters))
        known = set(self._ids)
        self._others = [p for p in unwrap(self.model).parameters() if id(p) not in known]
        return space


def _reaches(loss: Tensor, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the graph of ``loss`` shows all ``parameters``.

    It hides those that are used inside a function with a backward pass of its own, such as reentrant checkpointing: as
    ``inputs`` of a backward pass they would silently get no gradient.
    """
    missing = set(map(id, parameters))
    nodes: list[Any] = [loss.grad_fn]
    seen = set(nodes)
    while nodes and missing:
        node = nodes.pop()
        missing.discard(id(getattr(node, "variable", None)))
        for following, _ in node.next_functions if node is not None else ():
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return not missing


def _require_averaged(model: nn.Module) -> None:
    """Refuse what DDP would not average: it looks for parameters to train once, when it is made."""
    if not isinstance(model, DistributedDataParallel):
        return
    known = int(model._get_ddp_logging_data().get("num_parameter_tensors", 0))
    ignored = model.parameters_to_ignore
    trained = [p for name, p in model.module.named_parameters() if p.requires_grad and name not in ignored]
    if len(trained) > known > 0:
        raise UserError(
            f"expected the {known} parameters that DistributedDataParallel averages, got {len(trained)} that require a "
            "gradient; after unfreezing wrap the network in DistributedDataParallel anew"
        )


def _require_supported(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse what would silently train by another rule."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UserError("expected an optimizer that steps without a closure, got LBFGS; use SGD or AdamW")
    own = set(map(id, model.parameters()))
    if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise UserError(
            "expected an optimizer of the model's parameters, got one that has none of them: it would train nothing; "
            "make it of model.parameters(), after the model was copied, moved or wrapped"
        )
    if any(type(module).__name__.startswith("FullySharded") for module in model.modules()):
        raise UserError(
            "expected whole parameters or those of fully_shard, got FullyShardedDataParallel, which makes one vector "
            "of them; use fully_shard or DDP"
        )


def require_own_loop(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    """Refuse an optimizer that would not step when it is told to."""
    waits = not getattr(getattr(optimizer, "gradient_state", None), "sync_gradients", True)
    if waits or (scaler is None and getattr(optimizer, "scaler", None) is not None):
        raise UserError(
            "expected an optimizer that steps when told to, got one of accelerate's, which waits for micro-batches "
            "or scales losses; use AcceleratedEngine of noiserobust.integrations.accelerate"
        )

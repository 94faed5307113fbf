"""Runs that were begun before: finished or interrupted, damaged, of another network, or at work in another process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from noiserobust.errors import UserError
from noiserobust.storage.checkpoints import is_whole
from noiserobust.storage.described import strict
from noiserobust.storage.files import file_to_write, folder_to_write, set_aside
from noiserobust.storage.identity import same_code
from noiserobust.storage.locks import alone
from noiserobust.storage.states import read_state
from noiserobust.training.runs import Run


@dataclass(frozen=True)
class EngineState:
    """What rules remember."""

    memory: dict[str, Any]


@dataclass(frozen=True)
class State:
    """What is kept of an interrupted run; older versions kept less."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    engine: EngineState
    log: list[dict[str, float | int | str | None]]
    best: dict[str, Any]
    best_ranges: dict[str, Any] = field(default_factory=dict)
    rate: dict[str, Any] = field(default_factory=dict)
    own_memory: list[dict[str, Any]] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)


def alone_with(run: Run) -> AbstractContextManager[None]:
    """Inside, no other process trains ``run``: one that does is waited for."""
    folder_to_write(run.folder)
    for path in (run.state, run.folder / "log.csv", run.checkpoint):
        file_to_write(path)
    return alone(run.folder / ".lock", f"training {run.folder}")


def is_finished(run: Run) -> bool:
    """Whether there is a checkpoint; one that is damaged is set aside."""
    if run.checkpoint.is_file() and not is_whole(run.checkpoint):
        set_aside(run.checkpoint, "damaged", "the run is trained anew")
    return run.checkpoint.is_file()


def resumed(run: Run) -> dict[str, Any] | None:
    """The state of an interrupted ``run``, or None; one that is damaged is set aside, another run's is refused."""
    if not run.state.is_file():
        return None
    try:
        state = read_state(run.state)
    except UserError:
        set_aside(run.state, "the state of the interrupted run is damaged", "the run is trained anew")
        return None
    name = run.folder.name
    if state.get("run", name) != name:
        raise UserError(
            f"expected the state of the run {name}, got that of {state['run']} in {run.state}; remove it to start this "
            "run anew"
        )
    return strict(State, state, str(run.state))


@contextmanager
def fitting(run: Run) -> Iterator[None]:
    """Inside, what fails is the state of an interrupted run, which is not that of ``run``."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(
            f"expected the state of this run, got {run.state}, which does not fit it "
            f"({type(error).__name__}: {str(error)[:80]}); remove it to start this run anew"
        ) from error


def require_same_weights(run: Run, best: Mapping[str, Any], model: Mapping[str, Any], log: Sequence[Any]) -> None:
    """Refuse kept weights ``best`` that are none of the ``model``, and a ``log`` of other epochs."""
    shapes = [{name: getattr(value, "shape", None) for name, value in one.items()} for one in (best, model)]
    epochs = [line.get("epoch") for line in log]
    if shapes[0] != shapes[1] or epochs != [*range(len(log))] or not 0 < len(log) <= run.settings.epochs:
        raise ValueError("other weights or epochs")


def is_settled(run: Run) -> bool:
    """Whether ``run`` is finished, without a doubt. Its state, which a kill at the very end left, is then removed."""
    whole = is_whole(run.checkpoint)
    if whole:
        with suppress(OSError):
            run.state.unlink(missing_ok=True)
    return whole


def require_same_code(run: Run, code: Sequence[str] | None, about: Mapping[str, Any]) -> None:
    """Refuse a ``run`` of somebody's code that was trained (``about``) when that code was another than now."""
    stored = about.get("code")
    if not code or not stored:
        return
    was, now = (dict(word.partition("=")[::2] for word in one[2].split()) if one[2:] else {} for one in (stored, code))
    changed = [name for name, digest in now.items() if was.get(name, digest) != digest]
    if not same_code(code, stored):
        raise _other(run, "the network", f"one of {run.settings.model} that answers otherwise")
    if stored[3:] and code[3:] and not same_code(code[3:], stored[3:]):
        raise _other(run, "the teacher", f"one of {run.settings.teacher_model} that answers otherwise")
    if changed:
        raise _other(run, "the code", f"another {', '.join(changed)}")


def _other(run: Run, what: str, got: str) -> UserError:
    return UserError(
        f"expected {what} with which {run.folder} was trained, got {got}: its code has changed; move that folder away, "
        "or train into another"
    )

"""Runs that were begun before: finished or interrupted, damaged, of another network, or at work in another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from noiserobust.errors import UserError
from noiserobust.storage.checkpoints import is_whole
from noiserobust.storage.files import file_to_write, folder_to_write, set_aside
from noiserobust.storage.identity import same_code
from noiserobust.storage.locks import alone
from noiserobust.storage.states import read_state
from noiserobust.training.runs import Run


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
    return state


def require_same_code(run: Run, code: Sequence[str] | None, about: Mapping[str, Any]) -> None:
    """Refuse a ``run`` of somebody's code that was trained (``about``) when that code was another than now."""
    stored = about.get("code")
    if code and stored and not same_code(code, stored):
        raise UserError(
            f"expected the network with which {run.folder} was trained, got one of {run.settings.model} that answers "
            "otherwise: its code has changed; move that folder away, or train into another"
        )

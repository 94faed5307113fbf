"""The commands that make runs and rows again, and in lines behind # what has to be given besides."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from noiserobust.analog.where import Where
from noiserobust.errors import UserError
from noiserobust.evaluation.labels import told_apart
from noiserobust.storage.checkpoints import WEIGHTS, read_checkpoint
from noiserobust.storage.rows import OPERATION, completed
from noiserobust.sweep.recommendation import command_of
from noiserobust.tasks import Task
from noiserobust.tasks.counts import NAN_ANSWERS
from noiserobust.training import Run
from noiserobust.training.runs import names_code

FLAGS = ("task", "recalibration", "backend", "precision", "seed")
"""Columns that a flag of the same name sets for all rows of a command, where they are not as usual."""
USUAL = {**OPERATION, "precision": "fp32", "seed": 0}
BY_BF16 = "fp32 by bf16"
"""What rows to a precision say whose first answers were in bf16."""
HANDED = "handed over in Python: --data package.module:Name of a function that returns them"


def training_commands(run: Run, seeds: Sequence[int]) -> list[str]:
    """What trains the run again, with every one of ``seeds``."""
    words = command_of(run.settings).partition(" --seed ")[0]
    place = run.folder.parent
    out = "" if place == Path("runs") else f" --out {shlex.quote(str(place))}"
    lines = [f"{words} --seeds {' '.join(map(str, seeds))}{out}"]
    about = read_checkpoint(run.checkpoint).about
    if about.get("handed_over") or about.get("own_data"):
        lines.append(f"# the data were {HANDED}")
    return lines


def evaluation_commands(rows: pd.DataFrame) -> list[str]:
    """What evaluates these rows again: a command for the networks of one kind and the noises that were evaluated
    alike; then, behind #, what no command can say."""
    rows, lines, notes = completed(rows), list[str](), dict[str, None]()
    networks = _networks_of(rows, notes)
    for flags in dict.fromkeys(network.flags for network in networks):
        ours = [network for network in networks if network.flags == flags]
        chosen = rows[rows["model"].isin([network.model for network in ours])]
        trained = {network.trained for network in ours}
        alike: dict[tuple[str, ...], list[str]] = {}
        columns = [name for name in (*FLAGS, "analog", "given") if name in rows]
        for _, block in chosen.groupby(columns, sort=False, dropna=False):
            for noise, part in block.groupby("noise", sort=False):
                alike.setdefault(tuple(_around(part, trained, notes)), []).append(str(noise))
        words = ["noiserobust", "evaluate", *(network.word for network in ours), "--noise"]
        lines += [shlex.join([*words, *dict.fromkeys(noises), *flags, *around]) for around, noises in alike.items()]
    return [*lines, *(f"# {note}" for note in notes)]


class Network(NamedTuple):
    """A network of rows on the command line."""

    model: str
    word: str
    """Its place, with its label where its file has another."""
    flags: tuple[str, ...]
    """What builds it, where it is somebody's code."""
    trained: str
    """The weights that were analog in training, as rows say it."""


def _networks_of(rows: pd.DataFrame, notes: dict[str, None]) -> list[Network]:
    pairs = [(str(model), str(method)) for model, method in rows[["model", "method"]].drop_duplicates().to_numpy()]
    found = [_about(model, notes) for model, _ in pairs]
    networks = []
    for (model, method), about, told in zip(pairs, found, told_apart([one or {} for one in found]), strict=True):
        path, own = Path(model), str((about or {}).get("model", ""))
        place = str(path.parent) if path.name in WEIGHTS else model
        labelled = about is not None and method != (told or path.stem)
        flags = ("--model", own) if own and names_code(own) else ()
        trained = str(Where.trained((about or {}).get("settings")))
        networks.append(Network(model, f"{method}={place}" if labelled else place, flags, trained))
    return networks


def _about(model: str, notes: dict[str, None]) -> dict[str, Any] | None:
    """What the file of a network says of it; None where there is no such file."""
    try:
        about = dict(read_checkpoint(model).about)
    except UserError:
        handed = re.search(r"\[\d+\]$", model)
        sweep = "are named without a folder: the runs of a sweep lie in runs beside its rows"
        gone = "are not there any more" if "/" in model else sweep
        why = "were handed over in Python: save them and name the file" if handed else gone
        notes[f"the weights of {model} {why}"] = None
        return None
    if not about.get("model") and "task" not in about:
        notes[f"{model} does not name its network: --model NETWORK"] = None
    return about


def _around(rows: pd.DataFrame, trained: set[str], notes: dict[str, None]) -> list[str]:
    """The flags that say what was done around the chips of these rows, which differ in nothing else."""
    first = rows.iloc[0]
    times = [f"{t:g}" for t in sorted(rows["t"].dropna().unique())]
    words = ["--times", *times] if times else []
    for name in ("compensation", "converters"):
        kinds = list(dict.fromkeys(rows[name]))
        words += [f"--{name}", *kinds] if kinds != ["none"] else []
    words += _precisely(rows)
    reads = int(rows["read"].max()) + 1
    words += ["--reads", str(reads)] if reads > 1 else []
    for name in FLAGS:
        if name in rows and first[name] == first[name] and first[name] not in (USUAL[name], BY_BF16):
            words += [f"--{name}", str(first[name])]
    if "images" in rows and first["images"] == first["images"]:
        words += ["--images", f"{first['images']:.0f}"]
    own = Task.parse(str(first["task"]), imports=False).names
    ours = (*own, NAN_ANSWERS)
    further = [str(name) for name in rows["metric"].unique() if name not in ours and not name.startswith("subset_")]
    words += ["--metrics", *further] if further else []
    analog = str(first["analog"] or "") if "analog" in rows else ""
    patterns = [] if trained == {analog} else analog.split()
    for flag, sign in (("--include", "+"), ("--exclude", "-")):
        chosen = [word[1:] for word in patterns if word[0] == sign]
        words += [flag, *chosen] if chosen else []
    if table := next((word for word in patterns if word.startswith("layers=")), None):
        notes[f"settings by layer (their digest is {table[7:]}): --layers FILE"] = None
    given = first["given"] if "given" in rows else None
    if given == "handed over":
        notes[f"the data were {HANDED}"] = None
    elif isinstance(given, str):
        words += shlex.split(given)
    else:
        notes["these older rows do not name their data: --data, if they were not those of training"] = None
    return words


def _precisely(rows: pd.DataFrame) -> list[str]:
    """How many draws there were, or the precision that decided it."""
    stopped, fixed = (rows[rows["subset"] == kind] for kind in ("stopped", "fixed"))
    if stopped.empty:
        return ["--draws", str(int(rows["draw"].max()) + 1)]
    words = ["--precision-target", f"{stopped['target'].min():g}"]
    words += ["--by-bf16"] if rows["precision"].iloc[0] == BY_BF16 else []
    return words + (["--noise-std-draws", str(int(fixed["draw"].max()) + 1)] if len(fixed) else [])

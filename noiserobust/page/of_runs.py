"""Sections about the runs behind the rows: how they were trained, which of their weights were noisy, what made them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from noiserobust.analog.coverage import coverage
from noiserobust.errors import UserError
from noiserobust.page import charts
from noiserobust.page.commands import evaluation_commands, training_commands
from noiserobust.page.parts import Asked, Panel, Section, Table
from noiserobust.page.results import Results


def training(results: Results, asked: Asked) -> Section | None:
    logs = [
        run.log.assign(method=results.label(run), seed=run.settings.seed) for run in [*results.runs, *results.ongoing]
    ]
    if not logs:
        return None
    log = pd.concat(logs, ignore_index=True)
    metrics = [
        name.removeprefix("perturbed_")
        for name in map(str, log)
        if name.startswith("perturbed_") and "loss" not in name
    ]
    columns = [*(f"perturbed_{name}" for name in metrics), *metrics, "train_loss", "loss"]
    panels = []
    for column in dict.fromkeys(name for name in columns if name in log):
        groups = log.dropna(subset=[column]).groupby(["method", "epoch"], sort=False)[column]
        data = groups.agg(y="mean", spread="std").reset_index()
        if data.empty:
            continue
        spread = data["spread"].fillna(0.0)
        data = data.assign(low=data["y"] - spread, high=data["y"] + spread).drop(columns="spread")
        title = column.replace("_", " ")
        about = f"{title} against the epoch, a line per method"
        spec = charts.lines(data, results.methods, "epoch", ("epoch", title), whole=True, description=about)
        panels.append(Panel(title, spec))
    says = "Means over copies; bands are ± their standard deviation. All but the training loss are on held-out data."
    last = log.groupby(["method", "seed"], sort=False).tail(1)
    shown = [name for name in dict.fromkeys(columns) if name in last]
    body = [
        [line["method"], int(line["seed"]), int(line["epoch"]) + 1, *(float(line[name]) for name in shown)]
        for line in last.to_dict("records")
    ]
    table = Table(["method", "seed", "epochs", *(name.replace("_", " ") for name in shown)], body)
    return Section("training", "Training", f"{says} The table has the last epoch.", panels, table) if panels else None


def covered(results: Results, asked: Asked) -> Section | None:
    body: list[list[Any]] = []
    seen: set[str] = set()
    for run in results.runs:
        label = results.label(run)
        if label in seen:
            continue
        seen.add(label)
        try:
            found = coverage(run.network, **run.settings.where.patterns)
        except UserError:  # a network that is somebody's code, which a page does not start
            continue
        for name, shape, noisy, why in _weights_of(found):
            body.append([label, name, shape, noisy, why])
    if not body and len(results.rows):
        first = results.rows.drop_duplicates("model")
        if "noisy_weights" in first and first["noisy_weights"].notna().all():
            head = ["method", "model", "noisy weights", "all weights", "share (%)"]
            body = [
                [m, str(model), int(noisy), int(every), 100.0 * noisy / every]
                for m, model, noisy, every in zip(
                    first["method"], first["model"], first["noisy_weights"], first["all_weights"], strict=True
                )
            ]
            return Section(
                "coverage", "Coverage", "How many of each network's weights were noisy.", table=Table(head, body)
            )
    head = ["method", "weight", "shape", "analog", "why"]
    says = "Which weights lie in arrays and are noisy, and which stay digital."
    return Section("coverage", "Coverage", says, table=Table(head, body)) if body else None


def settings(results: Results, asked: Asked) -> Section | None:
    texts = []
    for label in dict.fromkeys(map(results.label, results.runs)):
        runs = [run for run in results.runs if results.label(run) == label]
        seeds = sorted(run.settings.seed for run in runs)
        texts.append((f"trained: {label}", "\n".join(training_commands(runs[0], seeds))))
    rows = results.rows
    if len(rows):
        lie = {run.folder.name: str(run.checkpoint) for run in results.runs}  # a sweep's rows name runs by these
        placed = rows.assign(model=rows["model"].map(lambda model: lie.get(model, model)))
        texts.append(("evaluated", "\n".join(evaluation_commands(placed))))
    columns = [
        "noiserobust",
        "commit",
        "torch",
        "numpy",
        "python",
        "device",
        "precision",
        "data",
        "inputs",
        "seed",
        "images",
    ]
    about = [(name, sorted(map(str, rows[name].dropna().unique()))) for name in columns if name in rows]
    table = Table(["what", "value"], [[name, ", ".join(values)] for name, values in about if values])
    if not texts and not table.rows:
        return None
    says = "The commands that make these results again (behind # what they need besides), and what computed them."
    return Section("provenance", "Settings and provenance", says, table=table if table.rows else None, texts=texts)


def _weights_of(found: Any) -> Iterator[tuple[str, str, str, str]]:
    for row in found.rows:
        yield row.name, "x".join(map(str, row.shape)), "yes" if row.noisy else "no", row.reason

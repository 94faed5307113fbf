"""The command line: ``noiserobust train``, ``evaluate`` and ``report``, over the settings of the library."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from noiserobust.checkpoint import find_checkpoints, read_checkpoint
from noiserobust.data import load
from noiserobust.errors import UserError
from noiserobust.evaluation import evaluate, paired, summarize
from noiserobust.evaluation.monte_carlo import UNIT
from noiserobust.inference import Precision
from noiserobust.models import ModelSpec
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.report import paired_table, robustness_table
from noiserobust.results import read_rows, write_atomically
from noiserobust.text import Described
from noiserobust.training import TrainSettings, fit


@dataclass(frozen=True)
class Train(TrainSettings):
    """Train one network per seed; an interrupted run goes on where it was, a finished one is not trained again."""

    seed: tyro.conf.Suppress[int] = 0
    seeds: tuple[int, ...] = (0,)
    """Training seeds: one trained copy (replicate) each."""
    out: Path = Path("runs")
    """Folder for the runs."""

    def run(self) -> None:
        names = [f.name for f in dataclasses.fields(TrainSettings)]
        settings = TrainSettings(**{name: getattr(self, name) for name in names})
        splits = load(settings.data, settings.data_root, settings.image_size)
        for seed in self.seeds:
            run = fit(dataclasses.replace(settings, seed=seed), self.out, splits=splits, progress=True)
            kept = read_checkpoint(run.checkpoint).about["log"]
            watched = "test" if settings.select_on == "test" else "validation"
            scores = [f"{n.replace('_', ' ')} {kept[n]:.2f} %" for n in ("accuracy", "perturbed_accuracy") if n in kept]
            print(f"kept epoch {kept['epoch']} ({', '.join([watched, *scores]) if scores else 'the last'})")
            print(f"weights: {run.checkpoint}")


@dataclass(frozen=True)
class Evaluate:
    """Evaluate checkpoints under weight noise: one row per checkpoint, noise and draw, and the table of their
    summary."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoints (.safetensors), runs' folders, folders of runs; LABEL=PATH gives the method another name."""
    noise: tuple[NoiseModel, ...] = field(default_factory=lambda: (Gaussian(0.05),))
    """Noise models, such as gaussian:0.05 or gaussian:0.1,reference=layer."""
    strengths: tuple[float, ...] = ()
    """Sweep: every noise, scaled to each of these strengths (its own number is then its unit: gaussian:1)."""
    draws: int = 10
    """Noise draws per checkpoint."""
    seed: int = 0
    """Names the draws."""
    data: str | None = None
    """digits, cifar10, cifar100 or an image folder (default: what the first checkpoint was trained on)."""
    data_root: str = "data"
    """Where CIFAR lies or is downloaded to."""
    image_size: int | None = None
    """Resize the images of a folder to this many pixels a side."""
    images: int | None = None
    """Evaluate on a random sample of this many test images, stratified by class."""
    model: ModelSpec | None = None
    """Network of checkpoints that do not name theirs, such as resnet18:width=16."""
    batch_size: int = 500
    """Images per forward pass."""
    precision: Precision = "fp32"
    """fp32, or autocast to bf16 or fp16."""
    device: str | None = None
    """cpu, cuda, ..."""
    include: tuple[str, ...] = ()
    """Patterns of further parameters that are noisy."""
    exclude: tuple[str, ...] = ()
    """Patterns of parameters that stay digital."""
    out: Path = Path("evaluation.parquet")
    """File for the rows; what it already holds is not computed again."""
    plot: Path | None = None
    """Picture of accuracy against strength (PNG)."""
    table: Path | None = None
    """The table as Markdown."""

    def run(self) -> None:
        checkpoints = find_checkpoints(self.checkpoints)
        if not checkpoints:
            raise UserError("expected at least one checkpoint, got none; runs/* names all runs of a folder")
        data, size = self.data, self.image_size
        if data is None:
            stored = checkpoints[0].about.get("settings", {})
            if "data" not in stored:
                raise UserError(f"expected --data: {checkpoints[0].path} does not say what it was trained on")
            data, size = stored["data"], size or stored.get("image_size")
        if self.strengths and not all(one.strength for one in self.noise):
            raise UserError("expected a noise with a strength to sweep, got one of 0; write its unit, as in gaussian:1")
        noises = [one.scaled(s / one.strength) for one in self.noise for s in self.strengths] or list(self.noise)
        result = evaluate(
            checkpoints,
            load(data, self.data_root, size).test,
            noises,
            self.draws,
            self.seed,
            model=self.model,
            images=self.images,
            batch_size=self.batch_size,
            precision=self.precision,
            device=self.device,
            include=self.include,
            exclude=self.exclude,
            out=self.out,
            progress=True,
        )
        _present(result.rows, self.plot, self.table)
        for line in dict.fromkeys(found.summary for found in result.coverage.values()):
            print(f"coverage: {line}")
        print(f"rows: {self.out}")


@dataclass(frozen=True)
class Report:
    """Tables and pictures from rows that evaluate wrote; several files are put together."""

    rows: tyro.conf.Positional[tuple[Path, ...]]
    """Parquet files of rows."""
    where: str | None = None
    """Only rows of which this holds, such as "seed == 0 and images == 500" (columns: docs/evaluation.md)."""
    baseline: str | None = None
    """Method that every other one is compared with, as a paired difference with its interval."""
    plot: Path | None = None
    """Picture of accuracy against strength (PNG)."""
    table: Path | None = None
    """The tables as Markdown."""

    def run(self) -> None:
        if not self.rows:
            raise UserError("expected files of rows, got none; evaluate writes them")
        rows = pd.concat([read_rows(path) for path in self.rows], ignore_index=True).drop_duplicates(
            [*UNIT, "method", "metric"], ignore_index=True
        )
        if self.where is not None:
            try:
                rows = rows.query(self.where)
            except Exception as error:  # whatever the expression does wrong
                columns = ", ".join(map(str, rows.columns))
                raise UserError(f"expected a condition on {columns}, got '{self.where}': {error}") from None
            if rows.empty:
                raise UserError(f"expected rows of which '{self.where}' holds, got none")
        _present(rows, self.plot, self.table, self.baseline)


def _present(rows: pd.DataFrame, plot: Path | None, table: Path | None, baseline: str | None = None) -> None:
    """Print the table (and differences from the baseline); write it and the picture where asked."""
    summary = summarize(rows)
    print(robustness_table(summary) + "\n")
    text = robustness_table(summary, markdown=True) + "\n"
    if baseline is not None:
        for method in rows["method"].unique():
            if method != baseline:
                differences = paired_table(paired(rows, method, baseline))
                print(differences + "\n")
                text += f"\n```\n{differences}\n```\n"
    if table is not None:
        print(f"table: {write_atomically(table, lambda file: file.write_text(text))}")
    if plot is not None:
        from noiserobust.report.plots import accuracy_against_strength

        print(f"picture: {accuracy_against_strength(summary, plot)}")


_registry = ConstructorRegistry()


@_registry.primitive_rule
def _described(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A noise model, method or model is one word on the command line: its text form."""
    kind = info.type
    if not (isinstance(kind, type) and issubclass(kind, Described)):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.family.upper().replace(" ", "-"),
        instance_from_str=lambda words: kind.parse(words[0]),
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: bad input is one line on stderr and exit code 2."""
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            {"train": Train, "evaluate": Evaluate, "report": Report},
            prog="noiserobust",
            description="Train and evaluate neural networks that survive analog weight noise.",
            args=arguments,
            registry=_registry,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        command.run()
    except UserError as error:
        print(f"noiserobust: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("noiserobust: interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()

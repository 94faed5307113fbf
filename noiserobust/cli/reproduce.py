"""``noiserobust reproduce``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from noiserobust.cli.flags import Command, Groups, nearest
from noiserobust.cli.options import Workers, progress_of_pieces
from noiserobust.cli.output import Part
from noiserobust.errors import UserError
from noiserobust.papers import PAPERS

if TYPE_CHECKING:
    from noiserobust.papers.grid import Artefact, Bench, Grid, Scale
    from noiserobust.sweep import Piece


REST = "; without --only-done the rest is, with --dry-run it is listed with its time"


@dataclass(frozen=True)
class Reproduce(Command):
    """Regenerate tables and figures of five papers, measured beside published; only what is missing is computed."""

    examples = (
        "noiserobust reproduce incorruptible table1 --scale mini",
        "noiserobust reproduce all --scale mini --workers 2 --dry-run",
    )
    positional = ("paper", "names")
    rare: ClassVar[Groups] = {
        "a variation of the papers, in a folder of its own": ("network", "noise"),
        "Ray cluster": ("executor", "address", "cpus", "gpus", "retries"),
    }

    paper: Literal["incorruptible", "rwp", "saf", "rst", "esam", "all", "claims", "map"]
    """incorruptible, rwp, saf, rst, esam, or all; claims: verdicts on what the papers claim; map: how far each
    table and figure is reproduced."""
    names: tuple[str, ...] = ()
    """Tables and figures, such as table1 figure3 (default: all of the paper); of claims, papers or
    claims by name; of map, files of rows (default: all in --out)."""
    scale: Literal["mini", "small", "paper"] = "mini"
    """mini: digits, minutes; small: 500 images a class of CIFAR-10, narrow nets (full-width on a GPU); paper: as
    published."""
    out: Path = Path("reproduced")
    """Folder for runs, pieces, rows, tables and pictures; a scale has a folder of its own in it."""
    data: Path | None = None
    """Where CIFAR-10 lies as an image folder (default: torchvision's copy, downloaded into --data-root)."""
    data_root: str = "data"
    """Where named data lie or are downloaded to."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ...; small on a GPU trains the full-width ResNet-18."""
    seeds: int | None = None
    """Trained copies of every run (default: the scale's, 3)."""
    network: tuple[str, ...] = ()
    """Networks in place of the papers', such as ResNet-18=vgg16-bn:width=16 or of your own,
    "ResNet-18=package.module:function(width=8)"."""
    noise: str | None = None
    """Noise at the strengths of the papers' Gaussian, in training and in test, such as laplace:1 or
    gaussian:1,reference=layer."""
    computed_by: Workers = field(default_factory=Workers)
    dry_run: bool = False
    """Only list what is missing, with an estimate of the time on this machine."""
    only_done: bool = False
    """Compute nothing: write what is there of every artefact, each cell with as many copies as are there."""
    finished: Path | None = None
    """Folder of finished copies that are taken up in place of training again (default: those of the package)."""
    keep: Path | None = None
    """Write logs and rows of all finished copies into this folder, for other machines' --finished; no networks."""

    def run(self) -> Iterator[Part]:
        from noiserobust.papers.grid.plan import pieces_of

        if self.seeds is not None and self.seeds < 1:
            raise UserError(f"expected seeds >= 1, got {self.seeds}")
        if not self.only_done:  # what was computed on a GPU is read on any machine
            from noiserobust.models.compute import known_device

            known_device(self.device)
        if self.paper in ("claims", "map"):
            yield from (self._judge if self.paper == "claims" else self._map)()
            return
        wanted = self._wanted()
        grids, bench = self._bench()
        benches = {paper: bench.with_seeds(self.seeds or grid.scale.seeds) for paper, grid in grids.items()}
        pieces = {one: pieces_of(one, grids[one.paper], benches[one.paper]) for one in wanted}
        everything = [piece for needed in pieces.values() for piece in needed]
        if self.dry_run:
            yield self._missing(list(dict.fromkeys(everything)))
        else:
            self._compute(everything)
            yield from self._written(pieces, grids, benches)
        if self.keep is not None:
            from noiserobust.papers.grid.finished import keep

            kept = keep(bench, everything, self.keep)
            yield Part(f"{kept} finished copies in {self.keep}", values={"kept": kept})

    def _compute(self, pieces: list[Piece]) -> None:
        """Do what is missing of ``pieces``, unless only what is done is asked for."""
        from noiserobust.papers.grid.plan import compute_in_stages

        if not self.only_done:
            executor = self.computed_by.chosen()
            with progress_of_pieces(self.quiet) as tell:
                compute_in_stages(pieces, executor, tell)

    def _written(
        self, pieces: dict[Artefact, list[Piece]], grids: dict[str, Grid], benches: dict[str, Bench]
    ) -> Iterator[Part]:
        """Write every artefact whose pieces are all there."""
        from noiserobust.papers.grid.finished import missing
        from noiserobust.papers.grid.plan import computed, write

        failures = []
        for artefact, needed in pieces.items():
            grid, bench, cells = grids[artefact.paper], benches[artefact.paper], None
            if missing(needed):
                yield Part(
                    f"{artefact.says}: not all of it is computed yet{REST}", values={"incomplete": [artefact.says]}
                )
                if not (cells := computed(artefact, grid, bench)):
                    continue
            try:
                paths = write(artefact, grid, bench, cells)
            except UserError as error:  # the others are written all the same
                failures.append(f"{artefact.says}: {error}")
                continue
            shown = paths[1].read_text(encoding="utf-8") + "\n" if artefact.kind == "table" and len(pieces) <= 4 else ""
            about = {"paper": artefact.paper, "name": artefact.name, "files": paths}
            yield Part(f"{shown}{'  '.join(map(str, paths))}\n", values={"artefacts": [about]})
        if failures:
            raise UserError("; ".join(failures))

    def _judge(self) -> Iterator[Part]:
        """Print and write the verdicts on all claims, each from as many trained copies as are there."""
        import pandas as pd

        from noiserobust.papers.claims import CLAIMS
        from noiserobust.papers.grid.claims_text import claims_text, verdicts_table
        from noiserobust.storage.files import write_text
        from noiserobust.storage.rows import write_rows

        known = {name for claim in CLAIMS for name in (claim.paper, claim.name)}
        if unknown := [name for name in self.names if name not in known]:
            raise UserError(f"expected papers or claims ({', '.join(sorted(known))}), got {', '.join(unknown)}")
        claims = [claim for claim in CLAIMS if not self.names or {claim.paper, claim.name} & {*self.names}]
        grids, bench = self._bench()
        pieces = [piece for claim in claims for piece in claim.pieces(grids[claim.paper], bench)]
        if self.dry_run:
            yield self._missing(list(dict.fromkeys(pieces)))
            return
        self._compute(pieces)
        benches = {claim: own for claim in claims if (own := claim.finished(grids[claim.paper], bench))}
        judged = [claim.judged(grids[claim.paper], own) for claim, own in benches.items()]
        text = claims_text(judged, [claim for claim in claims if claim not in benches], bench.scale)
        written = [write_text(bench.folder / "claims.md", text + "\n")]
        if benches:
            rows = [claim.rows(grids[claim.paper], own) for claim, own in benches.items()]
            written.append(write_rows(pd.concat(rows, ignore_index=True), bench.folder / "claims.parquet"))
        yield Part(
            f"{text}\n\n{'  '.join(map(str, written))}", values={"claims": verdicts_table(judged), "files": written}
        )

    def _map(self) -> Iterator[Part]:
        """Print and write how far each table and figure is reproduced."""
        from noiserobust.papers.grid.reproduction_map import map_text, read_all
        from noiserobust.storage.files import write_text

        files = [Path(name) for name in self.names]
        files = files or sorted(file for paper in PAPERS for file in self.out.glob(f"*/{paper}/*.parquet"))
        if not files:
            raise UserError(
                f"expected rows of tables and figures in {self.out}, got none; reproduce some, or name files"
            )
        text = map_text(read_all(files), PAPERS)
        path = write_text(self.out / "map.md", text + "\n")
        yield Part(f"{text}\n\n{path}", values={"files": [path]})

    def _wanted(self) -> list[Artefact]:
        """The tables and figures that were asked for, in the papers' order."""
        from noiserobust.papers.grid import artefacts_of

        papers = PAPERS if self.paper == "all" else (self.paper,)
        artefacts = [artefact for paper in papers for artefact in artefacts_of(paper).values()]
        known = [artefact.name for artefact in artefacts]
        for name in self.names:
            if name not in known:
                end = nearest(name, known)
                raise UserError(f"expected a table or figure of {self.paper} ({', '.join(known)}), got '{name}'{end}")
        return [artefact for artefact in artefacts if not self.names or artefact.name in self.names]

    def _bench(self) -> tuple[dict[str, Grid], Bench]:
        """Every paper at the scale asked for, and where its runs lie."""
        from noiserobust.papers.grid import SCALES, Bench, grid_of
        from noiserobust.papers.grid.finished import FOLDER, contents, take_up
        from noiserobust.papers.grid.plan import logs_of
        from noiserobust.papers.grid.scale import SMALL_GPU

        on_gpu = self.scale == "small" and self.device != "cpu"
        scale = SMALL_GPU if on_gpu else SCALES[self.scale]
        place: dict[str, str] = {"data_root": self.data_root, "device": self.device}
        if self.data is not None:
            place["cifar10"] = str(self.data)
        varied = self._variation(scale)
        grids = {paper: replace(grid_of(paper, scale, place), **varied) for paper in PAPERS}
        # What is logged follows from every artefact, also those not asked for now.
        logs = logs_of(grids, scale)
        if self.seeds is not None:
            scale = replace(scale, seeds=self.seeds)
        words = [self.scale, *(["gpu"] if on_gpu else []), *self.network, *([self.noise] if self.noise else [])]
        folder = self.out / re.sub(r"[^\w.=]+", "-", "-".join(words)).strip("-")
        finished = FOLDER / folder.name if self.finished is None else self.finished
        if self.finished is not None and not finished.is_dir():
            raise UserError(f"expected a folder of finished copies, as --keep writes it, got {finished}")
        bench = Bench(scale, folder, logs, contents(finished))
        take_up(bench, finished)
        return grids, bench

    def _variation(self, scale: Scale) -> dict[str, Any]:
        """What stands for networks and the noise of the papers."""
        from noiserobust.models import ModelSpec
        from noiserobust.noise import NoiseModel

        varied: dict[str, Any] = {}
        pairs = [(name, text) for name, _, text in (one.partition("=") for one in self.network)]
        for name, text in pairs:
            if name not in scale.networks or not text:
                raise UserError(f"expected NAME=MODEL with a name of {', '.join(scale.networks)}, got '{name}={text}'")
            ModelSpec.parse(text)
        if pairs:
            varied["networks"] = dict(pairs)
        if self.noise is not None:
            varied["noise"] = noise = NoiseModel.parse(self.noise)
            if not noise.strength:
                raise UserError(f"expected a noise with a strength, got {self.noise}; write its unit, as in laplace:1")
        return varied

    def _missing(self, pieces: list[Piece]) -> Part:
        """What is missing, with the time that it will take."""
        from noiserobust.papers.grid.estimate import in_words, seconds_of
        from noiserobust.papers.grid.finished import missing
        from noiserobust.sweep import Training

        total, open_, lines, values = 0.0, set(missing(pieces)), [], dict[str, Any]()
        trainings = [piece for piece in pieces if isinstance(piece, Training)]
        measurements = [piece for piece in pieces if not isinstance(piece, Training)]
        for title, group in (("trainings", trainings), ("measurements", measurements)):
            left = [piece for piece in group if piece in open_]
            lines.append(f"{len(left)} of {len(group)} {title} missing")
            seconds = [seconds_of(piece) for piece in left]
            total += sum(seconds)
            lines += [f"  {in_words(one):>8}  {piece.name}" for one, piece in zip(seconds, left, strict=True)]
            values[title] = {"all": len(group), "missing": [piece.name for piece in left]}
        workers = self.computed_by.workers
        each = f", {in_words(total / workers)} with {workers} workers" if workers > 1 else ""
        lines.append(f"about {in_words(total)} on this machine ({self.device}) one after the other{each}")
        return Part("\n".join(lines), values={**values, "seconds": total})

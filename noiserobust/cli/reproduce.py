"""``noiserobust reproduce``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from noiserobust.cli.flags import Command, Groups
from noiserobust.cli.options import Workers, progress_of_pieces
from noiserobust.errors import UserError
from noiserobust.papers import PAPERS

if TYPE_CHECKING:
    from noiserobust.papers.grid import Artefact, Bench, Grid, Plan
    from noiserobust.sweep import Piece


@dataclass(frozen=True)
class Reproduce(Command):
    """Regenerate tables and figures of five papers, measured beside published; only what is missing is computed."""

    examples = (
        "noiserobust reproduce incorruptible table1 --scale mini",
        "noiserobust reproduce all --scale mini --workers 2 --dry-run",
    )
    positional = ("paper", "names")
    rare: ClassVar[Groups] = {"Ray cluster": ("executor", "address", "cpus", "gpus", "retries")}

    paper: Literal["incorruptible", "rwp", "saf", "rst", "esam", "all", "claims"]
    """incorruptible, rwp, saf, rst, esam, or all; claims: verdicts on what the papers claim."""
    names: tuple[str, ...] = ()
    """Tables and figures, such as table1 figure3 (default: all of the paper)."""
    scale: Literal["mini", "small", "paper"] = "mini"
    """mini: digits, minutes; small: CIFAR-10's images, narrow nets (full-width on a GPU); paper: as published."""
    out: Path = Path("reproduced")
    """Folder for runs, pieces, rows, tables and pictures; a scale has a folder of its own in it."""
    data: Path | None = None
    """Where CIFAR-10 lies as an image folder (default: torchvision's copy, downloaded into data_root)."""
    data_root: str = "data"
    """Where named data lie or are downloaded to."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ...; small on a GPU trains the full-width ResNet-18 for 30 epochs."""
    seeds: int | None = None
    """Trained copies of every run (default: the scale's, 3)."""
    computed_by: Workers = field(default_factory=Workers)
    dry_run: bool = False
    """List what is missing, with an estimate of the time on this machine."""
    only_done: bool = False
    """Compute nothing: write every artefact whose pieces are all there."""

    def run(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise UserError(f"expected seeds >= 1, got {self.seeds}")
        if self.paper == "claims":
            self._judge()
            return
        wanted = self._wanted()
        plan = self._plan(wanted)
        if self.dry_run:
            self._list(plan)
            return
        self._compute([*plan.runs, *plan.measurements])
        failed = []
        for artefact, grid in plan.wanted:
            if not plan.ready(artefact, grid):
                print(f"{artefact.says}: not all of it is computed yet")
                continue
            try:
                written = plan.write(artefact, grid, plan.bench.folder / artefact.paper)
            except UserError as error:  # the others are written all the same
                failed.append(f"{artefact.says}: {error}")
                continue
            if artefact.kind == "table" and len(wanted) <= 4:
                print(written[1].read_text())
            print("  ".join(str(path) for path in written) + "\n")
        if failed:
            raise UserError("; ".join(failed))

    def _compute(self, pieces: list[Piece]) -> None:
        """Do what is missing of ``pieces``, unless only what is done shall be shown."""
        from noiserobust.papers.grid.plan import compute

        if not self.only_done:
            executor = self.computed_by.chosen()
            with progress_of_pieces() as tell:
                compute(pieces, executor, tell)

    def _judge(self) -> None:
        """Print and write the verdicts on all claims, each from as many trained copies as are there."""
        from noiserobust.papers.claims import CLAIMS
        from noiserobust.papers.grid.claim import claims_text
        from noiserobust.storage.files import write_atomically

        grids, bench = self._bench()
        if self.dry_run:
            pieces = [piece for claim in CLAIMS for piece in claim.pieces(grids[claim.paper], bench)]
            self._list_missing({"pieces": pieces})
            return
        self._compute([piece for claim in CLAIMS for piece in claim.pieces(grids[claim.paper], bench)])
        judged, rest = [], []
        for claim in CLAIMS:
            copies = claim.copies(grids[claim.paper], bench)
            if copies:
                judged.append(claim.judged(grids[claim.paper], bench.with_seeds(copies)))
            else:
                rest.append(claim)
        text = claims_text(judged, rest, next(iter(grids.values())))
        path = write_atomically(bench.folder / "claims.md", lambda temporary: temporary.write_text(text + "\n"))
        print(f"{text}\n\n{path}")

    def _wanted(self) -> list[Artefact]:
        """What was asked for, in the papers' order."""
        from noiserobust.papers.grid import artefacts_of

        chosen = PAPERS if self.paper == "all" else (self.paper,)
        artefacts = [artefact for paper in chosen for artefact in artefacts_of(paper).values()]
        known = [artefact.name for artefact in artefacts]
        for name in self.names:
            if name not in known:
                raise UserError(f"expected a table or figure of {self.paper} ({', '.join(known)}), got '{name}'")
        return [artefact for artefact in artefacts if not self.names or artefact.name in self.names]

    def _plan(self, wanted: list[Artefact]) -> Plan:
        from noiserobust.papers.grid import Plan

        grids, bench = self._bench()
        return Plan([(artefact, grids[artefact.paper]) for artefact in wanted], bench)

    def _bench(self) -> tuple[dict[str, Grid], Bench]:
        """Every paper at the scale asked for, and where its runs lie."""
        from noiserobust.papers.grid import Bench, artefacts_of
        from noiserobust.papers.grid.bench import with_logs
        from noiserobust.papers.grid.plan import quantities

        grids = self._grids()
        scale = next(iter(grids.values())).scale
        # What is logged follows from every artefact, also those not asked for now: runs are shared.
        every = [
            run
            for paper, grid in grids.items()
            for artefact in artefacts_of(paper).values()
            for cell in artefact.cells(grid)
            for quantity in quantities(cell)
            for run in quantity.runs
        ]
        # Absolute, since a worker of a cluster may stand in another folder.
        folder = self.out.resolve() / (scale.name + ("-gpu" if scale.name == "small" and self.device != "cpu" else ""))
        bench = Bench(scale, folder, with_logs(every, scale.log_images))
        return grids, bench if self.seeds is None else bench.with_seeds(self.seeds)

    def _grids(self) -> dict[str, Grid]:
        """Every paper at the scale asked for, on this machine."""
        from importlib import import_module

        from noiserobust.papers.grid import SCALES, Grid
        from noiserobust.papers.grid.scale import SMALL_GPU

        scale = SMALL_GPU if self.scale == "small" and self.device != "cpu" else SCALES[self.scale]
        place: dict[str, str] = {"data_root": self.data_root, "device": self.device}
        if self.data is not None:
            place["cifar10"] = str(self.data)
        return {paper: Grid(scale, import_module(f"noiserobust.papers.{paper}").RECIPE, place) for paper in PAPERS}

    def _list(self, plan: Plan) -> None:
        self._list_missing({"trainings": plan.runs, "measurements": plan.measurements})

    def _list_missing(self, wanted: dict[str, list[Piece]]) -> None:
        from noiserobust.papers.grid.estimate import Clock, here, in_words

        clock, total = Clock(), 0.0
        for title, pieces in wanted.items():
            different = list(dict.fromkeys(pieces))
            missing = [piece for piece in different if not here(piece)]
            print(f"{len(missing)} of {len(different)} {title} missing")
            for piece in missing:
                seconds = clock.seconds(piece)
                total += seconds
                print(f"  {in_words(seconds):>8}  {piece.name}")
        workers = self.computed_by.workers
        each = f", {in_words(total / workers)} with {workers} workers" if workers > 1 else ""
        print(f"about {in_words(total)} on this machine ({self.device}) one after the other{each}")

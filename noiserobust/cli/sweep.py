"""``noiserobust sweep``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from noiserobust.cli.flags import FAMILIES, Command, Groups
from noiserobust.cli.options import Workers, answer, live_page, progress_of_pieces, swept
from noiserobust.cli.output import Part
from noiserobust.cli.train import SETTINGS
from noiserobust.errors import UserError
from noiserobust.spec.listing import check
from noiserobust.training.settings import TrainSettings

if TYPE_CHECKING:
    from noiserobust.sweep import Evaluating, Piece, Training


@dataclass(frozen=True)
class Sweep(Command):
    """Train a grid of runs and evaluate them all, in this process or on a Ray cluster; only what is missing is
    computed."""

    examples = (
        'noiserobust sweep --vary "method=plain|sam:0.2" "lr=0.05|0.1" --seeds 0 1 2',
        'noiserobust sweep --vary "method=plain|sam:0.2" --executor ray --dry-run',
    )
    rare: ClassVar[Groups] = {
        "training": ("model", "method", "weight_clip", "batch_size", "lr"),
        "evaluation": ("images", "evaluation_precision"),
        "workers": ("workers", "address", "cpus", "gpus", "retries"),
        **SETTINGS,
    }
    hidden = ("seed",)

    vary: tuple[str, ...] = ()
    """Settings that take several values: "method=plain|sam:0.2|rwp:gaussian(0.1)" "lr=0.05|0.1"."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds: one trained copy (replicate) each."""
    noise: tuple[str, ...] = ("gaussian:0.05",)
    """Weight noise of the evaluation, such as gaussian:0.05 (sigma)."""
    strengths: tuple[float, ...] = ()
    """Every noise at each of these strengths in place of its own."""
    draws: int = 10
    """Noise draws per run and noise."""
    images: int | None = None
    """Number of test images to evaluate on: a random sample, stratified by class (default: all)."""
    evaluation_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the evaluation."""
    computed_by: Workers = field(default_factory=Workers)
    dry_run: bool = False
    """Only list what is missing, and about how long it takes."""
    out: Path = Path("sweep")
    """Folder of the sweep, shared by all machines."""
    plot: Path | None = None
    """File for a picture of accuracy against strength (.png, .pdf, .svg)."""
    table: Path | None = None
    """File for the table (.md, .csv, .tex)."""
    page: Path | None = None
    """File for a page (.html) of all of it, written anew as the sweep goes on."""
    settings: TrainSettings = field(default_factory=TrainSettings)

    def run(self) -> Iterator[Part]:
        if not self.seeds:
            raise UserError("expected at least one seed, got none; --seeds 0 1 2 trains three copies")
        vary: dict[str, list[object]] = dict(map(varied, self.vary)) | {"seed": list(self.seeds)}
        from noiserobust.evaluation import Evaluation
        from noiserobust.sweep import sweep

        noises = swept(self.noise, self.strengths)
        options: dict[str, object] = {"images": self.images, "precision": self.evaluation_precision}
        options |= {"device": self.settings.device}
        if self.dry_run:
            yield self._missing(vary, noises, options)
            return
        grid, executor = (self.settings, vary, noises, self.draws, self.out), self.computed_by.chosen()
        page = None if self.page is None else live_page(self.page)
        pieces = self._pieces(vary, noises, options)
        with progress_of_pieces(self.quiet) as tell:
            on_piece = tell if page is None else page.of_pieces(tell, *pieces, vary)
            rows = sweep(*grid, options=options, executor=executor, on_piece=on_piece)
        shown, file = answer(Evaluation(rows), self.table, self.plot), self.out / "rows.parquet"
        yield Part(shown.text, [*shown.notes, f"rows: {file}"], {**shown.values, "rows": file})
        if page:
            from noiserobust.page.live import trained

            yield Part(notes=[f"page: {page.finish(trained(pieces[0]), rows)}"], values={"files": {"page": self.page}})

    def _pieces(
        self, vary: dict[str, list[object]], noises: list[Any], options: dict[str, object]
    ) -> tuple[list[Training], list[Evaluating]]:
        from noiserobust.sweep import evaluations, runs_of

        runs = runs_of(self.settings, vary, self.out / "runs")
        return runs, evaluations(runs, noises, self.draws, self.out / "pieces", options)

    def _missing(self, vary: dict[str, list[object]], noises: list[Any], options: dict[str, object]) -> Part:
        lines: list[str] = []
        values: dict[str, Any] = {}
        runs, evaluated = self._pieces(vary, noises, options)
        groups: dict[str, Sequence[Piece]] = {"trainings": runs, "evaluations": evaluated}
        for what, pieces in groups.items():
            missing = [piece.name for piece in pieces if not piece.result.is_file()]
            lines += [f"{len(missing)} of {len(pieces)} missing", *(f"  {name}" for name in missing)]
            values[what] = {"all": len(pieces), "missing": missing}
        from noiserobust.report.durations import spoken
        from noiserobust.sweep.estimates import expected_seconds

        times = expected_seconds(runs, evaluated, self.computed_by.workers)
        about = [f"{spoken(one)} for {what}" for what, one in zip(groups, times, strict=True) if one]
        lines += [f"about {', then '.join(about)}"] if about else []
        return Part("\n".join(lines), values=values | {"seconds": sum(times)})


def varied(text: str) -> tuple[str, list[object]]:
    """A setting and its values, of ``setting=value|value``."""
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UserError(f"expected --vary setting=value|value, got '{text}'")
    name, texts = name.strip().replace("-", "_"), [value.strip() for value in values.split("|")]
    if name in FAMILIES:
        for value in texts:
            try:
                check(FAMILIES[name], value)
            except UserError as error:
                split = "; values are separated by |" if "," in value and len(texts) == 1 else ""
                raise UserError(f"--vary {name}: {error}{split}") from None
    return name, list(texts)

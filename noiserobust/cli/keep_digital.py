"""``noiserobust keep-digital``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from noiserobust.cli.flags import Groups
from noiserobust.cli.options import RARE, OnChips
from noiserobust.cli.output import Part
from noiserobust.errors import UserError


@dataclass(frozen=True)
class KeepDigital(OnChips):
    """Which layers to keep digital: chosen one after the other on draws of their own, verified together on fresh
    ones."""

    study = "keep-digital"
    examples = (
        "noiserobust keep-digital runs --noise gaussian:0.1 --within 2",
        "noiserobust keep-digital runs --noise pcm --times 1d --max-share 20 --per-mac",
    )
    hidden = ("calibration",)
    rare: ClassVar[Groups] = {
        "search and intervals": ("per_mac", "candidates", "search_draws", "search_images", "confidence"),
        **RARE,
    }

    noise: str = "gaussian:0.05"
    """Weight noise, such as gaussian:0.05 (sigma)."""
    within: float | None = None
    """Stop when the search is this many points below clean."""
    max_share: float | None = None
    """Keep at most this percentage of all multiply-accumulates digital."""
    max_layers: int | None = None
    """Keep at most this many layers digital."""
    groups: tuple[str, ...] = ()
    """Patterns, such as stages.0.*: all weights that one matches count as one layer."""
    per_mac: bool = False
    """Choose by gain per multiply-accumulate."""
    candidates: int | None = None
    """After the first step try only the layers of the largest gains, this many (default: all)."""
    search_draws: int | None = None
    """Draws of the search (default: as many as --draws)."""
    search_images: int | None = None
    """Test images of the search, stratified by class (default: all)."""
    confidence: float = 0.95
    """Confidence of the intervals."""
    layers_out: Path | None = None
    """File for the result as settings by layer (TOML), ready for --layers of train and evaluate."""

    def run(self) -> Iterator[Part]:
        from noiserobust.evaluation import Search, Stop, keep_digital

        if self.layers_out is not None:
            self._require_one_method(self.layers_out)
        stop = Stop(self.within, self.max_share, self.max_layers)
        search = Search(self.search_draws, self.search_images, self.candidates, self.per_mac)
        result = keep_digital(noise=self.noise, stop=stop, search=search, groups=self.groups, **self.options())
        yield self.show(result, confidence=self.confidence)
        tables = {method: str(result.layer_table(method=method)) for method in result.layers}
        texts = [f"settings by layer, {method}:\n\n{table}" for method, table in tables.items() if table]
        yield Part("\n".join(texts), values={"layers": tables})
        if self.layers_out is not None:
            from noiserobust.storage.files import write_text

            write_text(self.layers_out, str(result.layer_table()))
            yield Part(notes=[f"settings by layer: {self.layers_out}"], values={"files": {"layers": self.layers_out}})

    def _require_one_method(self, layers_out: Path) -> None:
        """Every method has layers of its own, and the file holds one table."""
        from noiserobust.evaluation.evaluated_models import trained_copies

        methods = list(dict.fromkeys(copy.method for copy in trained_copies(self.found)))
        if len(methods) > 1:
            names = ", ".join(map(repr, methods))
            raise UserError(
                f"expected the runs of one method beside --layers-out {layers_out}, got {len(methods)} ({names}); "
                "name those of one"
            )

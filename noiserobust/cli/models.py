"""``noiserobust models``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from noiserobust.cli.flags import Command
from noiserobust.cli.output import Part

PAPERS = (
    *("digits", "resnet9", "resnet18", "resnet34", "resnet50", "resnet101"),
    *("wrn:16-5", "wrn:16-8", "wrn:16-10", "wrn:16-15", "wrn:28-10", "vgg16-bn", "pyramidnet"),
    *("vit-cifar", "vit-s16", "vit-s32", "deit-s"),
    *("torchvision:resnet50", "torchvision:resnet101", "torchvision:resnet152"),
)
"""Every network of the papers; those of torchvision are the ImageNet ResNets."""


@dataclass(frozen=True)
class Models(Command):
    """List networks with their parameters and what a pass costs: FLOPs per image, forward and forward + backward."""

    examples = (
        "noiserobust models",
        "noiserobust models resnet18:width=16 torchvision:convnext_tiny --classes 100",
    )
    positional = ("models",)

    models: tuple[str, ...] = ()
    """Networks, such as resnet18:width=16, torchvision:convnext_tiny, package.module:function(depth=3) or
    factory:package.module:function (default: those of the papers)."""
    channels: int | None = None
    """Image channels (default: of the problem that each network was made for; so are the next two)."""
    size: int | None = None
    """Pixels a side."""
    classes: int | None = None
    """Classes."""

    def run(self) -> Iterator[Part]:
        from noiserobust.models import ModelSpec, cost
        from noiserobust.models.base import Native

        specs = tuple(map(ModelSpec.parse, self.models or PAPERS))
        rows = []
        for spec in specs:
            wanted = (self.channels, self.size, self.classes)
            pairs = zip(wanted, spec.native, strict=True)
            problem = Native(*(usual if number is None else number for number, usual in pairs))
            rows.append({"model": str(spec), **problem._asdict(), **asdict(cost(spec, *problem))})
        width = max(len(row["model"]) for row in rows)
        line = "{:{}}  {:>11}  {:>7}  {:>11}  {:>8}  {:>10}".format
        lines = [line("model", width, "input", "classes", "parameters", "forward", "+ backward")]
        for row in rows:
            shape = "{channels}x{size}x{size}".format(**row)
            flops = (f"{row[name] / 1e9:.4g}" for name in ("forward", "forward_backward"))
            lines.append(line(row["model"], width, shape, f"{row['classes']:,}", f"{row['parameters']:,}", *flops))
        lines.append("forward, + backward: GFLOPs per image, a multiplication and an addition counted as two")
        yield Part("\n".join(lines), values={"models": rows})

"""The program ``noiserobust``: one word per command, each a dataclass whose fields are its flags."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from noiserobust.cli.budget import Budget
from noiserobust.cli.corrupted import Corrupted
from noiserobust.cli.curves import Curves
from noiserobust.cli.evaluate import Evaluate
from noiserobust.cli.keep_digital import KeepDigital
from noiserobust.cli.landscape import Landscape
from noiserobust.cli.list import List
from noiserobust.cli.models import Models
from noiserobust.cli.report import Report
from noiserobust.cli.reproduce import Reproduce
from noiserobust.cli.sensitivity import Sensitivity
from noiserobust.cli.sharpness import Sharpness
from noiserobust.cli.sweep import Sweep
from noiserobust.cli.train import Train
from noiserobust.cli.yields import Yield
from noiserobust.errors import UserError
from noiserobust.spec import Described

COMMANDS: dict[str, Any] = {
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "yield": Yield,
    "sharpness": Sharpness,
    "landscape": Landscape,
    "corrupted": Corrupted,
    "sensitivity": Sensitivity,
    "keep-digital": KeepDigital,
    "budget": Budget,
    "sweep": Sweep,
    "reproduce": Reproduce,
    "models": Models,
    "list": List,
    "curves": Curves,
}

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
            COMMANDS,
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

"""One part of the run, in a process of its own: ``python -m experiments.gpu.part NAME OPTIONS DEADLINE``."""

from __future__ import annotations

import importlib
import json
import os
import sys

from experiments.gpu.rows import Options, OutOfTimeError, Rows
from noiserobust.endings import end_with


def main(part: str, options: str, deadline: str) -> None:
    chosen = Options(**json.loads(options), deadline=float(deadline))
    rows = Rows(chosen, part)
    try:
        importlib.import_module(f"experiments.gpu.{part}").run(rows)
    except OutOfTimeError:
        print(f"{part}: its time is up; the same command goes on", flush=True)


if __name__ == "__main__":
    end_with(os.getppid())
    main(*sys.argv[1:])

"""Processes that tests start: torchrun's, and ours by hand. A time limit only ends what hangs, however busy it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 1200
"""Seconds; what is started here takes a minute on a quiet machine. ``faulthandler_timeout`` is longer."""


def environment(**more: str) -> dict[str, str]:
    """That of a process which finds the package and the tests' modules, with one thread."""
    paths = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))} | more


def torchrun(count: int, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``count`` processes that run a script of this folder."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.run(
        [*command, str(HERE / script), *arguments], env=environment(), capture_output=True, text=True, timeout=LIMIT
    )

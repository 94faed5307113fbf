"""Processes that tests start: torchrun's, and ours by hand. A time limit only ends what hangs, however busy it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 1200
"""Seconds; what is started here takes a minute on a quiet machine. ``faulthandler_timeout`` is longer."""


Done = subprocess.CompletedProcess[str]


def environment(**more: str) -> dict[str, str]:
    """That of a process which finds the package and the tests' modules, with one thread."""
    paths = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))} | more


def python(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None, check: bool = True) -> Done:
    """A Python that has ended: with exit code 0, where that is checked."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=env or environment(), capture_output=True, text=True, timeout=LIMIT)
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


def torchrun(count: int, script: str, *arguments: str) -> Done:
    """``count`` processes that run a script of this folder."""
    agent = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return python(*agent, str(HERE / script), *arguments, check=False)

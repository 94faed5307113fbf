"""DistributedDataParallel under torchrun, gloo on CPUs, two and four processes: ddp_worker.py holds the checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ddp_worker import CHECKS

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[2, 4])
def verdicts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """One start per number of processes; the verdict of every check on every rank."""
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.param}"]
    paths = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [*command, str(HERE / "ddp_worker.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]
    assert len(found) == request.param
    return found


@pytest.mark.parametrize("check", CHECKS)
def test_on_every_rank(verdicts: list[dict[str, str]], check: str) -> None:
    for rank, verdict in enumerate(verdicts):
        assert not verdict[check], f"rank {rank}: {verdict[check]}"

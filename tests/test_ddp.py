"""DistributedDataParallel under torchrun, gloo on CPUs, two and four processes: ddp_worker.py holds the checks."""

from __future__ import annotations

import json

import pytest
from ddp_worker import CHECKS
from processes import torchrun

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[2, 4])
def verdicts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """One start per number of processes; the verdict of every check on every rank."""
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    done = torchrun(request.param, "ddp_worker.py", str(folder))
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.parametrize("check", CHECKS)
def test_on_every_rank(verdicts: list[dict[str, str]], check: str) -> None:
    for rank, verdict in enumerate(verdicts):
        assert not verdict[check], f"rank {rank}: {verdict[check]}"

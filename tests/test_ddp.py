"""DistributedDataParallel and sharded weights, gloo on CPUs, two and four processes: ddp_worker.py holds the checks."""

from __future__ import annotations

import json

import pytest
from ddp_worker import WORLDS, chosen
from processes import HERE, python

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, str]]]:
    """By number of processes, the verdict of every check on every rank; all in one start."""
    folder = tmp_path_factory.mktemp("ranks")
    python(str(HERE / "ddp_worker.py"), str(folder))
    return {n: [json.loads((folder / f"{n}.{rank}.json").read_text()) for rank in range(n)] for n in WORLDS}


@pytest.mark.parametrize(("count", "check"), [(count, check) for count in WORLDS for check in chosen(count)])
def test_on_every_rank(verdicts: dict[int, list[dict[str, str]]], count: int, check: str) -> None:
    for rank, verdict in enumerate(verdicts[count]):
        assert not verdict[check], f"rank {rank}: {verdict[check]}"

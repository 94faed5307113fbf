"""How a network computes: float32 that is float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from noiserobust.models.compute import draws_of, exact_products

BACKENDS = torch.backends
NEW = (BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.cuda.matmul, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.matmul)


def switches() -> list[Any]:
    """All that says how products of float32 round; None where two contradict each other, which torch refuses."""
    old: list[Callable[[], Any]] = [
        torch.get_float32_matmul_precision,
        lambda: BACKENDS.cuda.matmul.allow_tf32,
        lambda: BACKENDS.cudnn.allow_tf32,
    ]
    said: list[Any] = [kind.fp32_precision for kind in NEW]
    for ask in old:
        try:
            said.append(ask())
        except RuntimeError:
            said.append(None)
    return said


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = [kind.fp32_precision for kind in NEW]
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    for kind, precision in zip(NEW, before, strict=True):
        kind.fp32_precision = precision


@pytest.mark.parametrize(
    "turn",
    [
        lambda: None,
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
        lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
        lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
        lambda: setattr(BACKENDS.mkldnn.conv, "fp32_precision", "bf16"),
    ],
    ids=["as torch comes", "high", "medium", "no TF32 in cuDNN", "new: matmul", "new: convolutions", "new: CPU"],
)
def test_exact_products_contradict_no_switch_and_leave_all_as_they_were(turn: Callable[[], object]) -> None:
    """A GPU's matrix product raises where torch's old and new switches contradict each other."""
    turn()
    before = switches()
    with exact_products():
        assert switches() == ["ieee"] * len(NEW) + ["highest", False, False]
    assert switches() == before


def test_exact_products_end_with_an_error() -> None:
    before = switches()
    with pytest.raises(ZeroDivisionError), exact_products():
        raise ZeroDivisionError
    assert switches() == before


def test_gpus_that_hold_equally_many_threads_draw_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's ``calc_execution_policy``: a field is shared out over all threads that a GPU holds."""
    cards = {0: (132, 2048), 1: (132, 2048), 2: (108, 2048), 3: (128, 1536)}  # H100 SXM, H200, A100, RTX 4090

    def properties(device: torch.device) -> SimpleNamespace:
        count, threads = cards[device.index]
        return SimpleNamespace(multi_processor_count=count, max_threads_per_multi_processor=threads)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    drawn = [draws_of(torch.device("cuda", index)) for index in cards]
    assert drawn[0] == drawn[1] == "cuda, 132 x 2048 threads"
    assert len(set(drawn)) == 3
    assert draws_of(torch.device("cpu")) == "cpu"

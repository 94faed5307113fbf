"""What backends refuse, and what happens without aihwkit: none of it needs aihwkit."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from processes import python
from torch import nn

from noiserobust import UserError, evaluate
from noiserobust.evaluation.settings import grouped

PROFILES = ["pcm", "hermes", "reram_wan2022", "reram_cmo", "state_independent"]
WITHOUT = f"""
import importlib.abc, sys
missing = ""
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == missing:
            raise ImportError("undefined symbol: _ZN3c10\\nand more")
sys.meta_path.insert(0, Broken())
import torch, noiserobust
from noiserobust.evaluation import Chips
data = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
model = torch.nn.Linear(3, 2)
for missing in sys.argv[1:]:
    rows = noiserobust.evaluate(model, data, {PROFILES}, draws=1, chips=Chips(times=["1d"])).rows
    assert set(rows["noise"]) >= {{*{PROFILES}}}
    try:
        noiserobust.evaluate(model, data, "gaussian:0.1", draws=1, chips=Chips(backend="aihwkit"))
    except noiserobust.UserError as error:
        print(error)
"""


def test_without_aihwkit_the_message_says_how_to_install_it() -> None:
    """Not installed, or compiled for another torch; the direct path and the profiles of devices work on."""
    missing = ["aihwkit"] + ["aihwkit.simulator.rpu_base"] * (importlib.util.find_spec("aihwkit") is not None)
    lines = python("-c", WITHOUT, *missing).stdout.splitlines()
    assert len(lines) == len(missing)
    for line in lines:
        assert line.startswith(
            "expected aihwkit 1.1.0 and its compiled part for backend aihwkit, got: undefined symbol"
        )
        assert "pip install aihwkit==1.1.0" in line


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"backend": "tpu"}, "expected a backend (aihwkit, direct), got 'tpu'"),
        ({"backend": "aihwkit:bits=8"}, "aihwkit has no setting 'bits'"),
        ({"backend": "aihwkit:inp_bits=1"}, "aihwkit: expected inp_bits of 2 to 24, or 0 for no rounding, got 1"),
        ({"backend": "aihwkit:out_noise=-1"}, "aihwkit: expected a finite out_noise >= 0, got -1.0"),
        ({"backend": "aihwkit:out_bound=0"}, "expected an out_bound > 0 to round outputs within"),
        ({"backend": "aihwkit:tile=-1"}, "expected tile >= 1, or 0 for tiles as large as their layer, got -1"),
        ({"backend": "aihwkit", "precision": "bf16"}, "expected fp32 with backend aihwkit, whose converters need it"),
        ({"backend": "aihwkit", "converters": "io:dac=8"}, "expected converters none with backend aihwkit, which has"),
        ({"backend": "aihwkit", "models": nn.Linear(3, 3).double()}, "got a network in torch.float64"),
    ],
)
def test_refusals(options: dict[str, object], fragment: str) -> None:
    data = torch.ones(6, 3), torch.arange(6) % 3
    with pytest.raises(UserError) as caught:
        evaluate(**grouped({"models": nn.Linear(3, 3), "data": data, "noises": "gaussian:0.1"} | options))
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)

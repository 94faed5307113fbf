"""What comes out of files and command lines is read within bounds, and never run."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import resource
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import TINY, refused
from torch import Tensor, nn

from noiserobust import UserError
from noiserobust.cli import main
from noiserobust.errors import printable
from noiserobust.limits import VARIABLE, limits, require_file
from noiserobust.models import DigitsNet, ModelSpec, build, sizes
from noiserobust.storage import conditions
from noiserobust.storage.checkpoints import read_checkpoint, save_checkpoint
from noiserobust.training.optimizers import build_optimizer

ABOUT = {
    "model": "digits:2",
    "channels": 1,
    "classes": [str(digit) for digit in range(10)],
    "mean": [0.3],
    "std": [0.4],
    "label": "plain",
    "seed": 0,
    "epoch": 0,
    "settings": {"data": "digits", "data_root": "data"},
}


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return dict(DigitsNet(width=2).build(1, 10).state_dict())


class Made:
    """Something that a pickle makes by calling ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class TestPrintable:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("a\nb\r\n  c", "a b c"),
            ("\x1b[2J\x07", r"\x1b[2J\x07"),
            ("a\u202eb\u2028c", r"a\u202eb c"),
            ("σ = ±1 µS 日本\u3000語", "σ = ±1 µS 日本 語"),
            ("\udcff", r"\udcff"),
        ],
    )
    def test_one_line(self, text: str, shown: str) -> None:
        assert printable(text) == shown == str(UserError(text))

    def test_long_ones_keep_both_ends(self) -> None:
        message = str(UserError("expected " + "x" * 10**6 + "; what to do"))
        assert message.startswith("expected x")
        assert message.endswith("; what to do")
        assert len(message) < 2010


class TestConditions:
    ROWS = pd.DataFrame({"seed": [0, 1, 2], "noise": ["pcm", "gaussian:0.1", "pcm+x"], "read std": [0.1, 0.2, 0.3]})

    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            ("seed == 1", [1]),
            ("0 <= seed < 2 and not noise == 'pcm'", [1]),
            ("seed in [0, 2] or `read std` * 10 > 2.5", [0, 2]),
            ("seed == 0 | seed == 1", [0, 1]),
            ("noise != 'a|b' & seed - 1 == -1", [0]),
            ("'pcm' in noise and seed not in (0,)", [2]),
            ("seed == [0, 1]", [0, 1]),
        ],
    )
    def test_what_holds(self, text: str, kept: list[int]) -> None:
        assert conditions.where(self.ROWS, text)["seed"].tolist() == kept

    @pytest.mark.parametrize(
        "text",
        [
            "@pd.io.common.os.system('true')",
            "__import__('os').system('true')",
            "noise.str.contains('a')",
            "seed.__class__ == 1",
            "(lambda: 1)() == seed",
            "[x for x in (1,)]",
            "noise * 1000000000 == 'a'",
            "'a' * 1000000000 == noise",
            "seed ** 99999999999 == 1",
            "seed[0] == 1",
            "f'{seed}' == noise",
            "seed == 1; 2",
            "noise < 3",
            "seed",
            "1 == 1",
            "a == 1",
            "(" * 10000,
            "not " * 10000 + "seed",
            "seed == \x00",
            "",
        ],
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(UserError, match="expected a condition on seed, noise, read std"):
            conditions.where(self.ROWS, text)


class TestLimits:
    def test_the_environment_sets_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        usual = limits().parts
        monkeypatch.setenv(VARIABLE, "parts=3, pixels=1e3")
        assert (limits().parts, limits().pixels) == (3, 1000)
        with pytest.raises(UserError, match="expected at most 3 parts of a noise, got 4; NOISEROBUST_LIMITS=parts=4"):
            main_noise("+".join(["gaussian:0.1"] * 4))
        monkeypatch.setenv(VARIABLE, "pixel=3")
        with pytest.raises(UserError, match="expected NOISEROBUST_LIMITS as file=NUMBER"):
            limits()
        monkeypatch.delenv(VARIABLE)
        assert limits().parts == usual

    def test_pipes_and_devices_are_no_files(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for place, kind in ((tmp_path / "pipe", "a pipe or device"), ("/dev/zero", "a pipe or device")):
            with pytest.raises(UserError, match=f"expected a table, got .*, {kind}; name a file"):
                require_file(place, "a table")
        with pytest.raises(UserError, match="a folder; name a file"):
            require_file(tmp_path, "a table")


def main_noise(text: str) -> Any:
    from noiserobust.noise import NoiseModel

    return NoiseModel.parse(text)


class TestNetworks:
    @pytest.mark.parametrize("text", ["wrn:1000000-10", "vit-s16:depth=1000000", "digits:20000", "vgg16-bn:100000"])
    def test_larger_than_its_weights(self, text: str, tmp_path: Path, weights: dict[str, Tensor]) -> None:
        path = save_checkpoint(tmp_path / "a.safetensors", weights, ABOUT | {"model": text})
        started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match="expected a network of the 527 weights that are there, got"):
            read_checkpoint(path).build()
        assert time.process_time() - started < 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000

    @pytest.mark.parametrize("text", ["wrn:1000000-10", "digits:100000000", f"digits:{2**62}", "vit-s16:depth=1000000"])
    def test_larger_than_there_may_be(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "parameters=60e6")
        with pytest.raises(UserError, match=r"expected at most 60,000,000 parameters|that can be built"):
            build(text, 3, 10)

    def test_looking_ahead_changes_no_weight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sizes, "LARGE", 10_000)
        spec = ModelSpec.parse("resnet18:4")
        torch.manual_seed(0)
        plain = spec.build(3, 10).state_dict()
        torch.manual_seed(0)
        watched = sizes.built(spec, 3, 10).state_dict()
        assert all(torch.equal(value, watched[name]) for name, value in plain.items())


class TestTorchFiles:
    def test_no_more_memory_than_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "legacy.pt").write_bytes(pickle.dumps({"w": Made(bytearray, 4 * 10**9)}, protocol=2))
        with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps([Made(bytearray, 4 * 10**9)], protocol=2))
            archive.writestr("archive/version", "3\n")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name in ("legacy.pt", "zip.pt"):
            with pytest.raises(UserError, match="expected dense, real tensors, got bytes of any number in"):
                read_checkpoint(tmp_path / name)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000

    def test_compressed_archives(self, tmp_path: Path, weights: dict[str, Tensor]) -> None:
        saved = io.BytesIO()
        torch.save(weights, saved)
        with zipfile.ZipFile(saved) as plain, zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as packed:
            for name in plain.namelist():
                packed.writestr(name, plain.read(name))
        with pytest.raises(UserError, match=r"expected an archive as torch.save writes it, got .*, compressed"):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        ("tensor", "kind"),
        [
            (torch.eye(3).to_sparse(), "a sparse tensor"),
            (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "a quantised tensor"),
            (torch.empty(3, device="meta"), "a tensor on the meta device"),
            (torch.complex(torch.ones(3), torch.ones(3)).conj(), "a complex tensor"),
            (torch.zeros(1).expand(40_000_000_000), "expected weights as large as what is stored"),
            (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "nested"),
        ],
    )
    def test_tensors_that_are_not_plain(
        self, tensor: Tensor, kind: str, tmp_path: Path, weights: dict[str, Tensor]
    ) -> None:
        torch.save(weights | {"odd": tensor}, tmp_path / "a.pt")
        with pytest.raises(UserError, match=kind):
            read_checkpoint(tmp_path / "a.pt")

    def test_dictionaries_that_hold_themselves(self, tmp_path: Path) -> None:
        endless: dict[str, Any] = {"epoch": 1}
        endless["model"] = endless
        torch.save(endless, tmp_path / "a.pt")
        with pytest.raises(UserError, match="expected weights by name"):
            read_checkpoint(tmp_path / "a.pt")

    def test_files_before_torch_1_6(self, tmp_path: Path, weights: dict[str, Tensor]) -> None:
        weights["odd"] = torch.zeros(128)  # whose length looks like the beginning of a pickle
        torch.save(weights, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
        assert torch.equal(read_checkpoint(tmp_path / "a.pt").weights["odd"], weights["odd"])


class TestDescriptions:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model": None}, "expected str as model in the description in .*, got NoneType None"),
            ({"channels": "1"}, "expected int as channels"),
            ({"channels": 10**40}, "expected int as channels"),
            ({"classes": 10}, "as classes"),
            ({"mean": "x"}, "as mean"),
            ({"seed": 1.5}, "expected int as seed"),
            ({"settings": []}, "expected settings in the description in .* as names with values, got list"),
            ({"settings": {"data": 5}}, "expected str as data in settings in the description"),
            ({"label": ["a\nb\x1b[31m"]}, r"as label in the description in .*, got list \['a\\nb\\x1b\[31m'\]"),
        ],
    )
    def test_of_other_types(
        self, change: dict[str, Any], message: str, tmp_path: Path, weights: dict[str, Tensor]
    ) -> None:
        path = save_checkpoint(tmp_path / "a.safetensors", weights, ABOUT | change)
        with pytest.raises(UserError, match=message):
            read_checkpoint(path)

    @pytest.mark.parametrize("text", ["[" * 10**5 + "]" * 10**5, "[" * 70 + "]" * 70, "5", "[1]", "{", "NaN"])
    def test_that_are_none(self, text: str, tmp_path: Path, weights: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        save_file(weights, tmp_path / "a.safetensors", {"noiserobust": text})
        with pytest.raises(UserError, match=r"expected (the description in|at most 64 levels)"):
            read_checkpoint(tmp_path / "a.safetensors")

    def test_as_they_are(self, tmp_path: Path, weights: dict[str, Tensor]) -> None:
        path = save_checkpoint(tmp_path / "a.safetensors", weights, ABOUT | {"further": 1})
        assert read_checkpoint(path).about == json.loads(json.dumps(ABOUT)) | {"further": 1}


SOURCE = """
import sys
from torch import nn

def quits(channels, classes):
    sys.exit(0)

def fails(channels, classes):
    raise ValueError("no\\nluck")

class Late(nn.Module):
    calls = 0
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
    def forward(self, x):
        Late.calls += 1
        if Late.calls > 3:
            raise ZeroDivisionError("late")
        return self.linear(x.flatten(1))

def late(channels, classes):
    return Late()

def data():
    sys.exit(0)
"""


class TestCodeOfOnesOwn:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("hostile_code.py").write_text(SOURCE)
        monkeypatch.delitem(sys.modules, "hostile_code", raising=False)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--model", "factory:hostile_code:quits"], "hostile_code:quits: .* got SystemExit: 0"),
            (["--model", "hostile_code:fails"], "hostile_code:fails: .* got ValueError: no$"),
            (["--data", "hostile_code:data"], "hostile_code:data: .* got SystemExit: 0"),
            (["--model", "hostile_code:late"], r"ZeroDivisionError: late in forward \(.*hostile_code.py, line 19\)"),
        ],
    )
    def test_its_errors_are_one_line(self, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        given = [word for word in TINY if word not in ("--model", "digits:4")]
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["train", *words, *given])
        assert stopped.value.code == 2
        told = capsys.readouterr().err
        assert "Traceback" not in told
        (line,) = [line for line in told.splitlines() if "noiserobust: error" in line]
        assert re.search(message, line)

    def test_the_traceback_comes_on_request(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NOISEROBUST_DEBUG", "1")
        with pytest.raises(SystemExit):
            main(["train", "--model", "hostile_code:fails", "--epochs", "1"])
        told = capsys.readouterr().err
        assert 'raise ValueError("no\\nluck")' in told
        assert "hostile_code:fails" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--seeds"], "expected at least one seed, got none"),
        (["train", "--seeds", str(10**30)], "expected a number of at most 64 bits"),
        (["train", "--model", f"digits:{10**30}"], "expected a number of at most 64 bits"),
        (["train", "--crop", "1000000", "--epochs", "1"], "expected a crop padding within images of"),
        (["train", "--device", "meta"], "expected a device that is there"),
        (
            ["evaluate", "nowhere", "--noise", "+".join(["gaussian:0.1"] * 2000)],
            "expected at most 100 parts of a noise",
        ),
        (["evaluate", "nowhere", "--noise", "+".join(["none"] * 1000)], ""),
        (["models", "resnet18", "--size", "100000000000"], "expected at most 33,554,432 pixels of an image"),
    ],
)
def test_absurd_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(words, capsys)


@pytest.mark.parametrize("text", ["Adam:capturable=true", "Adam:differentiable=true", "Adam:betas=(1,)"])
def test_optimizers_that_fail_at_a_step(text: str) -> None:
    with pytest.raises(UserError, match=f"optimizer '{text[:8]}"):
        build_optimizer(text, nn.Linear(2, 2).parameters(), 0.1, 0.0)

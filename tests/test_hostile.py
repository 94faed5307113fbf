"""What comes out of files and command lines is read within bounds, and never run."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import re
import resource
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import TINY, refused
from methods import few_digits
from PIL import Image
from torch import Tensor, nn

from noiserobust import UserError, evaluate
from noiserobust.analog.layer_table import LayerTable
from noiserobust.cli import main
from noiserobust.data import load
from noiserobust.data.images import read_image
from noiserobust.errors import printable
from noiserobust.limits import VARIABLE, Limits, limits, require_file
from noiserobust.models import DigitsNet, ModelSpec, build, sizes
from noiserobust.noise.chip_files import ChipFile
from noiserobust.storage import conditions, locks
from noiserobust.storage.checkpoints import DIVERGED, find_checkpoints, read_checkpoint, save_checkpoint
from noiserobust.storage.rows import completed
from noiserobust.training import TrainSettings, fit, load_run
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
    def test_the_page_lists_them(self) -> None:
        page = (Path(__file__).parent.parent / "docs/robustness.md").read_text(encoding="utf-8")
        table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))
        assert list(table) == [field.name for field in dataclasses.fields(Limits)]
        for name, text in table.items():
            if "memory" not in text:
                assert float(text.replace(",", "")) == getattr(Limits(), name)

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

    @pytest.mark.parametrize("text", ["transformer:layers=1000000", "transformer:4,layers=1000000"])
    def test_of_many_small_layers(self, text: str, tmp_path: Path, weights: dict[str, Tensor]) -> None:
        path = save_checkpoint(tmp_path / "a.safetensors", weights, ABOUT | {"model": text})
        started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match=r"expected a network of the 527 weights|expected at most 10,000 tensors"):
            read_checkpoint(path).build()
        assert time.process_time() - started < 10
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000

    @pytest.mark.parametrize("text", ["wrn:1000000-10", "transformer:layers=1000000", "lora:wrn(1000000-1),rank=2"])
    def test_of_many_layers_by_name(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "tensors=500")
        with pytest.raises(UserError, match="expected at most 500 tensors of a network, got 501 in "):
            build(text, 3, 10)

    def test_copied_layers_count_once(self) -> None:
        """A network as large as its weights is built, though its blocks are copies of one."""
        spec = ModelSpec.parse("transformer:256,layers=3")
        count = sum(parameter.numel() for parameter in build(str(spec), 8, 10).parameters())
        assert count > 2 * sizes.SPARE
        assert sizes.built(spec, 8, 10, count - sizes.SPARE + 1000)

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

    @pytest.mark.parametrize(
        ("forward", "line"),
        [
            ("self.layer(x.flatten(1)).detach()", "expected a loss that depends on trained weights, got one that does"),
            ("next(iter([]))", "expected code of your own that works, got StopIteration"),
        ],
    )
    def test_answers_that_teach_nothing(
        self,
        forward: str,
        line: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("of_mine.py").write_text(
            "from torch import nn\nclass Net(nn.Module):\n"
            "    def __init__(self): super().__init__(); self.layer = nn.Linear(64, 10)\n"
            f"    def forward(self, x): return {forward}\n"
        )
        try:
            assert line in refused(
                ["train", "--model", "of_mine:Net", "--epochs", "1", "--quiet", "--out", "runs"], capsys
            )
        finally:
            sys.modules.pop("of_mine", None)


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
            ["train", "--select-noise", "+".join(["gaussian:0.1"] * 2000)],
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


def rows_of_an_evaluation() -> pd.DataFrame:
    usual = {"model": "m", "method": "plain", "replicate": 0, "noise": "gaussian:0.1", "strength": 0.1, "read": 0}
    rows = pd.DataFrame([usual | {"draw": draw, "t": float("nan"), "value": 50.0 + draw} for draw in range(3)])
    return completed(rows.assign(metric="accuracy", seed=0, semantics=4, images=10, analog="", weights="w"))


class TestRows:
    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            ("method", None, "expected a text as method of every row"),
            ("method", 5, "expected a text as method"),
            ("metric", b"\xff", "expected a text as metric"),
            ("value", "x", "expected a number as value"),
            ("strength", float("inf"), "expected a finite number as strength"),
            ("strength", True, "expected a number as strength"),
            ("draw", -1, "expected a whole number as draw"),
            ("draw", 0.5, "expected a whole number as draw"),
            ("replicate", None, "expected a whole number as replicate"),
            ("t", -1.0, "expected seconds from 0 to 1e18 as t"),
            ("t", 1e300, "expected seconds from 0 to 1e18 as t"),
            ("subset", 3, "expected a text as subset"),
            ("noise", float("nan"), "expected a text as noise"),
        ],
    )
    def test_of_other_types(
        self, column: str, value: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows_of_an_evaluation().assign(**{column: value}).to_parquet(tmp_path / "a.parquet")
        assert message in refused(["report", str(tmp_path / "a.parquet")], capsys)

    @pytest.mark.parametrize("column", ["method", "draw", "value", "noise"])
    def test_without_a_column(self, column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows_of_an_evaluation().drop(columns=column).to_parquet(tmp_path / "a.parquet")
        assert f"without {column}" in refused(["report", str(tmp_path / "a.parquet")], capsys)

    def test_names_are_printed_escaped(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows_of_an_evaluation().assign(method="a\n\x1b[31mb").to_parquet(tmp_path / "a.parquet")
        main(["report", str(tmp_path / "a.parquet"), "--table", str(tmp_path / "a.md")])
        told = capsys.readouterr().out
        assert r"a \x1b[31mb" in told
        for text in (told, (tmp_path / "a.md").read_text()):
            assert all(sign.isprintable() or sign == "\n" for sign in text)

    def test_conditions_run_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows_of_an_evaluation().to_parquet(tmp_path / "a.parquet")
        where = f'@pd.io.common.os.system("touch {tmp_path / "ran"}")'
        assert "expected a condition" in refused(["report", str(tmp_path / "a.parquet"), "--where", where], capsys)
        assert not (tmp_path / "ran").exists()


def image_folder(folder: Path) -> Path:
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (folder / place).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(folder / place / "1.png")
    return folder


class TestImageFolders:
    def test_links_around_themselves(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "images")
        for number in range(4):
            (folder / f"train/a/{number}").symlink_to("..")
        assert len(load(str(folder)).train) == 3  # a's own, and once those of the folder around it

    def test_pipes(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path / "images")
        os.mkfifo(folder / "train/a/2.png")
        with pytest.raises(UserError, match=r"expected an image, got .*2\.png, a pipe or device"):
            load(str(folder))

    def test_bombs(self, tmp_path: Path) -> None:
        Image.new("1", (9400, 9400)).save(tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size < 50_000
        with pytest.raises(UserError, match="expected at most 33,554,432 pixels of an image, got 88,360,000"):
            read_image(str(tmp_path / "a.png"))


class TestChipsAndTables:
    @pytest.fixture
    def member(self, tmp_path: Path) -> Any:
        def write(content: bytes, times: int) -> ChipFile:
            packed = zipfile.ZipFile(tmp_path / "chip.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
            with packed, packed.open("layer.npy", "w") as file:
                file.write(content)
                for _ in range(times):
                    file.write(bytes(10**7))
            return ChipFile(tmp_path / "chip.npz")

        return write

    def test_arrays_that_unpack_to_more_than_the_layer(self, member: Any) -> None:
        header = io.BytesIO()
        about = {"descr": "<f4", "fortran_order": False, "shape": (125_000_000,)}
        np.lib.format.write_array_header_1_0(header, about)  # type: ignore[arg-type]
        chip = member(header.getvalue(), 50)
        with pytest.raises(UserError, match="expected 6 numbers, got 125,000,000 in layer of"):
            chip.values("layer", "", torch.Size([2, 3]), None)

    def test_headers_that_unpack(self, member: Any) -> None:
        with pytest.raises(UserError, match="expected arrays with short headers"):
            member(b"\x93NUMPY\x02\x00" + (5 * 10**8).to_bytes(4, "little"), 50)

    @pytest.mark.parametrize("text", ["measured:/dev/zero", "measured:pipe"])
    def test_devices_and_pipes(self, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        os.mkfifo("pipe")
        with pytest.raises(UserError, match="a pipe or device; name a file"):
            main_noise(text)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("a.toml", "a = " + "[" * 10**5, "cannot be read"),
            ("a.toml", "a." * 50_000 + "b = 1", "more than 1000 dots"),
            ("a.yaml", "a: &a [x]\nb: [*a, *a]\n", "aliases"),
            ("a.yaml", "[" * 10**5, "cannot be read"),
            ("a.yaml", "!!python/object/apply:os.system ['true']", "cannot be read"),
            ("a.toml", "\xff", "in UTF-8"),
        ],
    )
    def test_settings_by_layer(self, name: str, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=message):
            LayerTable.of(tmp_path / name)


def test_what_a_file_names_is_not_downloaded(
    tmp_path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def archive(root: str, train: bool, download: bool) -> None:
        asked.append(download)
        raise RuntimeError("Dataset not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", archive)
    settings = {"data": "cifar10", "data_root": str(tmp_path)}
    path = save_checkpoint(tmp_path / "a.safetensors", weights, ABOUT | {"settings": settings})
    told = r"data that .*a\.safetensors was trained on, 'cifar10', .*: --data .*--data-root .*which a file names"
    with pytest.raises(UserError, match=told):
        evaluate(path)
    assert asked == [False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y.to_sparse(), "expected predictions that are dense and real, got sparse_coo"),
        (lambda y: y.to(torch.complex64), "got strided, complex64"),
        (lambda y: y.to("meta"), "got strided, float32 on meta"),
        (lambda y: y[:1], "expected a model that gives a row of logits for each of 4 inputs, got 1"),
    ],
)
def test_answers_of_a_network(change: Any, message: str) -> None:
    class Odd(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return change(super().forward(x))

    with pytest.raises(UserError, match=message):
        evaluate(Odd(3, 2), (torch.ones(4, 3), torch.tensor([0, 1, 0, 1])), "gaussian:0.1", draws=1)


@pytest.mark.parametrize("spoil", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_a_diverged_run_says_is_read_within_limits(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    spoil(tmp_path / "run" / DIVERGED)
    for read in (lambda: find_checkpoints([str(tmp_path)]), lambda: load_run(tmp_path / "run")):
        with pytest.raises(UserError, match="expected what a run that diverged says, got "):
            read()


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff", b"[]", b'{"model_type": ' * 100_000])
def test_descriptions_of_transformers_that_are_none(name: str, text: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=f"without a readable {name}"):
        read_checkpoint(tmp_path)


def test_a_folder_that_goes_while_its_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever held the lock was ended before anything was written, and removed the empty folder."""
    taken, asked = locks.locked, []

    def goes(path: Path, **options: Any) -> Any:
        asked.append(path)
        if len(asked) == 1:
            path.parent.rmdir()
        return taken(path, **options)

    monkeypatch.setattr(locks, "locked", goes)
    with locks.alone(tmp_path / "run" / ".lock", "training"):
        assert len(asked) == 2
    assert not (tmp_path / "run").exists()


def test_three_images_are_enough(tmp_path: Path) -> None:
    settings = TrainSettings(model="digits:2", epochs=1, batch_size=3, select_draws=1, validation=0.5)
    assert fit(settings, tmp_path, splits=few_digits(6)).checkpoint.is_file()

"""A file at another place than its own is named by its kind, with the place where it belongs."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from noiserobust.analog.layer_table import LayerTable
from noiserobust.data.source import DataSource
from noiserobust.errors import UserError
from noiserobust.file_kinds import KINDS, misplaced
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel, parse
from noiserobust.spec.listing import check
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.rows import read_rows, write_rows

TEXTS = {
    "devices.csv": "# a comment\nState (uS);mean_error;std\n0;0;1\n25;0;1\n",
    "devices.toml": "[device]\nstate = [0, 25]\nstd = [1, 1]\n",
    "flat.toml": 'name = "a chip"\ng_max = 25\n',
    "layers.toml": '["*"]\nnoise = "gaussian:0.05"\n\n["head.*"]\ndigital = true\n',
    "log.csv": "epoch,train_loss,accuracy\n0,1.0,10.0\n",
    "page.html": "<!doctype html>\n<p>",
    "rows.csv": '"method","noise",draw,"metric",value\n"plain","gaussian:0.1",0,"accuracy",90.0\n',
}
KIND = {
    "devices.csv": "devices",
    "devices.toml": "toml",
    "flat.toml": "toml",
    "layers.toml": "layers",
    "log.csv": "log",
    "page.html": "page",
    "rows.csv": "rows",
    "rows.parquet": "rows",
    "net.safetensors": "weights",
    "net.pt": "weights",
    "chip.npz": "arrays",
    "picture.png": "picture",
    "table.xlsx": "sheet",
}
READERS: dict[str, tuple[Callable[[str], object], set[str]]] = {
    "measured": (lambda path: parse(f"measured:{path}"), {"devices"}),
    "chips": (lambda path: parse(f"chips:{path}"), {"arrays"}),
    "checkpoint": (read_checkpoint, {"weights"}),
    "rows": (read_rows, {"rows"}),
    "layers": (LayerTable.of, {"layers", "toml"}),
    "noise": (NoiseModel.parse, set()),
    "data": (DataSource.parse, set()),
    "model": (ModelSpec.parse, set()),
    "--noise": (lambda path: check("noises", path), set()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    read = read_rows(folder / "rows.csv")
    write_rows(read, folder / "rows.parquet")
    save_file({"w": torch.zeros(2)}, folder / "net.safetensors")
    torch.save({"w": torch.zeros(2)}, folder / "net.pt")
    np.savez(folder / "chip.npz", w=np.zeros(2))
    with zipfile.ZipFile(folder / "table.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    return folder


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_the_kind_of_another_file(reader: str, folder: Path) -> None:
    read, own = READERS[reader]
    for name, kind in KIND.items():
        if kind in own or (reader == "chips" and name == "net.safetensors"):
            continue  # weights are conductances, too
        with pytest.raises(UserError) as error:
            read(str(folder / name))
        assert f"{folder / name}" in str(error.value)
        assert KINDS[kind][0] in str(error.value), name


def test_what_is_of_its_kind_or_of_none_is_left_to_its_reader(folder: Path, tmp_path: Path) -> None:
    for name, kind in KIND.items():
        assert misplaced(folder / name, kind) == ""
    for content in (b"", b"a,b\n1,2\n", b"\x80", bytes(40), "µ\n".encode("cp1252"), b"[1, 2]\n"):
        (tmp_path / "any").write_bytes(content)
        assert misplaced(tmp_path / "any") == ""
    assert misplaced(tmp_path) == misplaced(tmp_path / "none") == ""

"""Whatever comes in by a text, a file, an image, a setting or a command line is taken, or refused in one line.

Each input is held against its door in this process (``specimens.py``): no traceback, no hang, no memory beyond a
gigabyte. ``make test`` tries the same few hundred each time, ``make nightly`` others, and many more.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import specimens
import torch
from families import ROOTS
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from specimens import HOSTILE, NUMBERS, WORDS, changes, edited, edits, held, hostile, retyped, texts

from noiserobust import UserError, evaluate
from noiserobust.analog.layer_table import LayerTable
from noiserobust.cli import main
from noiserobust.cli.app import COMMANDS, command_class
from noiserobust.cli.flags import SEVERAL, Flag, flags_of, read_command
from noiserobust.data import Dataset, Splits
from noiserobust.data.images import read_image
from noiserobust.evaluation.settings import Chips, Compute, Where
from noiserobust.limits import VARIABLE, limits
from noiserobust.models.sizes import built
from noiserobust.noise import NoiseModel
from noiserobust.rng import Stream
from noiserobust.spec.listing import FAMILIES, members
from noiserobust.storage import conditions
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.rows import write_rows
from noiserobust.storage.states import read_state
from noiserobust.training import TrainSettings, fit
from noiserobust.training.learning_rates import check_schedule
from noiserobust.training.optimizers import build_optimizer

TINY = ["--epochs", "1", "--batch-size", "800", "--model", "digits:2", "--select-draws", "1", "--validation", "0.5"]
EXAMPLES = {family: [member.example for member in members(family).values()] for family in FAMILIES}
EVERY = sorted({text for known in EXAMPLES.values() for text in known})


class Place:
    """A folder in which every kind of file lies, and which tests may spoil."""

    def __init__(self) -> None:
        self.count = 0
        with contextlib.redirect_stdout(io.StringIO()):
            main(["train", *TINY, "--out", "runs"])
            (self.run,) = Path("runs").iterdir()
            main(["evaluate", "runs", "--draws", "2", "--images", "20", "--out", "rows.parquet"])
            main(["program", str(self.run), "--chips", "1", "--times", "25s", "1d", "--out", "chips"])
        self.checkpoint = (self.run / "model.safetensors").read_bytes()
        size = int.from_bytes(self.checkpoint[:8], "little")
        self.header = json.loads(self.checkpoint[8 : 8 + size])
        self.numbers = self.checkpoint[8 + size :]
        self.about = json.loads(self.header["__metadata__"]["noiserobust"])
        self.weights = read_checkpoint(self.run).weights
        self.rows = pd.read_parquet("rows.parquet")
        self.ledger = Path("rows.parquet.ledger").read_bytes()
        self.log = (self.run / "log.csv").read_text()
        self.chip = next(path for path in Path("chips").iterdir() if path.name.startswith("chip")).read_bytes()
        dice = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (40, 1, 8, 8), generator=dice, dtype=torch.uint8)
        part = Dataset(images, torch.arange(40) % 10, (0.5,), (0.5,), tuple(map(str, range(10))), "few")
        self.splits, self.data = Splits(part, part), part.subset(range(8))
        self.settings = TrainSettings(model="digits:2", epochs=2, select_draws=1, validation=0.5, lr=0.01)
        with pytest.raises(KeyboardInterrupt):
            fit(self.settings, "states", splits=self.splits, on_epoch=_interrupt)
        (state,) = Path("states").glob("*/resume.pt")
        self.state, self.state_bytes = read_state(state), state.read_bytes()

    def file(self, name: str, content: bytes) -> Path:
        """A file of its own: caches that know one by its name stay out of the way."""
        for old in Path("inputs").glob("*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        self.count += 1
        path = Path("inputs") / str(self.count) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return path

    def tensors(self, header: Any, numbers: bytes) -> bytes:
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + numbers

    def described(self, about: Any) -> bytes:
        """The checkpoint with another description, without a seal."""
        return self.tensors(self.header | {"__metadata__": {"noiserobust": json.dumps(about)}}, self.numbers)


def _interrupt(line: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("fuzz") / "a" / "b" / "c"  # ../x stays inside
    folder.mkdir(parents=True)
    os.chdir(folder)
    os.environ[VARIABLE] = "parameters=1e6"
    limits()
    torch.set_num_threads(1)
    try:
        yield Place()
    finally:
        del os.environ[VARIABLE]
        os.chdir(before)


@pytest.fixture(autouse=True)
def figures(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    specimens.write_figures(request.node.name)


def command(words: list[str]) -> Callable[[], None]:
    """A command as a door: what it prints is looked at, and its exit code."""

    def run() -> None:
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main(words)
            code: Any = 0
        except SystemExit as stopped:
            code = stopped.code
        told = err.getvalue()
        assert "Traceback" not in told, told
        if "--json" in words and "--help" not in words:
            answer = json.loads(out.getvalue())  # one object, whatever happens
            assert ("error" in answer) == (code != 0), answer
        if code != 0:
            lines = [line for line in told.split("\n") if "noiserobust: error: " in line]
            assert (code, len(lines)) == (2, 1), told
            assert "expected memory" not in lines[0], told
            raise UserError(lines[0])

    return run


class TestTexts:
    @given(st.data())
    @hostile(80)
    def test_of_families(self, place: Place, data: st.DataObject) -> None:
        family = data.draw(st.sampled_from(sorted(ROOTS)))
        text = data.draw(texts(EXAMPLES[family] * 3 + EVERY))

        def door() -> None:
            one = ROOTS[family].parse(text, imports=False)
            assert ROOTS[family].parse(str(one)) == one
            if family == "noises":
                one.program(torch.linspace(-1, 1, 12).reshape(3, 4), Stream(0, "x")).read(Stream(0, "y"))
            if family == "models":
                built(one, 1, 10, 20_000)

        held(door)

    @given(texts(["SGD:momentum=0.9", "AdamW", "Adam:betas=(0.9,0.99)", "LBFGS", "Rprop", "SGD:nesterov=true"]))
    @hostile(20)
    def test_of_optimizers(self, text: str) -> None:
        held(lambda: build_optimizer(text, torch.nn.Linear(2, 2).parameters(), 0.1, 0.0))

    @given(texts(["StepLR:step_size=30,gamma=0.1", "OneCycleLR:max_lr=0.1", "CosineAnnealingLR:T_max=5,every=step"]))
    @hostile(20)
    def test_of_schedules(self, text: str) -> None:
        held(lambda: check_schedule(text, "SGD:momentum=0.9"))

    @given(texts(["seed == 1", "0 <= seed < 2 and not noise == 'pcm'", "seed in [0, 2] or `draw` * 10 > 2.5 - -t"]))
    @hostile(30)
    def test_of_conditions(self, place: Place, text: str) -> None:
        held(lambda: conditions.where(place.rows, text))

    @given(texts(['["*"]\nnoise = "gaussian:0.05"\non_off = 5\n["head.*"]\ndigital = true\n', "[a]\ng_max = 1e5\n"]))
    @hostile(20)
    def test_of_layers(self, place: Place, text: str) -> None:
        def door() -> None:
            table = LayerTable.of(place.file("a.toml", text.encode(errors="surrogatepass")))
            assert LayerTable.of(str(table) or None) == table or len(dict(table.rows)) < len(table.rows)
            for _, one in table.rows:
                one.checked()

        held(door)


class TestCheckpoints:
    @given(changes())
    @hostile(20)
    def test_their_descriptions(self, place: Place, made: Any) -> None:
        about = retyped(place.about, made)
        held(lambda: evaluate(place.file("model.safetensors", place.described(about)), place.data, draws=1))

    @given(changes(["F32", "F64", "BOOL", "C64", [0, 0], [2**40], [0, 2**40], [0, 4]]))
    @hostile(20)
    def test_their_headers(self, place: Place, made: Any) -> None:
        header = retyped(place.header, made)
        held(lambda: evaluate(place.file("model.safetensors", place.tensors(header, place.numbers)), place.data))

    @given(edits(), st.booleans())
    @hostile(20)
    def test_their_bytes(self, place: Place, made: Any, sealed: bool) -> None:
        content = place.checkpoint if sealed else place.described(place.about)
        path = place.file("model.safetensors", edited(content, made, 2000))
        held(lambda: evaluate(path, place.data, draws=1))

    @given(edits())
    @hostile(20)
    def test_of_torch(self, place: Place, made: Any) -> None:
        saved = io.BytesIO()
        torch.save(dict(place.weights), saved)
        path = place.file("model.pt", edited(saved.getvalue(), made, 3000))
        held(lambda: evaluate(path, place.data, draws=1, model="digits:2"))

    @given(changes([torch.zeros(0), torch.eye(2).to_sparse(), torch.ones(()), torch.full((3,), torch.nan)]))
    @hostile(30)
    def test_of_torch_with_other_content(self, place: Place, made: Any) -> None:
        content = retyped({"state_dict": dict(place.weights), "epoch": 3}, made)
        saved = io.BytesIO()
        torch.save(content, saved)
        held(lambda: evaluate(place.file("model.pt", saved.getvalue()), place.data, draws=1, model="digits:2"))


class TestStates:
    @given(changes([torch.zeros(3), torch.ones(()), {0: {}}]))
    @hostile(12)
    def test_their_parts(self, place: Place, made: Any) -> None:
        state = retyped(place.state, made)
        saved = io.BytesIO()
        torch.save(state, saved)
        self._resume(place, saved.getvalue())

    @given(edits())
    @hostile(8)
    def test_their_bytes(self, place: Place, made: Any) -> None:
        content = place.state_bytes.replace(b"noiserobust-sha256", b"noiserobust-sha000")
        self._resume(place, edited(content, made))

    def test_their_like(self, place: Place) -> None:
        """What is written again as it was is taken."""
        saved = io.BytesIO()
        torch.save(place.state, saved)
        self._resume(place, saved.getvalue())
        assert specimens.ended == {"taken": 1}

    def _resume(self, place: Place, content: bytes) -> None:
        (name,) = (path.parent.name for path in Path("states").glob("*/resume.pt"))
        path = place.file(f"{name}/resume.pt", content)
        held(lambda: fit(place.settings, path.parent.parent, splits=place.splits))


class TestRows:
    @given(st.data())
    @hostile(12)
    def test_of_other_types(self, place: Place, data: st.DataObject) -> None:
        rows = place.rows
        for _ in range(data.draw(st.integers(1, 3))):
            values = [value for value in HOSTILE if value != "\ud800"]  # which no table can hold
            name, value = data.draw(st.sampled_from(list(rows))), data.draw(st.sampled_from(values))
            change = data.draw(st.sampled_from(["all", "one", "drop", "rename", "mixed"]))
            if change == "drop":
                rows = rows.drop(columns=name)
            elif change == "rename":
                rows = rows.rename(columns={name: data.draw(st.sampled_from([*rows, "x", "", "\x1b[2J"]))})
            else:
                kept = 0 if change == "all" else len(rows) - 1 if change == "one" else len(rows) // 2
                rows = rows.assign(**{name: [*place.rows.iloc[:kept, 0], *[value] * (len(rows) - kept)]})
        saved = io.BytesIO()
        with contextlib.suppress(Exception):  # some cannot be written at all
            rows.to_parquet(saved)
        path = place.file("rows.parquet", saved.getvalue())
        further = data.draw(st.sampled_from([[], ["--baseline", "plain"], ["--intervals"]]))
        doors = [command(["report", str(path), *further]), command(["yield", str(path)]), lambda: Ledger(path).close()]
        held(data.draw(st.sampled_from(doors)))

    @given(st.data())
    @hostile(12)
    def test_as_texts(self, place: Place, data: st.DataObject) -> None:
        kind = data.draw(st.sampled_from(["csv", "jsonl"]))
        written = Path(f"inputs/plain.{kind}")
        write_rows(place.rows, written)
        lines = written.read_text().splitlines(keepends=True)
        few = "".join(lines[: data.draw(st.integers(1, 4))])
        if data.draw(st.booleans()):
            content = data.draw(texts([few])).encode(errors="surrogatepass")
        else:
            content = edited(few.encode(), data.draw(edits()))
        path = place.file(f"rows.{kind}", content)
        evaluate = ["evaluate", str(place.run), "--draws", "1", "--images", "20", "--out", str(path)]
        held(data.draw(st.sampled_from([command(["report", str(path), "--json"]), command(evaluate)])))

    @given(edits())
    @hostile(12)
    def test_their_bytes(self, place: Place, made: Any) -> None:
        content = Path("rows.parquet").read_bytes().replace(b"noiserobust-sha256", b"noiserobust-sha000")
        path = place.file("rows.parquet", edited(content, made))
        held(command(["report", str(path)]))

    @given(edits(8))
    @hostile(12)
    def test_of_ledgers(self, place: Place, made: Any) -> None:
        path = place.file("rows.parquet.ledger", edited(place.ledger, made, 9000))

        def door() -> None:
            ledger = Ledger(path.with_suffix(""))
            ledger.find(place.rows.iloc[0].to_dict(), ["accuracy"])
            ledger.close()

        held(door)

    @given(st.data())
    @hostile(12)
    def test_of_ledgers_with_other_content(self, place: Place, data: st.DataObject) -> None:
        path = place.file("rows.parquet.ledger", place.ledger)
        table = data.draw(st.sampled_from(["results", "conditions", "about"]))
        value = data.draw(
            st.sampled_from(["NULL", "'x'", "-1", "1e999", "x'00ff'", "9223372036854775807", "'{}'", "'[1]'"])
        )
        with contextlib.closing(sqlite3.connect(path)) as database:
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            name = data.draw(st.sampled_from(columns))
            with contextlib.suppress(sqlite3.Error):
                database.execute(f"UPDATE {table} SET {name} = {value}")
                if data.draw(st.booleans()) and table != "about":
                    database.execute(f"UPDATE {table} SET checksum = NULL")
            database.commit()

        def door() -> None:
            ledger = Ledger(path.with_suffix(""))
            ledger.find(place.rows.iloc[0].to_dict(), ["accuracy"])
            ledger.close()

        held(door)


class TestTables:
    @given(st.data())
    @hostile(4)
    def test_logs(self, place: Place, data: st.DataObject) -> None:
        text = data.draw(texts([place.log]))
        path = place.file("log.csv", text.encode(errors="surrogatepass"))
        old = {key: value for key, value in place.about.items() if key != "lines"}
        path.with_name("model.safetensors").write_bytes(place.described(old))
        held(command(["curves", str(path.parent), "--out", "curves.parquet", "--plot", "curves.svg"]))

    @given(
        texts(
            ["state,mean_error,std\n0,0.1,1\n5,0,1\n25,-1,2\n", "state (µS);time;std;mean_error\n0;1h;1;0\n1;1h;1;0\n"]
        )
    )
    @hostile(30)
    def test_of_devices(self, place: Place, text: str) -> None:
        path = place.file("table.csv", text.encode(errors="surrogatepass"))

        def door() -> None:
            noise = NoiseModel.parse(f"measured:{path}")
            chip = noise.program(torch.linspace(-1, 1, 12).reshape(3, 4), Stream(0, "x"))
            chip.read(Stream(0, "y"))

        held(door)

    @given(edits(), st.booleans())
    @hostile(30)
    def test_of_chips(self, place: Place, made: Any, packed: bool) -> None:
        if packed:
            saved = io.BytesIO()
            np.savez(saved, **{name: value.numpy() for name, value in place.weights.items()})
            path = place.file("chip.npz", edited(saved.getvalue(), made, 3000))
        else:
            content = place.chip.replace(b"noiserobust-sha256", b"noiserobust-sha000")
            path = place.file("chip.safetensors", edited(content, made, 2000))
        held(lambda: evaluate(place.run, place.data, f"chips:{path.parent}", draws=1))

    @given(changes([np.array("x"), np.array([None]), np.zeros(0), np.full(3, np.inf), np.array(1j), np.ones(())]))
    @hostile(30)
    def test_of_chips_with_other_content(self, place: Place, made: Any) -> None:
        arrays: Any = {name: value.numpy() for name, value in place.weights.items()} | {"g_max": 25.0, "times": [1.0]}
        arrays = retyped(arrays, made)
        saved = io.BytesIO()
        with contextlib.suppress(Exception):  # some cannot be written at all
            np.savez(saved, **{str(name): np.asarray(value) for name, value in arrays.items()})
        path = place.file("chip.npz", saved.getvalue())
        held(lambda: evaluate(place.run, place.data, f"chips:{path.parent}", draws=1))


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))  # whose name must be short


ODD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "empty": Path.touch,
    "loop": lambda path: path.symlink_to(path.name),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "up": lambda path: path.symlink_to(".."),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "null": lambda path: path.symlink_to("/dev/null"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
    "socket": a_socket,
}
"""What may stand at a path instead of a file."""
EVALUATE = ["evaluate", "RUN", "--draws", "1", "--images", "20", "--out", "e.parquet"]
BY_NAME: dict[str, list[str]] = {
    "model.safetensors": [*EVALUATE[:1], "IT", *EVALUATE[2:]],
    "model.pt": [*EVALUATE[:1], "IT", *EVALUATE[2:], "--model", "digits:2"],
    "rows.parquet": ["report", "IT"],
    "rows.csv": ["yield", "IT"],
    "more.jsonl": [*EVALUATE[:-1], "IT"],
    "kept.parquet": [*EVALUATE[:-1], "IT"],
    "table.csv": [*EVALUATE, "--noise", "measured:IT"],
    "chip.npz": [*EVALUATE, "--noise", "chips:IT"],
    "layers.toml": [*EVALUATE, "--layers", "IT"],
    "images": [*EVALUATE, "--data", "IT"],
    "plot.png": ["report", "rows.parquet", "--plot", "IT"],
    "table.md": ["report", "rows.parquet", "--table", "IT"],
    "log.csv": ["curves", "FOLDER", "--plot", "c.svg"],
    "resume.pt": ["train", *TINY, "--out", "FOLDER"],
    "page.html": ["report", "rows.parquet", "--page", "IT"],
    "programmed": ["program", "RUN", "--out", "IT"],
}
"""Commands that read or write a path, by its name."""


class TestPlaces:
    @given(st.sampled_from(sorted(BY_NAME)), st.sampled_from(sorted(ODD)), st.sampled_from([[], ["--json"]]))
    @hostile(30)
    def test_that_are_no_files(self, place: Place, name: str, kind: str, output: list[str]) -> None:
        path = place.file("beside", b"").with_name(name)
        ODD[kind](path)
        where = {"IT": str(path), "FOLDER": str(path.parent), "RUN": str(place.run)}
        given_words = [re.sub("IT|FOLDER|RUN", lambda found: where[found[0]], word) for word in BY_NAME[name]]
        held(command([*given_words, *output]))


IMAGES = ("png", "jpeg", "bmp", "tiff", "gif", "webp", "ppm")


def image(kind: str) -> bytes:
    saved = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(saved, kind)
    return saved.getvalue()


class TestImages:
    @given(st.sampled_from(IMAGES), edits(6))
    @hostile(50)
    def test_their_bytes(self, place: Place, kind: str, made: Any) -> None:
        held(lambda: read_image(str(place.file(f"a.{kind}", edited(image(kind), made))), 4))

    @given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255))
    @example(2**31, 2**31, 8, 2)
    @example(30_000, 1_000, 16, 6)
    @hostile(8)
    def test_headers_that_lie(self, place: Place, width: int, height: int, depth: int, colour: int) -> None:
        import zlib

        made = bytearray(image("png"))
        made[16:26] = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour])
        made[29:33] = zlib.crc32(made[12:29]).to_bytes(4, "big")
        held(lambda: read_image(str(place.file("a.png", bytes(made)))))


class TestSettings:
    @given(st.data())
    @hostile(20)
    def test_of_training(self, place: Place, data: st.DataObject) -> None:
        names = st.sampled_from(sorted(TrainSettings.__dataclass_fields__))
        values = st.one_of(st.sampled_from(HOSTILE), texts(EVERY), st.integers(), st.floats())
        given_settings = data.draw(st.dictionaries(names, values, min_size=1, max_size=3))
        held(lambda: TrainSettings(**({"model": "digits:2"} | given_settings)).identity(place.splits))

    @given(st.data())
    @hostile(30)
    def test_of_evaluation(self, place: Place, data: st.DataObject) -> None:
        kinds: dict[str, Any] = {"chips": Chips, "compute": Compute, "where": Where}
        kind = data.draw(st.sampled_from(sorted(kinds)))
        names = sorted(set(kinds[kind].__dataclass_fields__) - {"compile"})
        values = st.one_of(st.sampled_from(HOSTILE), texts(EVERY), st.sampled_from([["1h"], "1d", [1e300], [-1]]))
        options = data.draw(st.dictionaries(st.sampled_from(names), values, min_size=1, max_size=2))
        held(lambda: evaluate(place.run, place.data, draws=1, **{kind: kinds[kind](**options)}))


LONG = {
    "--epochs",
    "--draws",
    "--images",
    "--reads",
    "--points",
    "--pairs",
    "--chips",
    "--seeds",
    "--size",
    "--workers",
}
"""Flags by which a person may ask for hours."""
SLOW = {"--compile", "--executor", "--address", "--backend", "--device", "--gpus"}


@st.composite
def words(draw: Any, flag: Flag) -> list[str]:
    """A flag with words that it may not expect."""
    if flag.positional:
        return [draw(texts(["rows.parquet", "runs", "plain=runs", "digits", "nowhere"]))]
    if bool in flag.kinds:
        return [draw(st.sampled_from([flag.option, f"--no-{flag.option[2:]}", f"{flag.option}=x"]))]
    numbers = [one for one in NUMBERS if flag.option not in LONG or len(one) > 17 or not one[-1].isdigit()]
    known = [str(choice) for choice in flag.choices] + EXAMPLES.get(flag.family or "", [])
    one = st.one_of(st.sampled_from(numbers), st.sampled_from(WORDS), texts(known or ["1", "0.5", "x", "1d"]))
    one = one.filter(lambda word: "\0" not in word)  # no command line can hold it
    if flag.option in ("--out", "--plot", "--table", "--layers-out"):
        one = one.filter(lambda word: not word.startswith("/") or word.startswith("/dev/"))
    count = flag.count if isinstance(flag.count, int) else draw(st.integers(0, 3)) if flag.count == SEVERAL else 1
    return [flag.option, *(draw(one) for _ in range(count))]


BASES = {
    "train": TINY,
    "evaluate": ["runs", "--draws", "1", "--images", "20", "--out", "e.parquet"],
    "sensitivity": ["runs", "--draws", "2", "--images", "10", "--out", "s.parquet"],
    "keep-digital": ["runs", "--draws", "2", "--images", "10", "--within", "90", "--out", "k.parquet"],
    "budget": [
        "runs",
        "--draws",
        "2",
        "--images",
        "10",
        "--vary",
        "gaussian:{x}",
        "--between",
        "0",
        "1",
        "--out",
        "b.parquet",
    ],
    "sharpness": ["runs", "--images", "10", "--measures", "loss", "--out", "sh.parquet"],
    "landscape": ["runs", "--images", "10", "--points", "3", "--out", "l.parquet"],
    "program": ["runs", "--out", "p"],
    "report": ["rows.parquet"],
    "yield": ["rows.parquet"],
    "curves": ["runs", "--plot", "c.svg"],
    "models": ["digits:2"],
    "list": [],
}


class TestCommands:
    @given(st.data())
    @hostile(20)
    def test_are_read(self, place: Place, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(COMMANDS)))
        flags = data.draw(st.lists(st.sampled_from(flags_of(command_class(name))), max_size=3))
        given_words = [word for flag in flags for word in data.draw(words(flag))]
        held(lambda: read_command(command_class(name), given_words, "x").check_places())

    @given(st.data())
    @hostile(12)
    def test_are_run(self, place: Place, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(BASES)))
        flags = [flag for flag in flags_of(command_class(name)) if flag.option not in SLOW]
        flag = data.draw(st.sampled_from(flags))
        given_words = [place.run.as_posix() if word == "runs" else word for word in BASES[name]]
        output = data.draw(st.sampled_from([[], ["--json"]]))
        held(command([name, *given_words, *data.draw(words(flag)), *output]))

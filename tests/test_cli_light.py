"""What the command line says before it computes: help, names, refusals. None of that loads torch."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from typing import Any

import pytest
from commands import refused
from processes import python

import noiserobust
from noiserobust.cli import COMMANDS, app, command_class, main
from noiserobust.cli.flags import OUTPUT, flags_of
from noiserobust.cli.output import Part

HEAVY = {
    "torch", "numpy", "pandas", "scipy", "pyarrow", "matplotlib", "sklearn", "aihwkit", "torchvision", "ray", "tqdm",
}  # fmt: skip
LIGHT = [
    [],
    ["--help"],
    ["--version"],
    ["list"],
    ["list", "noises"],
    ["evalute"],
    *([name, "--help"] for name in COMMANDS),
    ["evaluate", "runs", "--drows", "3"],
    ["evaluate", "runs", "--draws", "many"],
    ["evaluate", "runs", "--noise", "gausian:0.1"],
    ["evaluate", "runs", "--converters", "oi:adc=8"],
    ["train", "--method", "smam:0.2"],
    ["train", "--model", "resnet19"],
    ["train", "--data", "digts"],
    ["train", "--select-on", "tset"],
    ["sharpness", "runs", "--measures", "hessian_topp"],
    ["reproduce", "rpw"],
    ["budget", "runs", "--vary", "gausian:{x}", "--between", "0", "1"],
]
SCRIPT = f"""
import json, sys
from noiserobust.cli import main
heavy = {{}}
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit:
        pass
    heavy[" ".join(words)] = sorted({HEAVY!r} & set(sys.modules))
print(json.dumps(heavy))
"""


def test_nothing_heavy_is_imported_to_help_or_refuse() -> None:
    run = python("-c", SCRIPT, json.dumps(LIGHT))
    heavy = json.loads(run.stdout.splitlines()[-1])
    assert len(heavy) == len(LIGHT)
    assert {words: modules for words, modules in heavy.items() if modules} == {}


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    main(words)
    return capsys.readouterr().out


def test_overview_names_every_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(["--help"], capsys).splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if line.startswith("  noiserobust ")]) == 2
    assert [line.split()[0] for line in lines if re.match(r"  [a-z-]+ {2,}", line)] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_readable(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At most 80 columns; at most 40 lines up to the first group of rare options; two invocations that can be read."""
    kind = command_class(command)
    out = said([command, "--help"], capsys)
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    titles = [f"{title}:" for title in {**kind.rare, **OUTPUT} if f"{title}:" in lines]
    assert (lines.index(titles[0]) if titles else len(lines)) <= 40
    examples = [line.strip() for line in lines if line.startswith(f"  noiserobust {command}")]
    assert examples == list(kind.examples)
    assert len(examples) == 2
    assert lines.index(f"  {examples[0]}") < 8


def test_usage_says_what_may_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(["reproduce", "--help"], capsys).startswith("usage: noiserobust reproduce PAPER [NAMES...] [options]\n")
    assert said(["list", "--help"], capsys).startswith("usage: noiserobust list [FAMILY] [options]\n")
    assert said(["yield", "--help"], capsys).startswith("usage: noiserobust yield ROWS... [options]\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_flag_once(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = said([command, "--help"], capsys)
    for flag in flags_of(command_class(command)):
        left = flag.name.upper() if flag.positional else rf"--(\[no-\])?{flag.option[2:]}"
        assert len(re.findall(rf"^  {left}\b(?!-)", out, re.MULTILINE)) == 1, flag.name
        assert flag.text, flag.name


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_can_be_read(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every invocation that help shows is one that the command understands."""
    kind = command_class(command)
    ran = []
    monkeypatch.setattr(kind, "run", lambda read: iter([Part()] if ran.append(read) is None else []))
    for example in kind.examples:
        main(shlex.split(example)[1:])
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("command", "flag", "names"),
    [
        ("evaluate", "--noise", ["gaussian", "pcm", "measured"]),
        ("train", "--method", ["rwp", "sam", "mesa"]),
        ("train", "--model", ["resnet18", "wrn", "factory:package.module:function"]),
        ("train", "--data", ["cifar100", "fashion-mnist", "svhn", "imagenet"]),
        ("sharpness", "--measures", ["hessian_top", "ascent_sharpness"]),
    ],
)
def test_flags_name_what_they_take(
    command: str, flag: str, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = said([command, "--help"], capsys).partition(f"  {flag} ")[2].partition("\n  --")[0]
    assert [name for name in names if name not in " ".join(text.split())] == []


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["evalute"], ["got 'evalute'; did you mean evaluate? noiserobust --help"]),
        (["evaluate", "runs", "--drows", "3"], ["--drows; did you mean --draws? noiserobust evaluate --help"]),
        (["evaluate", "runs", "--draws", "many"], ["--draws: expected a whole number, got 'many'; noiserobust"]),
        (["evaluate", "runs", "--draws"], ["--draws", "noiserobust evaluate --help"]),
        (["evaluate", "runs", "--noise", "gausian:0.1"], ["'gausian:0.1'", "gaussian", "noiserobust evaluate --help"]),
        (["train", "--select-on", "tset"], ["expected validation, test, none, got 'tset'; did you mean test?"]),
        (["train", "--method", "plain", "sam:0.2"], ["expected nothing more, got sam:0.2"]),
        (["train", "--lr", "fast"], ["--lr: expected a number, got 'fast'"]),
        (["yield", "rows.parquet", "--poled"], ["did you mean --pooled?"]),
        (["reproduce"], ["paper", "noiserobust reproduce --help"]),
    ],
)
def test_refusals_in_one_line(words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(words, capsys)
    assert [part for part in parts if part not in line] == []


def test_version_and_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(["--version"], capsys) == f"noiserobust {noiserobust.__version__}\n"
    run = python("-m", "noiserobust", "--version")
    assert run.stdout == f"noiserobust {noiserobust.__version__}\n"


def test_interrupted_while_starting(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "command_class", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "runs"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "noiserobust: interrupted; the same command goes on from here\n"


def test_words_become_values() -> None:
    from noiserobust.cli.flags import read_command

    words = shlex.split("a b --noise pcm --noise gaussian:0.1 --times 25s 3600 --no-fold --batch_size=8")
    read = read_command(command_class("evaluate"), words, "noiserobust evaluate")
    assert read.checkpoints == ("a", "b")
    assert read.noise == ("pcm", "gaussian:0.1")
    assert read.chips.times == ("25s", 3600.0)
    assert read.compute.fold is False
    assert read.compute.batch_size == 8
    assert read.where == type(read.where)()
    train = read_command(command_class("train"), ["--lr-warmup", "5", "--weight-clip", "none", "--flip"], "")
    assert (train.settings.lr_warmup, train.settings.weight_clip, train.settings.flip) == (5, None, True)
    assert isinstance(train.settings.lr_warmup, int)
    assert dataclasses.is_dataclass(train.settings.method)

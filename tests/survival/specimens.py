"""Hostile inputs: valid ones that are spoilt, and generated ones; and what holds a door to its promise."""

from __future__ import annotations

import faulthandler
import json
import math
import os
import re
import resource
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from noiserobust.errors import LONGEST, UserError

COUNT = int(os.environ.get("SURVIVAL", "4"))
"""As in harness.py: 4 in ``make test``; the number of inputs grows with it."""
FIGURES = os.environ.get("SURVIVAL_FIGURES")
"""File to which every test adds a line with how many inputs it held against its door, and how they ended."""
SECONDS = 10.0
"""Processor time that one input may take (most take thousandths); those that wait are ended after ten times as long."""
HEADROOM = 1_000_000
"""kB that one input may take beyond what was ever in use."""


class Hung(BaseException):
    """An input that took too long."""


def _hung(number: int, frame: FrameType | None) -> None:
    raise Hung(f"more than {SECONDS:g} s of processor time")


ended: Counter[str] = Counter()
"""How many inputs were taken and refused since the last figures were written."""


def held(door: Callable[[], object]) -> None:
    """Call ``door``: it must take its input or refuse it in one line, soon, and without much memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handler = signal.signal(signal.SIGPROF, _hung)
    faulthandler.dump_traceback_later(10 * SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which are errors in tests, but not to a person
            door()
        ended["taken"] += 1
    except UserError as error:
        line = str(error)
        assert line.isprintable(), line
        assert 10 < len(line) < LONGEST + 10, line
        ended["refused"] += 1
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, handler)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < HEADROOM, "too much memory"


def hostile(count: int) -> Any:
    """``count`` inputs in ``make test``, the same each time; more of them, and others, in ``make nightly``."""
    return settings(
        max_examples=max(1, count * COUNT // 4),
        derandomize=COUNT <= 4,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def write_figures(name: str) -> None:
    if FIGURES and ended:
        with Path(FIGURES).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": name, **ended}) + "\n")
    ended.clear()


# fmt: off
NUMBERS = [
    "nan", "inf", "-inf", "1e400", "-1", "0", "-0.0", "1e-320", "1e308", str(10**30), str(2**63), "-" + "9" * 400,
    "0.5", "1", "2", "3", "1_000", "0x10", "1e", "²", "١", "1j", "1e5s", "nand", "-5d", "1e300y",
]
SIGNS = ["", " ", *"()[]{},=:+;'@|*-.\\\"\n", "()", ",,"]
WORDS = [
    "\0", "\x1b[2J", "\u202e", "\ud800", "é", "x" * 300, "x" * 3000, "(" * 40, "(" * 4000, "a.b:c", "os:system",
    "none", "None", "true", "false", "auto", "__import__('os').system('true')", "../x", "/dev/zero", "/dev/null",
    "{0}", "%s%n", "self", "digest", "name", "inf,inf", "noise", "rms", "layer", "tile", "builtins:exit", "nul",
]
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 10**30, -(10**400), 0.5, 3.0, 1e308, math.nan, math.inf, "", "x", "1", "²",
    "\0\x1b[2J", "x" * 10_000, "\ud800", [], {}, [[]], [None], {"": None}, {"x": 1}, ["x"], [1, "1"], [math.nan],
    [10**400], "digits:9", "wrn:1000000-10", "os:system", "gaussian:0.1", ["*"], "transformers:/", "cifar10",
    "/dev/zero",
]
"""Values of a JSON text, or keywords, that are mostly of the wrong type."""
# fmt: on


def pieces(known: list[str]) -> st.SearchStrategy[str]:
    """What a text is spoilt by."""
    return st.one_of(
        st.sampled_from(NUMBERS),
        st.sampled_from(SIGNS),
        st.sampled_from(WORDS),
        st.sampled_from(known),
        st.text(max_size=6),
        st.integers().map(str),
        st.floats().map(str),
    )


@st.composite
def texts(draw: Any, known: list[str]) -> str:
    """One of the ``known`` texts with up to four changes, or some pieces one after the other."""
    piece = pieces(known)
    if draw(st.integers(0, 9)) == 0:
        return "".join(draw(st.lists(piece, max_size=8)))
    parts = re.findall(r"\w[\w.]*|\W", draw(st.sampled_from(known)))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 2, 4]))):
        place = draw(st.integers(0, max(0, len(parts) - 1)))
        change = draw(st.sampled_from(["number", "number", "replace", "insert", "drop", "repeat", "cut"]))
        numbers = [at for at, part in enumerate(parts) if part[:1].isdigit()]
        if change == "number" and numbers:
            parts[draw(st.sampled_from(numbers))] = draw(st.one_of(st.sampled_from(NUMBERS), st.floats().map(str)))
        elif change in ("replace", "insert"):
            parts[place : place + (change == "replace")] = [draw(piece)]
        elif change == "drop":
            del parts[place : place + 1]
        elif change == "repeat":
            parts *= draw(st.integers(2, 30)) if len(parts) < 50 else 1
        elif change == "cut":
            del parts[place:]
    return "".join(parts)


Edit = tuple[str, int, int, bytes]


def edits(most: int = 4) -> st.SearchStrategy[list[Edit]]:
    """Changes to bytes: what is done, where (a share of 2**16), how far, and with what."""
    kinds = st.sampled_from(["flip", "flip", "flip", "set", "cut", "drop", "double", "insert", "move"])
    one = st.tuples(kinds, st.integers(0, 2**16 - 1), st.integers(0, 300), st.binary(max_size=9))
    return st.lists(one, min_size=1, max_size=most)


def edited(content: bytes, changes: list[Edit], first: int = 1 << 30) -> bytes:
    """``content`` with the ``changes``, which are within the ``first`` bytes (headers, say) of it."""
    made = bytearray(content)
    for kind, share, length, new in changes:
        at = share * min(len(made), first) >> 16
        match kind:
            case "flip" if made:
                made[at] ^= 1 << length % 8
            case "set":
                made[at : at + len(new)] = new
            case "cut":
                del made[at:]
            case "drop":
                del made[at : at + length]
            case "double":
                made[at:at] = made[at : at + length]
            case "insert":
                made[at:at] = new
            case "move":
                part = made[at : at + length]
                del made[at : at + length]
                made += part
    return bytes(made)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in nested dictionaries and lists."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return [path, *(place for key, part in inside for place in places(part, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any, delete: bool = False) -> Any:
    """``value`` with ``new`` in one place, or without that place."""
    if not path:
        return new
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if delete and not rest:
        del copy[key]
    else:
        copy[key] = changed(copy[key], tuple(rest), new, delete)
    return copy


Change = tuple[int, Any, bool]


def changes(further: Sequence[Any] = ()) -> st.SearchStrategy[list[Change]]:
    """Changes to what is nested: where (a share of 2**16), what stands there instead, or that it is missing."""
    missing = st.integers(0, 5).map(lambda dice: dice == 0)
    one = st.tuples(st.integers(0, 2**16 - 1), st.sampled_from([*HOSTILE, *further]), missing)
    return st.lists(one, min_size=1, max_size=3)


def retyped(value: Any, made: list[Change]) -> Any:
    """``value`` with parts that are replaced, or missing."""
    for share, new, missing in made:
        found = places(value)
        value = changed(value, found[share * len(found) >> 16], new, missing)
    return value

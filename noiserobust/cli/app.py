"""The program ``noiserobust``: the first word chooses the command, and only that command's module is imported."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import noiserobust
from noiserobust.cli.faults import told
from noiserobust.cli.messages import messages_shown
from noiserobust.endings import end_now, ended_by_signals, plain_output
from noiserobust.errors import Left, UserError, printable
from noiserobust.memory import keep_memory

PROG = "noiserobust"
INTERRUPTED = f"{PROG}: interrupted; the same command goes on from here"
CLOSED = 141
"""Exit code where the reader of the output went away: what shells report of a program that SIGPIPE ends."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PACKAGE = Path(noiserobust.__file__).parent
GROUPS: dict[str, dict[str, str]] = {
    "train": {
        "train": "train one network per seed",
        "recommend": "which training rule is best for a network and a noise",
        "sweep": "train a grid of settings and evaluate it, here or on Ray",
        "curves": "draw what runs logged, against epochs or against each other",
    },
    "evaluate": {
        "evaluate": "accuracy under weight noise: rows, table, picture",
        "corrupted": "accuracy on CIFAR-10-C or CIFAR-100-C",
        "report": "tables, differences and pictures of stored rows",
        "yield": "share of chips that reach an accuracy, with exact bounds",
    },
    "understand": {
        "sharpness": "sharpness, gradients and Hessian of trained networks",
        "landscape": "the loss around trained networks, along random directions",
    },
    "design": {
        "sensitivity": "which layers noise hurts most",
        "keep-digital": "which layers to keep digital",
        "budget": "how much noise a network may meet",
        "program": "target conductances to program a chip with, or simulated chips",
    },
    "papers": {"reproduce": "tables and figures of five papers, and their claims judged"},
    "look up": {
        "demo": "the main job on digits, in one to three minutes",
        "list": "noises, methods, measures, metrics, models, data by name",
        "models": "networks with their parameters and what a pass costs",
        "doctor": "whether this installation works, and what to do where not",
    },
}
"""Every command and what it does, as help shows them."""
COMMANDS = {name: says for group in GROUPS.values() for name, says in group.items()}
EXTRAS = {"matplotlib": "plots"}
"""What some commands load that a slim installation lacks, and the extra that brings it."""
CLASSES = {"yield": "yields:Yield"}
"""Classes of commands that are not in the file of their name."""
EXAMPLES = (
    'noiserobust train --method "rwp:gaussian(0.1)" --seeds 0 1 2',
    "noiserobust evaluate runs --noise gaussian:1 --strengths 0 0.05 0.1",
)


def command_class(name: str) -> Any:
    """The dataclass whose fields are a command's flags; importing it loads no torch."""
    usual = f"{name.replace('-', '_')}:{name.title().replace('-', '')}"
    module, _, kind = CLASSES.get(name, usual).partition(":")
    return getattr(import_module(f"noiserobust.cli.{module}"), kind)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: bad input is one line on stderr and exit code 2; ctrl-C and SIGTERM end within seconds."""
    whole = arguments is None  # the process is this command, and nothing else
    if whole:
        keep_memory()
    with ended_by_signals(INTERRUPTED, whole) as exit_code:
        try:
            plain_output()
            with _warnings_in_one_line(), messages_shown(quiet="--quiet" in (arguments or sys.argv)):
                _run(list(sys.argv[1:] if arguments is None else arguments))
            if sys.stdout is not None:
                sys.stdout.flush()
        except Left:
            raise
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                _stop(*_told(error))
            extra = EXTRAS[error.name]
            _stop(f"{PROG}: error: expected {error.name}, got a Python without; pip install 'noiserobust[{extra}]'", 2)
        except BrokenPipeError:  # whoever reads, such as head, has read enough
            _discard_output()
            raise SystemExit(CLOSED) from None
        except KeyboardInterrupt:
            _discard_output()
            if whole:  # without Python's way out, which may take long and change the code
                end_now(INTERRUPTED, exit_code())
            _stop(INTERRUPTED, exit_code())
        except (Exception, SystemExit) as error:  # a person's own code may call sys.exit(0), with nothing done
            if isinstance(error, OSError) and error.filename is None and error.errno in FULL:
                _discard_output()
                _stop(f"{PROG}: error: expected output that can be written, got: {error.strerror}; make room", 2)
            _stop(*_told(error))


def _told(error: BaseException) -> tuple[str, int]:
    line, code = told(error)
    return f"{PROG}: error: {line}", code


def _stop(line: str, code: int) -> NoReturn:
    with suppress(OSError):
        print(line, file=sys.stderr)
    raise SystemExit(code) from None


def _discard_output() -> None:
    """What is still to be written goes nowhere; else it would fail once more at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            try:
                stream.flush()
            except OSError:
                os.dup2(nowhere, stream.fileno())


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Inside, what this package warns of is a line on stderr without a place in its code."""
    usual = warnings.showwarning

    def one_line(message: Any, category: Any, filename: str, *place: Any, **line: Any) -> None:
        if Path(filename).is_relative_to(PACKAGE):
            print(f"{PROG}: warning: {printable(message)}", file=sys.stderr)
        else:
            usual(message, category, filename, *place, **line)

    warnings.showwarning = one_line
    try:
        yield
    finally:
        warnings.showwarning = usual


def _run(words: list[str]) -> None:
    from noiserobust.cli.flags import nearest, refused
    from noiserobust.cli.help import command_help, overview
    from noiserobust.cli.output import print_for_people, print_for_programs

    name, *rest = words or ["--help"]
    if name in ("--help", "-h"):
        print(overview(GROUPS, PROG, (noiserobust.__doc__ or "").splitlines()[0], EXAMPLES))
    elif name == "--version":
        print(f"{PROG} {noiserobust.__version__}")
    elif name not in COMMANDS:
        raise refused(f"expected a command, got '{name}'{nearest(name, COMMANDS)}", PROG)
    elif {"--help", "-h"} & set(rest):
        print(command_help(command_class(name), f"{PROG} {name}"))
    else:
        parts = _parts(name, rest)
        if "--json" in rest:
            print_for_programs(name, parts)
        else:
            print_for_people(parts, quiet="--quiet" in rest)


def _parts(name: str, words: list[str]) -> Iterator[Any]:
    """What a command answers, piece by piece."""
    from noiserobust.cli.flags import read_command

    try:
        os.getcwd()
    except OSError:  # where libraries that torch loads end the process
        raise UserError("expected a working folder that is there, got one that was removed; go to another") from None
    command = read_command(command_class(name), words, f"{PROG} {name}")
    command.check_places()
    yield from command.run()

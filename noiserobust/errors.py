"""The one exception that means "your input", never "our bug"; and text that is safe to print."""

import os
import re

LONGEST = 2000
"""Characters of a message; of a longer one the middle is left out."""


def printable(text: object, length: int = LONGEST) -> str:
    r"""``text`` in one line that a terminal shows as it is: line breaks become spaces, what cannot be seen its escape.

    Names come out of files, and may hold control sequences that colour, move or delete what a terminal shows, or signs
    that turn the direction of writing.

    >>> print(printable("a\nb\x1b[31mc"))
    a b\x1b[31mc
    """
    line = _cut(re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", str(text)), length)
    if line.isprintable():
        return line
    return _cut("".join(sign if sign.isprintable() else _escaped(sign) for sign in line), length)


def shown(path: str | os.PathLike[str]) -> str:
    """``path``, which was made absolute, as a person in the current folder would type it."""
    text, here = os.fspath(path), os.path.join(os.getcwd(), "")
    return text.removeprefix(here) or text


def _cut(line: str, length: int) -> str:
    return line if len(line) <= length else f"{line[: length * 2 // 3]} ... {line[-length // 3 :]}"


def _escaped(sign: str) -> str:
    return " " if sign.isspace() and sign > "\x7f" else sign.encode("unicode_escape").decode()


def reason_of(error: BaseException) -> str:
    """The first line of an error, or its type where it says nothing."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0], 300)


class UserError(Exception):
    """Bad input, in one line: what was expected, what came, what to do.

    The command line prints it without a traceback and exits with code 2. What came is printed as :func:`printable` has
    it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Diverged(UserError):
    """A training whose loss is no finite number."""


class Left(SystemExit):
    """The quiet end of a process because another one of its run has ended, with that one's exit code."""

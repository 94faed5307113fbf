"""The one exception that means "your input", never "our bug"."""

import re


class UserError(Exception):
    """Bad input, in one line: what was expected, what came, what to do.

    The command line prints it without a traceback and exits with code 2. Line breaks in what came become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"\s*[\n\r]\s*", " ", message))


class Diverged(UserError):
    """A training whose loss is no finite number."""

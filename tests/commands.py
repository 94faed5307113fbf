"""What the tests of commands share."""

from __future__ import annotations

import pytest

from noiserobust.cli import main

TINY = ["--epochs", "1", "--batch-size", "400", "--model", "digits:4", "--select-draws", "1"]
"""Flags of train: as briefly as can be."""


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command refuses ``words``: on stderr, with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("noiserobust: error: ")
    return line

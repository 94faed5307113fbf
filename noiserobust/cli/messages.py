"""What the library logs (``logging.getLogger("noiserobust")``), as lines on stderr that leave progress bars whole."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from noiserobust.errors import printable

LOGGER = logging.getLogger("noiserobust")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        kind = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = f"noiserobust: {kind}{printable(record.getMessage(), 10**6)}"
        bars = sys.modules.get("tqdm")  # without a bar there is nothing to leave whole
        if bars is None:
            print(line, file=sys.stderr)
        else:
            bars.tqdm.write(line, file=sys.stderr)


@contextmanager
def messages_shown(quiet: bool = False) -> Iterator[None]:
    """Inside, messages are shown, where it is ``quiet`` those of warnings alone."""
    level = logging.WARNING if quiet else logging.INFO
    handler, before = _Lines(level), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(min(level, before or level))
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)

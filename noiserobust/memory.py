"""Memory that stays with the process between passes, where glibc would give it back and fetch it anew page by page."""

from __future__ import annotations

import ctypes
import os
import sys

SWITCH = "NOISEROBUST_KEEP_MEMORY"
"""Environment variable: 0 leaves the allocator as it is."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_memory() -> str:
    """Tell glibc to keep what the process frees for what it asks next; one line about what was done, and why not.

    Activations are freed and asked for again at every pass. By default glibc maps blocks of more than 32 MiB one by one
    and gives free memory at the end of its heap back, so that each of their pages is faulted in, and set to zero, at
    every pass. Afterwards nothing is mapped by itself and nothing is given back: the process stays as large as it was
    at its largest. Who set ``MALLOC_...`` or ``GLIBC_TUNABLES`` has chosen already.
    """
    if os.environ.get(SWITCH, "1") == "0":
        return f"given back as glibc does ({SWITCH}=0)"
    chosen = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    if chosen:
        return f"as {chosen[0]} says"
    if not sys.platform.startswith("linux"):
        return "as the system does"
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - another C library has none
        done = library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, -1)
    except (OSError, AttributeError):
        return "as the system does"
    return f"kept between passes ({SWITCH}=0: given back)" if done else "as the system does"

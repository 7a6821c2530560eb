"""Memory that is freed stays with the process, so that the next chunk of a sweep finds it without the system's help."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# mallopt's numbers in glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
# Arrays up to this size come from the heap, of which this much may lie free [byte].
LARGEST_ARRAY = 64 * 2**20
KEPT_FREE = 512 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Ask the C library not to hand freed memory back after each array; whether it does. Raises nothing.

    Otherwise every large array is mapped, filled with zeros page by page and unmapped again, which costs a sweep a
    quarter of its time. Only glibc on Linux is known to do so; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_ARRAY)) and bool(mallopt(TRIM_THRESHOLD, KEPT_FREE))

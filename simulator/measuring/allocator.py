"""Keeping freed memory: without it glibc gives large tensors back and each new one is paid for page by page."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc
NEVER = 2**31 - 4096


def keep_freed_memory() -> str:
    """Tell glibc to reuse freed memory, as PyTorch's allocators of GPUs do.

    Returns
    -------
    str
        What was set, for the record: "glibc keeps freed memory", or "as the system has it" where there is no glibc.
        Raises nothing.

    Notes
    -----
    A tensor above 32 MiB otherwise comes from a fresh mapping each time, and the kernel's page faults take six times
    as long as the kernel's stream through it.
    """
    if platform.libc_ver()[0] != "glibc":
        return "as the system has it"
    libc = ctypes.CDLL(None)
    done = libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    return "glibc keeps freed memory" if done else "as the system has it"

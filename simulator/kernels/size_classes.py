"""Classes by size: kernels of a class share their errors, so a calibration states a spread for each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CLASSES",
    "LARGE_MESSAGE_BYTES",
    "SMALL_MESSAGE_BYTES",
    "class_index",
    "decode_class",
    "matmul_class",
    "prefill_class",
    "size_class",
    "token_class",
]

FloatArray = NDArray[np.float64]
TextArray = NDArray[np.str_]

DECODE_ROWS, PREFILL_ROWS, LARGE_ROWS = 64, 512, 2048
LARGE_SIDE = 1024
LARGE_CACHE = 2**17  # cached tokens times key heads: 64 MiB at a head of 128 in 16 bits, more than a usual L2

# Classes of a family, in the order of `class_index`; families that are not named have one class, "all".
CLASSES: dict[str, tuple[str, ...]] = {
    "matmul": ("decode", "middle", "prefill", "large"),
    "batched_matmul": ("decode", "middle", "prefill", "large"),
    "attention_prefill": ("middle", "prefill", "large"),
    "mla_prefill": ("middle", "prefill", "large"),
    "attention_decode": ("decode", "large"),
    "mla_decode": ("decode", "large"),
    "collective_inner": ("all", "small", "middle", "large"),
    "collective_outer": ("all", "small", "middle", "large"),
}
# Messages of collectives: start-up decides below the first, links above the second [byte].
SMALL_MESSAGE_BYTES, LARGE_MESSAGE_BYTES = 2.0**16, 2.0**23


def matmul_class(batch: FloatArray, m: FloatArray, n: FloatArray, k: FloatArray) -> TextArray:
    """Class of ``batch`` products m x n x k [1]: decode (m <= 64), middle, prefill (m >= 512), large.

    Broadcasts; raises nothing. Rows of a batch count together: they keep the device as busy.
    """
    return _names("matmul", {"batch": batch, "m": m, "n": n, "k": k})


def token_class(tokens: float) -> str:
    """Class of a layer by its tokens [1]: decode (at most 64), middle, prefill (512 and more); raises nothing."""
    if tokens <= DECODE_ROWS:
        return "decode"
    return "prefill" if tokens >= PREFILL_ROWS else "middle"


def prefill_class(query_length: FloatArray) -> TextArray:
    """Class of prefill attention by its queries [1]: middle (below 512), prefill, large (2,048 and more)."""
    return _names("attention_prefill", {"query_length": query_length})


def _names(family: str, sizes: Mapping[str, FloatArray]) -> TextArray:
    names, index = class_index(family, sizes)
    return np.array(names, dtype=np.str_)[np.asarray(index, dtype=np.intp)]


def class_index(family: str, sizes: Mapping[str, FloatArray]) -> tuple[tuple[str, ...], FloatArray]:
    """Class of every row.

    Parameters
    ----------
    family : str
        Kernel family.
    sizes : mapping of str to ndarray
        Sizes by role, which broadcast [1].

    Returns
    -------
    tuple of names and ndarray
        Names of the family's classes, and the position of each row's class among them [1].

    Raises
    ------
    KeyError
        If a size that the classes need is missing.
    """
    names = CLASSES.get(family, ("all",))
    if family in ("matmul", "batched_matmul"):
        rows = sizes["batch"] * sizes["m"]
        large = (rows >= LARGE_ROWS) & (sizes["n"] >= LARGE_SIDE) & (sizes["k"] >= LARGE_SIDE)
        steps = (rows > DECODE_ROWS).astype(np.float64) + (rows >= PREFILL_ROWS)
        return names, np.where(large, 3.0, steps)
    if family in ("attention_prefill", "mla_prefill"):
        queries = sizes["query_length"]
        return names, (queries >= PREFILL_ROWS).astype(np.float64) + (queries >= LARGE_ROWS)
    if family in ("attention_decode", "mla_decode"):
        cached = sizes["batch"] * sizes["kv_length"] * sizes["kv_heads"]
        return names, (cached >= LARGE_CACHE).astype(np.float64)
    return names, np.zeros(1)


def decode_class(batch: FloatArray, kv_length: FloatArray, kv_heads: FloatArray) -> TextArray:
    """Class of attention against a cache by its tokens and key heads [1]: decode, large; raises nothing."""
    return _names("attention_decode", {"batch": batch, "kv_length": kv_length, "kv_heads": kv_heads})


def size_class(family: str, sizes: Mapping[str, FloatArray]) -> str:
    """Class of one operator of a kernel family by its sizes [1]; KeyError if one is missing."""
    names, index = class_index(family, sizes)
    return names[int(np.asarray(index).flat[0])]

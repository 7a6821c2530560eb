"""Classes by size: kernels of a class share their errors, so a calibration states a spread for each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_class", "matmul_class", "prefill_class", "size_class", "token_class"]

FloatArray = NDArray[np.float64]
TextArray = NDArray[np.str_]

DECODE_ROWS, PREFILL_ROWS, LARGE_ROWS = 64, 512, 2048
LARGE_SIDE = 1024
LARGE_CACHE = 2**17  # cached tokens times key heads: 64 MiB at a head of 128 in 16 bits, more than a usual L2


def matmul_class(batch: FloatArray, m: FloatArray, n: FloatArray, k: FloatArray) -> TextArray:
    """Class of ``batch`` products m x n x k [1]: decode (m <= 64), middle, prefill (m >= 512), large.

    Broadcasts; raises nothing. Rows of a batch count together: they keep the device as busy.
    """
    rows = batch * m
    large = (rows >= LARGE_ROWS) & (n >= LARGE_SIDE) & (k >= LARGE_SIDE)
    names = np.select(
        [large, rows >= PREFILL_ROWS, rows > DECODE_ROWS], ["large", "prefill", "middle"], "decode"
    )
    return names.astype(np.str_)


def token_class(tokens: float) -> str:
    """Class of a layer by its tokens [1]: decode (at most 64), middle, prefill (512 and more); raises nothing."""
    if tokens <= DECODE_ROWS:
        return "decode"
    return "prefill" if tokens >= PREFILL_ROWS else "middle"


def prefill_class(query_length: FloatArray) -> TextArray:
    """Class of prefill attention by its queries [1]: middle (below 512), prefill, large (2,048 and more)."""
    names = np.select(
        [query_length >= LARGE_ROWS, query_length >= PREFILL_ROWS], ["large", "prefill"], "middle"
    )
    return names.astype(np.str_)


def decode_class(batch: FloatArray, kv_length: FloatArray, kv_heads: FloatArray) -> TextArray:
    """Class of attention against a cache by its tokens and key heads [1]: decode, large; raises nothing."""
    return np.where(batch * kv_length * kv_heads >= LARGE_CACHE, "large", "decode").astype(np.str_)


def size_class(family: str, sizes: Mapping[str, FloatArray]) -> str:
    """Class of one operator of a kernel family by its sizes [1]; "all" where the family has no classes."""
    if family in ("matmul", "batched_matmul") and {"batch", "m", "n", "k"} <= sizes.keys():
        return str(matmul_class(sizes["batch"], sizes["m"], sizes["n"], sizes["k"]).flat[0])
    if family in ("attention_prefill", "mla_prefill") and "query_length" in sizes:
        return str(prefill_class(sizes["query_length"]).flat[0])
    if family in ("attention_decode", "mla_decode") and {"batch", "kv_length", "kv_heads"} <= sizes.keys():
        return str(decode_class(sizes["batch"], sizes["kv_length"], sizes["kv_heads"]).flat[0])
    return "all"

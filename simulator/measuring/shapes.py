"""Which shapes are measured: spread evenly over the logarithms of their sizes, decode- and prompt-like apart.

A grid spends most of its rows on sizes that repeat each other. Here a low-discrepancy sequence fills the box of
log sizes, so that any number of rows covers it, and what is too long for the time at hand is made smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "OPERATIONS",
    "Limits",
    "attention_shapes",
    "collective_shapes",
    "operator_shapes",
    "product_shapes",
    "transfer_shapes",
]

FloatArray = NDArray[np.float64]
Shape = dict[str, str | int]
# What is timed of each operator of ``kernels_elementwise``, most rows to the ones that models are made of.
OPERATIONS: Mapping[str, float] = {
    "add": 0.5,
    "mul": 0.25,
    "copy": 0.35,
    "gelu": 1.0,
    "ln": 1.0,
    "rms_norm": 1.0,
    "softmax": 0.5,
    "cross_entropy": 0.6,
    "embedding": 1.0,
    "adamw": 0.5,
    "grad_norm": 0.3,
    "clip": 0.3,
}
WIDE_ROWS = ("cross_entropy",)  # as long as a vocabulary
PARAMETERS = ("adamw", "grad_norm", "clip")  # on matrices of weights
SPARE = 4  # shapes that are drawn for each that is wanted
HEAD_DIMS = (32, 64, 128)
HEADS = (1, 2, 4, 8, 12, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Largest work of a row: FLOP of a product [FLOP], elements of a tensor [1]; rows of each family [1]."""

    flop: float
    elements: float
    rows: int


def _spread(count: int, dimensions: int, seed: float) -> FloatArray:
    """Points of an additive recurrence in the unit cube, shape ``(count, dimensions)``.

    Steps are powers of the generalised golden ratio (Roberts, 2018, "The unreasonable effectiveness of quasirandom
    sequences"): the root of x^(d+1) = x + 1.
    """
    root = 2.0
    for _ in range(40):
        root = (1.0 + root) ** (1.0 / (dimensions + 1.0))
    steps = root ** -np.arange(1.0, dimensions + 1.0)
    points: FloatArray = (seed + np.arange(1.0, count + 1.0)[:, None] * steps) % 1.0
    return points


def _log(share: float, low: float, high: float) -> float:
    return float(low * (high / low) ** share)


def _multiple(value: float, step: int) -> int:
    return max(step, int(round(value / step)) * step)


def _distinct(shapes: Iterable[Shape], count: int) -> Iterator[Shape]:
    """The first ``count`` shapes that differ: limits make some of them equal."""
    seen: set[tuple[str | int, ...]] = set()
    for shape in shapes:
        key = tuple(shape.values())
        if key not in seen:
            seen.add(key)
            yield shape
        if len(seen) == count:
            return


def product_shapes(dtype: str, limits: Limits) -> Iterator[Shape]:
    """Sizes of products x W^T, rows m by columns n along k: half with at most 64 rows. [1]; raises nothing."""
    yield from _distinct(_products(dtype, limits), limits.rows)


def _products(dtype: str, limits: Limits) -> Iterator[Shape]:
    for index, (rows, columns, inner) in enumerate(_spread(limits.rows * SPARE, 3, 0.5)):
        n, k = (_multiple(_log(share, 128, 8192), 64) for share in (columns, inner))
        while n * k > limits.elements:
            n, k = (_multiple(n / 2, 64), k) if n > k else (n, _multiple(k / 2, 64))
        most = max(limits.flop / (2.0 * n * k), 2.0)
        few = index % 2 == 0
        m = _log(rows, 1, 64) if few else _log(rows, 64, 4096)
        m = round(min(m, most))
        yield {"dtype": dtype, "batch": 1, "m": max(m, 1), "n": n, "k": k}


def attention_shapes(dtype: str, phase: str, limits: Limits, *, groups: bool) -> Iterator[Shape]:
    """Sizes of attention of prompts, or of one token against a cache; ``groups`` adds shared key heads. [1].

    Raises nothing.
    """
    yield from _distinct(_attention(dtype, phase, limits, groups=groups), limits.rows)


def _attention(dtype: str, phase: str, limits: Limits, *, groups: bool) -> Iterator[Shape]:
    prompts = phase == "prefill"
    for index, (sequences, length, heads, width) in enumerate(_spread(limits.rows * SPARE, 4, 0.3)):
        n_heads = HEADS[int(heads * len(HEADS))]
        head_dim = HEAD_DIMS[int(width * len(HEAD_DIMS))]
        keys = round(_log(length, 16, 2048 if prompts else 8192))
        batch = round(_log(sequences, 1, 16 if prompts else 32))
        queries = keys if prompts else 1
        while batch > 1 and 2.0 * batch * n_heads * head_dim * queries * keys > limits.flop:
            batch = max(batch // 2, 1)
        while prompts and 2.0 * batch * n_heads * head_dim * keys * keys > limits.flop:
            keys = queries = keys // 2
        while batch * keys * n_heads * head_dim > limits.elements and keys > 16:
            keys //= 2
            queries = keys if prompts else 1
        shared = groups and index % 3 == 0 and n_heads % 4 == 0
        yield {
            "kind": "gqa",
            "phase": phase,
            "dtype": dtype,
            "kv_dtype": dtype,
            "batch": batch,
            "q_len": queries,
            "kv_len": keys,
            "heads": n_heads,
            "kv_heads": n_heads // 4 if shared else n_heads,
            "head_dim": head_dim,
        }


def operator_shapes(dtype: str, limits: Limits) -> Iterator[Shape]:
    """Rows and columns of the operators that only move memory, one operator after the other. [1]; raises nothing."""
    for place, (op, share) in enumerate(OPERATIONS.items()):
        count = max(round(limits.rows * share), 1)
        yield from _distinct(_operator(op, place, dtype, limits), count)


def _operator(op: str, place: int, dtype: str, limits: Limits) -> Iterator[Shape]:
    for tokens, width in _spread(limits.rows * SPARE, 2, 0.11 * place):
        if op in WIDE_ROWS:
            rows, columns = _log(tokens, 1, 2048), _log(width, 2048, 65536)
        elif op in PARAMETERS:
            rows, columns = _log(tokens, 64, 8192), _log(width, 128, 4096)
        else:
            rows, columns = _log(tokens, 1, 4096), _log(width, 128, 8192)
        while rows * columns > limits.elements:
            rows /= 2.0
        yield {"op": op, "dtype": dtype, "rows": max(round(rows), 1), "cols": _multiple(columns, 64)}


def collective_shapes(ranks: int, rows: int, largest_bytes: float) -> Iterator[Shape]:
    """Messages of collectives [byte], a kibibyte to ``largest_bytes``; ``rows`` of each operation; raises nothing."""
    for op in ("all_reduce", "all_gather", "reduce_scatter"):
        for (share,) in sorted(_spread(rows, 1, 0.5).tolist()):
            size = _multiple(_log(share, 1024, largest_bytes), 256 * ranks)
            yield {"op": op, "n_gpus": ranks, "bytes": size, "dtype": "fp32"}


def transfer_shapes(rows: int, *, locked: bool) -> Iterator[Shape]:
    """Copies of 4 KiB to 256 MiB each way [byte]; ``locked`` adds those from page-locked memory; raises nothing."""
    for direction in ("to_device", "to_host"):
        for pinned in ("yes", "no") if locked else ("no",):
            for (share,) in sorted(_spread(rows, 1, 0.5).tolist()):
                size = _multiple(_log(share, 2.0**12, 2.0**28), 4096)
                yield {"direction": direction, "pinned": pinned, "bytes": size}

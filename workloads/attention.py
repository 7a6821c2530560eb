"""Attention as operators: one fused kernel, or the scores, softmax, dropout and context it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from workloads.eager_steps import add_dropout, add_step
from workloads.operator_graph import Dim, Extent, FloatArray, GraphBuilder, Operator, Tensor, dim

UNBOUNDED: FloatArray = np.full(1, np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """Sizes of one attention: per replica and micro-batch.

    Attributes
    ----------
    batch, query_length, kv_length : ndarray
        Sequences, new tokens of each, tokens attended to (the new ones included) [1].
    heads, kv_heads, head_dim : ndarray
        Query heads, key and value heads, width of one [1].
    window : ndarray
        Tokens that a query sees at most; infinite without a sliding window [1].
    chunk : ndarray
        Tokens of a chunk, of which a query sees its own only; infinite without chunks [1].
    """

    batch: FloatArray
    query_length: FloatArray
    kv_length: FloatArray
    heads: FloatArray
    kv_heads: FloatArray
    head_dim: FloatArray
    window: FloatArray
    chunk: FloatArray = field(default_factory=lambda: UNBOUNDED)

    def seeing_all(self) -> AttentionShape:
        """The same attention without a window or chunks."""
        return replace(self, window=UNBOUNDED, chunk=UNBOUNDED)


def _pairs_in_chunks(tokens: FloatArray, chunk: FloatArray) -> FloatArray:
    """Pairs of the first ``tokens`` of a sequence: of full chunks, and of the rest [1]."""
    full = np.floor(tokens / chunk)
    rest = tokens - full * chunk
    return full * (chunk * (chunk + 1.0) / 2.0) + rest * (rest + 1.0) / 2.0


def attended_pairs(
    query_length: FloatArray,
    kv_length: FloatArray,
    window: FloatArray,
    *,
    causal: bool = True,
    chunk: FloatArray = UNBOUNDED,
) -> FloatArray:
    """Query-key pairs under the causal mask and the window or the chunks, per sequence and head [1].

    The i-th of q new tokens sees kv - q + i tokens, at most ``window``, and none before its own chunk; all of them
    where nothing is masked. Either the window or the chunk is infinite.
    """
    if not causal:
        return query_length * kv_length
    if np.any(np.isfinite(chunk)):
        size = np.where(np.isfinite(chunk), chunk, np.maximum(kv_length, 1.0))
        in_chunks = _pairs_in_chunks(kv_length, size) - _pairs_in_chunks(kv_length - query_length, size)
        return np.where(np.isfinite(chunk), in_chunks, attended_pairs(query_length, kv_length, window))
    first = kv_length - query_length + 1.0
    # Queries before the window fills see first, first + 1, ... tokens; the others see the window.
    growing = np.clip(window - first, 0.0, query_length)
    return (
        growing * first
        + growing * (growing - 1.0) / 2.0
        + (query_length - growing) * np.minimum(window, np.maximum(kv_length, 1.0))
    )


def keys_in_cache(cached: FloatArray, window: FloatArray, chunk: FloatArray) -> FloatArray:
    """Keys that a layer must hold of ``cached`` tokens: those of a window, or at most those of a chunk [1]."""
    return np.minimum(np.minimum(cached, window), chunk)


def keys_seen_last(shape: AttentionShape) -> FloatArray:
    """Keys that the last token sees, itself included [1]; between two whole lengths that of the nearest chunk."""
    seen = np.minimum(shape.kv_length, shape.window)
    if not np.any(np.isfinite(shape.chunk)):
        return seen
    size = np.where(np.isfinite(shape.chunk), shape.chunk, np.maximum(shape.kv_length, 1.0))
    return np.minimum(seen, shape.kv_length - size * np.floor((shape.kv_length - 0.5) / size))


def query_and_kv_widths(shape: AttentionShape) -> tuple[Extent, Extent]:
    """Width of all query heads and of all key (or value) heads, labelled for sharding."""
    return dim("heads", shape.heads * shape.head_dim), dim("kv_heads", shape.kv_heads * shape.head_dim)


def fused_extents(shape: AttentionShape, head_dim: FloatArray, *, causal: bool) -> dict[str, Extent]:
    """Sizes of the fused kernel by name [1]; ``head_dim`` is the mean of a key's and a value's width.

    Shapes broadcast; raises nothing.
    """
    pairs = attended_pairs(
        shape.query_length, shape.kv_length, shape.window, causal=causal, chunk=shape.chunk
    )
    return {
        "batch": dim("batch", shape.batch),
        "query_length": dim("query_length", shape.query_length),
        "kv_length": dim("kv_length", shape.kv_length),
        "kv_span": dim("kv_span", keys_in_cache(shape.kv_length, shape.window, shape.chunk)),
        "heads": dim("heads", shape.heads),
        "kv_heads": dim("kv_heads", shape.kv_heads),
        "pairs": dim("pairs", pairs),
        "head_dim": dim("head_dim", head_dim),
    }


def add_flash_attention(
    build: GraphBuilder,
    shape: AttentionShape,
    tokens: Extent,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    causal: bool = True,
    sinks: Sequence[Tensor] = (),
) -> Tensor:
    """Add the fused kernel; it computes only what the mask leaves and keeps one statistic per row."""
    width, _ = query_and_kv_widths(shape)
    context = Tensor("attention_context", "activations", (tokens, width))
    statistics = Tensor("attention_statistics", "statistics", (tokens, dim("heads", shape.heads)))
    build.add(
        Operator(
            name="attention",
            kind="attention",
            module="attention_core",
            extents=fused_extents(shape, shape.head_dim, causal=causal),
            reads=(query, keys, values, *sinks),
            writes=(context, statistics),
            saved=(query, keys, values, context, statistics),
        )
    )
    return context


def add_decode_attention(
    build: GraphBuilder, shape: AttentionShape, tokens: Extent, query: Tensor, sinks: Sequence[Tensor] = ()
) -> Tensor:
    """Add attention of one new token per sequence against the cache, which is read once."""
    width, kv_width = query_and_kv_widths(shape)
    context = Tensor("attention_context", "activations", (tokens, width))
    seen = keys_seen_last(shape)
    cache = Tensor(
        "kv_cache", "kv_cache", (dim("batch", shape.batch), dim("cached", seen), (*kv_width, *kv_width))
    )
    build.add(
        Operator(
            name="attention",
            kind="attention_decode",
            module="attention_core",
            extents={
                "batch": dim("batch", shape.batch),
                "query_length": dim("query_length", shape.query_length),
                "kv_length": dim("kv_length", seen),
                "heads": dim("heads", shape.heads),
                "kv_heads": dim("kv_heads", shape.kv_heads),
                "pairs": dim("pairs", seen * shape.query_length),
                "head_dim": dim("head_dim", shape.head_dim),
            },
            reads=(query, cache, *sinks),
            writes=(context,),
        )
    )
    return context


def add_unfused_attention(
    build: GraphBuilder,
    shape: AttentionShape,
    tokens: Extent,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    dropout: bool,
    eager: bool = False,
    causal: bool = True,
    sinks: Sequence[Tensor] = (),
) -> Tensor:
    """Add the batched products and what stands between them; the full square is computed.

    One kernel scales, masks and takes the softmax, unless ``eager``: then each step is a kernel, and operands
    and result of the products are copied, since their heads are not contiguous.
    """
    width, _ = query_and_kv_widths(shape)
    per_head = dim("heads", shape.heads)
    square = (
        dim("batch", shape.batch),
        per_head,
        dim("sequence", shape.query_length),
        dim("keys", shape.kv_length),
    )
    m, n, d = (
        dim("sequence", shape.query_length),
        dim("keys", shape.kv_length),
        dim("head_dim", shape.head_dim),
    )
    batch_heads: Extent = (Dim("heads", shape.batch * shape.heads),)
    if eager:
        # Grouped keys and values are repeated for every query head.
        query, keys, values = (
            add_step(build, f"{t.name}_copy", "attention_core", (t,), extents=query.extents)
            for t in (query, keys, values)
        )
    scores = Tensor("attention_scores", "activations", square)
    _add_product(
        build, "attention_scores", {"batch": batch_heads, "m": m, "n": n, "k": d}, query, keys, scores
    )
    if eager:
        scores = add_step(build, "attention_scale", "attention_core", (scores,))
        # An encoder adds its padding mask, which needs no gradient kernel; a decoder selects.
        scores = add_step(
            build,
            "attention_masking",
            "attention_core",
            (scores,),
            kind="pointwise" if causal else "mask_addition",
        )
    weights = add_step(
        build, "attention_softmax", "attention_core", (scores, *sinks), kind="softmax", keeps_result=True
    )
    if dropout:
        weights = add_dropout(build, "attention_dropout", "attention_core", weights)
    context = Tensor("attention_context", "activations", (tokens, width))
    _add_product(
        build,
        "attention_weighted_sum",
        {"batch": batch_heads, "m": m, "n": d, "k": n},
        weights,
        values,
        context,
    )
    return add_step(build, "attention_context_copy", "attention_core", (context,)) if eager else context


def _add_product(
    build: GraphBuilder, name: str, sizes: dict[str, Extent], left: Tensor, right: Tensor, out: Tensor
) -> None:
    build.add(
        Operator(
            name=name,
            kind="batched_matmul",
            module="attention_core",
            extents=sizes,
            reads=(left, right),
            writes=(out,),
            saved=(left, right),
        )
    )

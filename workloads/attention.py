"""Attention as operators: one fused kernel, or the scores, softmax, dropout and context it replaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workloads.operator_graph import Dim, Extent, FloatArray, GraphBuilder, Operator, Tensor, dim


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
    """

    batch: FloatArray
    query_length: FloatArray
    kv_length: FloatArray
    heads: FloatArray
    kv_heads: FloatArray
    head_dim: FloatArray
    window: FloatArray


def attended_pairs(query_length: FloatArray, kv_length: FloatArray, window: FloatArray) -> FloatArray:
    """Query-key pairs under the causal mask and the window, per sequence and head [1].

    The i-th of q new tokens sees kv - q + i tokens, at most ``window``.
    """
    first = kv_length - query_length + 1.0
    # Queries before the window fills see first, first + 1, ... tokens; the others see the window.
    growing = np.clip(window - first, 0.0, query_length)
    return (
        growing * first
        + growing * (growing - 1.0) / 2.0
        + (query_length - growing) * np.minimum(window, np.maximum(kv_length, 1.0))
    )


def query_and_kv_widths(shape: AttentionShape) -> tuple[Extent, Extent]:
    """Width of all query heads and of all key (or value) heads, labelled for sharding."""
    return dim("heads", shape.heads * shape.head_dim), dim("kv_heads", shape.kv_heads * shape.head_dim)


def add_flash_attention(
    build: GraphBuilder, shape: AttentionShape, tokens: Extent, query: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Add the fused kernel; it computes only what the causal mask leaves and keeps one statistic per row."""
    width, _ = query_and_kv_widths(shape)
    context = Tensor("attention_context", "activations", (tokens, width))
    statistics = Tensor("attention_statistics", "statistics", (tokens, dim("heads", shape.heads)))
    pairs = attended_pairs(shape.query_length, shape.kv_length, shape.window)
    build.add(
        Operator(
            name="attention",
            kind="attention",
            module="attention_core",
            extents={
                "batch": dim("batch", shape.batch),
                "query_length": dim("query_length", shape.query_length),
                "kv_length": dim("kv_length", np.minimum(shape.kv_length, shape.query_length + shape.window)),
                "heads": dim("heads", shape.heads),
                "kv_heads": dim("kv_heads", shape.kv_heads),
                "pairs": dim("pairs", pairs),
                "head_dim": dim("head_dim", shape.head_dim),
            },
            reads=(query, keys, values),
            writes=(context, statistics),
            saved=(query, keys, values, context, statistics),
        )
    )
    return context


def add_decode_attention(build: GraphBuilder, shape: AttentionShape, tokens: Extent, query: Tensor) -> Tensor:
    """Add attention of one new token per sequence against the cache, which is read once."""
    width, kv_width = query_and_kv_widths(shape)
    context = Tensor("attention_context", "activations", (tokens, width))
    seen = np.minimum(shape.kv_length, shape.window)
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
            reads=(query, cache),
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
) -> Tensor:
    """Add the batched products and the fused scale-mask-softmax between them; the full square is computed."""
    width, _ = query_and_kv_widths(shape)
    per_head = dim("heads", shape.heads)
    square = (
        dim("batch", shape.batch),
        per_head,
        dim("sequence", shape.query_length),
        dim("keys", shape.kv_length),
    )
    scores = Tensor("attention_scores", "activations", square)
    probabilities = Tensor("attention_probabilities", "activations", square)
    context = Tensor("attention_context", "activations", (tokens, width))
    batch_heads: Extent = (Dim("heads", shape.batch * shape.heads),)
    m, n, d = (
        dim("sequence", shape.query_length),
        dim("keys", shape.kv_length),
        dim("head_dim", shape.head_dim),
    )
    build.add(
        Operator(
            name="attention_scores",
            kind="batched_matmul",
            module="attention_core",
            extents={"batch": batch_heads, "m": m, "n": n, "k": d},
            reads=(query, keys),
            writes=(scores,),
            saved=(query, keys),
        )
    )
    build.add(
        Operator(
            name="attention_softmax",
            kind="softmax",
            module="attention_core",
            reads=(scores,),
            writes=(probabilities,),
            saved=(probabilities,),
        )
    )
    weights = probabilities
    if dropout:
        mask = Tensor("attention_mask", "mask", square)
        weights = Tensor("attention_dropped", "activations", square)
        build.add(
            Operator(
                name="attention_dropout",
                kind="pointwise",
                module="attention_core",
                reads=(probabilities,),
                writes=(weights, mask),
                saved=(mask,),
            )
        )
    build.add(
        Operator(
            name="attention_weighted_sum",
            kind="batched_matmul",
            module="attention_core",
            extents={"batch": batch_heads, "m": m, "n": d, "k": n},
            reads=(weights, values),
            writes=(context,),
            saved=(weights, values),
        )
    )
    return context

"""The attention branch of a layer: projections, positions, the core, and the way back to the residual stream."""

from __future__ import annotations

from workloads.attention import (
    AttentionShape,
    add_decode_attention,
    add_flash_attention,
    add_unfused_attention,
    query_and_kv_widths,
)
from workloads.eager_steps import add_rms_norm_steps, add_rotary_steps
from workloads.latent_attention import add_latent_attention
from workloads.layer_parts import LayerSizes, LayerStructure, add_matmul, plain_weight, token_layouts
from workloads.operator_graph import Extent, GraphBuilder, Operator, Tensor, dim

__all__ = ["add_attention"]


def _project(
    build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Add the products that make query, keys and values: one, or three where they are kept apart."""
    tokens, _ = token_layouts(sizes)
    widths = query_and_kv_widths(sizes.attention)
    query, keys, values = (
        Tensor(name, "activations", (tokens, size))
        for name, size in (("query", widths[0]), ("keys", widths[1]), ("values", widths[1]))
    )
    whole = (*widths[0], *widths[1], *widths[1])
    products: tuple[tuple[str, Extent, tuple[Tensor, ...]], ...] = (("qkv", whole, (query, keys, values)),)
    if structure.separate_qkv:
        products = tuple((f"{t.name}_projection", t.extents[1], (t,)) for t in (query, keys, values))
    for name, width, writes in products:
        add_matmul(
            build,
            name,
            "attention",
            normed,
            m=tokens,
            n=width,
            k=dim("hidden", sizes.hidden),
            bias=structure.qkv_bias,
            writes=writes,
        )
    return query, keys, values


def _normed_heads(
    build: GraphBuilder, structure: LayerStructure, shape: AttentionShape, query: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Add the norm of each query and key head; one weight of head_dim each, shared by the heads."""
    normed_query, normed_keys = (Tensor(f"{t.name}_normed", t.kind, t.extents) for t in (query, keys))
    scales = tuple(
        plain_weight(f"{t}_norm_weight", dim("head_dim", shape.head_dim)) for t in ("query", "keys")
    )
    if structure.eager:
        steps = (
            add_rms_norm_steps(build, f"{t.name}_norm", "attention", t, scale)
            for t, scale in zip((query, keys), scales, strict=True)
        )
        return next(steps), next(steps)
    build.add(
        Operator(
            name="qk_norm",
            kind="rms_norm",
            module="attention",
            reads=(query, keys, *scales),
            writes=(normed_query, normed_keys),
            saved=(query, keys),
        )
    )
    return normed_query, normed_keys


def _turned(
    build: GraphBuilder, structure: LayerStructure, query: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Add rotary positions of query and keys."""
    if structure.eager:
        return add_rotary_steps(build, query), add_rotary_steps(build, keys)
    turned_query, turned_keys = (Tensor(f"{t.name}_turned", t.kind, t.extents) for t in (query, keys))
    build.add(
        Operator(
            name="rotary",
            kind="rotary",
            module="attention",
            reads=(query, keys),
            writes=(turned_query, turned_keys),
        )
    )
    return turned_query, turned_keys


def add_attention(
    build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor
) -> Tensor:
    """Add the branch on its (normed) input; ValueError where a name is taken."""
    tokens, _ = token_layouts(sizes)
    shape = sizes.attention
    width, kv_width = query_and_kv_widths(shape)
    if structure.latent:
        context = add_latent_attention(build, structure, sizes, normed)
        return _add_way_back(build, structure, sizes, context)
    query, keys, values = _project(build, structure, sizes, normed)
    if structure.qk_norm:
        query, keys = _normed_heads(build, structure, shape, query, keys)
    if structure.rotary:
        query, keys = _turned(build, structure, query, keys)
    # An encoder keeps no cache, and an eager prefill keeps its keys and values where they are.
    kept_in_place = structure.eager and structure.computation == "prefill"
    if structure.causal and structure.computation != "training" and not kept_in_place:
        added = Tensor("kv_cache_added", "kv_cache", (tokens, (*kv_width, *kv_width)))
        build.add(
            Operator(
                name="kv_append", kind="pointwise", module="attention", reads=(keys, values), writes=(added,)
            )
        )
    sinks = (plain_weight("attention_sinks", dim("heads", shape.heads)),) if structure.sinks else ()
    if structure.computation == "decode":
        context = add_decode_attention(build, shape, tokens, query, sinks)
    elif structure.flash_attention:
        context = add_flash_attention(
            build, shape, tokens, query, keys, values, causal=structure.causal, sinks=sinks
        )
    else:
        context = add_unfused_attention(
            build,
            shape,
            tokens,
            query,
            keys,
            values,
            dropout=structure.dropout,
            eager=structure.eager,
            causal=structure.causal,
            sinks=sinks,
        )
    return _add_way_back(build, structure, sizes, context)


def _add_way_back(
    build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, context: Tensor
) -> Tensor:
    """Add the product that leads from the heads to the residual stream."""
    tokens, _ = token_layouts(sizes)
    hidden = dim("hidden", sizes.hidden)
    out = Tensor("attention_out", "activations", (tokens, hidden))
    add_matmul(
        build,
        "attention_projection",
        "attention",
        context,
        m=tokens,
        n=hidden,
        k=context.extents[1],
        bias=structure.attention_out_bias,
        writes=(out,),
    )
    return out

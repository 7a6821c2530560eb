"""Multi-head latent attention in training and over prompts: narrow latents are unfolded to a key and value per head.

Down-projections make a latent of the query and one of keys and values, with a key for positions that all heads share.
They and their norms are not split over tensor ranks: each works on its own tokens, and the narrow results are
gathered. Up-projections are split by heads.
"""

from __future__ import annotations

from workloads.attention import fused_extents
from workloads.backward_pass import GradientOf, arriving_gradients, backward_rule, operands_of
from workloads.layer_parts import LayerSizes, LayerStructure, add_matmul, add_norm, token_layouts
from workloads.operator_graph import Extent, GraphBuilder, Operator, Tensor, dim

__all__ = ["add_latent_attention"]


def _query(build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor) -> Tensor:
    """Add the query of every head, from its latent where there is one."""
    tokens, shard = token_layouts(sizes)
    shape, inner = sizes.attention, dim("hidden", sizes.hidden)
    query = Tensor("query", "activations", (tokens, dim("heads", shape.heads * shape.head_dim)))
    source, name = normed, "query_projection"
    if structure.latent_query:
        rank = dim("query_rank", sizes.query_rank)
        latent = Tensor("query_latent", "activations", (shard, rank))
        add_matmul(
            build, "query_down", "attention", normed, m=shard, n=rank, k=inner, bias=False, writes=(latent,)
        )
        source = add_norm(build, structure, "query_latent_norm", "attention", latent, rank)
        inner, name = rank, "query_up"
    add_matmul(
        build, name, "attention", source, m=tokens, n=query.extents[1], k=inner, bias=False, writes=(query,)
    )
    return query


def _keys_and_values(
    build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Add keys of every head without their positions, the shared key of positions, and values."""
    tokens, shard = token_layouts(sizes)
    shape = sizes.attention
    rank, rope = dim("kv_rank", sizes.kv_rank), dim("rope_dim", sizes.rope_dim)
    latent = Tensor("kv_latent", "activations", (shard, rank))
    turning = Tensor("key_rope", "activations", (shard, rope))
    add_matmul(
        build,
        "kv_down",
        "attention",
        normed,
        m=shard,
        n=(*rank, *rope),
        k=dim("hidden", sizes.hidden),
        bias=False,
        writes=(latent, turning),
    )
    source = add_norm(build, structure, "kv_latent_norm", "attention", latent, rank)
    plain: Extent = dim("kv_heads", shape.kv_heads * (shape.head_dim - sizes.rope_dim))
    wide: Extent = dim("kv_heads", shape.kv_heads * sizes.value_dim)
    keys, values = (
        Tensor(name, "activations", (tokens, width)) for name, width in (("keys", plain), ("values", wide))
    )
    add_matmul(
        build,
        "kv_up",
        "attention",
        source,
        m=tokens,
        n=(*plain, *wide),
        k=rank,
        bias=False,
        writes=(keys, values),
    )
    return keys, turning, values


def add_latent_attention(
    build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor
) -> Tensor:
    """Add projections, positions and the fused kernel on the branch's (normed) input; ValueError where a name is taken.

    The kernel has as many key as query heads; its width [1] is the mean of a key's and a value's, as its two products
    have one each.
    """
    tokens, _ = token_layouts(sizes)
    shape = sizes.attention
    query = _query(build, structure, sizes, normed)
    keys, turning, values = _keys_and_values(build, structure, sizes, normed)
    turned_query = Tensor("query_turned", query.kind, query.extents)
    turned_keys = Tensor("keys_turned", keys.kind, (tokens, dim("kv_heads", shape.kv_heads * shape.head_dim)))
    build.add(
        Operator(
            name="rotary",
            kind="latent_rotary",
            module="attention",
            extents={"heads": dim("heads", shape.heads)},
            reads=(query, keys, Tensor(turning.name, turning.kind, (tokens, turning.extents[1]))),
            writes=(turned_query, turned_keys),
        )
    )
    context = Tensor(
        "attention_context", "activations", (tokens, dim("heads", shape.heads * sizes.value_dim))
    )
    statistics = Tensor("attention_statistics", "statistics", (tokens, dim("heads", shape.heads)))
    build.add(
        Operator(
            name="attention",
            kind="latent_attention",
            module="attention_core",
            extents=fused_extents(shape, (shape.head_dim + sizes.value_dim) / 2.0, causal=structure.causal),
            reads=(turned_query, turned_keys, values),
            writes=(context, statistics),
            saved=(turned_query, turned_keys, values, context, statistics),
        )
    )
    return context


@backward_rule("latent_rotary")
def _rotary(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """Gradients of the shared key are summed over heads, so tensor ranks hold parts of them."""
    return [
        Operator(
            name=f"{op.name}.grad",
            kind=op.kind,
            module=op.module,
            extents=op.extents,
            contracted=("heads",),
            reads=arriving_gradients(op),
            writes=tuple(gradient_of(t) for t in operands_of(op)),
        )
    ]

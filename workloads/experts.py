"""The MLP branch of a layer with experts: a router, rows sorted by expert, grouped products, a weighted sum.

Each token becomes ``topk`` rows, one for each expert that it is sent to. Experts are split over tensor ranks as a
plain MLP is, by their inner width; partial sums are added up after the weighted sum, when there is one row per
token again. Labels of their own say what a plan may split in another way than the rest of the layer: tokens that the
branch takes ("expert_tokens"), rows ("routed"), experts, and their inner width ("expert_ffn").
"""

from __future__ import annotations

from dataclasses import replace

import workloads.expert_backward  # noqa: F401  registers the backward rules of the operators below
from workloads.layer_parts import LayerSizes, LayerStructure, add_matmul, plain_weight, token_layouts
from workloads.mlp import add_mlp
from workloads.operator_graph import Extent, GraphBuilder, Operator, Tensor, dim

__all__ = ["add_experts"]

# Rows of other ranks' experts, which some kernels walk over too: none where each rank holds all experts.
NO_FOREIGN: Extent = dim("foreign", 0.0)


def _routed(tokens: Extent, sizes: LayerSizes) -> Extent:
    return dim("routed", tokens[0].size * sizes.topk)


def _add_router(build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor) -> Tensor:
    """Add the choice of experts: a narrow product and the largest few of a softmax, on a rank's own tokens."""
    _, shard = token_layouts(sizes)
    # The router is not split over ranks; its label says so.
    experts, picks = dim("router", sizes.experts), dim("picks", sizes.topk)
    logits = Tensor("router_logits", "activations", (shard, experts))
    gates = Tensor("gates", "activations", (shard, picks))
    add_matmul(
        build,
        "router",
        "router",
        normed,
        m=shard,
        n=experts,
        k=dim("hidden", sizes.hidden),
        bias=structure.router_bias,
        writes=(logits,),
        wide=True,
    )
    build.add(
        Operator(
            name="router_topk",
            kind="softmax",
            module="router",
            reads=(logits,),
            writes=(gates,),
            saved=(logits,),
        )
    )
    return gates


def _add_product(
    build: GraphBuilder,
    name: str,
    sizes: LayerSizes,
    source: Tensor,
    out: Tensor,
    *,
    n: Extent,
    k: Extent,
    bias: bool,
) -> None:
    tokens, _ = token_layouts(sizes)
    rows, experts = _routed(tokens, sizes), dim("experts", sizes.experts)
    biases = (plain_weight(f"{name}_bias", experts, n),) if bias else ()
    build.add(
        Operator(
            name=name,
            kind="grouped_matmul",
            module="experts",
            extents={
                "m": rows,
                "n": n,
                "k": k,
                # All tokens whose rows may come here, and how many of their picks do.
                "tokens": dim("routed_tokens", tokens[0].size),
                "topk": dim("routed_picks", sizes.topk),
                "experts": experts,
            },
            reads=(
                Tensor(source.name, "operand", (rows, k)),
                Tensor(f"{name}_weight", "weights", (experts, k, n)),
                *biases,
            ),
            writes=(out,),
            saved=(source,),
        )
    )


def add_experts(build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor) -> Tensor:
    """Add the branch on its (normed) input.

    Parameters
    ----------
    build : GraphBuilder
        Takes the operators.
    structure : LayerStructure
        Gated or plain experts, and whether some serve every token.
    sizes : LayerSizes
        Sizes [1].
    normed : Tensor
        Input of the branch.

    Returns
    -------
    Tensor
        Output of the branch, a row for each token.

    Raises
    ------
    ValueError
        Where a name is taken.
    """
    tokens, _ = token_layouts(sizes)
    hidden, ffn, rows = dim("hidden", sizes.hidden), dim("expert_ffn", sizes.moe_ffn), _routed(tokens, sizes)
    taken = dim("expert_tokens", tokens[0].size)
    wide = (*ffn, *ffn) if structure.gated_mlp else ffn
    gates = _add_router(build, structure, sizes, normed)
    sorted_rows = Tensor("expert_rows", "activations", (rows, hidden))
    up = Tensor("experts_up_out", "activations", (rows, wide))
    activated = Tensor("experts_activated", "activations", (rows, ffn))
    down = Tensor("experts_down_out", "activations", (rows, hidden))
    out = Tensor("experts_out", "activations", (taken, hidden))
    around = {"foreign_elements": NO_FOREIGN}
    build.add(
        Operator(
            name="experts_dispatch",
            kind="moe_dispatch",
            module="experts",
            extents={**around, "ffn": ffn},
            reads=(Tensor(normed.name, "activations", (taken, hidden)),),
            writes=(sorted_rows,),
        )
    )
    bias = structure.mlp_bias
    _add_product(build, "experts_up", sizes, sorted_rows, up, n=wide, k=hidden, bias=bias)
    build.add(
        Operator(
            name="experts_activation",
            kind="expert_activation",
            module="experts",
            extents=around,
            reads=(up,),
            writes=(activated,),
            saved=(up,),
        )
    )
    _add_product(build, "experts_down", sizes, activated, down, n=hidden, k=ffn, bias=bias)
    build.add(
        Operator(
            name="experts_combine",
            kind="moe_combine",
            module="experts",
            # Each tensor rank has a part of every expert, so its sums are partial ones.
            extents={**around, "ffn": ffn},
            contracted=("ffn",),
            reads=(down, Tensor(gates.name, "activations", (taken, *gates.extents[1:]))),
            writes=(out,),
            saved=(down, gates),
        )
    )
    return _with_shared(build, structure, sizes, normed, out) if structure.shared_experts else out


def _with_shared(
    build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor, routed: Tensor
) -> Tensor:
    """Add the MLP that all tokens pass, and the sum of both branches."""
    shared = add_mlp(build, structure, replace(sizes, ffn=sizes.shared_ffn), normed)
    _, shard = token_layouts(sizes)
    hidden = dim("hidden", sizes.hidden)
    out = Tensor("mlp_and_experts_out", "activations", (shard, hidden))
    build.add(
        Operator(
            name="shared_experts_add",
            kind="pointwise",
            module="experts",
            reads=tuple(Tensor(t.name, "activations", (shard, hidden)) for t in (routed, shared)),
            writes=(out,),
        )
    )
    return out

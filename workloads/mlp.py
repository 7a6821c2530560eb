"""The MLP branch of a layer: one or two projections, the activation between, and the way back."""

from __future__ import annotations

from workloads.eager_steps import add_gated_steps, add_tanh_gelu_steps
from workloads.layer_parts import LayerSizes, LayerStructure, add_matmul, token_layouts
from workloads.operator_graph import GraphBuilder, Operator, Tensor, dim

__all__ = ["add_mlp"]


def _add_gated(build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor) -> Tensor:
    """Add both input projections of a gated MLP and its two pointwise steps, as eager code does."""
    tokens, _ = token_layouts(sizes)
    ffn = dim("ffn", sizes.ffn)
    gate, up = (Tensor(f"mlp_{name}_out", "activations", (tokens, ffn)) for name in ("gate", "up"))
    for name, out in (("mlp_gate", gate), ("mlp_up", up)):
        add_matmul(
            build,
            name,
            "mlp",
            normed,
            m=tokens,
            n=ffn,
            k=dim("hidden", sizes.hidden),
            bias=structure.mlp_bias,
            writes=(out,),
        )
    return add_gated_steps(build, gate, up)


def _add_activated(
    build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor
) -> Tensor:
    """Add the input projection of the MLP and its activation."""
    if structure.eager and structure.gated_mlp:
        return _add_gated(build, structure, sizes, normed)
    tokens, _ = token_layouts(sizes)
    hidden, ffn = dim("hidden", sizes.hidden), dim("ffn", sizes.ffn)
    wide = (*ffn, *ffn) if structure.gated_mlp else ffn
    up = Tensor("mlp_up_out", "activations", (tokens, wide))
    add_matmul(
        build, "mlp_up", "mlp", normed, m=tokens, n=wide, k=hidden, bias=structure.mlp_bias, writes=(up,)
    )
    if structure.eager and structure.tanh_gelu:
        return add_tanh_gelu_steps(build, up)
    activated = Tensor("mlp_activated", "activations", (tokens, ffn))
    build.add(
        Operator(
            name="mlp_activation",
            kind="activation",
            module="mlp",
            reads=(up,),
            writes=(activated,),
            saved=(up,),
        )
    )
    return activated


def add_mlp(build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor) -> Tensor:
    """Add the branch on its (normed) input; ValueError where a name is taken."""
    tokens, _ = token_layouts(sizes)
    hidden, ffn = dim("hidden", sizes.hidden), dim("ffn", sizes.ffn)
    down = Tensor("mlp_out", "activations", (tokens, hidden))
    add_matmul(
        build,
        "mlp_down",
        "mlp",
        _add_activated(build, structure, sizes, normed),
        m=tokens,
        n=hidden,
        k=ffn,
        bias=structure.mlp_bias,
        writes=(down,),
    )
    return down

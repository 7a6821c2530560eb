"""The forward graph of one layer, of a decoder or an encoder: two branches beside the residual stream."""

from __future__ import annotations

from workloads.attention_branch import add_attention
from workloads.experts import add_experts
from workloads.layer_kinds import LayerKind
from workloads.layer_parts import (
    LayerSizes,
    LayerStructure,
    Logits,
    Pass,
    add_norm,
    add_residual,
    token_layouts,
)
from workloads.mlp import add_mlp
from workloads.operator_graph import Graph, GraphBuilder, Tensor, dim

__all__ = ["LayerSizes", "LayerStructure", "Logits", "Pass", "decoder_layer", "layer_of_kind"]


def layer_of_kind(structure: LayerStructure, sizes: LayerSizes, kind: LayerKind) -> Graph:
    """:func:`decoder_layer` of one kind of a stack's layers; its arguments, and ValueError as there."""
    return decoder_layer(structure.of_kind(kind), sizes.of_kind(kind))


def decoder_layer(structure: LayerStructure, sizes: LayerSizes) -> Graph:
    """Forward graph of one layer, with its norms in front of the branches or behind the residual additions.

    Parameters
    ----------
    structure : LayerStructure
        Which operators there are.
    sizes : LayerSizes
        Arrays [1] that broadcast against each other.

    Returns
    -------
    networkx.DiGraph
        Nodes carry an ``operator``, edges the ``tensors`` that pass; insertion order is issue order.
        ``graph["kind"]`` is "layer"; the input is ``layer_input``.

    Raises
    ------
    ValueError
        If two operators get one name, which would be a fault of this module.
    """
    _, shard = token_layouts(sizes)
    hidden = dim("hidden", sizes.hidden)
    stream = Tensor("layer_input", "activations", (shard, hidden))
    build = GraphBuilder(inputs=(stream,))
    for module, branch in (
        ("attention", add_attention),
        ("mlp", add_experts if structure.experts else add_mlp),
    ):
        taken = stream
        if not structure.post_norm:
            taken = add_norm(build, structure, f"{module}_norm", module, stream, hidden)
        out = branch(build, structure, sizes, taken)
        stream = add_residual(build, structure, f"{module}_residual", module, out, stream)
        if structure.post_norm:
            stream = add_norm(build, structure, f"{module}_norm", module, stream, hidden)
    build.graph.graph["kind"] = "layer"
    return build.graph

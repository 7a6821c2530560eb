"""Compression as rewrites of a model or of its graph: each takes the thing and returns another one.

A rewrite is registered under the name that a plan's ``compression`` list uses. It may change the model (fewer
layers) or the layer graph (other weights); it never changes a plan, a machine or a cost rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import networkx as nx

from workloads.operator_graph import ONE, Graph, Operator, Tensor

GraphRewrite = Callable[[Graph], Graph]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionKind:
    """A named transform.

    Attributes
    ----------
    name : str
        As written in a plan.
    parameters : mapping of str to float
        Accepted parameters with their defaults.
    layers_kept : callable
        Fraction of decoder layers that remain, from the parameters [1].
    rewrite : callable or None
        Graph-to-graph rewrite of a layer, or None where layers stay as they are.
    inference_only : bool
        Whether training with it is refused.
    """

    name: str
    parameters: Mapping[str, float]
    layers_kept: Callable[[Mapping[str, float]], float]
    rewrite: GraphRewrite | None
    inference_only: bool


def _sparse(operator: Operator) -> Operator:
    if operator.kind not in ("matmul", "grouped_matmul") or not any(
        t.kind == "weights" and len(t.extents) > 1 for t in operator.reads
    ):
        return operator
    reads = tuple(
        Tensor(t.name, "sparse_weights", t.extents) if t.kind == "weights" and len(t.extents) > 1 else t
        for t in operator.reads
    )
    return replace(operator, reads=reads, attributes={**operator.attributes, "sparse": ONE})


def sparsify_2_4(graph: Graph) -> Graph:
    """Give every weight matrix of a graph 2:4 structured sparsity (half the values and 2-bit indices).

    Raises nothing; the result is a new graph, the argument stays as it was.
    """
    out: Graph = nx.DiGraph(**graph.graph)
    for name, data in graph.nodes(data=True):
        out.add_node(name, operator=_sparse(data["operator"]))
    out.add_edges_from(graph.edges(data=True))
    return out


# The registry: transforms by the name that a plan uses.
COMPRESSIONS: dict[str, CompressionKind] = {
    "layer_drop": CompressionKind(
        name="layer_drop",
        parameters={"fraction": 0.25},
        layers_kept=lambda p: 1.0 - p["fraction"],
        rewrite=None,
        inference_only=False,
    ),
    "sparsity_2_4": CompressionKind(
        name="sparsity_2_4",
        parameters={},
        layers_kept=lambda p: 1.0,
        rewrite=sparsify_2_4,
        inference_only=True,
    ),
}

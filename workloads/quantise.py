"""Quantise passes in front of products whose compute type is narrower than the stored activations."""

from __future__ import annotations

import networkx as nx

from workloads.operator_graph import FloatArray, Graph, Operator, Tensor, operators

PRODUCTS = ("matmul", "grouped_matmul")


def with_quantise_passes(graph: Graph, quantised: FloatArray, *, grouped: bool) -> Graph:
    """Insert one pass per distinct activation operand of the matmuls of a sharded graph.

    Parameters
    ----------
    graph : networkx.DiGraph
        Operators in issue order.
    quantised : ndarray
        1 where the pass runs [1].
    grouped : bool
        Whether grouped products have passes too: training frameworks narrow the rows of all experts in kernels of their
        own; serving stacks do so in the kernels that sort them.

    Returns
    -------
    networkx.DiGraph
        A new graph; neighbours of one forward operator share the pass of a common operand.

    Raises
    ------
    ValueError
        Never: names are made unique by the operator they serve.
    """
    out: Graph = nx.DiGraph(**graph.graph)
    passes: dict[tuple[str, str], str] = {}
    narrowed = PRODUCTS if grouped else PRODUCTS[:1]
    for op in operators(graph):
        sources: dict[str, str] = {}
        if op.kind in narrowed:
            for tensor in (t for t in op.reads if t.kind == "operand"):
                key = (op.group or op.name, tensor.name)
                if key not in passes:
                    passes[key] = f"{op.name}.quantise.{tensor.name}"
                    wide = Tensor(tensor.name, "activations", tensor.extents)
                    out.add_node(
                        passes[key],
                        operator=Operator(
                            name=passes[key],
                            kind="quantise",
                            module=op.module,
                            phase=op.phase,
                            reads=(wide,),
                            writes=(tensor,),
                            scale=op.scale * quantised,
                            group=op.group,
                        ),
                    )
                    for producer in graph.predecessors(op.name):
                        carried = graph.edges[producer, op.name]["tensors"]
                        if any(t.name == tensor.name for t in carried):
                            out.add_edge(producer, passes[key], tensors=(tensor,))
                sources[tensor.name] = passes[key]
        out.add_node(op.name, operator=op)
        for producer in graph.predecessors(op.name):
            out.add_edge(producer, op.name, **graph.edges[producer, op.name])
        for source in sources.values():
            out.add_edge(source, op.name, tensors=tuple(t for t in op.reads if sources.get(t.name) == source))
    return out

"""What a workload graph is made of: labelled dimensions, tensors and operators.

Every size is a float64 array, so one graph describes one model or a whole axis of models. A size carries
a *label* that says what it ranges over ("ffn", "heads", "tokens"); sharding divides by label and knows
nothing else. Operators know shapes only: no bytes, no FLOP, no hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
# A workload graph: nodes are operator names, node data hold the operator, edge data the tensors that flow.
if TYPE_CHECKING:
    Graph = nx.DiGraph[str]
else:
    Graph = nx.DiGraph

Phase = Literal["forward", "recompute", "backward", "optimizer"]
TensorKind = Literal[
    "weights",
    "sparse_weights",
    "plain_weights",
    "activations",
    "operand",
    "kv_cache",
    "gradients",
    "master",
    "mask",
    "statistics",
    "token_ids",
]
# Matrices of the layers, the same pruned, and what narrow recipes leave wide: embedding, head, norms, biases.
WEIGHT_KINDS: tuple[TensorKind, ...] = ("weights", "sparse_weights", "plain_weights")
ONE: FloatArray = np.ones(1)


@dataclass(frozen=True, slots=True)
class Dim:
    """One labelled size, e.g. ``Dim("ffn", 11008)``.

    Attributes
    ----------
    label : str
        What the dimension ranges over; sharding divides by this.
    size : ndarray, shape (n,) or (1,)
        Number of elements [1].
    """

    label: str
    size: FloatArray


Extent = tuple[Dim, ...]
"""A size that is a sum of labelled parts: the fused projection is heads x d + 2 x kv_heads x d wide."""


def dim(label: str, size: ArrayLike) -> Extent:
    """Return the extent with a single part; a plain number becomes a float64 array of one element."""
    # A column of the engine stays what it is: it may hold fewer values than it has rows.
    array: FloatArray = np.full(1, float(size)) if isinstance(size, (int, float)) else np.atleast_1d(size)
    return (Dim(label, array),)


def length(extent: Extent) -> FloatArray:
    """Number of elements along an extent [1]: the sum of its parts."""
    total = extent[0].size
    for part in extent[1:]:
        total = total + part.size
    return total


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor by name, by what its bytes depend on, and by its extents.

    Attributes
    ----------
    name : str
        Unique in a graph; a gradient is called ``d_`` and the name.
    kind : str
        Class that fixes bytes per element (a plan's precision speaks of the same classes).
    extents : tuple of Extent
        Product of these is the number of elements [1].
    """

    name: str
    kind: TensorKind
    extents: tuple[Extent, ...]


def elements(tensor: Tensor) -> FloatArray:
    """Number of elements of a tensor [1]."""
    total = length(tensor.extents[0])
    for extent in tensor.extents[1:]:
        total = total * length(extent)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of a workload graph.

    Attributes
    ----------
    name : str
        Unique in its graph.
    kind : str
        Picks the counting rule, the backward rule and the kernel model; a kind without a rule is an error.
    module : str
        Part of the network ("attention", "attention_core", "mlp", ...), for tables and for recompute.
    phase : str
        Forward, recompute, backward or optimizer.
    extents : mapping of str to Extent
        Sizes by role; which roles there are is the kind's business (a matmul has batch, m, n, k).
    contracted : tuple of str
        Roles that are summed over: when sharding splits one, the output is a partial sum.
    reads, writes, saved : tuple of Tensor
        Operands, results, and what the backward pass keeps from the forward pass.
    attributes : mapping of str to ndarray
        Further numbers of the kind, e.g. ``flop_per_element``.
    scale : ndarray
        How often it runs per pass of its graph [1]: 0 or 1 for switches of the plan.
    collective, axis : str
        For kind "collective": which exchange, over which parallel axis.
    group : str
        Forward operator that a backward operator belongs to.
    weight_gradient : bool
        Whether it computes gradients of weights and nothing that another layer waits for.
    """

    name: str
    kind: str
    module: str
    phase: Phase = "forward"
    extents: Mapping[str, Extent] = field(default_factory=dict)
    contracted: tuple[str, ...] = ()
    reads: tuple[Tensor, ...] = ()
    writes: tuple[Tensor, ...] = ()
    saved: tuple[Tensor, ...] = ()
    attributes: Mapping[str, FloatArray] = field(default_factory=dict)
    scale: FloatArray = field(default_factory=lambda: ONE)
    collective: str = ""
    axis: str = ""
    group: str = ""
    weight_gradient: bool = False


def operators(graph: Graph) -> list[Operator]:
    """Operators of a graph in issue order (the order of insertion, which is topological); raises nothing."""
    return [data["operator"] for _, data in graph.nodes(data=True)]


class GraphBuilder:
    """Adds operators in issue order and draws the edges from the tensors that they read and write.

    ``graph.graph["inputs"]`` holds, by name, the tensors that come from outside, in the layout in which
    they are stored.
    """

    def __init__(self, inputs: tuple[Tensor, ...] = ()) -> None:
        self.graph: Graph = nx.DiGraph(inputs={t.name: t for t in inputs})
        self._producer: dict[str, str] = {}

    def add(self, operator: Operator) -> Operator:
        """Add one operator; raises ValueError when its name is taken."""
        if operator.name in self.graph:
            raise ValueError(f"two operators are called {operator.name}")
        self.graph.add_node(operator.name, operator=operator)
        by_producer: dict[str, list[Tensor]] = {}
        for tensor in operator.reads:
            if tensor.name in self._producer:
                by_producer.setdefault(self._producer[tensor.name], []).append(tensor)
        for producer, tensors in by_producer.items():
            self.graph.add_edge(producer, operator.name, tensors=tuple(tensors))
        for tensor in operator.writes:
            self._producer[tensor.name] = operator.name
        return operator

    def producer_of(self, tensor_name: str) -> str | None:
        """Name of the operator that last wrote a tensor, or None for an input."""
        return self._producer.get(tensor_name)


def renamed(operator: Operator, *, name: str, phase: Phase, scale: FloatArray) -> Operator:
    """Copy of an operator that runs in another phase (used by recompute)."""
    return replace(operator, name=name, phase=phase, scale=scale)

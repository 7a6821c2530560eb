"""From the graph of a whole model to the graph of one device: sizes are divided, exchanges are inserted.

Sizes are divided by label. An exchange is needed exactly where layouts disagree:

* an operator that sums over a split dimension leaves partial sums: they are all-reduced, or reduce-scattered
  where the reader takes the tokens in sequence shards;
* a reader that wants all tokens of a tensor stored in sequence shards has them all-gathered;
* attention needs all keys of a sequence: context ranks meet there (:mod:`simulator.per_device.context_parallel`);
* rows go to the ranks of their experts and come back (:mod:`simulator.per_device.expert_parallel`).

Switches (sequence parallel or not) are 0/1 arrays on the inserted operators, so one graph serves all plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from simulator.per_device.context_parallel import ATTENTION, ContextRanks, emit_attention
from simulator.per_device.expert_parallel import (
    ROUTED,
    TAKEN_TOKENS,
    ExpertRanks,
    emit_routed,
    expert_divisors,
)
from workloads.operator_graph import Dim, Extent, Graph, Operator, Tensor, TensorKind, operators

FloatArray = NDArray[np.float64]

TENSOR_LABELS = ("heads", "kv_heads", "ffn", "expert_ffn", "vocab")
SHARDED_TOKENS = "sequence_shard"
TOKEN_LABELS = ("tokens", SHARDED_TOKENS, TAKEN_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDegrees:
    """How many ways the labelled dimensions are split.

    Attributes
    ----------
    tensor : ndarray
        Tensor-parallel ranks [1].
    kv_heads : ndarray
        Key and value heads of the model [1]; beyond it they are replicated instead of split.
    sequence : ndarray
        1 where sequence parallelism is on, else 0 [1].
    context : ContextRanks
        Ranks that split each sequence.
    experts : ExpertRanks or None
        Ranks that split the experts; None for a model without any.
    """

    tensor: FloatArray
    kv_heads: FloatArray
    sequence: FloatArray
    context: ContextRanks = field(default_factory=ContextRanks.alone)
    experts: ExpertRanks | None = None

    def by_label(self) -> Mapping[str, FloatArray]:
        """Divisor of each label that is split at all."""
        divisors = {
            "heads": self.tensor,
            "kv_heads": np.minimum(self.tensor, self.kv_heads),
            "ffn": self.tensor,
            "vocab": self.tensor,
            SHARDED_TOKENS: np.where(self.sequence > 0, self.tensor, 1.0),
        }
        for label, divisor in self.of_messages().items():
            divisors[label] = divisors.get(label, np.ones(1)) * divisor
        if self.experts is not None:
            for label, divisor in expert_divisors(self.experts, self.tensor, self.context.ranks).items():
                divisors[label] = divisors.get(label, np.ones(1)) * divisor
        return divisors

    def of_messages(self) -> Mapping[str, FloatArray]:
        """Divisor of each label in what tensor ranks exchange: context ranks have tokens of their own."""
        return dict.fromkeys(TOKEN_LABELS, self.context.ranks) if self.context.split() else {}


def _shard_dim(part: Dim, degrees: Mapping[str, FloatArray]) -> Dim:
    divisor = degrees.get(part.label)
    if divisor is None:
        return part
    # The vocabulary is padded to a multiple of the ranks; legality keeps the others whole.
    size = part.size / divisor
    return Dim(part.label, np.ceil(size) if part.label == "vocab" else size)


def _shard_extent(extent: Extent, degrees: Mapping[str, FloatArray]) -> Extent:
    return tuple([_shard_dim(part, degrees) for part in extent])


def _shard_tensor(tensor: Tensor, degrees: Mapping[str, FloatArray]) -> Tensor:
    return Tensor(tensor.name, tensor.kind, tuple([_shard_extent(e, degrees) for e in tensor.extents]))


def shard_operator(operator: Operator, degrees: Mapping[str, FloatArray]) -> Operator:
    """Divide every labelled size of an operator; ``degrees`` maps labels to divisors [1]."""
    return replace(
        operator,
        extents={role: _shard_extent(extent, degrees) for role, extent in operator.extents.items()},
        reads=tuple(_shard_tensor(t, degrees) for t in operator.reads),
        writes=tuple(_shard_tensor(t, degrees) for t in operator.writes),
        saved=tuple(_shard_tensor(t, degrees) for t in operator.saved),
    )


def leaves_partial_sums(operator: Operator) -> bool:
    """Whether tensor parallelism splits a dimension that the operator sums over."""
    return any(part.label in TENSOR_LABELS for role in operator.contracted for part in operator.extents[role])


def _has_label(tensor: Tensor, label: str) -> bool:
    return any(part.label == label for extent in tensor.extents for part in extent)


def in_sequence_shards(tensor: Tensor) -> bool:
    """Whether the tensor is laid out in the token dimension that sequence parallelism splits."""
    return _has_label(tensor, SHARDED_TOKENS)


def _collective(
    name: str,
    collective: str,
    tensor: Tensor,
    like: Operator,
    scale: FloatArray,
    degrees: Mapping[str, FloatArray],
) -> Operator:
    """An exchange of a whole tensor (message: all tokens of the context rank, before any scatter)."""
    shared = _shard_tensor(tensor, degrees).extents if degrees else tensor.extents
    whole = tuple(tuple(replace(d, label="whole") for d in extent) for extent in shared)
    kind: TensorKind = "statistics" if tensor.kind == "statistics" else "activations"
    message = Tensor(tensor.name, kind, whole)
    return Operator(
        name=name,
        kind="collective",
        module=like.module,
        phase=like.phase,
        reads=(message,),
        writes=(message,),
        collective=collective,
        axis="tensor",
        scale=scale,
        group=like.group,
    )


@dataclass(slots=True)
class _Placement:
    """Bookkeeping while the sharded graph is laid out in issue order."""

    graph: Graph
    last_writer: dict[str, str]
    stored: dict[str, Tensor]
    of_messages: Mapping[str, FloatArray]
    taken_whole: FloatArray

    def emit(self, operator: Operator, reads_from: Mapping[str, str]) -> None:
        self.graph.add_node(operator.name, operator=operator)
        for producer in dict.fromkeys(reads_from.values()):
            tensors = tuple(t for t in operator.reads if reads_from.get(t.name) == producer)
            self.graph.add_edge(producer, operator.name, tensors=tensors)


def _gathers_of_group(place: _Placement, group: list[Operator], sequence: FloatArray) -> dict[str, str]:
    """Insert the all-gathers that the operators of one group need, in front of all of them."""
    gathered: dict[str, str] = {}
    made_here = {t.name for op in group for t in op.writes}
    for op in group:
        for tensor in op.reads:
            stored = place.stored.get(tensor.name)
            wants_whole = stored is not None and in_sequence_shards(stored) and not in_sequence_shards(tensor)
            if not wants_whole or tensor.name in gathered or tensor.name in made_here:
                continue
            first = group[0].name
            scale = reduce(np.maximum, [o.scale for o in group]) * sequence
            if _has_label(tensor, TAKEN_TOKENS):
                scale = scale * place.taken_whole
            if not np.any(scale):
                continue  # no plan here needs it
            name = f"{first}.all_gather.{tensor.name}"
            exchange = _collective(name, "all_gather", tensor, op, scale, place.of_messages)
            source = place.last_writer.get(tensor.name)
            place.emit(exchange, {tensor.name: source} if source else {})
            gathered[tensor.name] = exchange.name
    return gathered


def _reduce_outputs(
    place: _Placement, op: Operator, consumers: Mapping[str, Tensor], sequence: FloatArray
) -> None:
    """Insert the exchange of partial sums after an operator."""
    for tensor in op.writes:
        if tensor.kind in ("gradients", "mask") or any(
            part.label in TENSOR_LABELS for extent in tensor.extents for part in extent
        ):
            continue
        reader = consumers.get(tensor.name, tensor)
        scattered = sequence if in_sequence_shards(reader) else np.zeros(1)
        # Chained rather than parallel: exactly one of the two has a scale of one.
        for collective, scale in (("all_reduce", 1.0 - scattered), ("reduce_scatter", scattered)):
            scale = op.scale * scale
            if _has_label(tensor, TAKEN_TOKENS):
                scale = scale * place.taken_whole
            if np.any(scale):
                name = f"{op.name}.{collective}"
                exchange = _collective(name, collective, tensor, op, scale, place.of_messages)
                place.emit(exchange, {tensor.name: place.last_writer[tensor.name]})
                place.last_writer[tensor.name] = exchange.name
        place.stored[tensor.name] = reader


def _laid_out(
    place: _Placement, op: Operator, sources: dict[str, str], degrees: ShardDegrees
) -> dict[str, str]:
    """Emit a sharded operator; the last writers of what it writes."""
    if op.kind in ATTENTION and degrees.context.split():
        return emit_attention(op, sources, degrees.context, place.emit)
    if op.kind in ROUTED and degrees.experts is not None and degrees.experts.split():
        return emit_routed(op, sources, degrees.experts, place.emit)
    place.emit(op, sources)
    return {tensor.name: op.name for tensor in op.writes}


def _groups(sequence: list[Operator]) -> list[list[Operator]]:
    """Neighbours that stem from one forward operator: their gathers may start together."""
    groups: list[list[Operator]] = []
    for op in sequence:
        if groups and op.group and groups[-1][0].group == op.group:
            groups[-1].append(op)
        else:
            groups.append([op])
    return groups


def shard(graph: Graph, degrees: ShardDegrees) -> Graph:
    """Graph of one device.

    Parameters
    ----------
    graph : networkx.DiGraph
        Unsharded graph in issue order, nodes carry an ``operator``.
    degrees : ShardDegrees
        Arrays that broadcast against the graph's sizes [1].

    Returns
    -------
    networkx.DiGraph
        Same form; sizes per device, with operators of kind "collective" inserted in issue order. A collective
        that some plan needs is there for all of them, with a ``scale`` of 0 where it is not needed.

    Raises
    ------
    KeyError
        If an operator names a contracted role that it has no extent for.
    """
    sequence = operators(graph)
    readers: dict[str, Tensor] = {}
    for op in sequence:
        for tensor in op.reads:
            readers.setdefault(tensor.name, tensor)
    for tensor in graph.graph.get("outputs", {}).values():
        readers.setdefault(tensor.name, tensor)
    place = _Placement(
        graph=nx.DiGraph(**{k: v for k, v in graph.graph.items() if k not in ("inputs", "outputs")}),
        last_writer={},
        stored=dict(graph.graph["inputs"]),
        of_messages=degrees.of_messages(),
        taken_whole=np.ones(1) if degrees.experts is None else 1.0 - degrees.experts.takes_shards,
    )
    by_label = degrees.by_label()
    for group in _groups(sequence):
        gathered = _gathers_of_group(place, group, degrees.sequence)
        for op in group:
            sources = {t.name: place.last_writer[t.name] for t in op.reads if t.name in place.last_writer}
            sources.update({t.name: gathered[t.name] for t in op.reads if t.name in gathered})
            own = shard_operator(op, by_label)
            place.last_writer.update(_laid_out(place, own, sources, degrees))
            place.stored.update({tensor.name: tensor for tensor in op.writes})
            if leaves_partial_sums(op):
                _reduce_outputs(place, op, readers, degrees.sequence)
    return place.graph

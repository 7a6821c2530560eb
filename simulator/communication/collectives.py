"""Time of a collective over a group that may span nodes: by the fastest algorithm on offer, or a given one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import AlgorithmColumns, FabricColumns, TierColumns
from simulator.communication.collective_algorithms import (
    ALGORITHMS,
    RING_PASSES,
    TRAFFIC,
    all_to_all_sent_bytes,
    ring_sent_bytes,
    traffic,
    tree_sent_bytes,
    tree_steps,
)
from simulator.communication.collective_time import collective_time, transfer_time
from simulator.communication.placement import (
    NO_BRIDGE,
    RAIL_OPTIMISED,
    Group,
    all_to_all_bandwidth,
    tier_bandwidth,
)

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)
ONE: FloatArray = np.ones(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Time of a collective and what one rank sends on each tier [s, byte, byte]."""

    seconds: FloatArray
    inner_bytes: FloatArray
    outer_bytes: FloatArray


def _coefficients(tier: TierColumns, algorithm: str) -> AlgorithmColumns:
    """Those of the algorithm; one that nobody measured has the ring's, or those of direct messages."""
    if algorithm in tier.algorithms:
        return tier.algorithms[algorithm]
    return tier.algorithms["direct" if algorithm in ("one_shot", "two_shot") else "ring"]


def _seconds(
    fit: AlgorithmColumns, sent: FloatArray, steps: FloatArray, bandwidth: FloatArray, bridge: FloatArray
) -> FloatArray:
    """Time of an algorithm on one tier, by its links or by the host bridges that it crosses."""
    transfer = transfer_time(sent_bytes=sent, bandwidth_bytes_per_s=bandwidth, efficiency=fit.efficiency)
    if np.any(np.isfinite(bridge)):
        over = transfer_time(sent_bytes=sent, bandwidth_bytes_per_s=bridge, efficiency=fit.bridge_efficiency)
        transfer = np.maximum(transfer, over)
    return collective_time(
        transfer_s=transfer,
        n_steps=steps,
        base_latency_s=fit.base_latency_s,
        step_latency_s=fit.step_latency_s,
        ramp=fit.ramp,
    )


def _own_chunk(fit: AlgorithmColumns, message: FloatArray, ranks: FloatArray) -> FloatArray:
    """What moving its own part of the message costs a rank, as bytes sent: a copy beside the ring [byte]."""
    return np.where(ranks > 1, fit.own_chunk * message / ranks, 0.0)


def _inside(
    collective: str, algorithm: str, message: FloatArray, group: Group, tier: TierColumns
) -> Exchange:
    """A collective among the ranks of a group that share a node, by one algorithm."""
    moved = traffic(collective, algorithm, message, group.inner)
    fit = _coefficients(tier, algorithm)
    steps = moved.n_steps
    if algorithm == "ring" and collective in RING_PASSES:
        steps = RING_PASSES[collective] * group.inner_hops
    carried = moved.sent_bytes + _own_chunk(fit, message, group.inner)
    seconds = _seconds(fit, carried, steps, group.inner_bytes_per_s, group.bridge_bytes_per_s)
    return Exchange(seconds=seconds, inner_bytes=moved.sent_bytes, outer_bytes=ZERO)


def _flat_ring(collective: str, message: FloatArray, group: Group, fabric: FabricColumns) -> Exchange:
    """One ring through all ranks, node after node; with several network ports, one ring through each.

    All links work at once, so the slower tier sets the pace; the ring leaves each node once per pass.
    """
    passes = RING_PASSES[collective]
    inner, outer = fabric.inner.algorithms["ring"], fabric.outer.algorithms["ring"]
    sent = ring_sent_bytes(message_bytes=message, ranks=group.ranks, passes=passes)
    carried = sent + _own_chunk(inner, message, group.ranks)
    shared = group.inner > 1
    inside_s = transfer_time(
        sent_bytes=carried, bandwidth_bytes_per_s=group.inner_bytes_per_s, efficiency=inner.efficiency
    )
    if np.any(np.isfinite(group.bridge_bytes_per_s)):
        over_s = transfer_time(
            sent_bytes=carried,
            bandwidth_bytes_per_s=group.bridge_bytes_per_s,
            efficiency=inner.bridge_efficiency,
        )
        inside_s = np.maximum(inside_s, over_s)
    outer_sent = sent / group.inner
    across_s = transfer_time(
        sent_bytes=outer_sent, bandwidth_bytes_per_s=group.outer_bytes_per_s, efficiency=outer.efficiency
    )
    crossings = np.minimum(group.outer, group.ranks - 1.0)
    hops_inside = passes * np.maximum(group.ranks - 1.0 - crossings, 0.0)
    seconds = collective_time(
        transfer_s=np.maximum(inside_s * shared, across_s),
        n_steps=passes * crossings,
        base_latency_s=outer.base_latency_s,
        step_latency_s=outer.step_latency_s,
        ramp=outer.ramp,
    ) + np.where(sent > 0, hops_inside * inner.step_latency_s, 0.0)
    return Exchange(seconds=seconds, inner_bytes=sent * shared, outer_bytes=outer_sent)


def _tree_of_nodes(message: FloatArray, group: Group, fabric: FabricColumns) -> Exchange:
    """All-reduce by double binary trees of nodes, with chains through the ranks of a node, all pipelined."""
    inner, outer = fabric.inner.algorithms["ring"], _coefficients(fabric.outer, "tree")
    shared = group.inner > 1
    up_and_down = tree_sent_bytes(message_bytes=message, ranks=group.ranks, passes=2.0)
    inside_s = transfer_time(
        sent_bytes=up_and_down, bandwidth_bytes_per_s=group.inner_bytes_per_s, efficiency=inner.efficiency
    )
    outer_sent = up_and_down / group.inner
    across_s = transfer_time(
        sent_bytes=outer_sent, bandwidth_bytes_per_s=group.outer_bytes_per_s, efficiency=outer.efficiency
    )
    seconds = collective_time(
        transfer_s=np.maximum(inside_s * shared, across_s),
        n_steps=tree_steps(ranks=group.outer),
        base_latency_s=outer.base_latency_s,
        step_latency_s=outer.step_latency_s,
        ramp=outer.ramp,
    ) + np.where(message > 0, 2.0 * (group.inner - 1.0) * inner.step_latency_s, 0.0)
    return Exchange(seconds=seconds, inner_bytes=up_and_down * shared, outer_bytes=outer_sent)


def _across(collective: str, message: FloatArray, group: Group, tier: TierColumns) -> Exchange:
    """A collective of one rank per node: ring, or for an all-reduce the tree where it is faster."""
    algorithms = ["ring"]
    if collective == "all_reduce" and "tree" in tier.algorithms:
        algorithms.append("tree")
    best: Exchange | None = None
    for algorithm in algorithms:
        moved = traffic(collective, algorithm, message, group.outer)
        fit = tier.algorithms[algorithm]
        seconds = _seconds(fit, moved.sent_bytes, moved.n_steps, group.outer_bytes_per_s, NO_BRIDGE)
        if algorithm == "tree":
            seconds = np.where(fit.offered > 0, seconds, np.inf)
        done = Exchange(seconds=seconds, inner_bytes=ZERO, outer_bytes=moved.sent_bytes)
        best = done if best is None else _faster(best, done)
    assert best is not None
    return best


def _hierarchical(collective: str, message: FloatArray, group: Group, fabric: FabricColumns) -> Exchange:
    """Reduce-scatter inside, the collective on shards across, all-gather inside: one after the other."""
    halves = _inside(
        "reduce_scatter" if collective == "all_reduce" else collective, "ring", message, group, fabric.inner
    )
    times = 2.0 if collective == "all_reduce" else 1.0
    across = _across(collective, message / group.inner, group, fabric.outer)
    return Exchange(
        seconds=times * halves.seconds + across.seconds,
        inner_bytes=times * halves.inner_bytes,
        outer_bytes=across.outer_bytes,
    )


def _faster(one: Exchange, other: Exchange) -> Exchange:
    """Row by row the faster one; the first where they take the same time."""
    wins = other.seconds < one.seconds
    return _replaced(one, wins, other) if np.any(wins) else one


def _replaced(one: Exchange, where: NDArray[np.bool_], other: Exchange) -> Exchange:
    return Exchange(
        seconds=np.where(where, other.seconds, one.seconds),
        inner_bytes=np.where(where, other.inner_bytes, one.inner_bytes),
        outer_bytes=np.where(where, other.outer_bytes, one.outer_bytes),
    )


def _allowed(done: Exchange, offered: FloatArray, algorithm: str, forced: FloatArray) -> Exchange:
    """The exchange where it may be chosen; elsewhere it takes for ever."""
    code = float(ALGORITHMS.index(algorithm))
    may = np.where(forced > 0, forced == code, offered > 0)
    return (
        done
        if np.all(may)
        else Exchange(
            seconds=np.where(may, done.seconds, np.inf),
            inner_bytes=done.inner_bytes,
            outer_bytes=done.outer_bytes,
        )
    )


def _candidates(
    collective: str, message: FloatArray, group: Group, fabric: FabricColumns, forced: FloatArray
) -> Iterator[Exchange]:
    """Every algorithm that some row may use, infinite where a row may not."""
    tier, outer = fabric.inner, fabric.outer
    spans = group.outer > 1
    across = bool(np.any(spans))
    wanted = set(np.unique(forced).astype(int).tolist()) - {0}
    alone = np.where(spans, 0.0, 1.0)
    for algorithm, (able, _) in TRAFFIC.items():
        asked = ALGORITHMS.index(algorithm) in wanted
        offered = ONE if algorithm == "ring" else ZERO
        # Direct messages serve all-to-all; for the others they are one way among several, when asked for.
        if algorithm not in ("ring", "direct") and algorithm in tier.algorithms:
            offered = tier.algorithms[algorithm].offered
        if algorithm == "in_switch":
            offered = offered * tier.in_switch
        if collective not in able or not (asked or np.any(offered > 0)):
            continue
        done = _inside(collective, algorithm, message, group, tier)
        yield _allowed(_only(done, alone), offered, algorithm, forced)
    if across and collective in RING_PASSES:
        spanning = 1.0 - alone
        yield _allowed(_only(_flat_ring(collective, message, group, fabric), spanning), ONE, "ring", forced)
        layered = _hierarchical(collective, message, group, fabric)
        yield _allowed(_only(layered, spanning), ONE, "hierarchical", forced)
        if collective == "all_reduce" and ("tree" in outer.algorithms or ALGORITHMS.index("tree") in wanted):
            offered = outer.algorithms["tree"].offered if "tree" in outer.algorithms else ZERO
            tree = _tree_of_nodes(message, group, fabric)
            yield _allowed(_only(tree, spanning), offered, "tree", forced)


def _only(done: Exchange, where: FloatArray) -> Exchange:
    """The exchange in the rows it is made for, infinite in the others."""
    if np.all(where > 0):
        return done
    return Exchange(
        seconds=np.where(where > 0, done.seconds, np.inf),
        inner_bytes=done.inner_bytes,
        outer_bytes=done.outer_bytes,
    )


def exchange(
    collective: str,
    message_bytes: FloatArray,
    group: Group,
    fabric: FabricColumns,
    forced: FloatArray = ZERO,
) -> Exchange:
    """Time and traffic of one collective over a group that may span nodes.

    Parameters
    ----------
    collective : str
        "all_reduce", "all_gather" or "reduce_scatter".
    message_bytes : ndarray
        Whole buffer: all-gather's output, reduce-scatter's input [byte].
    group : Group
        Ranks per node and nodes.
    fabric : FabricColumns
        Both tiers.
    forced : ndarray
        Code of the algorithm to use, an index into ``ALGORITHMS`` [1]; 0 for the fastest that is offered. One that
        cannot do this collective, or not on this group, leaves the choice free.

    Returns
    -------
    Exchange
        Seconds and bytes sent per rank and tier; zero for one rank.

    Raises
    ------
    KeyError
        If the collective is not one of the three.

    Notes
    -----
    Each rank has its share of the node's network ports, which all groups of the node use at once.
    """
    if collective not in RING_PASSES:
        raise KeyError(collective)
    best = _choose(collective, message_bytes, group, fabric, forced)
    unable = np.isinf(best.seconds)
    if np.any(unable):
        best = _replaced(best, unable, _choose(collective, message_bytes, group, fabric, ZERO))
    return best


def _choose(
    collective: str, message: FloatArray, group: Group, fabric: FabricColumns, forced: FloatArray
) -> Exchange:
    best: Exchange | None = None
    for done in _candidates(collective, message, group, fabric, forced):
        best = done if best is None else _faster(best, done)
    if best is None:  # a forced algorithm that cannot do this at all
        return _choose(collective, message, group, fabric, ZERO)
    return best


def rooted_exchange(
    collective: str, message_bytes: FloatArray, group: Group, fabric: FabricColumns, forced: FloatArray = ZERO
) -> Exchange:
    """A broadcast or a reduce of ``message_bytes`` [byte], pipelined through the ranks of one group.

    Between nodes a tree of nodes takes the message first or last, one rank of each node. Zero for one rank; raises
    KeyError for another collective.
    """
    if collective not in ("broadcast", "reduce"):
        raise KeyError(collective)
    inside = _choose(collective, message_bytes, replace_spans(group), fabric, forced)
    spans = group.outer > 1
    if not np.any(spans):
        return inside
    outer = fabric.outer
    moved = traffic(collective, "tree", message_bytes, group.outer)
    fit = _coefficients(outer, "tree")
    # The root's node sends through all its ports at once.
    rate = group.outer_bytes_per_s * group.inner
    transfer = transfer_time(
        sent_bytes=moved.sent_bytes, bandwidth_bytes_per_s=rate, efficiency=fit.efficiency
    )
    across = collective_time(
        transfer_s=transfer,
        n_steps=moved.n_steps,
        base_latency_s=fit.base_latency_s,
        step_latency_s=fit.step_latency_s,
        ramp=fit.ramp,
    )
    return Exchange(
        seconds=inside.seconds + np.where(spans, across, 0.0),
        inner_bytes=inside.inner_bytes,
        outer_bytes=np.where(spans, moved.sent_bytes / group.inner, 0.0),
    )


def replace_spans(group: Group) -> Group:
    """The part of a group that shares a node, as a group of its own."""
    return Group(
        ranks=group.inner,
        stride=group.stride,
        inner=group.inner,
        outer=ONE,
        inner_hops=group.inner_hops,
        inner_bytes_per_s=group.inner_bytes_per_s,
        outer_bytes_per_s=group.outer_bytes_per_s,
        bridge_bytes_per_s=group.bridge_bytes_per_s,
    )


def all_to_all(
    message_bytes: FloatArray, group: Group, fabric: FabricColumns, skew: FloatArray = ONE
) -> Exchange:
    """Time and traffic of an all-to-all: each rank sends a part of its buffer to each other rank.

    Parameters
    ----------
    message_bytes : ndarray
        Whole buffer of a rank, its own part included [byte].
    group : Group
        Ranks per node and nodes.
    fabric : FabricColumns
        Both tiers.
    skew : ndarray
        Traffic of the hottest rank over the mean, at least 1 [1].

    Returns
    -------
    Exchange
        Seconds and bytes sent per rank and tier; zero for one rank.

    Raises
    ------
    FloatingPointError
        Never for legal input.

    Notes
    -----
    All messages are under way at once, so the busiest of links, bridges and network ports sets the time. On a
    rail-optimised network a message first changes to the rail of its receiver inside the node.
    """
    inside_rate, outside_rate, bridge_rate = all_to_all_bandwidth(group, fabric)
    total = all_to_all_sent_bytes(message_bytes=message_bytes, ranks=group.ranks, skew=skew)
    others = np.maximum(group.ranks - 1.0, 1.0)
    sent_inside = total * (group.inner - 1.0) / others
    sent_outside = total * (group.ranks - group.inner) / others
    fit, outer = fabric.inner.algorithms["direct"], fabric.outer.algorithms["direct"]
    spans = group.outer > 1
    rails = np.where(fabric.outer.topology == RAIL_OPTIMISED, 1.0 - 1.0 / group.inner, 0.0)
    carried = sent_inside + sent_outside * rails + _own_chunk(fit, message_bytes, group.ranks)
    busiest = transfer_time(
        sent_bytes=carried * (group.inner > 1), bandwidth_bytes_per_s=inside_rate, efficiency=fit.efficiency
    )
    if np.any(np.isfinite(bridge_rate)):
        near = np.minimum(np.maximum(np.floor(fabric.inner.bridge / group.stride), 1.0), group.inner)
        over_s = transfer_time(
            sent_bytes=total * (group.inner - near) / others,
            bandwidth_bytes_per_s=bridge_rate,
            efficiency=fit.bridge_efficiency,
        )
        busiest = np.maximum(busiest, over_s)
    if np.any(spans):
        outside_s = transfer_time(
            sent_bytes=sent_outside, bandwidth_bytes_per_s=outside_rate, efficiency=outer.efficiency
        )
        busiest = np.where(spans, np.maximum(busiest, outside_s), busiest)
    seconds = collective_time(
        transfer_s=busiest,
        n_steps=ONE,
        base_latency_s=np.where(spans, outer.base_latency_s, fit.base_latency_s),
        step_latency_s=np.where(spans, outer.step_latency_s, fit.step_latency_s),
        ramp=np.where(spans, outer.ramp, fit.ramp),
    )
    return Exchange(seconds=seconds, inner_bytes=sent_inside, outer_bytes=sent_outside)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMessage:
    """A message between neighbouring pipeline stages: inside a node, across nodes, and how often each occurs.

    Seconds [s]; ``boundaries_inside`` and ``boundaries_across`` count the boundaries of one pipeline [1].
    """

    inside_s: FloatArray
    across_s: FloatArray
    boundaries_inside: FloatArray
    boundaries_across: FloatArray


def stage_message(
    message_bytes: FloatArray, stride: FloatArray, stages: FloatArray, fabric: FabricColumns
) -> StageMessage:
    """Messages between ``stages`` [1] that lie ``stride`` devices apart, ``message_bytes`` each [byte].

    Broadcasts; zero bytes take zero time; raises nothing.
    """
    node = fabric.accelerators_per_node
    one, two = np.ones(1), np.full(1, 2.0)
    nodes_apart = np.maximum(stride / node, 1.0)
    tier_in, tier_out = fabric.inner, fabric.outer
    bandwidth_in = tier_bandwidth(tier_in, two, stride, node)
    bandwidth_out = tier_bandwidth(tier_out, two, nodes_apart, two)
    bridge = np.where(stride >= tier_in.bridge, tier_in.bridge_bytes_per_s / tier_in.bridge, np.inf)
    boundaries = np.maximum(stages - 1.0, 0.0)
    # Stages fill node after node: there is one boundary across nodes for each node after the first.
    across = np.where(
        stride >= node, boundaries, np.minimum(np.ceil(stages * stride / node) - 1.0, boundaries)
    )
    direct_in, direct_out = tier_in.algorithms["direct"], tier_out.algorithms["direct"]
    return StageMessage(
        inside_s=_seconds(direct_in, message_bytes, one, bandwidth_in, bridge),
        across_s=_seconds(direct_out, message_bytes, one, bandwidth_out, NO_BRIDGE),
        boundaries_inside=boundaries - across,
        boundaries_across=across,
    )

"""Time of a collective over a group that may span nodes: by the fastest algorithm on offer, or a given one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import FabricColumns
from simulator.communication.collective_algorithms import ALGORITHMS, RING_PASSES, TRAFFIC, traffic
from simulator.communication.collective_time import collective_time, transfer_time
from simulator.communication.collectives_across import (
    flat_ring,
    hierarchical,
    inside_node,
    replace_spans,
    tree_of_nodes,
)
from simulator.communication.exchanges import Exchange, coefficients, faster, only, replaced, with_bytes
from simulator.communication.placement import Group

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)
ONE: FloatArray = np.ones(1)


def _allowed(done: Exchange, offered: FloatArray, algorithm: str, forced: FloatArray) -> Exchange:
    """The exchange where it may be chosen; elsewhere it takes for ever."""
    code = float(ALGORITHMS.index(algorithm))
    may = np.where(forced > 0, forced == code, offered > 0)
    return done if np.all(may) else replace(done, seconds=np.where(may, done.seconds, np.inf))


def _candidates(
    collective: str, message: FloatArray, group: Group, fabric: FabricColumns, forced: FloatArray
) -> Iterator[Exchange]:
    """Every algorithm that some row may use, infinite where a row may not."""
    tier, outer = fabric.inner, fabric.outer
    spans = group.spans
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
        done = inside_node(collective, algorithm, message, group, tier)
        yield _allowed(only(done, alone), offered, algorithm, forced)
    if across and collective in RING_PASSES:
        spanning = 1.0 - alone
        yield _allowed(only(flat_ring(collective, message, group, fabric), spanning), ONE, "ring", forced)
        layered = hierarchical(collective, message, group, fabric)
        yield _allowed(only(layered, spanning), ONE, "hierarchical", forced)
        if collective == "all_reduce" and ("tree" in outer.algorithms or ALGORITHMS.index("tree") in wanted):
            offered = outer.algorithms["tree"].offered if "tree" in outer.algorithms else ZERO
            tree = tree_of_nodes(message, group, fabric)
            yield _allowed(only(tree, spanning), offered, "tree", forced)


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
        best = replaced(best, unable, _choose(collective, message_bytes, group, fabric, ZERO))
    return best


def _choose(
    collective: str, message: FloatArray, group: Group, fabric: FabricColumns, forced: FloatArray
) -> Exchange:
    best: Exchange | None = None
    for done in _candidates(collective, message, group, fabric, forced):
        best = done if best is None else faster(best, done)
    if best is None:  # a forced algorithm that cannot do this at all
        return _choose(collective, message, group, fabric, ZERO)
    return best


def rooted_exchange(
    collective: str, message_bytes: FloatArray, group: Group, fabric: FabricColumns, forced: FloatArray = ZERO
) -> Exchange:
    """A broadcast or a reduce of ``message_bytes`` [byte], pipelined through the ranks of one group.

    Between nodes a tree of nodes takes the message first or last, one rank of each node; between domains one of
    these. Zero for one rank; raises
    KeyError for another collective.
    """
    if collective not in ("broadcast", "reduce"):
        raise KeyError(collective)
    inside = _choose(collective, message_bytes, replace_spans(group), fabric, forced)
    if not np.any(group.spans):
        return inside
    seconds, across = inside.seconds, []
    for reach, tier in zip(group.across, fabric.across, strict=True):
        moved = traffic(collective, "tree", message_bytes, reach.units)
        fit = coefficients(tier, "tree")
        transfer = transfer_time(
            sent_bytes=moved.sent_bytes,
            # The root's node, or domain, sends through all its ports at once.
            bandwidth_bytes_per_s=reach.bytes_per_s * reach.inside,
            efficiency=fit.efficiency,
        )
        tier_s = collective_time(
            transfer_s=transfer,
            n_steps=moved.n_steps,
            base_latency_s=fit.base_latency_s,
            step_latency_s=fit.step_latency_s,
            ramp=fit.ramp,
        )
        seconds = seconds + np.where(reach.units > 1, tier_s, 0.0)
        across.append(np.where(reach.units > 1, moved.sent_bytes / reach.inside, 0.0))
    return with_bytes(seconds, inside.inner_bytes, across)

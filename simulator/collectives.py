"""Traffic of collectives: what one rank sends and in how many dependent steps, and the time on two tiers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.collective_time import collective_time
from simulator.columns import FabricColumns, TierColumns
from simulator.placement import Group, tier_bandwidth
from simulator.rules import rule

FloatArray = NDArray[np.float64]

# How often the ring of n - 1 exchanges runs: an all-reduce is a reduce-scatter and an all-gather.
RING_PASSES = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Time of a collective and what one rank sends on each tier [s, byte, byte]."""

    seconds: FloatArray
    inner_bytes: FloatArray
    outer_bytes: FloatArray


@rule(
    symbol="V",
    formula="passes (n - 1)/n S",
    unit="B",
    source="Patarasuk, Yuan, J. Parallel Distrib. Comput. 69(2), 2009, doi:10.1016/j.jpdc.2008.09.002",
)
def ring_sent_bytes(*, message_bytes: FloatArray, ranks: FloatArray, passes: float) -> FloatArray:
    """Bytes one rank sends (and receives) in a ring collective.

    ``message_bytes`` [byte] is the whole buffer (all-gather: the output; reduce-scatter: the input), ``ranks``
    [1] the ring length, ``passes`` 2 for all-reduce, 1 for the other two. Shapes broadcast; zero for one
    rank; raises nothing.
    """
    return passes * (ranks - 1.0) / ranks * message_bytes


@rule(
    symbol="n",
    formula="passes (n - 1)",
    unit="1",
    source="Patarasuk, Yuan 2009: one exchange with the next neighbour per step",
)
def ring_steps(*, ranks: FloatArray, passes: float) -> FloatArray:
    """Exchanges of a ring collective that cannot overlap each other [1]; raises nothing."""
    return passes * (ranks - 1.0)


@rule(
    symbol="n",
    formula="2 ceil(log2 n)",
    unit="1",
    source="Sanders, Speck, Traff, Parallel Computing 35(12), 2009, doi:10.1016/j.parco.2009.09.001 "
    "(two trees, pipelined: full bandwidth in logarithmic depth)",
)
def tree_steps(*, ranks: FloatArray) -> FloatArray:
    """Dependent steps of the pipelined double binary tree all-reduce [1]; raises nothing."""
    return 2.0 * np.ceil(np.log2(np.maximum(ranks, 1.0)))


def _seconds(
    tier: TierColumns, bandwidth: FloatArray, sent: FloatArray, steps: FloatArray, efficiency: FloatArray
) -> FloatArray:
    return collective_time(
        sent_bytes=sent,
        n_steps=steps,
        bandwidth_bytes_per_s=bandwidth,
        efficiency=efficiency,
        base_latency_s=tier.base_latency_s,
        step_latency_s=tier.step_latency_s,
        ramp=tier.ramp,
    )


def _on_tier(
    collective: str,
    tier: TierColumns,
    ranks: FloatArray,
    bandwidth: FloatArray,
    message: FloatArray,
    *,
    trees: bool = False,
) -> tuple[FloatArray, FloatArray]:
    """Seconds and sent bytes of a collective on one tier, by the fastest algorithm that the tier has."""
    passes = RING_PASSES[collective]
    sent = ring_sent_bytes(message_bytes=message, ranks=ranks, passes=passes)
    steps = ring_steps(ranks=ranks, passes=passes)
    seconds = _seconds(tier, bandwidth, sent, steps, tier.efficiency)
    if collective != "all_reduce":
        return seconds, sent
    if trees:
        # A tree sends up and down at once; every rank but the root sends the message about twice.
        tree_sent = np.where(ranks > 1, 2.0 * message, 0.0)
        tree = _seconds(tier, bandwidth, tree_sent, tree_steps(ranks=ranks), tier.efficiency)
        seconds, sent = np.minimum(seconds, tree), np.where(tree < seconds, tree_sent, sent)
    if not np.any(tier.in_switch):
        return seconds, sent
    # The switch adds: each rank sends its buffer once and receives the sum once. The gain was fitted with the
    # latency of the ring's steps; the library takes this path for large messages only.
    switch_sent = np.where(ranks > 1, message, 0.0)
    gained = np.minimum(tier.efficiency * tier.in_switch_gain, 1.0)
    in_switch = _seconds(tier, bandwidth, switch_sent, steps, gained)
    chosen = (tier.in_switch > 0) & (in_switch < seconds)
    return np.where(chosen, in_switch, seconds), np.where(chosen, switch_sent, sent)


def exchange(collective: str, message_bytes: FloatArray, group: Group, fabric: FabricColumns) -> Exchange:
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
    Hierarchical: reduce-scatter of S inside, the collective on S / inner across, all-gather of S inside.
    Each rank has its share of the node's network ports, which all groups of the node use at once.
    """
    inner, ranks, bandwidth = fabric.inner, group.inner, group.inner_bytes_per_s
    seconds, inner_sent = _on_tier(collective, inner, ranks, bandwidth, message_bytes)
    spans = group.outer > 1
    if not np.any(spans):
        return Exchange(seconds=seconds, inner_bytes=inner_sent, outer_bytes=np.zeros(1))
    if collective == "all_reduce":
        # The outer tier needs shards: a reduce-scatter before it and an all-gather, of equal cost, after it.
        halves = _on_tier("reduce_scatter", inner, ranks, bandwidth, message_bytes)
        seconds = np.where(spans, 2.0 * halves[0], seconds)
        inner_sent = np.where(spans, 2.0 * halves[1], inner_sent)
    across, outer_sent = _on_tier(
        collective, fabric.outer, group.outer, group.outer_bytes_per_s, message_bytes / ranks, trees=True
    )
    return Exchange(seconds=seconds + across, inner_bytes=inner_sent, outer_bytes=outer_sent)


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
    boundaries = np.maximum(stages - 1.0, 0.0)
    # Stages fill node after node: there is one boundary across nodes for each node after the first.
    across = np.where(
        stride >= node, boundaries, np.minimum(np.ceil(stages * stride / node) - 1.0, boundaries)
    )
    return StageMessage(
        inside_s=_seconds(tier_in, bandwidth_in, message_bytes, one, tier_in.efficiency),
        across_s=_seconds(tier_out, bandwidth_out, message_bytes, one, tier_out.efficiency),
        boundaries_inside=boundaries - across,
        boundaries_across=across,
    )

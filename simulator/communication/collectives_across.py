"""Reducing and gathering over groups that leave a node: flat rings, trees and hierarchies over any number of tiers.

A ring or a tree over several tiers passes all their links at once, so the slowest one sets its pace. A hierarchy works
on one part of the tiers after the other: reduce-scatter from the inside out, the collective on shards, all-gather back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import AlgorithmColumns, FabricColumns, TierColumns
from simulator.communication.collective_algorithms import (
    RING_PASSES,
    in_switch_sent_bytes,
    ring_sent_bytes,
    traffic,
    tree_sent_bytes,
    tree_steps,
)
from simulator.communication.collective_time import collective_time, transfer_time
from simulator.communication.exchanges import (
    ZERO,
    Exchange,
    algorithm_seconds,
    coefficients,
    combined,
    faster,
    only,
    own_chunk_bytes,
    with_bytes,
)
from simulator.communication.placement import NO_BRIDGE, Group, Reach

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ONE: FloatArray = np.ones(1)


def inside_node(
    collective: str, algorithm: str, message: FloatArray, group: Group, tier: TierColumns
) -> Exchange:
    """A collective among the ranks of a group that share a node, by one algorithm."""
    moved = traffic(collective, algorithm, message, group.inner)
    fit = coefficients(tier, algorithm)
    steps = moved.n_steps
    if algorithm == "ring" and collective in RING_PASSES:
        steps = RING_PASSES[collective] * group.inner_hops
    carried = moved.sent_bytes + own_chunk_bytes(fit, message, group.inner)
    seconds = algorithm_seconds(fit, carried, steps, group.inner_bytes_per_s, group.bridge_bytes_per_s)
    return Exchange(seconds=seconds, inner_bytes=moved.sent_bytes, outer_bytes=ZERO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A group on the tier at a ``place`` outside the node, from 0."""

    place: int
    tier: TierColumns
    reach: Reach

    @property
    def used(self) -> BoolArray:
        """Whether the group has ranks in several nodes, or domains, that the tier joins."""
        used: BoolArray = self.reach.units > 1
        return used


def levels_of(group: Group, fabric: FabricColumns) -> list[Level]:
    """The group on every tier outside the node, from the inside out."""
    pairs = zip(fabric.across, group.across, strict=False)
    return [Level(place=k, tier=tier, reach=reach) for k, (tier, reach) in enumerate(pairs)]


def _members(levels: Sequence[Level]) -> FloatArray:
    """Nodes, or domains, that the levels join in all [1]."""
    total: FloatArray = ONE
    for level in levels:
        total = total * level.reach.units
    return total


def _crossings(levels: Sequence[Level], ranks: FloatArray) -> list[FloatArray]:
    """Messages of one pass of a ring of ``ranks`` [1] that go from node to node, from domain to domain, ... [1]."""
    left = []
    for k in range(len(levels)):
        members = _members(levels[k:])
        left.append(np.where(members > 1, np.minimum(members, ranks - 1.0), 0.0))
    return [*(here - beyond for here, beyond in zip(left, left[1:], strict=False)), left[-1]]


def _by_tier(sent: FloatArray, levels: Sequence[Level], per: FloatArray) -> list[FloatArray]:
    """What a rank sends on each level when its group sends ``sent`` times the ranks in a unit over ``per`` [byte]."""
    found = [sent / (level.reach.inside / per) for level in levels]
    return (
        found if len(found) == 1 else [np.where(v.used, s, 0.0) for s, v in zip(found, levels, strict=True)]
    )


def _paced(
    transfer_s: FloatArray,
    levels: Sequence[Level],
    fits: Sequence[AlgorithmColumns],
    steps: Sequence[FloatArray],
) -> FloatArray:
    """Time by the coefficients of the outermost tier in use, with the latencies of all exchanges in a row [s]."""
    fit, n_steps, further_s = fits[0], steps[0], ZERO
    base_s, step_s, ramp = fit.base_latency_s, fit.step_latency_s, fit.ramp
    for level, fit, more in zip(levels[1:], fits[1:], steps[1:], strict=True):
        used = level.used
        further_s = further_s + np.where(used, n_steps * step_s, 0.0)
        n_steps, step_s = np.where(used, more, n_steps), np.where(used, fit.step_latency_s, step_s)
        base_s, ramp = np.where(used, fit.base_latency_s, base_s), np.where(used, fit.ramp, ramp)
    seconds = collective_time(
        transfer_s=transfer_s, n_steps=n_steps, base_latency_s=base_s, step_latency_s=step_s, ramp=ramp
    )
    return seconds if len(levels) == 1 else seconds + np.where(transfer_s > 0, further_s, 0.0)


def _busiest(
    transfer_s: FloatArray,
    levels: Sequence[Level],
    sent: Sequence[FloatArray],
    fits: Sequence[AlgorithmColumns],
) -> FloatArray:
    """The longest of ``transfer_s`` and the times of all levels' links, which work at once [s]."""
    for level, load, fit in zip(levels, sent, fits, strict=True):
        over_s = transfer_time(
            sent_bytes=load, bandwidth_bytes_per_s=level.reach.bytes_per_s, efficiency=fit.efficiency
        )
        transfer_s = np.maximum(transfer_s, over_s)
    return transfer_s


def _inside_seconds(sent: FloatArray, group: Group, fabric: FabricColumns) -> FloatArray:
    """Transfer of what each rank of a ring sends inside its node, over links and host bridges [s]."""
    fit = fabric.inner.algorithms["ring"]
    seconds = transfer_time(
        sent_bytes=sent, bandwidth_bytes_per_s=group.inner_bytes_per_s, efficiency=fit.efficiency
    )
    if np.any(np.isfinite(group.bridge_bytes_per_s)):
        over_s = transfer_time(
            sent_bytes=sent,
            bandwidth_bytes_per_s=group.bridge_bytes_per_s,
            efficiency=fit.bridge_efficiency,
        )
        seconds = np.maximum(seconds, over_s)
    return seconds


def _on_tiers(
    seconds: FloatArray, inner_bytes: FloatArray, levels: Sequence[Level], sent: Sequence[FloatArray]
) -> Exchange:
    """An exchange whose bytes are known on some levels and zero on the tiers inside them."""
    return with_bytes(seconds, inner_bytes, [*([ZERO] * levels[0].place), *sent])


def flat_ring(collective: str, message: FloatArray, group: Group, fabric: FabricColumns) -> Exchange:
    """One ring through all ranks, node after node; with several network ports, one ring through each.

    All links work at once, so the slowest tier sets the pace; the ring leaves each node, and each domain, once per
    pass.
    """
    passes = RING_PASSES[collective]
    inner, levels = fabric.inner.algorithms["ring"], levels_of(group, fabric)
    fits = [level.tier.algorithms["ring"] for level in levels]
    sent = ring_sent_bytes(message_bytes=message, ranks=group.ranks, passes=passes)
    shared = group.inner > 1
    carried = sent + own_chunk_bytes(inner, message, group.ranks)
    across = _by_tier(sent, levels, ONE)
    busiest = _busiest(_inside_seconds(carried, group, fabric) * shared, levels, across, fits)
    crossings = _crossings(levels, group.ranks)
    seconds = _paced(busiest, levels, fits, [passes * n for n in crossings])
    hops_inside = passes * np.maximum(group.ranks - 1.0 - sum(crossings, ZERO), 0.0)
    seconds = seconds + np.where(sent > 0, hops_inside * inner.step_latency_s, 0.0)
    return _on_tiers(seconds, sent * shared, levels, across)


def _tree_loads(levels: Sequence[Level], sent: Sequence[FloatArray]) -> list[FloatArray]:
    """Bytes on the busiest link of each level: with uplinks a message to another domain crosses the inner links too."""
    loads = list(sent)
    for k in range(len(levels) - 1, 0, -1):
        loads[k - 1] = loads[k - 1] + levels[k].tier.uplinks * loads[k]
    return loads


def tree_of_nodes(message: FloatArray, group: Group, fabric: FabricColumns) -> Exchange:
    """All-reduce by double binary trees of nodes, of domains and so on, with chains through the ranks of a node, all
    pipelined."""
    inner, levels = fabric.inner.algorithms["ring"], levels_of(group, fabric)
    fits = [coefficients(level.tier, "tree") for level in levels]
    shared = group.inner > 1
    up_and_down = tree_sent_bytes(message_bytes=message, ranks=group.ranks, passes=2.0)
    inside_s = transfer_time(
        sent_bytes=up_and_down, bandwidth_bytes_per_s=group.inner_bytes_per_s, efficiency=inner.efficiency
    )
    across = _by_tier(up_and_down, levels, ONE)
    busiest = _busiest(inside_s * shared, levels, _tree_loads(levels, across), fits)
    steps = [tree_steps(ranks=level.reach.units) for level in levels]
    seconds = _paced(busiest, levels, fits, steps) + np.where(
        message > 0, 2.0 * (group.inner - 1.0) * inner.step_latency_s, 0.0
    )
    return _on_tiers(seconds, up_and_down * shared, levels, across)


def _ring_across(collective: str, message: FloatArray, levels: Sequence[Level]) -> Exchange:
    """A ring of one rank per node through the nodes of all levels, or of one rank per domain."""
    passes, members = RING_PASSES[collective], _members(levels)
    fits = [level.tier.algorithms["ring"] for level in levels]
    whole = ring_sent_bytes(message_bytes=message, ranks=members, passes=passes)
    sent = _by_tier(whole, levels, levels[0].reach.inside)
    steps = [passes * n for n in _crossings(levels, members)]
    return _on_tiers(_paced(_busiest(ZERO, levels, sent, fits), levels, fits, steps), ZERO, levels, sent)


def _tree_across(message: FloatArray, levels: Sequence[Level]) -> Exchange:
    """All-reduce by double binary trees on every level, pipelined; for ever where the software has no tree."""
    fits = [coefficients(level.tier, "tree") for level in levels]
    whole = tree_sent_bytes(message_bytes=message, ranks=_members(levels), passes=2.0)
    sent = _by_tier(whole, levels, levels[0].reach.inside)
    steps = [tree_steps(ranks=level.reach.units) for level in levels]
    seconds = _paced(_busiest(ZERO, levels, _tree_loads(levels, sent), fits), levels, fits, steps)
    offered: FloatArray = ONE
    for level, fit in zip(levels, fits, strict=True):
        offered = offered * (fit.offered if "tree" in level.tier.algorithms else ZERO)
    return _on_tiers(np.where(offered > 0, seconds, np.inf), ZERO, levels, sent)


def _in_switch_across(message: FloatArray, level: Level) -> Exchange:
    """All-reduce by the switch of one tier; for ever where it adds up nothing."""
    fit, ranks = coefficients(level.tier, "in_switch"), level.reach.units
    sent = in_switch_sent_bytes(message_bytes=message, ranks=ranks)
    steps = 2.0 * np.sign(ranks - 1.0)
    seconds = algorithm_seconds(fit, sent, steps, level.reach.bytes_per_s, NO_BRIDGE)
    return _on_tiers(np.where(level.tier.in_switch > 0, seconds, np.inf), ZERO, [level], [sent])


def _across(collective: str, message: FloatArray, levels: Sequence[Level]) -> Exchange:
    """A collective of one rank per node, or per domain: ring, tree, adding switch, or one level after the other."""
    best = _ring_across(collective, message, levels)
    if collective == "all_reduce":
        if all("tree" in level.tier.algorithms for level in levels):
            best = faster(best, _tree_across(message, levels))
        if len(levels) == 1 and np.any(levels[0].tier.in_switch > 0):
            best = faster(best, _in_switch_across(message, levels[0]))
    for cut in range(1, len(levels)):
        inside, outside = levels[:cut], levels[cut:]
        halves = _ring_across(_half(collective), message, inside)
        shard = message / _members(inside)
        done = _one_after_the_other(collective, halves, _across(collective, shard, outside))
        best = faster(best, only(done, (_members(inside) > 1) & (_members(outside) > 1)))
    return best


def _half(collective: str) -> str:
    """What is done inside before the shards go across."""
    return "reduce_scatter" if collective == "all_reduce" else collective


def _one_after_the_other(collective: str, halves: Exchange, across: Exchange) -> Exchange:
    """The inner part, which an all-reduce does twice, and the collective on shards across."""
    times = 2.0 if collective == "all_reduce" else 1.0
    return combined(halves, across, lambda half, other: times * half + other)


def hierarchical(collective: str, message: FloatArray, group: Group, fabric: FabricColumns) -> Exchange:
    """Reduce-scatter inside, the collective on shards across, all-gather inside: one after the other.

    The inside is a node, or where it is faster a ring through the nodes of a domain.
    """
    levels = levels_of(group, fabric)
    halves = inside_node(_half(collective), "ring", message, group, fabric.inner)
    across = _across(collective, message / group.inner, levels)
    best = _one_after_the_other(collective, halves, across)
    for cut in range(1, len(levels)):
        inside, outside = within(group, cut), levels[cut:]
        halves = flat_ring(_half(collective), message, inside, fabric)
        across = _across(collective, message / outside[0].reach.inside, outside)
        done = _one_after_the_other(collective, halves, across)
        best = faster(best, only(done, inside.spans & (_members(outside) > 1)))
    return best


def within(group: Group, place: int) -> Group:
    """The part of a group inside one domain of the tier in front of the one at a ``place`` outside the node."""
    if place == 0:
        return replace_spans(group)
    return replace(group, ranks=group.across[place].inside, beyond=group.beyond[: place - 1])


def replace_spans(group: Group) -> Group:
    """The part of a group that shares a node, as a group of its own."""
    return replace(group, ranks=group.inner, outer=ONE, beyond=())

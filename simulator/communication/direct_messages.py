"""Messages that go straight to their receiver: all-to-all exchanges, and those between pipeline stages."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import FabricColumns
from simulator.communication.collective_algorithms import all_to_all_sent_bytes
from simulator.communication.collective_time import collective_time, transfer_time
from simulator.communication.exchanges import Exchange, algorithm_seconds, own_chunk_bytes, with_bytes
from simulator.communication.placement import (
    NO_BRIDGE,
    RAIL_OPTIMISED,
    Group,
    all_to_all_across,
    all_to_all_bandwidth,
    bandwidth_across,
    through_uplinks,
    tier_bandwidth,
)
from simulator.communication.wires import port_loads

FloatArray = NDArray[np.float64]
ONE: FloatArray = np.ones(1)


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
        All tiers.
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
    total = all_to_all_sent_bytes(message_bytes=message_bytes, ranks=group.ranks, skew=skew)
    others = np.maximum(group.ranks - 1.0, 1.0)
    leaves = total * (group.ranks - group.inner) / others
    rails = np.where(fabric.outer.topology == RAIL_OPTIMISED, 1.0 - 1.0 / group.inner, 0.0)
    return direct_exchange(
        message_bytes,
        group,
        fabric,
        sent_inside=total * (group.inner - 1.0) / others,
        relayed=leaves * rails,
        across=_sent_across(total, others, group),
    )


def direct_exchange(
    message_bytes: FloatArray,
    group: Group,
    fabric: FabricColumns,
    *,
    sent_inside: FloatArray,
    relayed: FloatArray,
    across: list[FloatArray],
) -> Exchange:
    """Time of messages of all ranks of a group to each other, all under way at once.

    Of a rank's buffer ``message_bytes`` [byte] it sends ``sent_inside`` to ranks of its node, ``across`` on each tier
    outside it, and passes on ``relayed`` inside the node beside that [byte]. Broadcasts; raises nothing.
    """
    inside_rate, bridge_rate = all_to_all_bandwidth(group, fabric)
    fit, spans = fabric.inner.algorithms["direct"], group.spans
    carried = sent_inside + relayed + own_chunk_bytes(fit, message_bytes, group.ranks)
    busiest = transfer_time(
        sent_bytes=carried * (group.inner > 1), bandwidth_bytes_per_s=inside_rate, efficiency=fit.efficiency
    )
    if np.any(np.isfinite(bridge_rate)):
        near = np.minimum(np.maximum(np.floor(fabric.inner.bridge / group.stride), 1.0), group.inner)
        over_s = transfer_time(
            sent_bytes=sent_inside * (group.inner - near) / np.maximum(group.inner - 1.0, 1.0),
            bandwidth_bytes_per_s=bridge_rate,
            efficiency=fit.bridge_efficiency,
        )
        busiest = np.maximum(busiest, over_s)
    base_s, step_s, ramp = fit.base_latency_s, fit.step_latency_s, fit.ramp
    if np.any(spans):
        loads = port_loads(across, fabric)
        rates = all_to_all_across(group, fabric)
        for reach, tier, load, rate in zip(group.across, fabric.across, loads, rates, strict=True):
            outer, used = tier.algorithms["direct"], reach.units > 1
            outside_s = transfer_time(
                sent_bytes=load, bandwidth_bytes_per_s=rate, efficiency=outer.efficiency
            )
            busiest = np.where(load > 0, np.maximum(busiest, outside_s), busiest)
            # The longest way sets the latency.
            base_s = np.where(used, outer.base_latency_s, base_s)
            step_s, ramp = np.where(used, outer.step_latency_s, step_s), np.where(used, outer.ramp, ramp)
    seconds = collective_time(
        transfer_s=busiest, n_steps=ONE, base_latency_s=base_s, step_latency_s=step_s, ramp=ramp
    )
    return with_bytes(seconds, sent_inside, across)


def _sent_across(total: FloatArray, others: FloatArray, group: Group) -> list[FloatArray]:
    """What a rank sends on each tier outside the node of ``total`` bytes to ``others`` [1] in equal parts [byte]."""
    reach = [*(one.inside for one in group.across), group.ranks]
    return [total * (outside - inside) / others for inside, outside in zip(reach, reach[1:], strict=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMessage:
    """A message between neighbouring pipeline stages: inside a node, across nodes, and how often each occurs.

    Seconds [s]; ``boundaries_inside`` and ``boundaries_across`` count the boundaries of one pipeline [1]; ``beyond``
    has both for every further tier.
    """

    inside_s: FloatArray
    across_s: FloatArray
    boundaries_inside: FloatArray
    boundaries_across: FloatArray
    beyond: tuple[tuple[FloatArray, FloatArray], ...] = ()

    @property
    def by_tier(self) -> tuple[tuple[FloatArray, FloatArray], ...]:
        """Seconds of a message and number of boundaries on each tier, from the inside out [s, 1]."""
        return (
            (self.inside_s, self.boundaries_inside),
            (self.across_s, self.boundaries_across),
            *self.beyond,
        )

    def slowest_s(self) -> FloatArray:
        """The slowest message over a boundary that there is [s]."""
        return functools.reduce(np.maximum, [(n > 0) * seconds for seconds, n in self.by_tier])


def stage_message(
    message_bytes: FloatArray, stride: FloatArray, stages: FloatArray, fabric: FabricColumns
) -> StageMessage:
    """Messages between ``stages`` [1] that lie ``stride`` devices apart, ``message_bytes`` each [byte].

    All ranks of a stage send at once, so between blocks they share what leads there. Broadcasts; zero bytes take zero
    time; raises nothing.
    """
    one, two = np.ones(1), np.full(1, 2.0)
    tier_in = fabric.inner
    bandwidth_in = tier_bandwidth(tier_in, two, stride, fabric.accelerators_per_node)
    bridge = np.where(stride >= tier_in.bridge, tier_in.bridge_bytes_per_s / tier_in.bridge, np.inf)
    crossed = [np.maximum(stages - 1.0, 0.0)]
    seconds = [algorithm_seconds(tier_in.algorithms["direct"], message_bytes, one, bandwidth_in, bridge)]
    for k, (tier, unit) in enumerate(zip(fabric.across, fabric.units, strict=True)):
        apart = np.maximum(stride / unit, 1.0)
        rate = bandwidth_across(tier, two, apart, np.ceil(stages * stride / unit))
        rate = through_uplinks(rate, k, fabric)
        seconds.append(algorithm_seconds(tier.algorithms["direct"], message_bytes, one, rate, NO_BRIDGE))
        # Stages fill node after node: there is one boundary across nodes for each node after the first.
        once_each = np.minimum(np.ceil(stages * stride / unit) - 1.0, crossed[0])
        crossed.append(np.where(stride >= unit, crossed[0], once_each))
    boundaries = [*(here - beyond for here, beyond in zip(crossed, crossed[1:], strict=False)), crossed[-1]]
    return StageMessage(
        inside_s=seconds[0],
        across_s=seconds[1],
        boundaries_inside=boundaries[0],
        boundaries_across=boundaries[1],
        beyond=tuple(zip(seconds[2:], boundaries[2:], strict=True)),
    )

"""Where the ranks of a parallel group sit: how many inside a node, how many across, at which bandwidth.

The plan says which axis is innermost. A group whose neighbours are ``stride`` devices apart has
``accelerators_per_node // stride`` ranks in each node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import FabricColumns, TierColumns
from simulator.communication.torus_rings import (
    all_to_all_load,
    along_axes,
    extents,
    off_axis_all_to_all_load,
    off_axis_hops,
    off_axis_load,
    ring_hops,
    ring_load,
)
from simulator.rules import rule

FloatArray = NDArray[np.float64]

TOPOLOGIES = (
    "switch",
    "fully_connected",
    "ring",
    "torus",
    "fat_tree",
    "host",
    "mesh",
    "rail_optimised",
    "dragonfly",
    "wired",
)
FULLY_CONNECTED, RING, TORUS, MESH, RAIL_OPTIMISED, DRAGONFLY, WIRED = (
    float(TOPOLOGIES.index(t))
    for t in ("fully_connected", "ring", "torus", "mesh", "rail_optimised", "dragonfly", "wired")
)
NO_BRIDGE: FloatArray = np.full(1, np.inf)


def on_grid(topology: FloatArray, axis_0: FloatArray) -> NDArray[np.bool_]:
    """Where accelerators are joined along axes: a torus, a mesh, or a ring, which is a torus of one axis."""
    grid: NDArray[np.bool_] = (topology == TORUS) | (topology == MESH) | ((topology == RING) & (axis_0 > 1))
    return grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """A group on one tier outside the node.

    It has ranks in ``units`` of the things that one domain of the tier joins, ``inside`` of them in each [1], and each
    rank of a ring sends on the tier's links at ``bytes_per_s`` one way [byte/s].
    """

    units: FloatArray
    inside: FloatArray
    bytes_per_s: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Ranks of one parallel group: ``inner`` per node times ``outer`` nodes [1], and each rank's bandwidth.

    Where a domain of the outer tier does not hold them all, ``outer`` counts the nodes of one domain and ``beyond`` has
    the group on each further tier.

    Neighbours are ``stride`` devices apart [1]. Bandwidths are one way, of one rank of a ring into each tier
    [byte/s]; ``bridge_bytes_per_s`` is the share of a host bridge that one ring has, infinite where none is crossed.
    ``inner_hops`` counts exchanges of one pass inside a node [1].
    """

    ranks: FloatArray
    stride: FloatArray
    inner: FloatArray
    outer: FloatArray
    inner_hops: FloatArray
    inner_bytes_per_s: FloatArray
    outer_bytes_per_s: FloatArray
    bridge_bytes_per_s: FloatArray
    beyond: tuple[Reach, ...] = ()

    @property
    def across(self) -> tuple[Reach, ...]:
        """The group on every tier outside the node, from the inside out."""
        nodes = Reach(units=self.outer, inside=self.inner, bytes_per_s=self.outer_bytes_per_s)
        return (nodes, *self.beyond)

    @property
    def spans(self) -> NDArray[np.bool_]:
        """Whether it leaves the node."""
        leaves: NDArray[np.bool_] = self.outer > 1
        for reach in self.beyond:
            leaves = leaves | (reach.units > 1)
        return leaves


@rule(
    symbol="n_i",
    formula="D <= G: n; else max(1, floor(gcd(n stride, G) / stride))",
    unit="1",
    source="ranks are numbered with the tensor axis innermost (Narayanan et al., arXiv:2104.04473, section 3.2); "
    "of the groups that straddle nodes the worst one decides",
)
def ranks_per_node(
    *, ranks: FloatArray, stride: FloatArray, devices: FloatArray, accelerators_per_node: FloatArray
) -> FloatArray:
    """Ranks of a group that are sure to share a node [1].

    A group covers ``ranks * stride`` consecutive devices. Where such blocks and nodes do not fill each other, some
    group lies across a border with only the greatest common divisor on one side. Counts [1] broadcast; raises
    nothing.
    """
    block = np.gcd((ranks * stride).astype(np.int64), accelerators_per_node.astype(np.int64)).astype(
        np.float64
    )
    inside = np.minimum(ranks, np.maximum(1.0, np.floor(block / stride)))
    return np.where(devices <= accelerators_per_node, ranks, inside)


@rule(
    symbol="W",
    formula="switch: links b; fully connected: links (n - 1)/(G - 1) b; torus, mesh, ring: b (n - 1)/(n w)",
    unit="B/s",
    source="one-way link bandwidth times the links that a rank of the group can send on at once",
)
def rank_bandwidth(
    *,
    ranks: FloatArray,
    stride: FloatArray,
    accelerators_per_node: FloatArray,
    topology: FloatArray,
    link_bytes_per_s: FloatArray,
    links: FloatArray,
    axis_0: FloatArray,
    axis_1: FloatArray,
    axis_2: FloatArray,
    wrap: FloatArray,
) -> FloatArray:
    """One-way bandwidth of one rank of a ring, or of the rings that run side by side [byte/s].

    Parameters
    ----------
    ranks, stride : ndarray
        Size of the group on this tier, distance between its neighbours [1].
    accelerators_per_node : ndarray
        Accelerators that the tier joins directly [1].
    topology : ndarray
        Code, an index into :data:`TOPOLOGIES` [1].
    link_bytes_per_s, links : ndarray
        One-way bandwidth of a link [byte/s], links of one accelerator [1].
    axis_0, axis_1, axis_2, wrap : ndarray
        Lengths of a torus' axes, and whether their ends are joined [1].

    Returns
    -------
    ndarray
        Broadcast shape [byte/s]; at most links x link bandwidth.

    Raises
    ------
    FloatingPointError
        Never: no division by zero.

    Notes
    -----
    Links of a fully connected node are spread evenly over its peers, several to each where there are more. On a
    torus the rate is what a multi-ring over its axes comes to, or two rings in the order of the numbers where the group
    lies across axes.
    """
    peers = np.maximum(accelerators_per_node - 1.0, 1.0)
    usable = np.where(
        topology == FULLY_CONNECTED,
        links * np.minimum(np.maximum(ranks - 1.0, 1.0) / peers, 1.0),
        links,
    )
    grid = on_grid(topology, axis_0)
    if np.any(grid):
        axes = (axis_0, axis_1, axis_2)
        load = ring_load(extents(ranks, stride, axes, wrap))
        across = grid & ~along_axes(ranks, stride, axes)
        if np.any(across):
            bound = off_axis_load(
                ranks=ranks, stride=stride, axis_0=axis_0, axis_1=axis_1, axis_2=axis_2, wrap=wrap
            )
            load = np.where(across, bound, load)
        # A group that leaves the torus, or of one rank, extends along nothing: it still has a link to leave by.
        on_torus = np.where(load > 0, (ranks - 1.0) / ranks / np.where(load > 0, load, 1.0), 1.0)
        usable = np.where(grid, np.minimum(links, on_torus), usable)
    return usable * link_bytes_per_s


def tier_bandwidth(
    tier: TierColumns, ranks: FloatArray, stride: FloatArray, accelerators: FloatArray
) -> FloatArray:
    """:func:`rank_bandwidth` of a tier that joins ``accelerators`` [1] directly, or what its wiring gives."""
    rate = rank_bandwidth(
        ranks=ranks,
        stride=stride,
        accelerators_per_node=accelerators,
        topology=tier.topology,
        link_bytes_per_s=tier.link_bytes_per_s,
        links=tier.links,
        axis_0=tier.axis_0,
        axis_1=tier.axis_1,
        axis_2=tier.axis_2,
        wrap=tier.wrap,
    )
    if not tier.wired:
        return rate
    width = wired_figure(tier, "ring", ranks, stride)
    return np.where(
        tier.topology == WIRED, wired_bandwidth(link_bytes_per_s=tier.link_bytes_per_s, width=width), rate
    )


@rule(
    symbol="W",
    formula="b k, k = 1/(most bytes on one link per byte that a rank sends)",
    unit="B/s",
    source="the busiest link of a node sets the pace of the groups that run on it side by side",
)
def wired_bandwidth(*, link_bytes_per_s: FloatArray, width: FloatArray) -> FloatArray:
    """One-way bandwidth of one rank on links that were declared one by one [byte/s].

    ``width`` counts the links of ``link_bytes_per_s`` [byte/s] that a rank has to itself, as its traffic and that of
    all other groups lie on the shortest ways [1]. Broadcasts; raises nothing.
    """
    return link_bytes_per_s * width


def wired_figure(tier: TierColumns, what: str, ranks: FloatArray, stride: FloatArray) -> FloatArray:
    """A figure that was found on the graph of a wired node for groups of this size and stride; 1 for any other [1]."""
    found: FloatArray = np.ones(1)
    for name, value in tier.wired.items():
        kind, size, apart = name.split()
        if kind == what:
            found = np.where((ranks == float(size)) & (stride == float(apart)), value, found)
    return found


@rule(
    symbol="s",
    formula="min(1, m/(o max(g, 1))); 1 where the group stays in its block",
    unit="1",
    source="a ring leaves a block of m of its nodes once; dragonfly: Kim et al., ISCA 2008, doi:10.1109/ISCA.2008.19, "
    "minimal routing",
)
def block_share(
    *, members: FloatArray, nodes: FloatArray, oversubscription: FloatArray, other_groups: FloatArray
) -> FloatArray:
    """Part of its NIC bandwidth that a node of a ring between blocks can use [1].

    ``members`` of the group's ``nodes`` share a block [1]; ``oversubscription`` is bandwidth into a block over
    bandwidth between blocks [1]. In a dragonfly a block's global links lead to ``other_groups`` in equal parts
    [1], and a ring uses those to one of them: messages take the shortest way. Broadcasts; raises nothing.
    """
    ratio = oversubscription * np.maximum(other_groups, 1.0)
    return np.where(nodes > members, np.minimum(members / ratio, 1.0), 1.0)


def _members(tier: TierColumns, units: FloatArray, apart: FloatArray) -> FloatArray:
    """Nodes, or domains, of a group that are sure to share a block [1]."""
    block = np.gcd((units * apart).astype(np.int64), tier.block.astype(np.int64))
    return np.minimum(units, np.maximum(np.floor(block / apart), 1.0))


def bandwidth_across(
    tier: TierColumns, units: FloatArray, apart: FloatArray, all_units: FloatArray
) -> FloatArray:
    """Bandwidth of one rank of a ring over ``units`` that are ``apart`` among ``all_units`` in use [1]."""
    rate = tier_bandwidth(tier, units, apart, units)
    if not np.any(tier.oversubscription > 1) and not np.any(tier.topology == DRAGONFLY):
        return rate
    members = _members(tier, units, apart)
    others = np.ceil(all_units / tier.block) - 1.0
    return rate * block_share(
        members=members,
        nodes=units,
        oversubscription=tier.oversubscription,
        other_groups=np.where(tier.topology == DRAGONFLY, others, 0.0),
    )


def through_uplinks(rate: FloatArray, place: int, fabric: FabricColumns) -> FloatArray:
    """``rate`` [byte/s] into a tier outside the node, by its place; where its ports are uplinks, at most that of the
    links of the tiers inside which a message crosses first. Broadcasts; raises nothing."""
    tiers = fabric.across
    crosses: FloatArray = np.ones(1)
    for k in range(place, 0, -1):
        crosses = crosses * tiers[k].uplinks
        below = tiers[k - 1].links * tiers[k - 1].link_bytes_per_s
        rate = np.where(crosses > 0, np.minimum(rate, below), rate)
    return rate


def _bridge_share(tier: TierColumns, ranks: FloatArray, stride: FloatArray) -> FloatArray:
    """Bandwidth between host bridges that one ring has [byte/s]: rings of all groups of the node share it."""
    crosses = (ranks > 1) & (ranks * stride > tier.bridge)
    return np.where(crosses, tier.bridge_bytes_per_s / np.minimum(stride, tier.bridge), np.inf)


def place(ranks: FloatArray, stride: FloatArray, devices: FloatArray, fabric: FabricColumns) -> Group:
    """Place a group of ``ranks`` whose neighbours are ``stride`` apart among ``devices`` in use [1]; raises nothing."""
    node, tier = fabric.accelerators_per_node, fabric.inner
    inner = ranks_per_node(ranks=ranks, stride=stride, devices=devices, accelerators_per_node=node)
    outer, *beyond = _across(ranks, stride, devices, inner, fabric)
    hops = inner - 1.0
    if np.any(tier.axis_0 > 1):
        grid = on_grid(tier.topology, tier.axis_0)
        axes = (tier.axis_0, tier.axis_1, tier.axis_2)
        along = ring_hops(extents(inner, stride, axes, tier.wrap))
        across = grid & ~along_axes(inner, stride, axes)
        if np.any(across):
            along = np.where(across, off_axis_hops(inner, stride, axes, tier.wrap), along)
        hops = np.where(grid, np.where(along > 0, along, hops), hops)
    if tier.wired:
        hops = np.where(tier.topology == WIRED, hops * wired_figure(tier, "hops", inner, stride), hops)
    bridged = np.any(np.isfinite(tier.bridge_bytes_per_s))
    return Group(
        ranks=ranks,
        stride=stride,
        inner=inner,
        outer=outer.units,
        inner_hops=hops,
        inner_bytes_per_s=tier_bandwidth(tier, inner, stride, node),
        outer_bytes_per_s=outer.bytes_per_s,
        bridge_bytes_per_s=_bridge_share(tier, inner, stride) if bridged else NO_BRIDGE,
        beyond=tuple(beyond),
    )


def units_touched(ranks: FloatArray, inside: FloatArray, stride: FloatArray, unit: FloatArray) -> FloatArray:
    """Nodes, or domains, of ``unit`` accelerators that ``ranks`` with ``inside`` in each of them lie in [1]."""
    # A block of devices touches at most this many, one more where it does not start at a border.
    block = ranks * stride
    aligned = (np.mod(block, unit) == 0) | (np.mod(unit, block) == 0)
    touched = np.ceil(block / unit) + np.where(aligned, 0.0, 1.0)
    return np.where(inside >= ranks, 1.0, np.minimum(np.ceil(ranks / inside), np.maximum(touched, 2.0)))


def _across(
    ranks: FloatArray, stride: FloatArray, devices: FloatArray, inner: FloatArray, fabric: FabricColumns
) -> list[Reach]:
    """The group on the tiers outside the node: what does not fit a domain spills over to the next tier."""
    found: list[Reach] = []
    inside, last = inner, len(fabric.across) - 1
    for k, (tier, unit) in enumerate(zip(fabric.across, fabric.units, strict=True)):
        held, most, used = ranks, ranks, devices
        if k < last:
            held = ranks_per_node(
                ranks=ranks, stride=stride, devices=devices, accelerators_per_node=tier.domain
            )
            # What is sure to share a domain is no less than what is sure to share a node in it; of a group that lies
            # across a border some domain may hold more.
            held, used = np.maximum(held, inside), np.minimum(devices, tier.domain)
            most = np.where(held < np.minimum(ranks, tier.domain / stride), ranks, held)
        units = units_touched(most, inside, stride, unit)
        rate = bandwidth_across(tier, units, np.maximum(stride / unit, 1.0), used / unit)
        if k > 0:
            rate = through_uplinks(rate, k, fabric)
        found.append(Reach(units=units, inside=inside, bytes_per_s=rate))
        inside = held
    return found


def all_to_all_bandwidth(group: Group, fabric: FabricColumns) -> tuple[FloatArray, FloatArray]:
    """Bandwidths of one rank that sends to all others of its node, and over bridges [byte/s].

    Each is scaled so that the rank's bytes for that tier over it are the time of the busiest link. Of the bytes over
    bridges those to other bridges count. Broadcasts; raises nothing.
    """
    tier, n = fabric.inner, group.inner
    inside = group.inner_bytes_per_s
    share = np.maximum(n - 1.0, 0.0) / n
    grid = on_grid(tier.topology, tier.axis_0)
    if np.any(grid):
        axes = (tier.axis_0, tier.axis_1, tier.axis_2)
        load = all_to_all_load(extents(n, group.stride, axes, tier.wrap))
        load = np.where(along_axes(n, group.stride, axes), load, share * off_axis_all_to_all_load(axes))
        inside = np.where(
            grid & (load > 0), share / np.where(load > 0, load, 1.0) * tier.link_bytes_per_s, inside
        )
    if tier.wired:
        width = wired_figure(tier, "all", n, group.stride)
        wide = wired_bandwidth(link_bytes_per_s=tier.link_bytes_per_s, width=width)
        inside = np.where(tier.topology == WIRED, wide, inside)
    return inside, tier.bridge_bytes_per_s / tier.bridge


def all_to_all_across(group: Group, fabric: FabricColumns) -> list[FloatArray]:
    """Bandwidth of one rank that sends to all others, on each tier outside the node [byte/s].

    Scaled so that the rank's bytes for that tier over it are the time of the busiest link. Broadcasts; raises nothing.
    """
    found = []
    for tier, unit, reach in zip(fabric.across, fabric.units, group.across, strict=True):
        apart = np.maximum(group.stride / unit, 1.0)
        across = tier_bandwidth(tier, reach.units, apart, reach.units)
        if np.any(tier.oversubscription > 1):
            members = _members(tier, reach.units, apart)
            leaves = (reach.units - members) / np.maximum(reach.units - 1.0, 1.0) * tier.oversubscription
            across = across / np.maximum(leaves, 1.0)
        found.append(across)
    return found

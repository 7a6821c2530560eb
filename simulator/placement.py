"""Where the ranks of a parallel group sit: how many inside a node, how many across, at which bandwidth.

The inner axes come first: tensor, then data, then pipeline. A group whose neighbours are ``stride``
devices apart has ``accelerators_per_node // stride`` ranks in each node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.columns import FabricColumns, TierColumns
from simulator.rules import rule

FloatArray = NDArray[np.float64]

TOPOLOGIES = ("switch", "fully_connected", "ring", "torus", "fat_tree", "host")
FULLY_CONNECTED, RING, TORUS = (float(TOPOLOGIES.index(t)) for t in ("fully_connected", "ring", "torus"))
DIRECTIONS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Ranks of one parallel group: ``inner`` per node times ``outer`` nodes [1], and each rank's bandwidth.

    Bandwidths are one way, of one rank into each tier [byte/s].
    """

    inner: FloatArray
    outer: FloatArray
    inner_bytes_per_s: FloatArray
    outer_bytes_per_s: FloatArray


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


def _torus_links(
    ranks: FloatArray, stride: FloatArray, axes: tuple[FloatArray, FloatArray, FloatArray], wrap: FloatArray
) -> FloatArray:
    """Links that a rank of a torus group can send on at once [1].

    An axis that the group covers wholly and whose ends are joined gives two, another one that it extends along
    gives one; neighbours that are some devices apart on their axis share its links with as many other groups.
    """
    reach = stride * ranks
    links: FloatArray = np.zeros(1)
    below: FloatArray = np.ones(1)
    for length in axes:
        above = below * length
        extends = (stride < above) & (reach > below) & (length > 1)
        ring = (stride <= below) & (reach >= above) & (wrap > 0) & (length > DIRECTIONS)
        apart = np.maximum(stride / below, 1.0)
        links = links + extends * np.where(ring, DIRECTIONS, 1.0) / apart
        below = above
    # A group that leaves the torus, or of one rank, extends along nothing: it still has a link to leave by.
    return np.where(links > 0, links, 1.0)


@rule(
    symbol="W",
    formula="switch: links b; fully connected: links (n - 1)/(G - 1) b; ring: 2 b; torus: b (2 per whole ring, else 1)",
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
    """One-way bandwidth of one rank towards its group [byte/s].

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
    Links of a fully connected node are spread evenly over its peers, several to each where there are more.
    """
    peers = np.maximum(accelerators_per_node - 1.0, 1.0)
    on_torus = (
        _torus_links(ranks, stride, (axis_0, axis_1, axis_2), wrap) if np.any(topology == TORUS) else links
    )
    usable = np.where(
        topology == FULLY_CONNECTED,
        links * np.minimum(np.maximum(ranks - 1.0, 1.0) / peers, 1.0),
        np.where(
            topology == RING,
            np.minimum(links, DIRECTIONS),
            np.where(topology == TORUS, np.minimum(links, on_torus), links),
        ),
    )
    return usable * link_bytes_per_s


def tier_bandwidth(
    tier: TierColumns, ranks: FloatArray, stride: FloatArray, accelerators: FloatArray
) -> FloatArray:
    """:func:`rank_bandwidth` of a tier that joins ``accelerators`` [1] directly."""
    return rank_bandwidth(
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


def place(ranks: FloatArray, stride: FloatArray, devices: FloatArray, fabric: FabricColumns) -> Group:
    """Place a group of ``ranks`` whose neighbours are ``stride`` apart among ``devices`` in use [1]; raises nothing."""
    node = fabric.accelerators_per_node
    inner = ranks_per_node(ranks=ranks, stride=stride, devices=devices, accelerators_per_node=node)
    # A block of devices touches at most this many nodes, one more where it does not start at a border.
    block = ranks * stride
    aligned = (np.mod(block, node) == 0) | (np.mod(node, block) == 0)
    touched = np.ceil(block / node) + np.where(aligned, 0.0, 1.0)
    outer = np.where(inner >= ranks, 1.0, np.minimum(np.ceil(ranks / inner), np.maximum(touched, 2.0)))
    nodes_apart = np.maximum(stride / node, 1.0)
    return Group(
        inner=inner,
        outer=outer,
        inner_bytes_per_s=tier_bandwidth(fabric.inner, inner, stride, node),
        outer_bytes_per_s=tier_bandwidth(fabric.outer, outer, nodes_apart, outer),
    )

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
    formula="min(n, max(1, floor(G / stride)))",
    unit="1",
    source="ranks are numbered with the tensor axis innermost (Narayanan et al., arXiv:2104.04473, section 3.2)",
)
def ranks_per_node(*, ranks: FloatArray, stride: FloatArray, accelerators_per_node: FloatArray) -> FloatArray:
    """Ranks of a group that share a node [1]; ranks, stride and node size [1] broadcast; raises nothing."""
    return np.minimum(ranks, np.maximum(1.0, np.floor(accelerators_per_node / stride)))


@rule(
    symbol="W",
    formula="switch: links b; fully connected: (n - 1) b; ring: 2 b; torus: 2 b axes spanned",
    unit="B/s",
    source="one-way link bandwidth times the links that a rank of the group can send on at once",
)
def rank_bandwidth(
    *,
    ranks: FloatArray,
    stride: FloatArray,
    topology: FloatArray,
    link_bytes_per_s: FloatArray,
    links: FloatArray,
    axis_0: FloatArray,
    axis_1: FloatArray,
    axis_2: FloatArray,
) -> FloatArray:
    """One-way bandwidth of one rank towards its group [byte/s].

    Parameters
    ----------
    ranks, stride : ndarray
        Size of the group on this tier, distance between its neighbours [1].
    topology : ndarray
        Code, an index into :data:`TOPOLOGIES` [1].
    link_bytes_per_s, links : ndarray
        One-way bandwidth of a link [byte/s], links of one accelerator [1].
    axis_0, axis_1, axis_2 : ndarray
        Lengths of a torus' axes [1].

    Returns
    -------
    ndarray
        Broadcast shape [byte/s]; at most links x link bandwidth.

    Raises
    ------
    FloatingPointError
        Never: no division.

    Notes
    -----
    On a torus the group covers the ranks ``stride`` to ``stride * ranks``; it spans the axes whose
    range of strides it overlaps, and sends both ways around each of them.
    """
    reach = stride * ranks
    one, two = axis_0, axis_0 * axis_1
    spanned = (
        ((stride < one) & (reach > 1)).astype(float)
        + ((stride < two) & (reach > one))
        + ((stride < two * axis_2) & (reach > two))
    )
    usable = np.where(
        topology == FULLY_CONNECTED,
        np.minimum(links, np.maximum(ranks - 1.0, 1.0)),
        np.where(
            topology == RING,
            np.minimum(links, DIRECTIONS),
            np.where(topology == TORUS, np.minimum(links, DIRECTIONS * np.maximum(spanned, 1.0)), links),
        ),
    )
    return usable * link_bytes_per_s


def tier_bandwidth(tier: TierColumns, ranks: FloatArray, stride: FloatArray) -> FloatArray:
    """:func:`rank_bandwidth` of a tier's columns."""
    return rank_bandwidth(
        ranks=ranks,
        stride=stride,
        topology=tier.topology,
        link_bytes_per_s=tier.link_bytes_per_s,
        links=tier.links,
        axis_0=tier.axis_0,
        axis_1=tier.axis_1,
        axis_2=tier.axis_2,
    )


def place(ranks: FloatArray, stride: FloatArray, fabric: FabricColumns) -> Group:
    """Place a group of ``ranks`` whose neighbours are ``stride`` devices apart [1]."""
    inner = ranks_per_node(ranks=ranks, stride=stride, accelerators_per_node=fabric.accelerators_per_node)
    # A group that does not fill whole nodes still needs one more of them.
    outer = np.ceil(ranks / inner)
    nodes_apart = np.maximum(stride / fabric.accelerators_per_node, 1.0)
    return Group(
        inner=inner,
        outer=outer,
        inner_bytes_per_s=tier_bandwidth(fabric.inner, inner, stride),
        outer_bytes_per_s=tier_bandwidth(fabric.outer, outer, nodes_apart),
    )

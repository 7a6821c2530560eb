"""Rows of tokens to the ranks of their experts, where a token crosses each tier once for each place that wants it.

A library's all-to-all sends a token once for each of its experts. Kernels made for it send it once to each node that
has any of them, to the rank there that has the sender's number, and from that one to each rank that wants it; on the
way back sums are made in the node before they leave it. How many places want a token is an expected number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import FabricColumns
from simulator.communication.direct_messages import direct_exchange
from simulator.communication.exchanges import Exchange
from simulator.communication.placement import Group
from simulator.rules import rule

__all__ = ["dispatch_by_node", "dispatched_bytes", "distinct_places"]

FloatArray = NDArray[np.float64]


@rule(
    symbol="D",
    formula="g (1 - prod over i < k of (E_p - E/n - i)/(E_p - i)), g = n E_p/E",
    unit="1",
    source="a token's k experts are different ones of E_p, drawn alike: hypergeometric (Feller, An Introduction to "
    "Probability Theory, vol. 1, chapter II.6)",
)
def distinct_places(
    *, topk: FloatArray, experts: FloatArray, pool: FloatArray, places: FloatArray
) -> FloatArray:
    r"""Expected number of places that hold any of a token's experts [1].

    .. math:: D = g \left(1 - \binom{E_p - E/n}{k} / \binom{E_p}{k}\right), \qquad g = n E_p / E

    Parameters
    ----------
    topk, experts : ndarray, shapes that broadcast
        :math:`k` different experts that a token picks, of :math:`E` [1].
    pool : ndarray
        :math:`E_p` of them that it may pick: fewer than all where its nodes are limited [1].
    places : ndarray
        :math:`n` ranks, nodes or domains that hold equal shares of all experts [1].

    Returns
    -------
    ndarray
        At least 1 and at most ``topk`` and the places of the pool [1]. Grows with topk and places.

    Raises
    ------
    FloatingPointError
        Never for legal input: topk is at least 1 and at most the pool.
    """
    of_place = experts / places
    missed: FloatArray = np.ones(1)
    for i in range(int(np.max(topk))):
        left = np.maximum(pool - i, 1.0)
        missed = missed * np.where(i < topk, np.maximum(pool - of_place - i, 0.0) / left, 1.0)
    return places * pool / experts * (1.0 - missed)


@rule(
    symbol="V",
    formula="M D (1 - 1/s)",
    unit="B",
    source="DeepSeek-AI, arXiv:2412.19437, section 3.2.2: a token goes to each node once and is forwarded there; of "
    "the s places of a domain one has it already",
)
def dispatched_bytes(
    *, tokens_bytes: FloatArray, places_hit: FloatArray, places_of_domain: FloatArray
) -> FloatArray:
    """Bytes that a rank sends on one tier of its tokens [byte].

    ``tokens_bytes`` are all its tokens, once each [byte], ``places_hit`` the places that want one, ``places_of_domain``
    how many the tier joins [1]. Broadcasts; raises nothing.
    """
    return tokens_bytes * places_hit * (1.0 - 1.0 / places_of_domain)


def _sent(
    group: Group, tokens: FloatArray, topk: FloatArray, experts: FloatArray, node_limit: FloatArray
) -> tuple[FloatArray, list[FloatArray]]:
    """What a rank sends of its ``tokens`` inside the node and on each tier outside it [byte]."""
    nodes = group.ranks / group.inner
    allowed = np.where(np.isnan(node_limit), nodes, np.minimum(np.nan_to_num(node_limit), nodes))
    # A limit that leaves fewer experts than a token picks is refused by legality.
    pool = np.maximum(experts * allowed / nodes, topk)
    hit = distinct_places(topk=topk, experts=experts, pool=pool, places=group.ranks)
    inside = dispatched_bytes(tokens_bytes=tokens, places_hit=hit, places_of_domain=group.inner)
    across = []
    for reach in group.across:
        places = group.ranks / reach.inside
        hit = np.minimum(distinct_places(topk=topk, experts=experts, pool=pool, places=places), allowed)
        across.append(dispatched_bytes(tokens_bytes=tokens, places_hit=hit, places_of_domain=reach.units))
    return inside, across


def dispatch_by_node(
    message_bytes: FloatArray,
    group: Group,
    fabric: FabricColumns,
    *,
    topk: FloatArray,
    experts: FloatArray,
    node_limit: FloatArray,
) -> Exchange:
    """Time and traffic of rows that cross each tier once for each place that has any of a token's experts.

    Parameters
    ----------
    message_bytes : ndarray
        All rows of a rank, one for each of a token's experts [byte].
    group : Group
        Ranks that hold the experts.
    fabric : FabricColumns
        All tiers.
    topk, experts, node_limit : ndarray
        Experts that a token picks, of how many, and the nodes that they may be on (NaN: any) [1].

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
    Tokens go to the rank of the same number in another node first (DeepSeek-AI, arXiv:2412.19437, section 3.2.2), so
    what arrives over the network crosses the node's links too. Nodes are drawn alike.
    """
    tokens = message_bytes / topk
    # One rank has nobody to send to: all its places are itself.
    inside, across = _sent(group, tokens, topk, experts, node_limit)
    return direct_exchange(
        message_bytes,
        group,
        fabric,
        sent_inside=inside,
        relayed=np.zeros(1),
        across=across,
    )

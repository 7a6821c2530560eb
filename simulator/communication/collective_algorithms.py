"""What one rank sends in a collective, by algorithm, and in how many exchanges that wait for each other.

The message is the whole buffer: all-gather's output, reduce-scatter's and all-to-all's input. All functions are
array expressions that broadcast, zero for one rank, and know no bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule
from simulator.scenarios.scenario import Algorithm

FloatArray = NDArray[np.float64]

# Codes of plan.collective_algorithm are places in this list; "auto" takes the fastest that the software offers.
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
# How often the ring of n - 1 exchanges runs: an all-reduce is a reduce-scatter and an all-gather.
RING_PASSES = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}
COLLECTIVES = (*RING_PASSES, "broadcast", "reduce", "all_to_all", "send_recv")
BANDWIDTH_OPTIMAL = (
    "Patarasuk, Yuan, J. Parallel Distrib. Comput. 69(2), 2009, doi:10.1016/j.jpdc.2008.09.002"
)
RECURSIVE = "Thakur, Rabenseifner, Gropp, Int. J. High Perform. Comput. Appl. 19(1), 2005, doi:10.1177/1094342005051521"
TWO_TREES = "Sanders, Speck, Traff, Parallel Computing 35(12), 2009, doi:10.1016/j.parco.2009.09.001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that the busiest rank sends in one direction [byte], and dependent exchanges [1]."""

    sent_bytes: FloatArray
    n_steps: FloatArray


@rule(symbol="V", formula="passes (n - 1)/n S", unit="B", source=BANDWIDTH_OPTIMAL)
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
    source=f"{TWO_TREES} (two trees, pipelined: full bandwidth in logarithmic depth)",
)
def tree_steps(*, ranks: FloatArray) -> FloatArray:
    """Dependent steps of the pipelined double binary tree all-reduce [1]; raises nothing."""
    return 2.0 * np.ceil(np.log2(np.maximum(ranks, 1.0)))


@rule(
    symbol="V",
    formula="passes S [n > 1]",
    unit="B",
    source=f"{TWO_TREES}: every rank is inside one tree and a leaf of the other, half the message in each",
)
def tree_sent_bytes(*, message_bytes: FloatArray, ranks: FloatArray, passes: float) -> FloatArray:
    """Bytes that an inner rank of the double binary tree sends [byte]: half the message up in each tree, and in the
    tree where it is inside half to each of two children; broadcast and reduce are one of the two passes. Raises
    nothing."""
    return np.where(ranks > 1, passes * message_bytes, 0.0)


@rule(
    symbol="n",
    formula="passes ceil(log2 n), + 2 where n is no power of two",
    unit="1",
    source=f"{RECURSIVE}: recursive halving and doubling; ranks beyond a power of two hand over first",
)
def halving_doubling_steps(*, ranks: FloatArray, passes: float) -> FloatArray:
    """Exchanges of recursive halving (reduce-scatter) and doubling (all-gather) [1]; raises nothing."""
    whole = np.floor(np.log2(np.maximum(ranks, 1.0)))
    return passes * whole + 2.0 * (ranks > 2.0**whole)


@rule(
    symbol="V",
    formula="passes (p - 1)/p S + 2 S [n > p], p the power of two below n",
    unit="B",
    source=RECURSIVE,
)
def halving_doubling_sent_bytes(*, message_bytes: FloatArray, ranks: FloatArray, passes: float) -> FloatArray:
    """Bytes the busiest rank sends in recursive halving and doubling [byte]; ranks beyond a power of two send their
    buffer to a partner before and take the result after. Raises nothing."""
    power = 2.0 ** np.floor(np.log2(np.maximum(ranks, 1.0)))
    return (passes * (power - 1.0) / power + 2.0 * (ranks > power)) * message_bytes


@rule(
    symbol="V",
    formula="(n - 1) S",
    unit="B",
    source="each rank reads the whole buffers of all others and adds them up by itself",
)
def one_shot_sent_bytes(*, message_bytes: FloatArray, ranks: FloatArray) -> FloatArray:
    """Bytes one rank sends in an all-reduce of one exchange [byte]; raises nothing."""
    return (ranks - 1.0) * message_bytes


@rule(
    symbol="V",
    formula="(n + 1)/n S [n > 1]",
    unit="B",
    source="Klenk et al., ISCA 2020, doi:10.1109/ISCA45697.2020.00085: each rank's buffer goes up to be added, and the "
    "rank that asked for a 1/n of it multicasts the sum",
)
def in_switch_sent_bytes(*, message_bytes: FloatArray, ranks: FloatArray) -> FloatArray:
    """Bytes one rank sends into a switch that adds up and multicasts [byte]; raises nothing."""
    return np.where(ranks > 1, (ranks + 1.0) / ranks * message_bytes, 0.0)


@rule(
    symbol="V",
    formula="skew (n - 1)/n S",
    unit="B",
    source="every rank sends a 1/n of its buffer to each; the hottest one takes skew times its share",
)
def all_to_all_sent_bytes(*, message_bytes: FloatArray, ranks: FloatArray, skew: FloatArray) -> FloatArray:
    """Bytes through the busiest port of an all-to-all [byte]: ``skew`` [1] is the hottest rank's traffic over the mean,
    1 where all are alike. Raises nothing."""
    return skew * (ranks - 1.0) / ranks * message_bytes


def _ring(collective: str, message: FloatArray, ranks: FloatArray) -> Traffic:
    if collective in RING_PASSES:
        passes = RING_PASSES[collective]
        return Traffic(
            sent_bytes=ring_sent_bytes(message_bytes=message, ranks=ranks, passes=passes),
            n_steps=ring_steps(ranks=ranks, passes=passes),
        )
    # A chain: every rank but the last passes the whole message on, cut into chunks.
    return Traffic(sent_bytes=np.where(ranks > 1, message, 0.0), n_steps=ring_steps(ranks=ranks, passes=1.0))


def _tree(collective: str, message: FloatArray, ranks: FloatArray) -> Traffic:
    both = collective == "all_reduce"
    steps = tree_steps(ranks=ranks)
    return Traffic(
        sent_bytes=tree_sent_bytes(message_bytes=message, ranks=ranks, passes=2.0 if both else 1.0),
        n_steps=steps if both else steps / 2.0,
    )


def _halving_doubling(collective: str, message: FloatArray, ranks: FloatArray) -> Traffic:
    passes = RING_PASSES[collective]
    return Traffic(
        sent_bytes=halving_doubling_sent_bytes(message_bytes=message, ranks=ranks, passes=passes),
        n_steps=halving_doubling_steps(ranks=ranks, passes=passes),
    )


def _direct(collective: str, message: FloatArray, ranks: FloatArray) -> Traffic:
    if collective in ("broadcast", "reduce"):
        # The root sends to, or hears, each of the others.
        return Traffic(
            sent_bytes=one_shot_sent_bytes(message_bytes=message, ranks=ranks), n_steps=np.sign(ranks - 1.0)
        )
    passes = RING_PASSES[collective]
    return Traffic(
        sent_bytes=ring_sent_bytes(message_bytes=message, ranks=ranks, passes=passes),
        n_steps=passes * np.sign(ranks - 1.0),
    )


def _one_shot(collective: str, message: FloatArray, ranks: FloatArray) -> Traffic:
    # One exchange, but the reads of n - 1 buffers are issued one after the other.
    return Traffic(
        sent_bytes=one_shot_sent_bytes(message_bytes=message, ranks=ranks),
        n_steps=ring_steps(ranks=ranks, passes=1.0),
    )


def _two_shot(collective: str, message: FloatArray, ranks: FloatArray) -> Traffic:
    return Traffic(
        sent_bytes=ring_sent_bytes(message_bytes=message, ranks=ranks, passes=2.0),
        n_steps=ring_steps(ranks=ranks, passes=1.0),
    )


def _in_switch(collective: str, message: FloatArray, ranks: FloatArray) -> Traffic:
    return Traffic(
        sent_bytes=in_switch_sent_bytes(message_bytes=message, ranks=ranks),
        n_steps=2.0 * np.sign(ranks - 1.0),
    )


_REDUCING = tuple(RING_PASSES)
_ROOTED = ("broadcast", "reduce")
# Which collectives an algorithm can do on one tier, and its traffic.
TRAFFIC: Mapping[str, tuple[tuple[str, ...], Callable[[str, FloatArray, FloatArray], Traffic]]] = {
    "ring": ((*_REDUCING, *_ROOTED), _ring),
    "tree": (("all_reduce", *_ROOTED), _tree),
    "halving_doubling": (_REDUCING, _halving_doubling),
    "direct": ((*_REDUCING, *_ROOTED), _direct),
    "one_shot": (("all_reduce",), _one_shot),
    "two_shot": (("all_reduce",), _two_shot),
    "in_switch": (("all_reduce",), _in_switch),
}


def traffic(collective: str, algorithm: str, message_bytes: FloatArray, ranks: FloatArray) -> Traffic:
    """Traffic of a collective by one algorithm among ``ranks`` [1] that hold ``message_bytes`` each [byte].

    Parameters
    ----------
    collective : str
        all_reduce, all_gather, reduce_scatter, broadcast or reduce.
    algorithm : str
        A key of ``TRAFFIC``.
    message_bytes, ranks : ndarray
        Shapes that broadcast.

    Returns
    -------
    Traffic
        Zero for one rank.

    Raises
    ------
    KeyError
        If the algorithm is unknown or cannot do the collective.
    """
    able, rule_of = TRAFFIC[algorithm]
    if collective not in able:
        raise KeyError(f"{algorithm} does no {collective}")
    return rule_of(collective, message_bytes, ranks)

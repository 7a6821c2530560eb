"""What an exchange is: its time and its bytes on each tier; and the time of one algorithm on one tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import AlgorithmColumns, FabricColumns, TierColumns
from simulator.communication.collective_time import collective_time, transfer_time

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Time of a collective and what one rank sends inside the node, and on each tier outside it [s, byte]."""

    seconds: FloatArray
    inner_bytes: FloatArray
    outer_bytes: FloatArray
    beyond_bytes: tuple[FloatArray, ...] = ()

    @property
    def across_bytes(self) -> tuple[FloatArray, ...]:
        """Bytes on every tier outside the node, from the inside out [byte]."""
        return (self.outer_bytes, *self.beyond_bytes)

    @property
    def leaves_node(self) -> NDArray[np.bool_]:
        """Whether anything is sent to another node."""
        leaves: NDArray[np.bool_] = self.outer_bytes > 0
        for sent in self.beyond_bytes:
            leaves = leaves | (sent > 0)
        return leaves


NO_EXCHANGE = Exchange(seconds=ZERO, inner_bytes=ZERO, outer_bytes=ZERO)


def with_bytes(seconds: FloatArray, inner_bytes: FloatArray, across_bytes: Sequence[FloatArray]) -> Exchange:
    """An exchange from what a rank sends inside the node and on each tier outside it [s, byte]."""
    outer, *beyond = across_bytes
    return Exchange(seconds=seconds, inner_bytes=inner_bytes, outer_bytes=outer, beyond_bytes=tuple(beyond))


def combined(one: Exchange, other: Exchange, how: Callable[[FloatArray, FloatArray], FloatArray]) -> Exchange:
    """Two exchanges figure by figure; one that has fewer tiers sends nothing on the others."""
    pairs = zip_longest(one.across_bytes, other.across_bytes, fillvalue=ZERO)
    return with_bytes(
        how(one.seconds, other.seconds),
        how(one.inner_bytes, other.inner_bytes),
        [how(a, b) for a, b in pairs],
    )


def network_joules(done: Exchange, fabric: FabricColumns, total: FloatArray = ZERO) -> FloatArray:
    """``total`` [J] and the energy of what one rank sends, tier by tier [J]; raises nothing."""
    total = total + done.inner_bytes * fabric.inner.j_per_byte
    for sent, tier in zip(done.across_bytes, fabric.across, strict=False):
        total = total + sent * tier.j_per_byte
    return total


def coefficients(tier: TierColumns, algorithm: str) -> AlgorithmColumns:
    """Those of the algorithm; one that nobody measured has the ring's, or those of direct messages."""
    if algorithm in tier.algorithms:
        return tier.algorithms[algorithm]
    return tier.algorithms["direct" if algorithm in ("one_shot", "two_shot") else "ring"]


def algorithm_seconds(
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


def own_chunk_bytes(fit: AlgorithmColumns, message: FloatArray, ranks: FloatArray) -> FloatArray:
    """What moving its own part of the message costs a rank, as bytes sent: a copy beside the ring [byte]."""
    return np.where(ranks > 1, fit.own_chunk * message / ranks, 0.0)


def faster(one: Exchange, other: Exchange) -> Exchange:
    """Row by row the faster one; the first where they take the same time."""
    wins = other.seconds < one.seconds
    return replaced(one, wins, other) if np.any(wins) else one


def replaced(one: Exchange, where: NDArray[np.bool_], other: Exchange) -> Exchange:
    """One exchange, and the other ``where`` that is true."""
    return combined(one, other, lambda a, b: np.where(where, b, a))


def only(done: Exchange, where: FloatArray | NDArray[np.bool_]) -> Exchange:
    """The exchange in the rows it is made for, infinite in the others."""
    if np.all(where > 0):
        return done
    return replace(done, seconds=np.where(where > 0, done.seconds, np.inf))

"""How long exchanges occupy the wires of an accelerator, and what exchanges of several axes cost each other there.

An accelerator has two wires: its links inside the node, and its share of the network ports. Exchanges that run at the
same time share them: one that kernels hide waits for room, one that kernels wait for is slowed by what is under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import FabricColumns
from simulator.communication.collective_time import transfer_time
from simulator.communication.exchanges import Exchange
from simulator.rules import rule

__all__ = ["NO_WIRES", "Wires", "exchange_wires", "port_loads", "wire_queue", "wire_wait", "wires_of"]

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)
SHARING = "exchanges under way at once share links max-min fairly (docs/network.md, second opinion)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wires:
    """Seconds that the links inside the node and the network ports of an accelerator are busy [s]."""

    inside_s: FloatArray
    across_s: FloatArray

    def __add__(self, other: Wires) -> Wires:
        return Wires(inside_s=self.inside_s + other.inside_s, across_s=self.across_s + other.across_s)

    def times(self, count: FloatArray) -> Wires:
        """The same ``count`` times [1]."""
        return Wires(inside_s=self.inside_s * count, across_s=self.across_s * count)


NO_WIRES = Wires(inside_s=ZERO, across_s=ZERO)


def port_loads(sent: Sequence[FloatArray], fabric: FabricColumns) -> list[FloatArray]:
    """Bytes through a rank's share of the ports of each tier outside the node, from what it sends on each [byte].

    Uplinks are reached over the ports of the tier inside.
    """
    loads = list(sent)
    for k in range(len(loads) - 1, 0, -1):
        loads[k - 1] = loads[k - 1] + fabric.across[k].uplinks * loads[k]
    return loads


def wires_of(inner_bytes: FloatArray, across_bytes: Sequence[FloatArray], fabric: FabricColumns) -> Wires:
    """Time that bytes sent inside the node and on each tier outside it occupy the wires [s].

    All links of an accelerator count as one wire, as on a switch; of the tiers outside the node the busiest counts.
    """
    tier = fabric.inner
    inside_s = transfer_time(
        sent_bytes=inner_bytes,
        bandwidth_bytes_per_s=tier.links * tier.link_bytes_per_s,
        efficiency=tier.algorithms["ring"].efficiency,
    )
    across_s = ZERO
    for load, outer in zip(port_loads(across_bytes, fabric), fabric.across, strict=False):
        busy_s = transfer_time(
            sent_bytes=load,
            bandwidth_bytes_per_s=outer.links * outer.link_bytes_per_s,
            efficiency=outer.algorithms["ring"].efficiency,
        )
        across_s = np.maximum(across_s, busy_s)
    return Wires(inside_s=inside_s, across_s=across_s)


def exchange_wires(done: Exchange, fabric: FabricColumns) -> Wires:
    """Time that an exchange occupies the wires, no longer than it takes [s]."""
    busy = wires_of(done.inner_bytes, done.across_bytes, fabric)
    return Wires(
        inside_s=np.minimum(busy.inside_s, done.seconds), across_s=np.minimum(busy.across_s, done.seconds)
    )


@rule(
    symbol="q",
    formula="max(T, u1 + [u1 > 0] b1, u2 + [u2 > 0] b2) - T",
    unit="s",
    source=f"a wire carries one byte after the other; {SHARING}",
)
def wire_queue_seconds(
    *,
    exchange_s: FloatArray,
    inside_s: FloatArray,
    across_s: FloatArray,
    other_inside_s: FloatArray,
    other_across_s: FloatArray,
) -> FloatArray:
    """What a hidden exchange takes longer as other exchanges use its wires meanwhile [s].

    An exchange of ``exchange_s`` occupies the links inside the node for ``inside_s`` and the network ports for
    ``across_s``; the others do so for ``other_inside_s`` and ``other_across_s``, and go first [s]. Broadcasts; zero
    where the exchange sends nothing; raises nothing.
    """
    inside = np.where(inside_s > 0, inside_s + other_inside_s, 0.0)
    across = np.where(across_s > 0, across_s + other_across_s, 0.0)
    return np.maximum(np.maximum(inside, across), exchange_s) - exchange_s


@rule(
    symbol="d",
    formula="b1 min(1, u1/P) + b2 min(1, u2/P)",
    unit="s",
    source=f"of a period P a hidden exchange has the wire busy for u; {SHARING}",
)
def wire_wait_seconds(
    *,
    busy_inside_s: FloatArray,
    busy_across_s: FloatArray,
    hidden_inside_s: FloatArray,
    hidden_across_s: FloatArray,
    period_s: FloatArray,
) -> FloatArray:
    """What exchanges that kernels wait for take longer beside a hidden one that shares their wires [s].

    In ``period_s`` they have the wires for ``busy_inside_s`` and ``busy_across_s``, the hidden exchange for
    ``hidden_inside_s`` and ``hidden_across_s`` [s]. While both are under way each gets half, which costs the first as
    long as they meet. Never longer than themselves. Broadcasts; zero for an empty period; raises nothing.
    """
    period = np.where(period_s > 0, period_s, np.inf)
    return busy_inside_s * np.minimum(hidden_inside_s / period, 1.0) + busy_across_s * np.minimum(
        hidden_across_s / period, 1.0
    )


def wire_queue(exchange_s: FloatArray, hidden: Wires, others: Wires) -> FloatArray:
    """:func:`wire_queue_seconds` of an exchange [s]; an exchange that shares no wire waits for none."""
    if not _meet(hidden, others):
        return ZERO
    return wire_queue_seconds(
        exchange_s=exchange_s,
        inside_s=hidden.inside_s,
        across_s=hidden.across_s,
        other_inside_s=others.inside_s,
        other_across_s=others.across_s,
    )


def wire_wait(busy: Wires, hidden: Wires, period_s: FloatArray) -> FloatArray:
    """:func:`wire_wait_seconds` of exchanges beside a hidden one in a period [s]."""
    if not _meet(hidden, busy):
        return ZERO
    return wire_wait_seconds(
        busy_inside_s=busy.inside_s,
        busy_across_s=busy.across_s,
        hidden_inside_s=hidden.inside_s,
        hidden_across_s=hidden.across_s,
        period_s=period_s,
    )


def _meet(one: Wires, other: Wires) -> bool:
    """Whether both use the same wire in any row."""
    return bool(
        np.any((one.inside_s > 0) & (other.inside_s > 0)) or np.any((one.across_s > 0) & (other.across_s > 0))
    )

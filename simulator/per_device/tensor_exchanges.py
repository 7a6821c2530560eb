"""Collectives of the tensor-parallel group: equal ones of several operators are computed once."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.arrays.shared_columns import SharedColumn
from simulator.communication.collectives import exchange
from simulator.communication.exchanges import Exchange
from simulator.communication.placement import Group, place
from simulator.per_device.layer_exchange import ring_exchange
from simulator.rules import is_recording

__all__ = ["TensorExchanges"]

FloatArray = NDArray[np.float64]


class TensorExchanges:
    """Exchanges among the tensor-parallel ranks of some rows; a layer sends the same message several times.

    Parameters
    ----------
    inputs : Inputs
        The rows.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._group: Group | None = None
        self._known: dict[Hashable, Exchange] = {}

    def of(self, collective: str, message_bytes: FloatArray) -> Exchange:
        """Time and traffic of a collective over whole buffers of ``message_bytes`` [byte].

        While calls are recorded nothing is shared: each operator then shows its own. Raises KeyError for another
        collective than all_reduce, all_gather and reduce_scatter.
        """
        key = None if is_recording() else (collective, *_content(message_bytes))
        if key is None or key not in self._known:
            done = self._exchanged(collective, message_bytes)
            if key is None:
                return done
            self._known[key] = done
        return self._known[key]

    def hop_seconds(self, message_bytes: FloatArray) -> FloatArray:
        """One of ``message_bytes`` [byte] from each rank to the next one of a ring, the slowest hop [s].

        Zero for one rank; raises nothing.
        """
        plan = self._inputs.plan
        group, hops = self._placed(), np.maximum(plan.tensor_parallel - 1.0, 1.0)
        passed = ring_exchange(
            message_bytes, plan.tensor_parallel, plan.tensor_stride, group, self._inputs.fabric
        )
        return passed.seconds / hops

    def _placed(self) -> Group:
        plan, fabric = self._inputs.plan, self._inputs.fabric
        if self._group is None or is_recording():
            self._group = place(plan.tensor_parallel, plan.tensor_stride, plan.devices, fabric)
        return self._group

    def _exchanged(self, collective: str, message_bytes: FloatArray) -> Exchange:
        plan, fabric = self._inputs.plan, self._inputs.fabric
        return exchange(collective, message_bytes, self._placed(), fabric, plan.collective_algorithm)


def _content(values: FloatArray) -> tuple[Hashable, ...]:
    """Equal for columns of one set of rows that hold the same numbers."""
    if isinstance(values, SharedColumn):
        return (values.mask, None if values.values is None else values.values.tobytes())
    return (values.shape, values.tobytes())

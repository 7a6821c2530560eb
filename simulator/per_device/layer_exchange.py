"""Time of the exchanges inside a layer between other ranks than those of the tensor axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import FabricColumns, Inputs
from simulator.communication.collectives import exchange
from simulator.communication.direct_messages import all_to_all, stage_message
from simulator.communication.exchanges import Exchange, replaced, with_bytes
from simulator.communication.placement import Group, place
from simulator.communication.token_dispatch import dispatch_by_node
from simulator.per_device.context_parallel import RING_EXCHANGE
from workloads.operator_graph import Operator

__all__ = ["axis_group", "layer_exchange", "ring_exchange"]

FloatArray = NDArray[np.float64]
NEIGHBOURS: FloatArray = np.full(1, 2.0)


def axis_group(axis: str, inputs: Inputs) -> Group:
    """Placement of the ranks of a layer's axis, "context" or "expert"; KeyError for another one.

    Expert ranks are next to the ranks that split each expert.
    """
    plan = inputs.plan
    ranks, stride = {
        "context": (plan.context_parallel, plan.context_stride),
        "expert": (plan.expert_parallel, plan.expert_tensor_parallel * plan.tensor_stride),
    }[axis]
    return place(ranks, stride, plan.devices, inputs.fabric)


def ring_exchange(
    message_bytes: FloatArray, ranks: FloatArray, stride: FloatArray, group: Group, fabric: FabricColumns
) -> Exchange:
    """All exchanges of a ring, one hop of ``message_bytes`` [byte] after the other; the slowest neighbours decide.

    Neighbours of the ``ranks`` of a ``group`` are ``stride`` apart [1]. Broadcasts; raises nothing.
    """
    hop = stage_message(message_bytes, stride, NEIGHBOURS, fabric)
    hops = ranks - 1.0
    sent, slowest, staying = hops * message_bytes, hop.inside_s, np.ones(1)
    across = []
    for (seconds, _), reach, leaving in zip(hop.by_tier[1:], group.across, _leaving(group), strict=True):
        slowest = np.where(reach.units > 1, np.maximum(seconds, slowest), slowest)
        staying = staying - leaving
        across.append(sent * leaving)
    return with_bytes(hops * slowest, sent * staying, across)


def _leaving(group: Group) -> list[FloatArray]:
    """Of the ranks of a group, those whose next one is in another node, another domain and so on [1]."""
    total, found = np.ones(1), [np.zeros(1)]
    for reach in reversed(group.across):
        total = total * reach.units
        found.insert(0, np.where(total > 1, total / group.ranks, 0.0))
    return [here - beyond for here, beyond in zip(found, found[1:], strict=False)]


def layer_exchange(operator: Operator, message_bytes: FloatArray, inputs: Inputs) -> Exchange:
    """Time and traffic of one exchange of a sharded layer.

    Parameters
    ----------
    operator : Operator
        Of kind "collective".
    message_bytes : ndarray
        Its message, in the convention of its collective [byte].
    inputs : Inputs
        Rows.

    Returns
    -------
    Exchange
        Seconds and bytes that a rank sends on each tier; zero for one rank.

    Raises
    ------
    KeyError
        If axis or collective is unknown.
    """
    if operator.collective == RING_EXCHANGE:
        plan, group = inputs.plan, axis_group("context", inputs)
        return ring_exchange(message_bytes, plan.context_parallel, plan.context_stride, group, inputs.fabric)
    group = axis_group(operator.axis, inputs)
    if operator.collective == "all_to_all":
        whole = all_to_all(message_bytes, group, inputs.fabric)
        by_node = inputs.plan.dispatch_by_node > 0
        if operator.axis != "expert" or not np.any(by_node):
            return whole
        once = dispatch_by_node(
            message_bytes,
            group,
            inputs.fabric,
            topk=inputs.model.topk,
            experts=inputs.model.experts,
            node_limit=inputs.plan.expert_node_limit,
        )
        return replaced(whole, by_node, once)
    return exchange(
        operator.collective, message_bytes, group, inputs.fabric, inputs.plan.collective_algorithm
    )

"""One step's exchanges on the links of the graph: the closed form without calibration beside a flow replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware_specs import (
    Problem,
    ScenarioError,
    SystemSpec,
    figure_dimension,
    figures,
    parse_override,
    with_figures,
)
from simulator.arrays.columns import Inputs, column, first_value
from simulator.communication.collective_algorithms import ALGORITHMS
from simulator.communication.collectives import exchange
from simulator.communication.direct_messages import all_to_all, stage_message
from simulator.communication.placement import FULLY_CONNECTED, RAIL_OPTIMISED, WIRED, Group, on_grid, place
from simulator.communication.torus_rings import along_axes, extents
from simulator.communication.wires import Wires, exchange_wires, wire_wait, wires_of
from simulator.composition.evaluate import Detail, evaluate
from simulator.composition.kind_columns import layers_of_stage
from simulator.estimates.estimate import single_partition
from simulator.network.flow_replay import replay
from simulator.network.max_min_flows import Routes
from simulator.network.played_rounds import (
    Branches,
    Round,
    direct_rounds,
    ring_orders_over_rails,
    ring_orders_through_meshes,
    ring_rounds,
    torus_rounds,
)
from simulator.network.topology_graph import topology_graph
from simulator.per_device.context_parallel import RING_EXCHANGE
from simulator.per_device.layer_exchange import ring_exchange
from simulator.spaces.space import space_from
from workloads.layer_kinds import KINDS

__all__ = ["MOST_REPLAYED", "Traffic", "replay_scenario", "step_traffic"]

MOST_REPLAYED = 64
Process = Sequence[Round | Branches]
DIRECTIONS = 2
RING, DIRECT = (column(ALGORITHMS.index(name)) for name in ("ring", "direct"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Exchanges of one kind in a step.

    Attributes
    ----------
    axis, collective : str
        tensor, context, expert, data or pipeline; the collective, or send.
    message_bytes, count : float
        Whole message of one exchange [byte], and how often it runs in a step [1].
    ranks, stride : int
        Size of a group and distance of its neighbours, in devices [1].
    """

    axis: str
    collective: str
    message_bytes: float
    count: float
    ranks: int
    stride: int


def step_traffic(inputs: Inputs, detail: Detail, kind: str) -> list[Traffic]:
    """Distinct exchanges of a step: from its blocks those of layers on the tensor, context and expert axis, per unit or
    step those on the data axis, and between stages. Copies of experts are not told apart from the other parameters, nor
    shards within part of the replicas.

    Raises nothing.
    """
    plan = inputs.plan
    found: dict[tuple[str, str, float], float] = {}
    layers, micro = (
        first_value(inputs.model.n_layers / plan.pipeline_parallel),
        first_value(detail.step.micro_batches),
    )

    layers_by_kind = {
        kind.name: layers_of_stage(
            kind,
            (inputs.model.n_layers - inputs.model.first_dense) / plan.pipeline_parallel,
            np.ones(1),
            inputs.model,
        )
        for kind in KINDS
    }

    def note(axis: str, collective: str, message: float, count: float) -> None:
        if message > 0 and count > 0:
            key = (axis, collective, message)
            found[key] = found.get(key, 0.0) + count

    axes = {
        "tensor": (plan.tensor_parallel, plan.tensor_stride),
        "context": (plan.context_parallel, plan.context_stride),
        "expert": (plan.expert_parallel, plan.expert_tensor_parallel * plan.tensor_stride),
        "data": (plan.gradient_ranks, _replica_stride(inputs)),
        "pipeline": (plan.pipeline_parallel, plan.pipeline_stride),
    }
    for blocks in (detail.blocks.forward, detail.blocks.backward):
        for name, block in blocks.items():
            of_stage = first_value(layers_by_kind.get(name, 1.0))
            for cost in block.operators:
                axis = cost.operator.axis
                if cost.operator.collective and axes[axis][0][0] > 1:
                    times = micro * of_stage * first_value(cost.operator.scale > 0)
                    message = first_value(cost.work.message_bytes) / max(
                        first_value(cost.operator.scale), 1e-300
                    )
                    note(axis, str(cost.operator.collective), message, times)
    if plan.gradient_ranks[0] > 1 and kind == "training":
        stage, weights = int(plan.zero_stage[0]), first_value(inputs.precision.weights)
        gradients = first_value(inputs.precision.gradient_communication)
        layer = first_value(detail.table.layer_parameters)
        whole = layer * layers
        reducing = "all_reduce" if stage == 0 else "reduce_scatter"
        note(
            "data",
            reducing,
            (layer if stage >= 2 else whole) * gradients,
            micro * layers if stage >= 2 else 1.0,
        )
        gathers = {1: (whole, 1.0), 2: (whole, 1.0), 3: (layer, 2.0 * micro * layers)}
        if stage in gathers:
            note("data", "all_gather", gathers[stage][0] * weights, gathers[stage][1])
    if plan.pipeline_parallel[0] > 1:
        tokens = first_value(plan.micro_batch_size * inputs.task.query_length)
        whole = tokens * first_value(inputs.model.hidden * inputs.precision.activation_communication)
        ways = 2.0 if kind == "training" else 1.0
        note(
            "pipeline",
            "send",
            whole / first_value(plan.tensor_parallel),
            ways * micro * first_value(plan.virtual_pipeline),
        )
    return [
        Traffic(
            axis=axis,
            collective=collective,
            message_bytes=message,
            count=count,
            ranks=int(first_value(axes[axis][0])),
            stride=int(first_value(axes[axis][1])),
        )
        for (axis, collective, message), count in found.items()
    ]


def _replica_stride(inputs: Inputs) -> Any:
    """Distance of ranks that hold the same parameters: replicas, and context ranks where there are some [1]."""
    plan = inputs.plan
    nearest = np.minimum(plan.context_stride, plan.data_stride)
    return np.where(plan.context_parallel > 1, nearest, plan.data_stride)


def _groups(devices: int, ranks: int, stride: int) -> list[list[int]]:
    """All groups of an axis: ranks that differ in their place on it only."""
    block = ranks * stride
    return [
        [start + offset + k * stride for k in range(ranks)]
        for start in range(0, devices, block)
        for offset in range(stride)
    ]


def _rounds(traffic: Traffic, members: list[int], group: Group, inputs: Inputs) -> Process:
    """What one group does, step by step, in the way the closed form means it."""
    tier = inputs.fabric.inner
    if traffic.collective == "send":
        return [[(a, b, traffic.message_bytes) for a, b in zip(members, members[1:], strict=False)]]
    if traffic.collective == RING_EXCHANGE:
        around = [*members[1:], members[0]]
        return [[(a, b, traffic.message_bytes) for a, b in zip(members, around, strict=True)]] * (
            len(members) - 1
        )
    if traffic.collective == "all_to_all":
        return direct_rounds("all_to_all", members, traffic.message_bytes)
    if on_grid(tier.topology, tier.axis_0)[0] and not group.spans[0]:
        axes = (tier.axis_0, tier.axis_1, tier.axis_2)
        ranks, stride = column(traffic.ranks), column(traffic.stride)
        if not along_axes(ranks, stride, axes)[0]:
            return ring_rounds(traffic.collective, [members, members[::-1]], traffic.message_bytes)
        e = extents(ranks, stride, axes, tier.wrap)
        shape = [int(first_value(side)) for side in e.lengths]
        joined = [first_value(links) == DIRECTIONS for links in e.links]
        played = torus_rounds(traffic.collective, shape, joined, traffic.message_bytes)
        return [
            tuple([[(members[a], members[b], size) for a, b, size in one] for one in line] for line in phase)
            for phase in played
        ]
    if tier.topology[0] == FULLY_CONNECTED and not group.spans[0]:
        return direct_rounds(traffic.collective, members, traffic.message_bytes)
    if tier.topology[0] == WIRED and not group.spans[0]:
        return ring_rounds(traffic.collective, [members, members[::-1]], traffic.message_bytes)
    railed = group.spans[0] and inputs.fabric.outer.topology[0] == RAIL_OPTIMISED
    if tier.topology[0] == FULLY_CONNECTED or railed:
        inside = int(first_value(group.inner))
        nodes = [members[k : k + inside] for k in range(0, len(members), inside)]
        orders = ring_orders_over_rails(nodes) if railed else ring_orders_through_meshes(nodes)
        return ring_rounds(traffic.collective, orders, traffic.message_bytes)
    return ring_rounds(traffic.collective, [members], traffic.message_bytes)


def _closed_form(traffic: Traffic, group: Group, inputs: Inputs) -> tuple[float, Wires]:
    """Time of an exchange by the closed form, and how long it occupies the wires of a rank [s]."""
    message, fabric = column(traffic.message_bytes), inputs.fabric
    if traffic.collective == "send":
        sent = stage_message(message, column(traffic.stride), column(traffic.ranks), fabric)
        leaves = [float(count[0] > 0) for _, count in sent.by_tier]
        wires = wires_of(message * leaves[0], [message * there for there in leaves[1:]], fabric)
        return first_value(sent.slowest_s()), wires
    if traffic.collective == RING_EXCHANGE:
        done = ring_exchange(message, column(traffic.ranks), column(traffic.stride), group, fabric)
    elif traffic.collective == "all_to_all":
        done = all_to_all(message, group, fabric)
    else:
        meshed = fabric.inner.topology[0] == FULLY_CONNECTED and not group.spans[0]
        done = exchange(traffic.collective, message, group, fabric, DIRECT if meshed else RING)
    return first_value(done.seconds), exchange_wires(done, fabric)


def _as_overridden(system: SystemSpec, fixed: Mapping[str, Any]) -> SystemSpec:
    """The system with the figures that a scenario sets or multiplies after the catalog has loaded."""
    changed = {}
    for key, written in fixed.items():
        path = key.removeprefix("system.")
        how, number = parse_override(written, figure_dimension(SystemSpec, path))
        changed[path] = number if how == "set" else figures(system)[path][0].value * number
    return with_figures(system, changed) if changed else system


def replay_scenario(scenario: Mapping[str, Any] | str | Path) -> list[dict[str, Any]]:
    """Replay each kind of exchange of one step, all groups at once, and all axes together.

    Parameters
    ----------
    scenario : mapping or path
        As for ``simulate``; calibration is switched off.

    Returns
    -------
    list of dict
        ``together``, ``axis``, ``collective``, ``ranks``, ``groups``, ``message_bytes``, ``count``,
        ``closed_form_s``, ``replay_s``, and ``gap_fraction``: replay over closed form less 1, positive where the
        closed form is optimistic. Where ``together`` is true the longest exchanges of all axes start at once, and the
        closed form has what they wait for each other.

    Raises
    ------
    ScenarioError
        As ``simulate``, and for more devices than are replayed or a step without exchanges.
    """
    space = space_from(scenario)
    if space.axes:
        path = space.axes[0].keys[0]
        rule = f"has {len(space.axes[0])} values, and one scenario has one"
        raise ScenarioError([Problem(path=path, value="", rule=rule, fix="give one value")])
    space = replace(space, base={**space.base, "fidelity": "datasheet"})
    partition = single_partition(space)
    devices = int(first_value(partition.inputs.plan.devices))
    if devices > MOST_REPLAYED:
        fix = f"use --set devices={MOST_REPLAYED} or fewer, with degrees that fit"
        rule = f"is more than a replay takes, {MOST_REPLAYED}"
        raise ScenarioError([Problem(path="devices", value=str(devices), rule=rule, fix=fix)])
    details = evaluate(partition)[1]
    exchanges = [
        t for detail in details[:1] for t in step_traffic(partition.inputs, detail, partition.graphical.kind)
    ]
    if not exchanges:
        raise ScenarioError(
            [
                Problem(
                    path="plan",
                    value="",
                    rule="exchanges nothing between devices",
                    fix="use more than one device, and a degree above 1",
                )
            ]
        )
    routes = Routes(topology_graph(_as_overridden(partition.systems[0], space.fixed), devices))
    rows, every = [], []
    for traffic in exchanges:
        placed = place(
            column(traffic.ranks), column(traffic.stride), column(devices), partition.inputs.fabric
        )
        groups = _groups(devices, traffic.ranks, traffic.stride)
        processes = [_rounds(traffic, members, placed, partition.inputs) for members in groups]
        closed, wires = _closed_form(traffic, placed, partition.inputs)
        rows.append(_row(traffic, len(groups), closed, max(replay(processes, routes).finish_s)))
        every.append(
            _Played(traffic=traffic, n_groups=len(groups), closed_s=closed, wires=wires, processes=processes)
        )
    if len({t.axis for t in exchanges}) > 1:
        rows += _together(every, routes)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Played:
    """One kind of exchange: its groups, its closed form [s], the wires it occupies, and what it does step by step."""

    traffic: Traffic
    n_groups: int
    closed_s: float
    wires: Wires
    processes: list[Process]


def _together(every: list[_Played], routes: Routes) -> list[dict[str, Any]]:
    """The longest exchange of each axis, all started at once: each meets the others as long as both are under way."""
    longest: dict[str, _Played] = {}
    for item in every:
        axis = item.traffic.axis
        if axis not in longest or item.closed_s > longest[axis].closed_s:
            longest[axis] = item
    done = replay([rounds for item in longest.values() for rounds in item.processes], routes).finish_s
    rows, start = [], 0
    for item in longest.values():
        finish = max(done[start : start + len(item.processes)])
        start += len(item.processes)
        others = [other.wires for other in longest.values() if other is not item]
        waits = sum(first_value(wire_wait(item.wires, wires, column(item.closed_s))) for wires in others)
        rows.append({**_row(item.traffic, item.n_groups, item.closed_s + waits, finish), "together": True})
    return rows


def _row(traffic: Traffic, n_groups: int, closed_s: float, replay_s: float) -> dict[str, Any]:
    return {
        "together": False,
        "axis": traffic.axis,
        "collective": traffic.collective,
        "ranks": traffic.ranks,
        "groups": n_groups,
        "message_bytes": traffic.message_bytes,
        "count": traffic.count,
        "closed_form_s": closed_s,
        "replay_s": replay_s,
        "gap_fraction": replay_s / closed_s - 1.0 if closed_s > 0 else 0.0,
    }

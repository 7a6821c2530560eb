"""The optimizer's update on the host's processors, which the accelerators of a node share (ZeRO-Offload)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.composition.blocks import BlockCost, OperatorCost
from simulator.composition.layer_table import LayerTable
from simulator.composition.model_states import stage_states
from simulator.composition.stage_kinds import StageKind
from simulator.rules import at, rule, unnoted

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)


@rule(
    symbol="Th",
    formula="max(B / W, F / P)",
    unit="s",
    source="Ren et al., arXiv:2101.06840, section 4.3 (an update in fp32 on the host, bound by its memory); peaks by "
    "data sheet",
)
def host_pass_time(
    *,
    moved_bytes: FloatArray,
    flop: FloatArray,
    host_memory_bytes_per_s: FloatArray,
    host_flop_per_s: FloatArray,
) -> FloatArray:
    """One pass of a host's processors over parameters and states [s].

    Bytes [byte] and FLOP of one accelerator's share, against its share of the node's memory bandwidth [byte/s] and
    processors [FLOP/s]; broadcasts; raises nothing.
    """
    return np.maximum(moved_bytes / host_memory_bytes_per_s, flop / host_flop_per_s)


def on_host(update: BlockCost, inputs: Inputs) -> BlockCost:
    """The update with the times of the host where the plan has it there; raises nothing.

    A pass takes the longer of its bytes and its FLOP, without fixed costs or a fitted efficiency: a lower bound.
    """
    there = inputs.plan.update_on_host
    if not np.any(there):
        return update

    def moved(cost: OperatorCost) -> OperatorCost:
        with at(f"operators.optimizer.{cost.operator.name}"):
            seconds = host_pass_time(
                moved_bytes=cost.work.moved_bytes,
                flop=cost.work.flop,
                host_memory_bytes_per_s=inputs.device.host_memory_bytes_per_s,
                host_flop_per_s=inputs.device.host_vector_flop_per_s,
            )
        busy = np.where(there > 0, seconds, cost.busy_s)
        return replace(cost, busy_s=busy, exposed_s=busy)

    operators = [moved(cost) for cost in update.operators]
    device = 1.0 - there
    return replace(
        update,
        operators=operators,
        seconds=np.where(there > 0, sum((c.busy_s for c in operators), ZERO), update.seconds),
        variance_s2=device * update.variance_s2,
        shared_s=device * update.shared_s,
        extrapolated=device * update.extrapolated,
    )


def owned_states(
    inputs: Inputs, table: LayerTable, stage: StageKind, copies: FloatArray, *, tied: bool
) -> dict[str, FloatArray]:
    """Bytes of what a device's part of the update reads and writes: its shard from ZeRO-1 on [byte]. Raises nothing."""
    plan = inputs.plan
    sharded = replace(plan, zero_stage=np.where(plan.zero_stage >= 1, 3.0, 0.0))
    with unnoted():  # these are no bytes of the memory table
        return stage_states(replace(inputs, plan=sharded), table, stage, copies, tied=tied)

"""Offload's copies of a whole step: what they add to passes and update, how long they take, their energy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.composition.host_update import owned_states
from simulator.composition.layer_table import LayerTable
from simulator.composition.model_states import stage_states
from simulator.composition.offload import (
    Copies,
    copy_energy,
    host_update_copies,
    kept_by_micro_batch,
    pass_copies,
    together,
    update_copies,
)
from simulator.composition.stage_kinds import StageKind, StageKinds
from simulator.composition.stages import PassCopies, StageTimes
from simulator.rules import at, unnoted

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCopies:
    """Copies of one step.

    ``passes_s`` and ``update_s`` are what the slowest stage waits for beside its passes and the one that has most
    beside the update [s], ``busy_s`` how long the same copies take and ``moved_bytes`` what they move, both ways
    [s, byte]; ``energy_j`` is that of all devices [J].
    """

    passes_s: FloatArray
    update_s: FloatArray
    busy_s: FloatArray
    moved_bytes: FloatArray
    energy_j: FloatArray

    @classmethod
    def nothing(cls) -> StepCopies:
        """No copies; raises nothing."""
        return cls(passes_s=ZERO, update_s=ZERO, busy_s=ZERO, moved_bytes=ZERO, energy_j=ZERO)


def _passes(
    inputs: Inputs,
    table: LayerTable,
    kind: StageKind,
    copies: FloatArray,
    windows_s: tuple[FloatArray, FloatArray],
    micro_batches: FloatArray,
    *,
    tied: bool,
) -> tuple[Copies, Copies]:
    return pass_copies(
        inputs,
        kept_by_micro_batch(table, kind),
        stage_states(inputs, table, kind, copies, tied=tied),
        kind.layers,
        windows_s,
        micro_batches,
    )


def copies_of_passes(
    inputs: Inputs, table: LayerTable, kinds: StageKinds, micro_batches: FloatArray, *, tied: bool
) -> PassCopies:
    """Function of a kind of stage and its passes [s]: what copies add to each [s]. Raises nothing."""

    def added(
        kind: StageKind, forward_s: FloatArray, backward_s: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        windows_s = (forward_s, backward_s)
        there, back = _passes(inputs, table, kind, kinds.copies, windows_s, micro_batches, tied=tied)
        return there.exposed_s, back.exposed_s

    return added


def _update(
    inputs: Inputs,
    table: LayerTable,
    kind: StageKind,
    copies: FloatArray,
    backward_s: FloatArray,
    optimizer_s: FloatArray,
    *,
    tied: bool,
) -> Copies:
    """Copies around the update of one kind of stage."""
    states = stage_states(inputs, table, kind, copies, tied=tied)
    found = update_copies(inputs, states, kind.layers, optimizer_s)
    if not np.any(inputs.plan.update_on_host):
        return found
    owned = owned_states(inputs, table, kind, copies, tied=tied)
    return together(found, host_update_copies(inputs, owned, kind.layers, backward_s, optimizer_s))


def copies_of_step(
    inputs: Inputs,
    table: LayerTable,
    kinds: StageKinds,
    stages: StageTimes,
    micro_batches: FloatArray,
    optimizer_s: FloatArray,
    *,
    tied: bool,
) -> StepCopies:
    """Copies of one step, beside passes that have been timed and an update of ``optimizer_s`` [s].

    Counts [1] and times [s] broadcast; raises nothing.
    """
    updates = [
        _update(inputs, table, kind, kinds.copies, backward_s, optimizer_s, tied=tied)
        for kind, backward_s in zip(kinds, stages.backward_s, strict=True)
    ]
    with unnoted():  # the passes were explained where they were timed
        passes = [
            together(*_passes(inputs, table, kind, kinds.copies, (ZERO, ZERO), micro_batches, tied=tied))
            for kind in (*kinds, kinds.lighter)
        ]
        lighter = _update(inputs, table, kinds.lighter, kinds.copies, ZERO, optimizer_s, tied=tied)
    plan, host_bytes, nvme_bytes = inputs.plan, ZERO, ZERO
    for kind, once, each in zip((*kinds, kinds.lighter), (*updates, lighter), passes, strict=True):
        host_bytes = host_bytes + kind.number * (once.host_bytes + micro_batches * each.host_bytes)
        nvme_bytes = nvme_bytes + kind.number * (once.nvme_bytes + micro_batches * each.nvme_bytes)
    with at("energy.offload_j"):
        # Every device of a stage copies its own part.
        energy = copy_energy(
            host_copied_bytes=plan.tensor_parallel * plan.gradient_ranks * host_bytes,
            nvme_copied_bytes=plan.tensor_parallel * plan.gradient_ranks * nvme_bytes,
            host_j_per_byte=inputs.device.host_j_per_byte,
            nvme_j_per_byte=inputs.device.nvme_j_per_byte,
        )

    def most(name: str) -> FloatArray:
        return reduce(np.maximum, (getattr(copies, name) for copies in updates))

    def of_slowest(name: str) -> FloatArray:
        # The lighter stages come last, and are not the slowest.
        return micro_batches * stages.at_slowest(tuple(getattr(copies, name) for copies in passes[:-1]))

    return StepCopies(
        passes_s=micro_batches * stages.at_slowest(stages.offload_s),
        update_s=most("exposed_s"),
        busy_s=of_slowest("busy_s") + most("busy_s"),
        moved_bytes=sum((of_slowest(n) + most(n) for n in ("host_bytes", "nvme_bytes")), ZERO),
        energy_j=energy,
    )

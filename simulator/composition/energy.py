"""Joules of one step: power that is drawn whatever happens, and energy per operation and per byte."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.communication.exchanges import network_joules
from simulator.composition.block_energy import block_energy, switching_energy
from simulator.composition.blocks import BlockCost
from simulator.composition.data_parallel import EndOfStep, UnitExchanges
from simulator.composition.layer_table import LayerTable
from simulator.rules import at, rule

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy of one step over all used devices, by cause [J].

    ``host_j`` is that of their nodes, ``offload_j`` that of copies to and from a host or drives.
    """

    static_j: FloatArray
    compute_j: FloatArray
    memory_j: FloatArray
    network_j: FloatArray
    host_j: FloatArray
    offload_j: FloatArray

    @property
    def total_j(self) -> FloatArray:
        """Sum of the causes [J]."""
        work = self.static_j + self.compute_j + self.memory_j + self.network_j
        return work + self.host_j + self.offload_j


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthogonal:
    """Muon's products of one step on one device: time [s], operations [FLOP] and bytes in memory [byte]."""

    seconds: FloatArray
    flop: FloatArray
    moved_bytes: FloatArray


@rule(
    symbol="E",
    formula="P T D",
    unit="J",
    source="power that does not depend on the work is drawn for the whole step, waiting included",
)
def standing_energy(*, power_w: FloatArray, seconds: FloatArray, devices: FloatArray) -> FloatArray:
    """Energy of a constant power per device over a step [J]; broadcasts; raises nothing."""
    return power_w * seconds * devices


@rule(
    symbol="E",
    formula="m r (L el + ee) + d es",
    unit="J",
    source="every micro-batch passes every layer once on each of the r tensor x data ranks; es per step",
)
def work_energy(
    *,
    micro_batches: FloatArray,
    ranks: FloatArray,
    n_layers: FloatArray,
    layer_j: FloatArray,
    ends_j: FloatArray,
    per_step_j: FloatArray,
) -> FloatArray:
    """Energy of one kind of work over a step [J]; counts [1]; ``per_step_j`` over all devices; raises nothing."""
    return micro_batches * ranks * (n_layers * layer_j + ends_j) + per_step_j


def _unit_network_j(units: UnitExchanges, inputs: Inputs, trains: bool) -> FloatArray:
    """Network energy of in-layer exchanges, one micro-batch, one rank, whole model [J]."""
    layer, embedding, head = units
    fabric, total = inputs.fabric, ZERO
    for unit, count in (
        (layer, inputs.model.n_layers - inputs.model.first_dense),
        (embedding, np.ones(1)),
        (head, np.ones(1)),
    ):
        for done in (unit.gather, *((unit.again, unit.reduce) if trains else ())):
            total = total + count * network_joules(done, fabric)
    return total


def step_energy(
    table: LayerTable,
    inputs: Inputs,
    *,
    seconds: FloatArray,
    units: UnitExchanges,
    optimizer: BlockCost | None,
    orthogonal: Orthogonal | None,
    end: EndOfStep | None,
    messages_j: FloatArray,
    copies_j: FloatArray = ZERO,
) -> Energy:
    """Energy of one step.

    Parameters
    ----------
    table, inputs : LayerTable, Inputs
        Rows.
    seconds : ndarray
        Step time [s].
    units : UnitExchanges
        Data-parallel exchanges inside layers.
    optimizer, orthogonal, end : BlockCost, Orthogonal, EndOfStep or None
        What training does once per step.
    messages_j, copies_j : ndarray
        Energy of the messages between pipeline stages, and of offload's copies, all devices [J].

    Returns
    -------
    Energy
        Joules over all used devices, hosts included.

    Raises
    ------
    ValueError
        If shapes do not broadcast.
    """
    plan, device, fabric = inputs.plan, inputs.device, inputs.fabric
    ranks = plan.tensor_parallel * plan.gradient_ranks
    once = (ZERO, ZERO, ZERO)
    if optimizer is not None:
        # An update on the host costs the devices nothing; its processors are in the host's power.
        here = 1.0 - plan.update_on_host
        compute_j, memory_j, network_j = block_energy([optimizer], inputs)
        once = (here * compute_j, here * memory_j, network_j)
    if orthogonal is not None:
        # In the type that attention computes in.
        compute_j = switching_energy(amount=orthogonal.flop, j_per_unit=device.attention_j_per_flop)
        memory_j = switching_energy(amount=orthogonal.moved_bytes, j_per_unit=device.memory_j_per_byte)
        once = (once[0] + compute_j, once[1] + memory_j, once[2])
    network_once = once[2]
    if end is not None:
        for done in (end.reduce, end.gather, end.tied, end.mirrored):
            network_once = network_joules(done, fabric, network_once)
    in_layers = _unit_network_j(units, inputs, optimizer is not None)
    parts = {}
    for name, layer_j, ends_j, step_j in (
        ("compute", table.layer_compute_j, table.ends_compute_j, once[0]),
        ("memory", table.layer_memory_j, table.ends_memory_j, once[1]),
        (
            "network",
            table.layer_network_j,
            table.ends_network_j + in_layers,
            network_once + messages_j / plan.devices,
        ),
    ):
        with at(f"energy.{name}_j"):
            parts[name] = work_energy(
                # A last micro-batch that is not full does less work.
                micro_batches=inputs.task.batch / plan.data_parallel / plan.micro_batch_size,
                ranks=ranks,
                n_layers=inputs.model.n_layers - inputs.model.first_dense,
                layer_j=layer_j,
                ends_j=ends_j,
                per_step_j=step_j * plan.devices,
            )
    with at("energy.static_j"):
        static = standing_energy(power_w=device.idle_w, seconds=seconds, devices=plan.devices)
    with at("energy.host_j"):
        host = standing_energy(power_w=device.host_w_per_device, seconds=seconds, devices=plan.devices)
    return Energy(
        static_j=static,
        compute_j=parts["compute"],
        memory_j=parts["memory"],
        network_j=parts["network"],
        host_j=host,
        offload_j=copies_j,
    )

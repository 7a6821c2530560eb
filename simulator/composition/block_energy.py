"""Joules of blocks: energy per operation, per byte of memory and per byte on a wire."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import DeviceColumns, Inputs
from simulator.composition.blocks import BlockCost, OperatorCost, widest_last
from simulator.kernels.counting import OPERATOR_KINDS
from simulator.rules import rule

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)


@rule(
    symbol="E",
    formula="F eF + B eB",
    unit="J",
    source="energy proportional to operations and to bytes moved (Horowitz, ISSCC 2014, "
    "doi:10.1109/ISSCC.2014.6757323)",
)
def switching_energy(*, amount: FloatArray, j_per_unit: FloatArray) -> FloatArray:
    """Energy of ``amount`` FLOP or bytes at ``j_per_unit`` joules each [J]; broadcasts; raises nothing."""
    return amount * j_per_unit


def _joule_per_flop(device: DeviceColumns, cost: OperatorCost) -> FloatArray:
    peak = OPERATOR_KINDS[cost.operator.kind].peak
    if peak == "matmul":
        return device.matmul_j_per_flop
    return device.attention_j_per_flop if peak == "attention" else device.vector_j_per_flop


def block_energy(costs: Iterable[BlockCost], inputs: Inputs) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Compute, memory and network energy of one micro-batch through some blocks, one device [J]."""
    compute, memory, network = ZERO, ZERO, ZERO
    tiers = inputs.fabric.across
    for block in costs:
        for c in widest_last(block.operators, lambda cost: cost):
            per_flop = _joule_per_flop(inputs.device, c)
            compute = compute + switching_energy(amount=c.work.flop, j_per_unit=per_flop)
            memory = memory + switching_energy(
                amount=c.work.moved_bytes, j_per_unit=inputs.device.memory_j_per_byte
            )
            network = network + switching_energy(
                amount=c.inner_bytes, j_per_unit=inputs.fabric.inner.j_per_byte
            )
            for sent, tier in zip(c.across_bytes, tiers, strict=False):
                network = network + switching_energy(amount=sent, j_per_unit=tier.j_per_byte)
    return compute, memory, network

"""From figures of fabrics to the columns that the engine computes with: links, placement, algorithms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hardware_specs import (
    AlgorithmFit,
    CollectiveFit,
    FabricCalibrationSpec,
    FabricSpec,
    SystemSpec,
    fabric_calibration_for,
)
from hardware_specs.schema import GRIDS
from simulator.arrays.columns import AlgorithmColumns, FabricColumns, TierColumns
from simulator.communication.placement import TOPOLOGIES
from simulator.machines.device import Machines, TaskClass
from simulator.machines.hardware_leaves import HardwareLeaves

FloatArray = NDArray[np.float64]
Torus = tuple[list[FloatArray], FloatArray]


def fabric_calibration_of(system: SystemSpec, task: TaskClass) -> FabricCalibrationSpec:
    """The fabric calibration that a system names, else the one that fits it and the task best.

    Raises SpecError if a name is unknown.
    """
    return fabric_calibration_for(system, task)


def _torus(leaves: HardwareLeaves, devices: FloatArray) -> Torus:
    """Axis lengths of the slice with that many devices, and whether its ends are joined [1].

    Lengths are NaN where no slice is listed, and 1 without torus or mesh; a ring is a torus of one axis.
    """
    shape = np.broadcast_shapes(leaves.index.shape, devices.shape)
    axes, wrap = [np.ones(shape) for _ in range(3)], np.ones(shape)
    for s, system in enumerate(leaves.systems):
        if system.scale_up.topology == "ring":
            here = np.broadcast_to(leaves.index == s, shape)
            axes[0] = np.where(here, leaves.get("accelerators_per_node"), axes[0])
        if system.scale_up.topology not in GRIDS:
            continue
        torus = system.scale_up.topology == "torus"
        here = np.broadcast_to(leaves.index == s, shape)
        slices = {part.devices: (part.shape, part.wrap and torus) for part in system.slices}
        if system.scale_up.shape:
            slices = {math.prod(system.scale_up.shape): (system.scale_up.shape, torus)}
        axes = [np.where(here, np.nan, axis) for axis in axes]
        for count, (sides, joined) in slices.items():
            chosen = here & (devices == count)
            wrap = np.where(chosen, float(joined), wrap)
            for k in range(3):
                axes[k] = np.where(chosen, float(sides[k]) if k < len(sides) else 1.0, axes[k])
    return axes, wrap


def _algorithms(
    machines: Machines, side: str, fits: Sequence[CollectiveFit]
) -> Mapping[str, AlgorithmColumns]:
    """Coefficients by algorithm; one that a system's software lacks is not offered there, and has the ring's."""
    leaves = machines.leaves
    declared = leaves.get(f"{side}.latency", 0.0)
    # The fit contains the catalog's latency; what an override changes is added to it.
    change = declared - leaves.catalog(f"{side}.latency", 0.0)
    hop = declared * (0.0 if machines.fidelity == "bound" else 1.0)
    named = [dict(fit.algorithms()) for fit in fits]
    found = {}
    for name in sorted({name for one in named for name in one}):
        ones = [one.get(name, one["ring"]) for one in named]
        offered = leaves.each([float(name in one) for one in named])
        found[name] = (
            _fitted(leaves, ones, offered, change)
            if machines.fidelity == "calibrated"
            else _ideal(offered, hop)
        )
    return found


def _fitted(
    leaves: HardwareLeaves, fits: Sequence[AlgorithmFit], offered: FloatArray, change: FloatArray
) -> AlgorithmColumns:
    return AlgorithmColumns(
        offered=offered,
        efficiency=leaves.each([f.efficiency for f in fits]),
        bridge_efficiency=leaves.each([f.bridge_efficiency for f in fits]),
        base_latency_s=leaves.each([f.base_latency_s for f in fits]),
        step_latency_s=np.maximum(leaves.each([f.step_latency_s for f in fits]) + change, 0.0),
        ramp=leaves.each([f.ramp for f in fits]),
        own_chunk=leaves.each([f.own_chunk for f in fits]),
    )


def _ideal(offered: FloatArray, hop_s: FloatArray) -> AlgorithmColumns:
    """No fitted coefficient: full bandwidth, one hop latency per exchange."""
    one, zero = np.ones(1), np.zeros(1)
    return AlgorithmColumns(
        offered=offered,
        efficiency=one,
        bridge_efficiency=one,
        base_latency_s=zero,
        step_latency_s=hop_s,
        ramp=zero,
        own_chunk=zero,
    )


def _wired(leaves: HardwareLeaves, fabrics: Sequence[FabricSpec]) -> dict[str, FloatArray]:
    """What the graphs of wired nodes give to groups, by kind, size and stride [1]; empty where no node is wired."""
    if not any(fabric.wiring for fabric in fabrics):
        return {}
    # Graphs are for wired nodes alone: networkx takes longer to load than a list of systems to print.
    from simulator.network.wired_node import wired_figures

    found = [
        wired_figures(system.accelerators_per_node.value, fabric) if fabric.wiring else {}
        for system, fabric in zip(leaves.systems, fabrics, strict=True)
    ]
    names = sorted({name for one in found for name in one})
    return {name: leaves.each([one.get(name, 1.0) for one in found]) for name in names}


def _tier(machines: Machines, side: str, fits: Sequence[CollectiveFit], torus: Torus) -> TierColumns:
    leaves = machines.leaves
    # A system without an outer tier never uses it: harmless figures stand in.
    fabrics = [getattr(system, side) or system.scale_up for system in leaves.systems]
    links = leaves.get(f"{side}.links", 1.0)
    if side == "scale_out":
        links = links / leaves.get("accelerators_per_node")
    return TierColumns(
        topology=leaves.each([TOPOLOGIES.index(f.topology) for f in fabrics]),
        link_bytes_per_s=leaves.get(f"{side}.link_bandwidth", 1.0),
        links=links,
        in_switch=leaves.each([float(f.in_switch_reduction) for f in fabrics]),
        axis_0=torus[0][0],
        axis_1=torus[0][1],
        axis_2=torus[0][2],
        wrap=torus[1],
        block=leaves.get(f"{side}.nodes_per_block", 1.0),
        oversubscription=leaves.get(f"{side}.oversubscription", 1.0),
        bridge=leaves.get(f"{side}.accelerators_per_bridge", 1.0),
        bridge_bytes_per_s=leaves.get(f"{side}.bridge_bandwidth", np.inf),
        compute_share=leaves.each(
            [f.compute_share if machines.fidelity == "calibrated" else 0.0 for f in fits]
        ),
        j_per_byte=leaves.get(f"{side}.energy_per_byte", 0.0),
        algorithms=_algorithms(machines, side, fits),
        wired=_wired(leaves, fabrics),
    )


def fabric_columns(machines: Machines, devices: FloatArray) -> FabricColumns:
    """Columns of both fabric tiers for plans on ``devices`` accelerators [1].

    The slice of a torus is one inner tier; elsewhere the node is. Raises SpecError for an unknown calibration.
    """
    leaves = machines.leaves
    calibrations = [fabric_calibration_of(system, machines.task) for system in leaves.systems]
    torus = leaves.each([float(s.scale_up.topology in GRIDS) for s in leaves.systems]) > 0
    nothing = ([np.ones(1)] * 3, np.ones(1))
    return FabricColumns(
        accelerators_per_node=np.where(torus, devices, leaves.get("accelerators_per_node")),
        max_devices=leaves.get("max_devices"),
        inner=_tier(machines, "scale_up", [c.scale_up for c in calibrations], _torus(leaves, devices)),
        outer=_tier(machines, "scale_out", [c.scale_out for c in calibrations], nothing),
    )

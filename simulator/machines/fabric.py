"""From figures of fabrics to the columns that the engine computes with: links, placement, algorithms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware_specs import (
    AlgorithmFit,
    CollectiveFit,
    FabricCalibrationSpec,
    FabricSpec,
    fabric_calibration_for,
)
from hardware_specs.fabric_rules import GRIDS
from simulator.arrays.columns import AlgorithmColumns, FabricColumns, TierColumns
from simulator.communication.placement import TOPOLOGIES
from simulator.machines.device import Machines
from simulator.machines.hardware_leaves import HardwareLeaves

FloatArray = NDArray[np.float64]
Torus = tuple[list[FloatArray], FloatArray]


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
            several = system.slice_devices is not None and np.mod(devices, count) == 0
            chosen = here & ((devices == count) | several)
            wrap = np.where(chosen, float(joined), wrap)
            for k in range(3):
                axes[k] = np.where(chosen, float(sides[k]) if k < len(sides) else 1.0, axes[k])
    return axes, wrap


def _algorithms(
    machines: Machines, paths: Sequence[str], fits: Sequence[CollectiveFit]
) -> Mapping[str, AlgorithmColumns]:
    """Coefficients by algorithm; one that a system's software lacks is not offered there, and has the ring's."""
    leaves = machines.leaves
    latency = [path and f"{path}.latency" for path in paths]
    declared = leaves.where_stated(latency, 0.0)
    # The fit contains the catalog's latency; what an override changes is added to it.
    change = declared - leaves.where_stated(latency, 0.0, overridden=False)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tier:
    """One tier of every system: path of its figures, "" where a system has none, its fabric and its coefficients."""

    paths: Sequence[str]
    fabrics: Sequence[FabricSpec]
    fits: Sequence[CollectiveFit]


def _tier_at(place: int, machines: Machines, calibrations: Sequence[FabricCalibrationSpec]) -> _Tier:
    """The tier at a place from the inside out; a system without it never uses it: harmless figures stand in."""
    paths, fabrics, fits = [], [], []
    for system, calibration in zip(machines.leaves.systems, calibrations, strict=True):
        tiers = list(system.tiers.items())
        path, fabric = tiers[place] if place < len(tiers) else ("", system.scale_up)
        side = fabric.coefficients if path else None
        paths.append(path)
        fabrics.append(fabric)
        fits.append(getattr(calibration, side or ("scale_up" if place == 0 else "scale_out")))
    return _Tier(paths=paths, fabrics=fabrics, fits=fits)


def _tier(machines: Machines, place: int, one: _Tier, torus: Torus, units: FloatArray) -> TierColumns:
    """Columns of the tier at a place, whose ``links`` are those of ``units`` accelerators [1]."""
    leaves = machines.leaves

    def figure(key: str, missing: float) -> FloatArray:
        return leaves.where_stated([path and f"{path}.{key}" for path in one.paths], missing)

    # In the outermost tier all accelerators are joined.
    domain = figure("domain", np.nan) if place else leaves.get("accelerators_per_node")
    return TierColumns(
        topology=leaves.each([TOPOLOGIES.index(f.topology) for f in one.fabrics]),
        link_bytes_per_s=figure("link_bandwidth", 1.0),
        links=figure("links", 1.0) / units if place else figure("links", 1.0),
        in_switch=leaves.each([float(f.in_switch_reduction) for f in one.fabrics]),
        axis_0=torus[0][0],
        axis_1=torus[0][1],
        axis_2=torus[0][2],
        wrap=torus[1],
        block=figure("nodes_per_block", 1.0),
        oversubscription=figure("oversubscription", 1.0),
        bridge=figure("accelerators_per_bridge", 1.0),
        bridge_bytes_per_s=figure("bridge_bandwidth", np.inf),
        compute_share=leaves.each(
            [f.compute_share if machines.fidelity == "calibrated" else 0.0 for f in one.fits]
        ),
        j_per_byte=figure("energy_per_byte", 0.0),
        algorithms=_algorithms(machines, one.paths, one.fits),
        wired=_wired(leaves, one.fabrics),
        domain=np.where(np.isnan(domain), leaves.get("max_devices"), domain),
        uplinks=leaves.each([float(f.ports == "uplinks") for f in one.fabrics]),
    )


def fabric_columns(machines: Machines, devices: FloatArray) -> FabricColumns:
    """Columns of all fabric tiers for plans on ``devices`` accelerators [1].

    A slice of a torus is one inner tier; elsewhere the node is. Raises SpecError for an unknown calibration.
    """
    leaves = machines.leaves
    calibrations = [fabric_calibration_for(system, machines.task) for system in leaves.systems]
    torus = leaves.each([float(s.scale_up.topology in GRIDS) for s in leaves.systems]) > 0
    # Slices of a shape are joined by the next tier; a listed slice is all that is used.
    slices = leaves.each([float(s.slice_devices or np.inf) for s in leaves.systems])
    nothing = ([np.ones(1)] * 3, np.ones(1))
    found, units = [], leaves.get("accelerators_per_node")
    for place in range(max(2, *(len(system.tiers) for system in leaves.systems))):
        one = _tier_at(place, machines, calibrations)
        found.append(_tier(machines, place, one, nothing if place else _torus(leaves, devices), units))
        units = found[-1].domain
    inner, outer, *beyond = found
    return FabricColumns(
        accelerators_per_node=np.where(
            torus, np.minimum(devices, slices), leaves.get("accelerators_per_node")
        ),
        max_devices=leaves.get("max_devices"),
        inner=inner,
        outer=outer,
        beyond={str(k): tier for k, tier in enumerate(beyond)},
    )

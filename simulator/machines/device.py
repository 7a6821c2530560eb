"""From figures of machines to the columns that the engine computes with: peaks, kernels, power, fabric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hardware_specs import (
    CalibrationSpec,
    DriveSpec,
    HostMemorySpec,
    StoreSpec,
    SystemSpec,
    calibration_for,
    fabric_calibration_for,
    load_calibration,
)
from simulator.arrays.columns import DeviceColumns
from simulator.certainty.evidence import (
    FamilyEvidence,
    collective_evidence,
    doubts_by_family,
    kernel_evidence,
    kernel_fit,
    kernel_format,
)
from simulator.certainty.fitted_ranges import ranges_by_family
from simulator.kernels.models import KERNEL_MODELS
from simulator.machines.hardware_leaves import HardwareLeaves
from simulator.rules import rule
from simulator.scenarios.precision import DTYPE_BYTES, Precision

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
Fidelity = Literal["bound", "datasheet", "calibrated"]
TaskClass = Literal["training", "inference"]

# Where a type has no units of its own and the plan allows another one: the next wider first.
WIDER: tuple[str, ...] = ("bf16", "fp16", "tf32", "fp32")


@rule(
    symbol="P",
    formula="units x clock x FLOP per unit and clock",
    unit="FLOP/s",
    source="definition of a dense peak; a peak set by hand takes precedence",
)
def derived_peak(
    *, units: FloatArray, clock_hz: FloatArray, flop_per_unit_clock: FloatArray, set_peak: FloatArray
) -> FloatArray:
    """Dense peak [FLOP/s] from units [1], clock [Hz] and FLOP per unit and clock [1]; ``set_peak`` [FLOP/s]
    wins where it is not NaN. Broadcasts; NaN where the device has no such units; raises nothing."""
    return np.where(np.isnan(set_peak), units * clock_hz * flop_per_unit_clock, set_peak)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Systems and precisions that rows refer to, with everything but the numbers resolved.

    Attributes
    ----------
    leaves : HardwareLeaves
        Figures by row.
    precisions : sequence of Precision
        Distinct precisions.
    precision_index : ndarray of int, shape (n,) or (1,)
        Precision of each row.
    fallback : bool
        Whether a compute type without units may be replaced by a wider one.
    fidelity : str
        "bound", "datasheet" or "calibrated".
    task : str
        "training" or "inference": they run on different software.
    eager : bool
        Whether each operator is dispatched by itself.
    """

    leaves: HardwareLeaves
    precisions: Sequence[Precision]
    precision_index: IndexArray
    fallback: bool = False
    fidelity: Fidelity = "calibrated"
    task: TaskClass = "training"
    eager: bool = False


def calibration_of(system: SystemSpec, task: TaskClass) -> CalibrationSpec:
    """The calibration named by a system, else that of its accelerator and of the software that runs such tasks.

    Raises SpecError if the name is unknown.
    """
    return (
        load_calibration(system.calibration)
        if system.calibration
        else calibration_for(system.accelerator, task)
    )


def compute_dtype(system: SystemSpec, wanted: str, fallback: bool) -> str | None:
    """Type that a product of type ``wanted`` runs in on a system, or None where there is none."""
    has = {*system.accelerator.matmul_flop_per_unit_clock, *system.accelerator.peak}
    if wanted in has:
        return wanted
    wide_enough = (d for d in WIDER if d in has and DTYPE_BYTES[d] >= DTYPE_BYTES[wanted])
    return next(wide_enough, None) if fallback else None


def as_executed(precision: Precision, system: SystemSpec, fallback: bool) -> Precision:
    """The precision with the compute types that a system really uses; types without any stay as they are."""
    return replace(
        precision,
        matmul=compute_dtype(system, precision.matmul, fallback) or precision.matmul,
        attention=compute_dtype(system, precision.attention, fallback) or precision.attention,
    )


def _peak(leaves: HardwareLeaves, dtype: str) -> FloatArray:
    return derived_peak(
        units=leaves.get("accelerator.units"),
        clock_hz=leaves.get("accelerator.clock"),
        flop_per_unit_clock=leaves.get(f"accelerator.matmul_flop_per_unit_clock.{dtype}"),
        set_peak=leaves.get(f"accelerator.peak.{dtype}"),
    )


def _by_dtype(machines: Machines, operator_class: str, values: dict[str, FloatArray]) -> FloatArray:
    """Pick per row the array of the type that its precision runs the operator class in."""
    leaves = machines.leaves
    picked = np.full(np.broadcast_shapes(leaves.index.shape, machines.precision_index.shape), np.nan)
    for s, system in enumerate(leaves.systems):
        for p, precision in enumerate(machines.precisions):
            dtype = compute_dtype(system, getattr(precision, operator_class), machines.fallback)
            if dtype is None:
                continue
            here = (leaves.index == s) & (machines.precision_index == p)
            picked = np.where(here, values[dtype], picked)
    return picked


def _used_dtypes(machines: Machines) -> set[str]:
    found = {
        compute_dtype(system, getattr(precision, operator_class), machines.fallback)
        for system in machines.leaves.systems
        for precision in machines.precisions
        for operator_class in ("matmul", "attention")
    }
    return {dtype for dtype in found if dtype is not None}


def _kernels(machines: Machines) -> dict[str, dict[str, FloatArray]]:
    """Coefficients by family, those of the type or number format that each runs in."""
    leaves, columns = machines.leaves, {}
    shape = np.broadcast_shapes(leaves.index.shape, machines.precision_index.shape)
    calibrations = [calibration_of(system, machines.task) for system in leaves.systems]
    for family, model in KERNEL_MODELS.items():
        names = model.fit.coefficient_names()
        coefficients = np.ones((len(names), *shape))
        for s, system in enumerate(leaves.systems):
            for p, precision in enumerate(machines.precisions):
                ran = as_executed(precision, system, machines.fallback)
                numbers = (
                    kernel_fit(calibrations[s], family, kernel_format(family, ran))[0].coefficients()
                    if machines.fidelity == "calibrated"
                    else model.fit.ideal()
                )
                here = (leaves.index == s) & (machines.precision_index == p)
                values = np.array([numbers[name] for name in names])
                coefficients = np.where(here, values[:, None], coefficients)
        columns[family] = dict(zip(names, coefficients, strict=True))
    return columns


def _between(machines: Machines) -> FloatArray:
    """Time of the host between operators [s]; 0 where a queue, a graph or a fidelity hides it."""
    if machines.fidelity != "calibrated":
        return np.zeros(1)
    hosts = [calibration_of(system, machines.task).host for system in machines.leaves.systems]
    seconds = [
        host.between_s if host is not None and (machines.eager or host.waits) else 0.0 for host in hosts
    ]
    return np.array(seconds)[machines.leaves.index] if any(seconds) else np.zeros(1)


def _evidence(machines: Machines) -> tuple[list[dict[str, FamilyEvidence]], IndexArray]:
    """What is known of each pair of system and precision, and the pair of each row."""
    found = []
    for system in machines.leaves.systems:
        calibration = calibration_of(system, machines.task)
        fabric = fabric_calibration_for(system, machines.task)
        for precision in machines.precisions:
            ran = as_executed(precision, system, machines.fallback)
            found.append(
                {
                    **kernel_evidence(calibration, ran, system.accelerator.name),
                    "collective_inner": collective_evidence([fabric.scale_up]),
                    "collective_outer": collective_evidence([fabric.scale_out]),
                }
            )
    return found, machines.leaves.index * len(machines.precisions) + machines.precision_index


def _default_energy(store: type[StoreSpec]) -> float:
    """Energy of a byte where a system does not say it [J/byte]."""
    return float(store.model_fields["energy_per_byte"].default.value)


def device_columns(machines: Machines) -> DeviceColumns:
    """Columns of the accelerator.

    Parameters
    ----------
    machines : Machines
        Systems and precisions by row.

    Returns
    -------
    DeviceColumns
        SI units; peaks of a compute type that a device has no units for are NaN and ``supported`` is 0.

    Raises
    ------
    SpecError
        If a system names an unknown calibration.
    """
    leaves = machines.leaves
    used = _used_dtypes(machines)
    peaks = {dtype: _peak(leaves, dtype) for dtype in used}
    energies = {dtype: leaves.get(f"accelerator.energy_per_flop.{dtype}") for dtype in used}
    matmul, attention = (_by_dtype(machines, c, peaks) for c in ("matmul", "attention"))
    calibrated, evidence = machines.fidelity == "calibrated", _evidence(machines)
    return DeviceColumns(
        units=leaves.get("accelerator.units"),
        clock_hz=leaves.get("accelerator.clock"),
        matmul_flop_per_s=matmul,
        attention_flop_per_s=attention,
        vector_flop_per_s=leaves.get("accelerator.units")
        * leaves.get("accelerator.clock")
        * leaves.get("accelerator.vector_flop_per_unit_clock"),
        memory_bandwidth_bytes_per_s=leaves.get("accelerator.memory_bandwidth"),
        memory_capacity_bytes=leaves.get("accelerator.memory_capacity"),
        host_capacity_bytes=leaves.get("host_memory.capacity") / leaves.get("accelerators_per_node"),
        host_link_bytes_per_s=leaves.get("host_memory.bandwidth"),
        nvme_capacity_bytes=leaves.get("nvme.capacity") / leaves.get("accelerators_per_node"),
        nvme_link_bytes_per_s=leaves.get("nvme.bandwidth"),
        # A store that only the scenario declares has the schema's energy.
        host_j_per_byte=leaves.get("host_memory.energy_per_byte", _default_energy(HostMemorySpec)),
        nvme_j_per_byte=leaves.get("nvme.energy_per_byte", _default_energy(DriveSpec)),
        host_memory_bytes_per_s=leaves.get("host_memory.memory_bandwidth")
        / leaves.get("accelerators_per_node"),
        host_vector_flop_per_s=leaves.get("host_memory.vector_rate") / leaves.get("accelerators_per_node"),
        reserved_bytes=leaves.get("accelerator.reserved_memory"),
        sparse_speedup=leaves.get("accelerator.sparse_matmul_speedup"),
        power_limit_w=leaves.get("accelerator.power_limit"),
        idle_w=leaves.get("accelerator.idle_power"),
        host_w_per_device=leaves.get("host_power") / leaves.get("accelerators_per_node"),
        between_s=_between(machines),
        matmul_j_per_flop=_by_dtype(machines, "matmul", energies),
        attention_j_per_flop=_by_dtype(machines, "attention", energies),
        vector_j_per_flop=leaves.get("accelerator.energy_per_vector_flop"),
        memory_j_per_byte=leaves.get("accelerator.energy_per_memory_byte"),
        supported=(~np.isnan(matmul) & ~np.isnan(attention)).astype(np.float64),
        kernels=_kernels(machines),
        doubts=doubts_by_family(calibrated, *evidence),
        fitted_ranges=ranges_by_family(calibrated, *evidence),
    )

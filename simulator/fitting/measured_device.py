"""A device and a system made from measured tables: figures that the user knows, ceilings of the rows for the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from hardware_specs import load_accelerator, load_system
from hardware_specs.errors import Problem, SpecError, near_names
from hardware_specs.schema import AcceleratorSpec, SystemSpec
from simulator.fitting.measured_streaming import EAGER_BYTES, EAGER_READS, EAGER_WRITES
from simulator.measuring.machine import Machine

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ceiling", "device_from_rows", "figures_text", "system_from_rows"]

FloatArray = NDArray[np.float64]
MICRO = 1e-6
# What the quickest rows reached, to two digits up: no row may be faster than its device.
DIGITS = 2
PLACEHOLDER = (
    "not measured: a placeholder, so energies of this device mean nothing; state the figure of its data sheet"
)
VENDORS = {"amd": "AMD", "intel": "Intel", "nvidia": "NVIDIA", "apple": "Apple", "arm": "Arm"}
NOT_OWN = ("schema_version", "name", "kind", "generation", "vendor", "aliases")


def ceiling(value: float) -> float:
    """The next larger number of two digits, so that no row is above its device; ValueError for one below zero."""
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - DIGITS)
    return float(f"{math.ceil(value / step) * step:.6g}")


def _measured(value: float, unit: str, source: str, note: str = "") -> dict[str, str]:
    figure = {"value": f"{value:.6g} {unit}".strip(), "basis": "measured", "source": source}
    return {**figure, "note": note} if note else figure


def _assumed(value: str, source: str) -> dict[str, str]:
    return {"value": value, "basis": "assumed", "source": source}


def product_ceilings(frame: pd.DataFrame) -> dict[str, float]:
    """Largest FLOP/s of the products of each type [FLOP/s]; raises nothing."""
    sizes = [frame[name].to_numpy(dtype=np.float64) for name in ("batch", "m", "n", "k")]
    rate = 2.0 * np.prod(sizes, axis=0) / (frame["latency_us"].to_numpy(dtype=np.float64) * MICRO)
    return {str(name): float(rate[frame["dtype"] == name].max()) for name in frame["dtype"].unique()}


def stream_ceiling(frames: Mapping[str, pd.DataFrame]) -> float:
    """Largest bytes per second that any row moves, each tensor counted once [byte/s]; raises nothing."""
    rates: list[float] = []
    if "kernels_elementwise" in frames:
        frame = frames["kernels_elementwise"]
        reads = {op: count for family in EAGER_READS.values() for op, count in family.items()}
        frame = frame[frame["op"].isin(list(reads)) & frame["dtype"].isin(list(EAGER_BYTES))]
        tensors = np.array([reads[str(op)] + EAGER_WRITES.get(str(op), 1.0) for op in frame["op"]])
        width = frame["dtype"].map(EAGER_BYTES).to_numpy(dtype=np.float64)
        size = frame["rows"].to_numpy(dtype=np.float64) * frame["cols"].to_numpy(dtype=np.float64)
        rates += list(tensors * width * size / (frame["latency_us"].to_numpy(dtype=np.float64) * MICRO))
    if "kernels_gemm" in frames:
        frame = frames["kernels_gemm"]
        width = frame["dtype"].map(EAGER_BYTES).fillna(1.0).to_numpy(dtype=np.float64)
        m, n, k = (frame[name].to_numpy(dtype=np.float64) for name in ("m", "n", "k"))
        rates += list(
            width * (m * k + n * k + m * n) / (frame["latency_us"].to_numpy(dtype=np.float64) * MICRO)
        )
    if "kernels_attention" in frames:
        frame = frames["kernels_attention"]
        batch, keys, heads, kv_heads, dim = (
            frame[name].to_numpy(dtype=np.float64)
            for name in ("batch", "kv_len", "heads", "kv_heads", "head_dim")
        )
        width = frame["dtype"].map(EAGER_BYTES).fillna(1.0).to_numpy(dtype=np.float64)
        queries = frame["q_len"].to_numpy(dtype=np.float64)
        moved = 2.0 * width * batch * dim * (keys * kv_heads + queries * heads)
        rates += list(moved / (frame["latency_us"].to_numpy(dtype=np.float64) * MICRO))
    return max(rates)


def _known_keys(known: Mapping[str, str]) -> dict[str, Any]:
    """The user's figures under the keys of a device; SpecError for keys that it does not have."""
    out: dict[str, Any] = {}
    fields = [name for name in AcceleratorSpec.model_fields if name not in NOT_OWN]
    problems = []
    for key, value in known.items():
        outer, _, inner = key.partition(".")
        if outer not in fields:
            fix = f"near: {', '.join(near_names(outer, fields) or fields)}"
            problems.append(
                Problem(path=f"--figure {key}", value=value, rule="is no figure of a device", fix=fix)
            )
            continue
        figure = {"value": value, "basis": "datasheet", "source": "stated by the user of llmsim calibrate"}
        if inner:
            out.setdefault(outer, {})[inner] = figure
        else:
            out[outer] = figure
    if problems:
        raise SpecError(problems)
    return out


def figures_text(data: Mapping[str, Any], first_line: str) -> str:
    """A YAML file of a device or system, in the keys of the schema; raises nothing."""
    return f"# {first_line}\n" + yaml.safe_dump(dict(data), sort_keys=False, width=110, allow_unicode=False)


def device_from_rows(
    machine: Machine, frames: Mapping[str, pd.DataFrame], known: Mapping[str, str]
) -> dict[str, Any]:
    """Keys of a device.

    Parameters
    ----------
    machine : Machine
        Identity beside the tables.
    frames : mapping of str to DataFrame
        Measured kernels of it; products are needed for its peaks.
    known : mapping of str to str
        Figures of the data sheet by key, such as ``memory_bandwidth: 204.8 GB/s``.

    Returns
    -------
    dict
        As a YAML file has them, checked by the schema. Peaks and bandwidth that are not known are ceilings of the rows.

    Raises
    ------
    SpecError
        If there is no row of a product, or a known figure is wrong.
    """
    if "kernels_gemm" not in frames:
        rule, fix = "has no row of a product, which a device's peaks come from", "run llmsim measure first"
        raise SpecError([Problem(path="kernels_gemm.csv", value="", rule=rule, fix=fix)])
    peaks = {dtype: ceiling(rate) for dtype, rate in product_ceilings(frames["kernels_gemm"]).items()}
    stream = ceiling(stream_ceiling(frames))
    units, clock = float(machine.units), machine.clock_hz
    rows = f"llmsim measure, torch {machine.torch}, {machine.threads} threads"
    per_clock = {
        dtype: _measured(
            rate / (units * clock),
            "",
            rows,
            f"so that units x clock x this is the measured {rate:.3g} FLOP/s",
        )
        for dtype, rate in peaks.items()
    }
    told = "as the operating system or the driver tells"
    data: dict[str, Any] = {
        "schema_version": 1,
        "name": machine.name,
        "vendor": next((v for word, v in VENDORS.items() if word in machine.name), "unknown"),
        "kind": "cpu" if machine.device == "cpu" else "gpu",
        "generation": "measured",
        "units": _measured(units, "", f"{told}: cores or multiprocessors of one process"),
        "clock": _measured(clock / 1e9, "GHz", f"{told}; peaks do not depend on it, they are measured"),
        "matmul_flop_per_unit_clock": per_clock,
        "vector_flop_per_unit_clock": _measured(
            peaks.get("fp32", max(peaks.values())) / (units * clock), "", f"{rows}: as fp32 products"
        ),
        "memory_capacity": _measured(machine.memory_bytes / machine.processes, "B", told),
        "memory_bandwidth": _measured(
            stream / 1e9,
            "GB/s",
            rows,
            "the quickest row, from a cache where it fits: what comes from memory has an efficiency below 1",
        ),
        "l2_capacity": _measured(machine.cache_bytes, "B", f"{told}: last-level cache")
        if machine.cache_bytes
        else _assumed("1 MiB", "the driver tells no size of the last-level cache"),
        "sram_per_unit": _measured(machine.private_cache_bytes, "B", told)
        if machine.private_cache_bytes
        else _assumed("128 KiB", "the driver tells no size of the private memory of a unit"),
        "reserved_memory": _assumed("0 B", "counted by PyTorch's allocator, which leaves the runtime out"),
        "power_limit": _assumed(f"{20 * units:g} W", PLACEHOLDER),
        "idle_power": _assumed(f"{5 * units:g} W", PLACEHOLDER),
        "energy_per_flop": {dtype: _assumed("1 pJ/FLOP", PLACEHOLDER) for dtype in peaks},
        "energy_per_vector_flop": _assumed("1 pJ/FLOP", PLACEHOLDER),
        "energy_per_memory_byte": _assumed("20 pJ/B", PLACEHOLDER),
    }
    for key, value in _known_keys(known).items():
        data[key] = {**data.get(key, {}), **value} if key in data and "value" not in value else value
    load_accelerator(data)
    return data


def system_from_rows(
    machine: Machine, device_file: str, calibration_file: str, device: AcceleratorSpec, link: float
) -> dict[str, Any]:
    """Keys of a system of one node with as many devices as processes were measured.

    Parameters
    ----------
    machine : Machine
        Identity beside the tables.
    device_file, calibration_file : str
        Files beside that of the system.
    device : AcceleratorSpec
        The same device, to check the system.
    link : float
        Largest bytes per second that a rank sent in any measured collective; 0 where none was measured [byte/s].

    Returns
    -------
    dict
        As a YAML file has them, checked by the schema.

    Raises
    ------
    SpecError
        Never for figures that a machine has.
    """
    rows = f"llmsim measure, torch {machine.torch}, {machine.processes} processes"
    data: dict[str, Any] = {
        "schema_version": 1,
        "name": f"{device.name}-machine",
        "accelerator": device_file,
        "accelerators_per_node": _measured(machine.processes, "", rows),
        "scale_up": {
            "topology": "fully_connected",
            "link_bandwidth": _measured(link / 1e9, "GB/s", f"{rows}: the quickest collective")
            if link
            else _assumed("1 GB/s", "no collective was measured"),
            "links": _assumed("1", "ranks exchange through memory"),
            "latency": _assumed("20 us", "contained in the fitted latencies of collectives"),
            "energy_per_byte": _assumed("0 J/B", PLACEHOLDER),
        },
        "host_power": _assumed("0 W", PLACEHOLDER),
        "max_devices": _measured(machine.processes, "", rows),
        "calibration": calibration_file,
    }
    checked = {**data, "accelerator": device}
    del checked["calibration"]
    system: SystemSpec = load_system(checked)
    assert system.accelerator.name == device.name
    return data

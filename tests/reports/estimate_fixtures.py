"""Estimates written by hand: realistic sizes, and parts that sum exactly because they are summed here."""

from __future__ import annotations

import math
from typing import Any

Operator = dict[str, Any]

_CLASS_OF_STREAM = {
    "tensor_parallel": "tensor_parallel_s",
    "data_parallel": "data_parallel_s",
    "pipeline": "pipeline_p2p_s",
}


def operator(
    name: str, module: str, phase: str, busy_s: float, exposed_s: float | None = None, **given: Any
) -> Operator:
    """One row of ``operators``; fully exposed unless told otherwise."""
    row = {
        "name": name,
        "module": module,
        "phase": phase,
        "kind": "matmul",
        "stream": "compute",
        "count": 640,
        "flop": 0.0,
        "bytes": 0.0,
        "message_bytes": 0.0,
        "busy_s": busy_s,
        "exposed_s": busy_s if exposed_s is None else exposed_s,
        "bound": "compute",
        "dtype": "bf16",
        "evidence": "fitted",
    }
    return {**row, **given}


def _class_of(row: Operator) -> str:
    if row["phase"] == "communication":
        return _CLASS_OF_STREAM[row["stream"]]
    return {"optimizer": "optimizer_s", "bubble": "bubble_s"}.get(row["phase"], "compute_s")


def estimate_of(
    operators: list[Operator],
    memory: dict[str, float],
    energy: dict[str, float],
    capacity_bytes: float,
    **given: Any,
) -> dict[str, Any]:
    """An ``Estimate.to_dict()`` around operators, memory owners and energy parts."""
    names = ("compute_s", "tensor_parallel_s", "data_parallel_s", "pipeline_p2p_s", "bubble_s", "optimizer_s")
    time = {
        name: math.fsum(row["exposed_s"] for row in operators if _class_of(row) == name) for name in names
    }
    step, peak = math.fsum(time.values()), math.fsum(memory.values())
    devices, tokens = given.get("devices", 1), given.pop("tokens", 1.0)
    joules = math.fsum(energy.values())
    return {
        "llmsim_version": "0.1.0",
        "step_time_s": step,
        "tokens_per_s": tokens / step,
        "tokens_per_s_per_device": tokens / step / devices,
        "time_to_first_token_s": None,
        "time_per_output_token_s": None,
        "mfu": 0.41,
        "hfu": 0.43,
        "memory": {"capacity_bytes": capacity_bytes, "peak_bytes": peak, "heaviest_stage": "first", **memory},
        "time": time,
        "energy_j": joules,
        "energy": {**energy, "average_power_w_per_device": joules / step / devices},
        "feasible": peak <= capacity_bytes,
        "reasons": [],
        "smallest_change": None,
        "notes": [],
        "operators": operators,
        "interval": None,
        "peak_flop_per_s": 989.4e12,
        "memory_bandwidth_bytes_per_s": 3.35e12,
        **given,
    }


def training() -> dict[str, Any]:
    """Llama-3.1-70B on 64 H100, TP 8, PP 4, DP 2: matmuls, norms, three kinds of communication, a bubble."""
    layers = (
        ("qkv", "attention", 6.9e13, 2.2e11),
        ("scores", "attention", 2.3e13, 9.0e10),
        ("output", "attention", 5.5e13, 1.8e11),
        ("gate_up", "mlp", 3.8e14, 6.1e11),
        ("down", "mlp", 1.9e14, 3.9e11),
    )
    rows: list[Operator] = []
    for name, module, flop, size in layers:
        rate = 0.45 * 989.4e12 if name == "scores" else 0.68 * 989.4e12
        rows.append(operator(name, module, "forward", flop / rate, flop=flop, bytes=size))
        rows.append(operator(name, module, "backward", 2 * flop / rate, flop=2 * flop, bytes=2.1 * size))
    rows.append(operator("scores", "attention", "recompute", 2.3e13 / 4.4e14, flop=2.3e13, bytes=9.0e10))
    for name, module, size in (
        ("norm", "attention", 8.6e10),
        ("norm", "mlp", 8.6e10),
        ("activation", "mlp", 1.5e11),
        ("rotary", "attention", 5.0e10),
        ("residual", "mlp", 8.6e10),
    ):
        for phase, times in (("forward", 1), ("backward", 2)):
            rows.append(
                operator(
                    name,
                    module,
                    phase,
                    times * size / 2.7e12,
                    kind="pointwise",
                    flop=times * size * 1.5,
                    bytes=times * size,
                    bound="memory",
                    dtype="fp32",
                )
            )
    rows += [
        operator("head", "head", "forward", 0.021, flop=1.3e13, bytes=4.1e10, count=32),
        operator("head", "head", "backward", 0.042, flop=2.6e13, bytes=8.2e10, count=32),
        operator(
            "loss", "head", "forward", 0.004, kind="softmax", flop=4e9, bytes=8e9, bound="latency", count=32
        ),
        operator(
            "embedding", "embedding", "forward", 0.0011, kind="embedding", bytes=2e9, bound="memory", count=32
        ),
        operator(
            "adam",
            "optimizer",
            "optimizer",
            0.0145,
            kind="optimizer",
            flop=2.4e10,
            bytes=3.5e10,
            bound="memory",
            count=1,
        ),
    ]
    comm: dict[str, Any] = {"kind": "collective", "bound": "network", "evidence": "fitted"}
    rows += [
        operator(
            "all_gather",
            "attention",
            "communication",
            0.21,
            0.14,
            stream="tensor_parallel",
            message_bytes=8.6e10,
            **comm,
        ),
        operator(
            "reduce_scatter",
            "mlp",
            "communication",
            0.23,
            0.15,
            stream="tensor_parallel",
            message_bytes=8.6e10,
            **comm,
        ),
        operator(
            "grad_reduce",
            "gradients",
            "communication",
            0.12,
            0.031,
            stream="data_parallel",
            message_bytes=8.8e9,
            **comm,
        ),
        operator(
            "param_gather",
            "weights",
            "communication",
            0.06,
            0.0,
            stream="data_parallel",
            message_bytes=4.4e9,
            **comm,
        ),
        operator(
            "send_recv", "stage", "communication", 0.05, 0.012, stream="pipeline", message_bytes=4.3e9, **comm
        ),
        operator("bubble", "pipeline", "bubble", 0.27, kind="bubble", bound="none"),
    ]
    memory = {
        "weights_bytes": 4.41e9,
        "gradients_bytes": 8.82e9,
        "optimizer_bytes": 1.32e10,
        "activations_bytes": 3.1e10,
        "kv_cache_bytes": 0.0,
        "buffers_bytes": 2.1e9,
        "reserved_bytes": 3.0e9,
    }
    energy = {
        "static_j": 16_000.0,
        "compute_j": 62_000.0,
        "memory_j": 12_500.0,
        "network_j": 2_400.0,
        "host_j": 30_000.0,
    }
    scenario = {
        "model": "llama-3.1-70b",
        "system": "dgx-h100",
        "devices": 64,
        "task": {"kind": "training", "sequence_length": 8192, "global_batch_size": 64},
        "plan": {
            "tensor_parallel": 8,
            "pipeline_parallel": 4,
            "virtual_pipeline": 1,
            "data_parallel": 2,
            "zero_stage": 1,
            "micro_batch_size": 1,
            "recompute": "selective",
            "precision": "bf16",
        },
    }
    return estimate_of(
        rows,
        memory,
        energy,
        80e9,
        tokens=64 * 8192.0,
        devices=64,
        scenario=scenario,
        notes=["activations: selective recompute keeps the scores out of memory"],
    )


def decode() -> dict[str, Any]:
    """One decode step of a 13B model on one device: no backward, no optimizer, some nulls."""
    rows = [
        operator(
            name, module, "forward", size / 2.9e12 + 4e-6, flop=flop, bytes=size, bound="memory", count=40
        )
        for name, module, flop, size in (
            ("qkv", "attention", 1.0e11, 6.3e9),
            ("attend", "attention", 1.3e10, 1.3e10),
            ("output", "attention", 3.4e10, 2.1e9),
            ("up", "mlp", 1.8e11, 1.1e10),
            ("down", "mlp", 9.1e10, 5.7e9),
        )
    ]
    rows.append(
        operator(
            "norm", "decoder", "forward", 1.6e-4, kind="norm", flop=1e7, bytes=2e7, bound="latency", count=80
        )
    )
    memory = {
        "weights_bytes": 2.6e10,
        "gradients_bytes": 0.0,
        "optimizer_bytes": 0.0,
        "activations_bytes": 2e7,
        "kv_cache_bytes": 1.3e10,
        "buffers_bytes": 1e8,
        "reserved_bytes": 1.5e9,
    }
    energy = {"static_j": 1.5, "compute_j": 0.3, "memory_j": 1.9, "network_j": 0.0, "host_j": 0.8}
    scenario = {
        "model": {"name": "llama-2-13b"},
        "system": "dgx-h100",
        "devices": 1,
        "task": {"kind": "decode", "batch_size": 8, "context_length": 2048},
        "plan": {"precision": "bf16"},
    }
    estimate = estimate_of(rows, memory, energy, 80e9, tokens=8.0, devices=1, scenario=scenario)
    estimate["time_per_output_token_s"] = estimate["step_time_s"]
    estimate["time"].update({"optimizer_s": None, "bubble_s": None})
    estimate["hfu"] = None
    estimate["interval"] = {
        "step_time_s": {
            "low": 0.9 * estimate["step_time_s"],
            "high": 1.1 * estimate["step_time_s"],
            "coverage": 0.9,
        }
    }
    return estimate


def one_operator() -> dict[str, Any]:
    """The smallest estimate: a single matmul."""
    memory = {"weights_bytes": 1e6}
    rows = [operator("matmul", "", "forward", 1.1e-6, flop=1e8, bytes=1e6, bound="latency", count=1)]
    return estimate_of(
        rows,
        memory,
        {"static_j": 1e-4},
        16e9,
        devices=1,
        tokens=1.0,
        scenario={"model": "one", "system": "x"},
    )


def many_operators(n: int = 200) -> dict[str, Any]:
    """Many operators with long names and times that fall slowly, so that labels crowd."""
    rows = [
        operator(
            f"projection_with_a_long_name_{place:03d}",
            f"decoder.layers.{place % 7}.block_sparse_mixture",
            "forward",
            1e-3 * 0.985**place,
            flop=4e11 * 0.98**place * (1 + place % 3),
            bytes=2e9 * 0.97**place,
        )
        for place in range(n)
    ]
    scenario = {
        "model": "a-model-with-a-very-long-name-70b-instruct-$beta$-preview",
        "devices": 16384,
        "system": "a-system-with-a-long-name-too-and-liquid-cooling",
        "task": {"kind": "training"},
        "plan": {
            "tensor_parallel": 8,
            "pipeline_parallel": 16,
            "virtual_pipeline": 4,
            "data_parallel": 128,
            "context_parallel": 1,
            "expert_parallel": 8,
            "zero_stage": 3,
            "micro_batch_size": 2,
            "recompute": "full",
            "precision": "fp8",
        },
    }
    memory = {
        "weights_bytes": 2e10,
        "gradients_bytes": 2e10,
        "optimizer_bytes": 4e10,
        "activations_bytes": 3e10,
        "kv_cache_bytes": 0.0,
        "buffers_bytes": 1e9,
        "reserved_bytes": 2e9,
    }
    estimate = estimate_of(
        rows, memory, {"static_j": 3e8, "compute_j": 9e8}, 80e9, devices=16384, tokens=1e6, scenario=scenario
    )
    estimate.update(
        reasons=["the first stage needs 113.0 GB per device but dgx-h100 has 80.0 GB"],
        smallest_change="plan.zero_stage 1 -> 3",
    )
    return estimate


def empty() -> dict[str, Any]:
    """Every value null or absent: what a task without any of it would give."""
    return {
        "step_time_s": None,
        "tokens_per_s": None,
        "memory": None,
        "time": None,
        "energy": None,
        "energy_j": None,
        "operators": [],
        "feasible": True,
        "reasons": None,
        "notes": None,
        "scenario": None,
        "devices": None,
    }


def all_zero() -> dict[str, Any]:
    """Present but zero: zero work takes zero time."""
    estimate = training()
    for part in ("time", "memory", "energy"):
        estimate[part] = {
            name: value if isinstance(value, str) else 0.0 for name, value in estimate[part].items()
        }
    estimate.update(
        step_time_s=0.0,
        tokens_per_s=0.0,
        energy_j=0.0,
        peak_flop_per_s=None,
        memory_bandwidth_bytes_per_s=None,
    )
    estimate["operators"] = [
        {**row, "busy_s": 0.0, "exposed_s": 0.0, "flop": 0.0} for row in estimate["operators"]
    ]
    return estimate


ALL = {
    "training": training,
    "decode": decode,
    "one_operator": one_operator,
    "many_operators": many_operators,
    "empty": empty,
    "all_zero": all_zero,
}


def scaling_points() -> list[dict[str, Any]]:
    """Six device counts with falling efficiency; two of them measured, the first does not fit."""
    times = {8: 31.0, 16: 15.8, 32: 8.2, 64: 4.3, 128: 2.4, 256: 1.45}
    measured = {64: 4.5, 256: 1.52}
    return [
        {
            "devices": devices,
            "step_time_s": time,
            "tokens_per_s": 524288 / time,
            "feasible": devices > 8,
            "measured_step_time_s": measured.get(devices),
            "label": f"TP 8, DP {devices // 8}",
        }
        for devices, time in times.items()
    ]


def parity_rows() -> list[dict[str, Any]]:
    """Two quantities in two units, three sources, one row that was skipped and one without a source."""
    rows: list[dict[str, Any]] = []
    for source, base, errors in (
        ("meg-sel22", 20.0, (0.03, -0.05, 0.07, 0.01)),
        ("meg-sc21", 9.0, (-0.12, 0.04, 0.09)),
        ("lf", 1.4, (0.16, -0.02, 0.05, 0.08, -0.07)),
    ):
        for place, error in enumerate(errors):
            measured = base * 1.4**place
            predicted = measured * (1 + error)
            rows.append(
                {
                    "id": f"{source}-{place:03d}",
                    "quantity": "step_time",
                    "unit": "s",
                    "measured": measured,
                    "predicted": predicted,
                    "low": 0.9 * predicted,
                    "high": 1.1 * predicted,
                    "skipped_because": None,
                }
            )
    rows += [
        {
            "id": f"en-{place}",
            "source": "energy_serving",
            "quantity": "energy_per_token",
            "unit": "J",
            "measured": 0.4 + 0.3 * place,
            "predicted": (0.4 + 0.3 * place) * 1.06,
            "low": None,
            "high": None,
        }
        for place in range(5)
    ]
    return [
        *rows,
        {
            "id": "x-1",
            "quantity": "step_time",
            "unit": "s",
            "measured": 3.0,
            "predicted": None,
            "skipped_because": "no interconnect given",
        },
    ]

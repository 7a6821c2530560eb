"""Columns of the tables of measured kernels: what `llmsim calibrate` fits and `llmsim validate` scores."""

from __future__ import annotations

from simulator.measured_tables.table_kind import CellType, TableKind

__all__ = ["KERNEL_KINDS"]

_COMMON: dict[str, CellType] = {
    "framework": "text",
    "version": "text",
    "kernel": "text",
    "source": "text",
    "quality": "text",
    # What `llmsim measure` writes beside each row.
    "machine": "text",
    "spread": "number",
    "reference_us": "positive",
}

KERNEL_KINDS: dict[str, TableKind] = {
    "kernels_moe": TableKind(
        name="kernels_moe",
        needed={
            "device": "text",
            "dtype": "text",
            "tokens": "count",
            "hidden": "count",
            "inter": "count",
            "topk": "count",
            "experts": "count",
            "latency_us": "positive",
        },
        optional={
            **_COMMON,
            "moe_tp": "count",
            "moe_ep": "count",
            "distribution": "text",
            "gated": "flag",
        },
    ),
    "kernels_attention": TableKind(
        name="kernels_attention",
        needed={
            "device": "text",
            "phase": "text",
            "dtype": "text",
            "batch": "count",
            "q_len": "count",
            "kv_len": "count",
            "heads": "count",
            "kv_heads": "count",
            "head_dim": "count",
            "latency_us": "positive",
        },
        optional={**_COMMON, "kind": "text", "kv_dtype": "text"},
    ),
    "kernels_elementwise": TableKind(
        name="kernels_elementwise",
        needed={
            "device": "text",
            "op": "text",
            "dtype": "text",
            "rows": "count",
            "cols": "count",
            "latency_us": "positive",
        },
        optional=_COMMON,
    ),
    "kernels_gemm": TableKind(
        name="kernels_gemm",
        needed={
            "device": "text",
            "dtype": "text",
            "m": "count",
            "n": "count",
            "k": "count",
            "latency_us": "positive",
        },
        optional={**_COMMON, "batch": "count", "weights_rotated": "flag"},
    ),
}

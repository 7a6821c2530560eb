"""Small synthetic tables, and where the real ones are."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest

MEGATRON_ROW: dict[str, Any] = {
    "id": "meg-test-001",
    "source": "a test",
    "date": "2022-05",
    "framework": "Megatron-LM",
    "model": "megatron-gpt-22B",
    "n_layers": 48,
    "hidden": 6144,
    "ffn": 24576,
    "heads": 64,
    "kv_heads": 64,
    "head_dim": 96,
    "vocab": 51200,
    "params_b": 22.0,
    "seq_len": 2048,
    "gated_mlp": False,
    "experts": "",
    "accelerator": "a100_sxm_80gb",
    "n_accelerators": 8,
    "accelerators_per_node": 8,
    "interconnect": "Selene (NVLink + HDR IB)",
    "precision": "mixed fp16",
    "tp": 8,
    "pp": 1,
    "vpp": 1,
    "cp": 1,
    "ep": "",
    "dp": 1,
    "sequence_parallel": False,
    "zero_stage": "none (dp=1)",
    "micro_batch": 4,
    "grad_accum": 1,
    "global_batch": 4,
    "recompute": "full",
    "flash_attention": False,
    "measured_step_time_s": 1.4,
    "measured_tokens_per_s_per_device": "",
    "measured_peak_memory_gib": "",
    "workload": "pretrain",
    "outcome": "ok",
    "quality": "A",
    "notes": "",
}
FSDP_ROW: dict[str, Any] = {
    **MEGATRON_ROW,
    "id": "lf-test-001",
    "date": "2023-10",
    "framework": "PyTorch FSDP (llm-foundry/Composer)",
    "model": "mpt-1b",
    "n_layers": 24,
    "hidden": 2048,
    "ffn": 8192,
    "heads": 16,
    "kv_heads": 16,
    "head_dim": 128,
    "vocab": 50368,
    "params_b": 1.3,
    "n_accelerators": 16,
    "interconnect": "1600 Gbps node-node RoCE",
    "precision": "amp_bf16",
    "tp": 1,
    "dp": 16,
    "zero_stage": "fsdp_full_shard (zero3)",
    "micro_batch": 8,
    "global_batch": 128,
    "recompute": "none",
    "flash_attention": True,
    "measured_step_time_s": 0.8,
    "notes": "mp_mode=PURE",
}
ENERGY_ROW: dict[str, Any] = {
    "source": "a test",
    "device": "H100",
    "n_devices": 1,
    "model": "Qwen/Qwen3-8B",
    "precision": "bfloat16",
    "framework": "unstated",
    "isl": "",
    "avg_output_len": 600.0,
    "tp": 1,
    "dp": 1,
    "batch": 15.98,
    "itl_median_ms": 9.0,
    "J_per_out_token": 0.3,
}


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    """A CSV file with the columns of the first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def measured(name: str) -> Path:
    """A real table: in LLMSIM_MEASUREMENTS, else beside the checkout; skips the test without it."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "measurements"
    path = Path(os.environ.get("LLMSIM_MEASUREMENTS", str(beside))) / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the checkout; set LLMSIM_MEASUREMENTS to its folder")
    return path

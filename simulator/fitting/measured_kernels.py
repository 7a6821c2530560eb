"""Read the measured GEMM and attention tables into rows that the fit understands.

Work is counted as the engine counts it: a matmul moves each operand once, attention moves Q, K, V and the
output once, and causal attention computes only the pairs that it keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from simulator.fitting.devices import A100_PCIE, MeasuredDevice
from simulator.fitting.rows import FloatArray, KernelRows, TextArray, left_out_by_group

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Tables",
    "eager_fp32_matmul_rows",
    "layer_matmul_rows",
    "matmul_rows",
    "read_table",
]

# A folder with Parquet files, or frames by name of the table.
Tables: TypeAlias = "Path | Mapping[str, pd.DataFrame]"
FLOP_PER_MULTIPLY_ADD = 2.0
BYTES = {"fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0}
OUTPUT_BYTES = {"fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 2.0, "int8": 2.0}
TABLE_DTYPE = {"int8": "sq"}  # SmoothQuant: 8-bit weights and activations

MIN_WEIGHT_SIDE = 512  # smaller n or k do not occur in a sharded language model but are half of the rows
MIN_WHOLE_MICROSECONDS_S = 20e-6  # layer_ops medians are whole microseconds
L2_EXCESS_BYTES = 64 * 2**20  # a KV cache below this may be read from L2
USUAL_HEAD_DIM = 128
MIN_CACHE_TOKENS = 256  # below two tiles of 128 tokens, decode kernels mostly process padding


def read_table(tables: Tables, name: str) -> pd.DataFrame:
    """Read a table from a folder, or take it from a mapping; FileNotFoundError or KeyError if it is not there."""
    if not isinstance(tables, Path):
        return tables[name]
    import pandas as pd

    return pd.read_parquet(tables / f"{name}.parquet")


def _column(frame: pd.DataFrame, name: str) -> FloatArray:
    return frame[name].to_numpy(dtype=np.float64)  # the columns are int32; products overflow


def _matmul_classes(m: FloatArray, n: FloatArray, k: FloatArray) -> TextArray:
    large = (m >= 2048) & (n >= 1024) & (k >= 1024)
    classes = np.select([large, m >= 512, m > 64], ["large", "prefill", "middle"], "decode")
    return classes.astype(np.str_)


def _matmul(
    device: MeasuredDevice,
    dtype: str,
    m: FloatArray,
    n: FloatArray,
    k: FloatArray,
    measured_s: FloatArray,
    stack: TextArray,
    batch: float | FloatArray = 1.0,
) -> KernelRows:
    inputs = BYTES[dtype] * (m * k + k * n)
    pairs = [f"{int(a)}x{int(b)}" for a, b in zip(n, k, strict=True)]
    return KernelRows(
        flop=batch * FLOP_PER_MULTIPLY_ADD * m * n * k,
        moved_bytes=batch * (inputs + OUTPUT_BYTES[dtype] * m * n),
        peak_flop_per_s=np.full_like(m, device.peak_flop_per_s[dtype]),
        bandwidth_bytes_per_s=np.full_like(m, device.bandwidth_bytes_per_s),
        measured_s=measured_s,
        stack=stack,
        size_class=_matmul_classes(batch * m, n, k),
        left_out=left_out_by_group(pairs),
        other_s=np.zeros_like(m),
        rounding_s=np.zeros_like(m),
    )


def matmul_rows(
    folder: Path, device: MeasuredDevice, dtype: str, quantise: tuple[float, float] | None = None
) -> KernelRows:
    """GEMMs of ``kernels_gemm`` with n and k of at least 512 and weights that are cold.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    device : MeasuredDevice
        Whose rows.
    dtype : str
        Type of both operands.
    quantise : tuple of float, optional
        Memory efficiency [1] and fixed cost [s] of the kernel that quantises the activations first: the
        serving stacks time both, the engine has an operator of its own for it.

    Returns
    -------
    KernelRows
        Rows above the memory's peak, benchmarks that reused one copy of the weights, and vLLM's fp8 GEMM
        above m = 4096 (which falls to a slow path) are left away.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    """
    frame = read_table(folder, "kernels_gemm")
    frame = frame[(frame.device == device.kernel_table) & (frame.dtype == TABLE_DTYPE.get(dtype, dtype))]
    frame = frame[(frame.quality != "suspect_above_hbm_peak") & frame.weights_rotated]
    frame = frame[(frame.n >= MIN_WEIGHT_SIDE) & (frame.k >= MIN_WEIGHT_SIDE)]
    if dtype == "fp8":
        frame = frame[~((frame.framework == "vllm") & (frame.m > 4096))]
    m, n, k = (_column(frame, name) for name in ("m", "n", "k"))
    stack = (frame.framework + "-" + frame.version).to_numpy(dtype=np.str_)
    rows = _matmul(device, dtype, m, n, k, _column(frame, "latency_us") * 1e-6, stack)
    if quantise is None:
        return rows
    efficiency, fixed_s = quantise
    pass_bytes = (BYTES["bf16"] + BYTES[dtype]) * m * k
    return replace(rows, other_s=fixed_s + pass_bytes / (efficiency * device.bandwidth_bytes_per_s))


def layer_matmul_rows(folder: Path, device: MeasuredDevice) -> KernelRows:
    """The four fp16 projections of a layer in ``layer_ops`` (PyTorch), at least 20 us long."""
    frame = read_table(folder, "layer_ops")
    frame = frame[frame.device == device.layer_table]
    frame = frame[frame.op.isin(["attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj"])]
    frame = frame[frame.median_us * 1e-6 >= MIN_WHOLE_MICROSECONDS_S]
    hidden, ffn, heads, kv_heads, tp = (
        _column(frame, name) for name in ("hidden", "ffn", "heads", "kv_heads", "tp")
    )
    head_dim = hidden / heads
    operations = [frame.op == name for name in ("attn_pre_proj", "attn_post_proj", "mlp_up_proj")]
    n = np.select(operations, [(heads + 2 * kv_heads) * head_dim / tp, hidden, 2 * ffn / tp], hidden)
    k = np.select(operations, [hidden, heads * head_dim / tp, hidden], ffn / tp)
    stack = np.array(["pytorch-layer"] * len(frame), dtype=np.str_)
    return _matmul(device, "fp16", _column(frame, "tokens"), n, k, _column(frame, "median_us") * 1e-6, stack)


def eager_fp32_matmul_rows(folder: Path, device: MeasuredDevice) -> KernelRows:
    """Eager PyTorch fp32 linear layers and batched matmuls (TF32 off) of the device's eager table."""
    frame = read_table(folder, "kernels_gemm")
    frame = frame[(frame.device == device.eager_table) & (frame.dtype == "fp32")]
    figures = A100_PCIE if device.eager_table == A100_PCIE.eager_table else device
    m, n, k, batch = (_column(frame, name) for name in ("m", "n", "k", "batch"))
    linear = (frame.version == "linear").to_numpy()
    stack = np.where(linear, "pytorch2.1-linear", "pytorch2.1-bmm").astype(np.str_)
    rows = _matmul(figures, "fp32", m, n, k, _column(frame, "latency_us") * 1e-6, stack, batch)
    return rows.where(linear)

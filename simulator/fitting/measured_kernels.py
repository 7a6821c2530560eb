"""Read the measured GEMM and attention tables into rows that the fit understands.

Work is counted as the engine counts it: a matmul moves each operand once, attention moves Q, K, V and the
output once, and causal attention computes only the pairs that it keeps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simulator.fitting.devices import A100_PCIE, MeasuredDevice
from simulator.fitting.rows import FloatArray, KernelRows, TextArray, left_out_by_group

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "attention_decode_rows",
    "attention_prefill_rows",
    "eager_fp32_matmul_rows",
    "layer_matmul_rows",
    "matmul_rows",
    "read_table",
]

FLOP_PER_MULTIPLY_ADD = 2.0
BYTES = {"fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0}
OUTPUT_BYTES = {"fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 2.0, "int8": 2.0}
TABLE_DTYPE = {"int8": "sq"}  # SmoothQuant: 8-bit weights and activations

MIN_WEIGHT_SIDE = 512  # smaller n or k do not occur in a sharded language model but are half of the rows
MIN_WHOLE_MICROSECONDS_S = 20e-6  # layer_ops medians are whole microseconds
L2_EXCESS_BYTES = 64 * 2**20  # a KV cache below this may be read from L2
USUAL_HEAD_DIM = 128
MIN_CACHE_TOKENS = 256  # below two tiles of 128 tokens, decode kernels mostly process padding


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """Read ``folder/name.parquet``; FileNotFoundError if it is not there."""
    import pandas as pd

    return pd.read_parquet(folder / f"{name}.parquet")


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


def _attention(folder: Path, device: MeasuredDevice, phase: str, dtype: str, kv_dtype: str) -> pd.DataFrame:
    frame = read_table(folder, "kernels_attention")
    frame = frame[(frame.device == device.kernel_table) & (frame.kind == "gqa") & (frame.phase == phase)]
    frame = frame[(frame.dtype == dtype) & (frame.kv_dtype == kv_dtype)]
    return frame[frame.quality != "suspect_above_hbm_peak"]


def _head_groups(frame: pd.DataFrame) -> list[str]:
    columns = zip(frame.heads, frame.kv_heads, frame.head_dim, strict=True)
    return [f"{heads}/{kv_heads}/{dim}" for heads, kv_heads, dim in columns]


def attention_prefill_rows(
    folder: Path, device: MeasuredDevice, dtype: str, *, shortest: int = 0, large_from: int = 2048
) -> KernelRows:
    """Causal prefill attention with keys and values in the compute dtype; whole head layouts held out.

    Parameters
    ----------
    folder, device, dtype
        Where the tables are, whose rows, and the type of all operands.
    shortest, large_from : int
        Queries of a sequence [1]: shorter rows are left away, and longer ones are of the class ``large``.

    Returns
    -------
    KernelRows
        Stacks carry the head dimension where it is not 128: narrower heads keep the matrix units less busy.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    """
    frame = _attention(folder, device, "prefill", dtype, dtype)
    frame = frame[frame.q_len >= shortest]
    batch, q_len, kv_len, heads, kv_heads, dim = (
        _column(frame, name) for name in ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
    )
    pairs = q_len * (kv_len - (q_len - 1) / 2)
    stack = _attention_stack(frame)
    sizes = np.select([q_len >= large_from, q_len >= 512], ["large", "prefill"], "middle")
    narrow = np.array([f"{name} d{d:.0f}" for name, d in zip(stack, dim, strict=True)], dtype=np.str_)
    query_bytes = (BYTES[dtype] + OUTPUT_BYTES[dtype]) * batch * q_len * heads * dim  # Q in, output out
    cache_bytes = 2 * BYTES[dtype] * batch * kv_len * kv_heads * dim  # K and V
    return KernelRows(
        flop=2 * FLOP_PER_MULTIPLY_ADD * batch * heads * dim * pairs,
        moved_bytes=query_bytes + cache_bytes,
        peak_flop_per_s=np.full_like(batch, device.peak_flop_per_s[dtype]),
        bandwidth_bytes_per_s=np.full_like(batch, device.bandwidth_bytes_per_s),
        measured_s=_column(frame, "latency_us") * 1e-6,
        stack=np.where(dim == USUAL_HEAD_DIM, stack, narrow).astype(np.str_),
        size_class=sizes.astype(np.str_),
        left_out=left_out_by_group(_head_groups(frame)),
        other_s=np.zeros_like(batch),
        rounding_s=np.zeros_like(batch),
    )


def attention_decode_rows(folder: Path, device: MeasuredDevice, kv_dtype: str) -> KernelRows:
    """One query token over a cache of keys and values held in ``kv_dtype``; whole head layouts held out."""
    frame = _attention(folder, device, "decode", "bf16", kv_dtype)
    frame = frame[frame.kv_len >= MIN_CACHE_TOKENS]
    batch, kv_len, heads, kv_heads, dim = (
        _column(frame, name) for name in ("batch", "kv_len", "heads", "kv_heads", "head_dim")
    )
    cache_bytes = 2 * BYTES[kv_dtype] * batch * kv_len * kv_heads * dim
    return KernelRows(
        flop=2 * FLOP_PER_MULTIPLY_ADD * batch * heads * dim * kv_len,
        moved_bytes=cache_bytes + 2 * BYTES["bf16"] * batch * heads * dim,
        peak_flop_per_s=np.full_like(batch, device.peak_flop_per_s["bf16"]),
        bandwidth_bytes_per_s=np.full_like(batch, device.bandwidth_bytes_per_s),
        measured_s=_column(frame, "latency_us") * 1e-6,
        stack=_attention_stack(frame),
        size_class=np.where(cache_bytes >= L2_EXCESS_BYTES, "large", "decode").astype(np.str_),
        left_out=left_out_by_group(_head_groups(frame)),
        other_s=np.zeros_like(batch),
        rounding_s=np.zeros_like(batch),
    )


def _attention_stack(frame: pd.DataFrame) -> TextArray:
    names = frame.framework + "-" + frame.version
    return names.to_numpy(dtype=np.str_)

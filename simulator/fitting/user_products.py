"""Products of a user's table as samples, of any type and device, and their fit.

Work is counted as the engine counts it. Serving stacks time the kernel that quantises activations together with
the product behind it; the engine has an operator of its own for it, so its time is taken out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hardware_specs.kernel_fits import FitEvidence, StreamingFit
from hardware_specs.schema import AcceleratorSpec, dense_peak_flop_per_s
from simulator.fitting.fit_gemm import fit_gemm_rows
from simulator.fitting.measured_gemm import NARROW_SIDE
from simulator.fitting.measured_kernels import Tables, read_table
from simulator.fitting.rows import FloatArray
from simulator.fitting.samples import KernelSamples
from simulator.kernels.size_classes import matmul_class

__all__ = ["PRODUCT_TYPES", "QUANTISING", "ProductType", "fit_products", "product_samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductType:
    """A number format: its key in a calibration, the type it multiplies in, and bytes per element.

    Attributes
    ----------
    key, compute : str
        Key of the coefficients, and type whose peak counts.
    operand_bytes, weight_bytes, output_bytes : float
        Of activations as the product reads them, of weights with their scales, and of the result [byte].
    """

    key: str
    compute: str
    operand_bytes: float
    weight_bytes: float
    output_bytes: float = 2.0


def _plain(dtype: str, size: float) -> ProductType:
    return ProductType(
        key=dtype, compute=dtype, operand_bytes=size, weight_bytes=size, output_bytes=max(size, WIDE_BYTES)
    )


WIDE_BYTES = 2.0  # of an activation before it is quantised
FP4_BYTES = 0.5 + 1 / 16  # one byte of scale for 16 values
# By their name in the tables; weights alone in 4 bits have a scale of two bytes for 128.
PRODUCT_TYPES: Mapping[str, ProductType] = {
    **{name: _plain(name, 8.0) for name in ("fp64",)},
    **{name: _plain(name, 4.0) for name in ("fp32", "tf32")},
    **{name: _plain(name, 2.0) for name in ("bf16", "fp16")},
    **{name: _plain(name, 1.0) for name in ("fp8", "int8")},
    "fp4": _plain("fp4", FP4_BYTES),
    "sq": _plain("int8", 1.0),  # SmoothQuant: 8-bit weights and activations
    "nvfp4": ProductType(key="nvfp4", compute="fp4", operand_bytes=FP4_BYTES, weight_bytes=FP4_BYTES),
    "fp8_block": ProductType(key="fp8_block", compute="fp8", operand_bytes=1.0 + 4 / 128, weight_bytes=1.0),
    "int8_wo": ProductType(key="int8_wo", compute="bf16", operand_bytes=2.0, weight_bytes=1.0),
    "int4_wo": ProductType(key="int4_wo", compute="bf16", operand_bytes=2.0, weight_bytes=0.5 + 2 / 128),
}
NARROW_ALREADY = ("sq",)  # its rows time products of activations that are narrow already
QUANTISING = ("vllm", "sglang", "trtllm")
SLOW_PATH_ROWS = 4096  # vLLM's fp8 products of more rows fall to a kernel that takes twice the time


def fit_products(samples: KernelSamples, *, source: str) -> FitEvidence:
    """All coefficients of a product from rows of one type; ValueError if no row is left to fit."""
    return fit_gemm_rows(samples, source=source, fixed={}).gemm


def product_samples(
    tables: Tables,
    accelerator: AcceleratorSpec,
    table_dtype: str,
    *,
    family: str = "matmul",
    quantise: StreamingFit | None = None,
) -> KernelSamples:
    """Products of ``kernels_gemm`` of one device and type.

    Parameters
    ----------
    tables : Path or mapping of str to DataFrame
        Where the tables are; the column ``device`` holds the accelerator's name.
    accelerator : AcceleratorSpec
        Whose.
    table_dtype : str
        Key of ``PRODUCT_TYPES``.
    family : str
        "matmul" (whole (n, k) pairs form a group) or "batched_matmul" (whole (m, n, k)).
    quantise : StreamingFit, optional
        Kernel that serving stacks quantise activations with, for 8 bits and less.

    Returns
    -------
    KernelSamples
        Weights are cold and, in 16 bits and less, n and k at least 512: smaller ones do not occur in a sharded
        language model. vLLM's fp8 products with more than 4,096 rows are left away.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    SpecError
        If the device has no matmul units for the type.
    """
    form = PRODUCT_TYPES[table_dtype]
    frame = read_table(tables, "kernels_gemm")
    frame = frame[(frame.device == accelerator.name) & (frame.dtype == table_dtype)]
    frame = frame[frame.batch == 1 if family == "matmul" else frame.batch > 1]
    frame = frame[(frame.quality != "suspect_above_hbm_peak") & frame.weights_rotated.astype(bool)]
    if form.operand_bytes <= WIDE_BYTES and family == "matmul":
        frame = frame[(frame.n >= NARROW_SIDE) & (frame.k >= NARROW_SIDE)]
    if table_dtype == "fp8":
        frame = frame[~((frame.framework == "vllm") & (frame.m > SLOW_PATH_ROWS))]
    batch, m, n, k, latency = (
        frame[name].to_numpy(dtype=np.float64) for name in ("batch", "m", "n", "k", "latency_us")
    )
    units, bandwidth = accelerator.units.value, accelerator.memory_bandwidth.value
    figures = {
        "units": units,
        "clock_hz": accelerator.clock.value,
        "peak_flop_per_s": dense_peak_flop_per_s(accelerator, form.compute),
        "bandwidth_bytes_per_s": bandwidth,
        "operand_bytes": form.operand_bytes,
        "second_operand_bytes": form.weight_bytes,
    }
    pairs = [f"{a:.0f}x{b:.0f}" for a, b in zip(n, k, strict=True)]
    if family == "batched_matmul":
        pairs = [f"{a:.0f}x{pair}" for a, pair in zip(m, pairs, strict=True)]
    other: FloatArray = np.zeros_like(m)
    if quantise is not None and form.operand_bytes < WIDE_BYTES and table_dtype not in NARROW_ALREADY:
        read, written = (
            width * m * k / efficiency
            for width, efficiency in (
                (WIDE_BYTES, quantise.read_efficiency),
                (form.operand_bytes, quantise.write_efficiency),
            )
        )
        quantises = frame.framework.isin(QUANTISING).to_numpy(dtype=np.float64)
        other = quantises * (quantise.fixed_s + (read + written) / bandwidth)
    samples = KernelSamples(
        family=family,
        inputs={
            "batch": batch,
            "m": m,
            "n": n,
            "k": k,
            "flop": 2.0 * batch * m * n * k,
            "moved_bytes": batch
            * (form.operand_bytes * m * k + form.weight_bytes * k * n + form.output_bytes * m * n),
            **{name: np.full_like(m, value) for name, value in figures.items()},
        },
        measured_s=latency * 1e-6,
        stack=(frame.framework + "-" + frame.version).to_numpy(dtype=np.str_),
        size_class=matmul_class(batch, m, n, k),
        group=np.array(pairs, dtype=np.str_),
        other_s=other,
        rounding_s=np.zeros_like(m),
        row=frame.row.to_numpy(dtype=np.int64),
    )
    return samples

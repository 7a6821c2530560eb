"""Fit each kernel family of a device to the rows that stand for it in training or in serving.

Training is eager PyTorch with fused attention; serving is the mean of the serving stacks and PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hardware_specs.calibration import Task
from hardware_specs.kernel_fits import StreamingFit
from simulator.fitting.devices import H100, MeasuredDevice
from simulator.fitting.fit_kernels import FittedKernel, fit_kernel
from simulator.fitting.measured_kernels import (
    eager_fp32_matmul_rows,
    layer_matmul_rows,
    matmul_rows,
)
from simulator.fitting.rows import KernelRows, join_rows

__all__ = ["FittedRows", "fit_matmuls", "stack_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRows:
    """One fit with the rows behind it, to report errors from."""

    family: str
    dtype: str
    fit: FittedKernel
    rows: KernelRows


def stack_names(rows: KernelRows) -> str:
    """Stacks of the rows, sorted and joined by commas."""
    return ", ".join(str(name) for name in np.unique(rows.stack))


def _fitted(family: str, dtype: str, rows: KernelRows, source: str) -> FittedRows:
    return FittedRows(family=family, dtype=dtype, fit=fit_kernel(rows, source=source), rows=rows)


def fit_matmuls(
    folder: Path, device: MeasuredDevice, task: Task, pointwise: StreamingFit
) -> list[FittedRows]:
    """Fits of the matmul by dtype, bf16 first.

    Parameters
    ----------
    folder, device, task
        Where the tables are, and for what.
    pointwise : FittedKernel
        Stands for the kernel that quantises activations, which 8-bit rows include.

    Returns
    -------
    list of FittedRows
        bf16, fp32 and the measured 8-bit types.

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    """
    layer = layer_matmul_rows(folder, device)
    if task == "training":
        rows, tables = layer, "layer_ops (fp16)"
    else:
        rows = join_rows([matmul_rows(folder, device, "bf16"), layer])
        tables = "kernels_gemm (bf16) and layer_ops (fp16), equal weight"
    fitted = [_fitted("matmul", "bf16", rows, f"{tables}, {device.kernel_table}: {stack_names(rows)}")]
    eager = eager_fp32_matmul_rows(folder, device)
    fit = fit_kernel(
        eager,
        source=f"kernels_gemm, {device.eager_table}, fp32 without TF32: {stack_names(eager)}; "
        "only the compute efficiency, the rest is that of bf16",
        shape=fitted[0].fit,
    )
    fitted.append(FittedRows(family="matmul", dtype="fp32", fit=fit, rows=eager))
    for dtype in ("fp8", "int8"):
        if dtype in device.peak_flop_per_s and not (dtype == "int8" and device is H100):
            whole = matmul_rows(folder, device, dtype, (pointwise.read_efficiency, pointwise.fixed_s))
            source = (
                f"kernels_gemm, {device.kernel_table}, {dtype}: {stack_names(whole)}; the rows include "
                "quantising the activations, which was modelled as a pointwise kernel and taken out"
            )
            item = _fitted("matmul", dtype, whole, source)
            if task == "training":
                source = f"no training stack was measured in {dtype}; serving: {source}"
                item = replace(item, fit=replace(item.fit, basis="derived", source=source))
            fitted.append(item)
    return fitted

"""Fit grouped products and the kernels around them to measured MoE layers, which time both together.

Eight coefficients for each device, software stack and number format: six of the products, three of the kernels
around them, less the granularity, which is one. The errors written beside either set are those of the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware_specs.calibration import Task
from hardware_specs.kernel_fits import FitEvidence, GroupedGemmFit, MoeDispatchFit
from simulator.fitting.measured_kernels import Tables
from simulator.fitting.measured_moe import ACTIVATION_BYTES, MOE_FORMATS, MoeRows, moe_device, moe_rows
from simulator.fitting.robust_fit import Free, robust_fit, significant, spread_90
from simulator.fitting.rows import FloatArray
from simulator.kernels.grouped_gemm import grouped_gemm_time
from simulator.kernels.moe_dispatch import moe_dispatch_time

__all__ = [
    "MOE_STACKS",
    "MoeFamilies",
    "MoeFit",
    "fit_moe",
    "fit_moe_rows",
    "moe_class_errors",
    "moe_families",
    "moe_layer_seconds",
]

FLOP_PER_MULTIPLY_ADD = 2.0
ACTIVATION_FLOP_PER_ELEMENT = 8.0  # as the engine counts it
# Two stacks on one device differ by 19 % on average: 0.174 in ln, the mean distance of two normal numbers whose
# standard deviation is 0.174 / (2 / sqrt(pi)).
COMMON = 0.154
# One run in ten of TensorRT-LLM takes two to eight times as long as others of its shape: whole runs of one shape
# and pair of degrees, as slow as the same CUTLASS kernels without tuning in other stacks. Such rows are scored;
# in the second fit they have almost no say.
SLOW_RUN = np.log(2.0)
SLOW_WEIGHT = 0.05
MIN_CLASS_ROWS = 20
NOTHING = 1e-3  # a coefficient below this part of its usual size is none

# The stack that stands for a task, by device and type. Serving takes vLLM's kernels, but for fp8 TensorRT-LLM's:
# those of vLLM ran untuned. No training stack was measured: TensorRT-LLM's kernels are CUTLASS grouped products,
# as those of Megatron and Transformer Engine are.
MOE_STACKS: Mapping[Task, Mapping[str, Mapping[str, str]]] = {
    "inference": {
        "h100_sxm": {"bf16": "vllm", "fp8": "trtllm"},
        "a100_sxm": {"bf16": "vllm"},
    },
    "training": {
        "h100_sxm": {"bf16": "trtllm", "fp8": "trtllm"},
        "a100_sxm": {"bf16": "trtllm"},
    },
}
MoeFamilies = dict[str, dict[str, FitEvidence]]

GROUPED = "grouped."
DISPATCH = "dispatch."
FREE = (
    Free(name=f"{GROUPED}compute_efficiency", start=(0.6,), lower=0.02, upper=1.0),
    Free(name=f"{GROUPED}memory_efficiency", start=(0.85,), lower=0.05, upper=1.0),
    Free(name=f"{GROUPED}sharpness", start=(2.0,), lower=1.0, upper=12.0),
    Free(name=f"{GROUPED}feed_bytes_per_clock", start=(40.0,), lower=1.0, upper=1000.0, scale=30.0),
    Free(name=f"{GROUPED}tile_s", start=(1e-6,), lower=0.0, upper=2e-5, scale=1e-6),
    Free(name=f"{DISPATCH}fixed_s", start=(8e-6,), lower=0.0, upper=9e-5, scale=1e-5),
    Free(name=f"{DISPATCH}memory_efficiency", start=(0.5,), lower=0.02, upper=1.0),
    Free(name=f"{DISPATCH}foreign_share", start=(0.1, 0.9), lower=0.0, upper=1.0),
)
FIXED = {f"{GROUPED}granularity": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeFit:
    """Both sets of coefficients of a device, stack and format, with the rows behind them."""

    grouped: GroupedGemmFit
    dispatch: MoeDispatchFit
    rows: MoeRows

    @property
    def coefficients(self) -> dict[str, float]:
        """All coefficients in SI units, named ``grouped.`` or ``dispatch.`` and the coefficient."""
        pairs = ((GROUPED, self.grouped), (DISPATCH, self.dispatch))
        return {f"{prefix}{name}": v for prefix, fit in pairs for name, v in fit.coefficients().items()}


def _of(prefix: str, coefficients: Mapping[str, float]) -> dict[str, FloatArray]:
    return {
        name.removeprefix(prefix): np.full(1, value)
        for name, value in coefficients.items()
        if name.startswith(prefix)
    }


def _product(rows: MoeRows, n: FloatArray, k: FloatArray, coefficients: Mapping[str, float]) -> FloatArray:
    form, device = MOE_FORMATS[rows.dtype], moe_device(rows.accelerator, rows.dtype)
    read_written = rows.rows * (form.operand_bytes * k + ACTIVATION_BYTES * n)
    return grouped_gemm_time(
        m=rows.rows,
        experts_hit=rows.experts_hit,
        n=n,
        k=k,
        flop=FLOP_PER_MULTIPLY_ADD * rows.rows * n * k,
        moved_bytes=form.weight_bytes * rows.experts_hit * n * k + read_written,
        operand_bytes=np.full(1, form.operand_bytes),
        peak_flop_per_s=np.full(1, device.peak_flop_per_s),
        bandwidth_bytes_per_s=np.full(1, device.bandwidth_bytes_per_s),
        units=np.full(1, device.units),
        clock_hz=np.full(1, device.clock_hz),
        **_of(GROUPED, coefficients),
    )


def _around(
    rows: MoeRows,
    width: FloatArray,
    other_elements: FloatArray | float,
    flop: FloatArray | float,
    coefficients: Mapping[str, float],
) -> FloatArray:
    """One kernel that touches ``width`` elements of each routed row, and others."""
    device = moe_device(rows.accelerator, rows.dtype)
    foreign = np.maximum(rows.tokens * rows.topk - rows.rows, 0.0)
    return moe_dispatch_time(
        flop=np.asarray(flop),
        moved_bytes=ACTIVATION_BYTES * (rows.rows * width + other_elements),
        foreign_elements=foreign * width,
        operand_bytes=np.full(1, ACTIVATION_BYTES),
        peak_flop_per_s=np.full(1, device.vector_flop_per_s),
        bandwidth_bytes_per_s=np.full(1, device.bandwidth_bytes_per_s),
        **_of(DISPATCH, coefficients),
    )


def moe_layer_seconds(rows: MoeRows, coefficients: Mapping[str, float]) -> FloatArray:
    """Seconds of each measured layer [s], shape ``(rows,)``: two products and three kernels around them.

    ``coefficients`` by name, as in `MoeFit.coefficients`; TypeError if one is missing.
    """
    stream, inner = rows.tokens * rows.hidden, rows.up_width + rows.ffn
    activation_flop = ACTIVATION_FLOP_PER_ELEMENT * rows.rows * rows.up_width
    parts = (
        _around(rows, rows.hidden, stream, 0.0, coefficients),
        _product(rows, rows.up_width, rows.hidden, coefficients),
        _around(rows, inner, 0.0, activation_flop, coefficients),
        _product(rows, rows.hidden, rows.ffn, coefficients),
        _around(rows, rows.hidden, stream, 2.0 * rows.rows * rows.hidden, coefficients),
    )
    total: FloatArray = np.sum(np.stack(parts), axis=0)
    return total


def _weights(rows: MoeRows) -> FloatArray:
    """The same say for each stack and size class; mean 1 [1]."""
    cells = np.char.add(np.char.add(rows.stack, "|"), rows.size_class)
    names, index, counts = np.unique(cells, return_inverse=True, return_counts=True)
    weights: FloatArray = len(rows) / (len(names) * counts[index].astype(np.float64))
    return weights


def moe_class_errors(rows: MoeRows, predicted_s: FloatArray) -> dict[str, float]:
    """Mean absolute relative error by size class and over all [1]; left-out rows under names of their own."""
    off, errors = np.abs(predicted_s / rows.measured_s - 1.0), {}
    for suffix, chosen in (("", ~rows.left_out), ("_left_out", rows.left_out)):
        for name in ("all", *np.unique(rows.size_class)):
            here = chosen & ((rows.size_class == name) | (name == "all"))
            if here.any():
                errors[f"{name}{suffix}"] = significant(float(off[here].mean()))
    return errors


def _spread(rows: MoeRows, predicted_s: FloatArray) -> dict[str, float]:
    apart = rows.left_out if rows.left_out.sum() >= MIN_CLASS_ROWS else np.ones_like(rows.left_out)
    spread = {"all": spread_90(predicted_s[apart], rows.measured_s[apart])}
    for name in np.unique(rows.size_class):
        here = apart & (rows.size_class == name)
        if here.sum() >= MIN_CLASS_ROWS:
            spread[str(name)] = spread_90(predicted_s[here], rows.measured_s[here])
    return spread


def fit_moe_rows(rows: MoeRows, *, source: str) -> MoeFit:
    r"""Fit the coefficients of both families to the rows that are not left out.

    Parameters
    ----------
    rows : MoeRows
        Layers of one device and format; left-out shapes are scored, never fitted.
    source : str
        Written beside the coefficients.

    Returns
    -------
    MoeFit
        With errors and spread of the whole layer.

    Raises
    ------
    ValueError
        If no row is left to fit.
    ModuleNotFoundError
        Without scipy (the ``calibrate`` extra).

    Notes
    -----
    Robust in the logarithm, then once more with rows that are off by more than a factor of two held back.
    """
    kept = rows.where(~rows.left_out)
    if not len(kept):
        raise ValueError(f"no rows to fit for {source}")
    weights = _weights(kept)

    def seconds(found: Mapping[str, float]) -> FloatArray:
        return moe_layer_seconds(kept, {**FIXED, **found})

    first = robust_fit(seconds, kept.measured_s, weights, FREE)
    off = np.abs(np.log(seconds(first) / kept.measured_s))
    held_back = weights * np.where(off > SLOW_RUN, SLOW_WEIGHT, 1.0)
    again = tuple(_from(f, first[f.name]) for f in FREE)
    last = robust_fit(seconds, kept.measured_s, held_back, again)
    found = {**FIXED, **{f.name: 0.0 if last[f.name] < NOTHING * f.scale else last[f.name] for f in FREE}}
    predicted = moe_layer_seconds(rows, found)
    evidence: dict[str, Any] = {
        "basis": "measured",
        "source": source,
        "rows": len(kept),
        "error": moe_class_errors(rows, predicted),
        "spread": _spread(rows, predicted),
        "common": COMMON,
    }
    grouped_range = {
        name: [float(np.min(v)), float(np.max(v))]
        for name, v in (("m", kept.rows), ("experts_hit", kept.experts_hit))
    }
    grouped = {name: float(value[0]) for name, value in _of(GROUPED, found).items()}
    dispatch = {name: float(value[0]) for name, value in _of(DISPATCH, found).items()}
    return MoeFit(
        grouped=GroupedGemmFit.of(grouped, **evidence, fitted_range=grouped_range),
        dispatch=MoeDispatchFit.of(dispatch, **evidence),
        rows=rows,
    )


def _from(free: Free, value: float) -> Free:
    return Free(name=free.name, start=(value,), lower=free.lower, upper=free.upper, scale=free.scale)


def fit_moe(folder: Tables, device: str, dtype: str, *, stack: str, kernel: str = "") -> MoeFit:
    """Fit the MoE layers of one device, format and stack; names as in the table.

    Raises FileNotFoundError if the table is missing, ValueError if it has no row of these, KeyError for an unknown
    device or format.
    """
    rows = moe_rows(folder, device, dtype, stack=stack, kernel=kernel)
    stacks = ", ".join(str(name) for name in np.unique(rows.stack))
    named = ", ".join(str(name) for name in np.unique(rows.kernel))
    return fit_moe_rows(rows, source=f"kernels_moe, {device}, {dtype}: {stacks} ({named})")


def _borrowed(fit: FitEvidence, why: str) -> FitEvidence:
    return type(fit).of(fit.coefficients(), basis="assumed", source=why)


def moe_families(folder: Tables, device: str, task: Task) -> MoeFamilies:
    """Coefficients of both families of a measured device, as in a calibration.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    device : str
        Name in the table, a key of ``MOE_STACKS[task]``.
    task : str
        "training" or "inference".

    Returns
    -------
    dict
        By family and dtype; ``any`` is bf16's.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    KeyError
        If no stack stands for the device.
    """
    families: MoeFamilies = {"grouped_matmul": {}, "moe_dispatch": {}}
    for dtype, stack in MOE_STACKS[task][device].items():
        found = fit_moe(folder, device, dtype, stack=stack)
        for family, fit in (("grouped_matmul", found.grouped), ("moe_dispatch", found.dispatch)):
            if task == "training":
                source = f"no training stack was measured; serving: {fit.source}"
                fit = fit.model_copy(update={"basis": "derived", "source": source})
            families[family][dtype] = fit
    for fits in families.values():
        fits["any"] = _borrowed(fits["bf16"], "coefficients of bf16; no row of another type")
    return families

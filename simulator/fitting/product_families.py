"""Which rows of matrix products stand for a device in training and in serving, by dtype.

Training is eager PyTorch; serving is the mean of the serving stacks, each with the same say. fp32 comes from eager
PyTorch, where only the compute efficiency is the product's own: the rows are timed from the host. Formats that nobody
measured in training have the coefficients of serving.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hardware_specs import device_named, load_accelerator
from hardware_specs.calibration import Task
from hardware_specs.kernel_fits import FitEvidence
from simulator.fitting.devices import H100, MeasuredDevice
from simulator.fitting.fit_gemm import FREE, FittedGemm, fit_gemm, fit_gemm_rows, tile_steps
from simulator.fitting.layer_sums import layer_product_samples
from simulator.fitting.measured_gemm import gemm_samples
from simulator.fitting.rows import Families
from simulator.fitting.samples import KernelSamples

__all__ = ["FittedProducts", "fit_products", "product_families", "stack_names"]

# The dtype of a calibration, and what the table calls it.
NARROW_FORMATS = {"fp8": "fp8", "int8": "sq"}
COMPUTE_ONLY = tuple(f for f in FREE if f.name == "compute_efficiency")


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedProducts:
    """One fit of the family "matmul", the dtype that it is for, and the rows behind it."""

    dtype: str
    fitted: FittedGemm


def stack_names(samples: KernelSamples) -> str:
    """Stacks of the rows, sorted and joined by commas."""
    return ", ".join(str(name) for name in np.unique(samples.stack))


def _sixteen_bits(folder: Path, device: MeasuredDevice, task: Task, accelerator: str) -> FittedGemm:
    if task == "inference":
        return fit_gemm(folder, accelerator, "bf16")
    board = load_accelerator(accelerator)
    return fit_gemm_rows(
        layer_product_samples(folder, device),
        source=f"layer_ops, {device.layer_table}: fp16 projections of eager PyTorch",
        fixed={**tile_steps(board.generation), "resident_bytes": board.l2_capacity.value},
    )


def _eager(folder: Path, device: MeasuredDevice, wide: FittedGemm) -> FittedGemm:
    table = device_named(device.eager_table).accelerator
    samples = gemm_samples(folder, table, "fp32")
    return fit_gemm_rows(
        samples,
        source=f"kernels_gemm, {table}, fp32 without TF32: {stack_names(samples)}; only the compute efficiency, "
        "the rest is that of bf16",
        fixed=wide.gemm.coefficients(),
        free=COMPUTE_ONLY,
    )


def _unmeasured(fitted: FittedGemm) -> FittedGemm:
    """The same coefficients for a task whose software was not measured."""

    def derived(source: str) -> dict[str, object]:
        return {"basis": "derived", "source": f"no training stack was measured; serving: {source}"}

    gemm = fitted.gemm.model_copy(update=derived(fitted.gemm.source))
    narrowing = fitted.quantise and fitted.quantise.model_copy(update=derived(fitted.quantise.source))
    return replace(fitted, gemm=gemm, quantise=narrowing)


def fit_products(folder: Path, device: MeasuredDevice, task: Task) -> list[FittedProducts]:
    """Fits of the products by dtype, bf16 first.

    Parameters
    ----------
    folder, device, task
        Where the tables are, and for what.

    Returns
    -------
    list of FittedProducts
        bf16, fp32 and the measured 8-bit types.

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    """
    accelerator = device_named(device.kernel_table).accelerator
    wide = _sixteen_bits(folder, device, task, accelerator)
    found = [
        FittedProducts(dtype="bf16", fitted=wide),
        FittedProducts(dtype="fp32", fitted=_eager(folder, device, wide)),
    ]
    for dtype, table in NARROW_FORMATS.items():
        if (dtype == "fp8") == (device is H100):
            fitted = fit_gemm(folder, accelerator, table)
            found.append(
                FittedProducts(dtype=dtype, fitted=_unmeasured(fitted) if task == "training" else fitted)
            )
    return found


def _borrowed(fit: FitEvidence, why: str) -> FitEvidence:
    return type(fit).of(fit.coefficients(), basis="assumed", source=why)


def product_families(found: list[FittedProducts], device: MeasuredDevice) -> Families:
    """Coefficients of "matmul" and "quantise" by dtype, with the stated stand-ins; raises nothing."""
    products: dict[str, FitEvidence] = {item.dtype: item.fitted.gemm for item in found}
    wide = products["bf16"]
    products["fp16"] = wide.model_copy(update={"source": f"as bf16, same units and rate: {wide.source}"})
    products["any"] = _borrowed(wide, "coefficients of bf16; no row of another type")
    products["tf32"] = _borrowed(wide, "coefficients of bf16; no row with TF32")
    if "int8" in device.peak_flop_per_s and "int8" not in products:
        products["int8"] = _borrowed(products["fp8"], "coefficients of fp8, same rate; no row with int8")
    families: Families = {"matmul": products}
    passes: dict[str, FitEvidence] = {
        item.dtype: item.fitted.quantise for item in found if item.fitted.quantise is not None
    }
    if passes:
        first = next(iter(passes))
        stand_in = _borrowed(
            passes[first], f"coefficients of {first}; no pass into another type was measured"
        )
        families["quantise"] = {**passes, "any": stand_in}
    return families

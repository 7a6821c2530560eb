"""Which rows of matrix products stand for a device in training and in serving, by dtype.

Training is eager PyTorch; serving is the mean of the serving stacks, each with the same say. fp32 comes from eager
PyTorch, where only the compute efficiency is the product's own: the rows are timed from the host. Formats that nobody
measured in training have the coefficients of serving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hardware_specs import device_named, load_accelerator
from hardware_specs.calibration import Task
from hardware_specs.kernel_fits import FitEvidence
from simulator.fitting.devices import MeasuredDevice
from simulator.fitting.fit_gemm import FREE, FittedGemm, fit_gemm, fit_gemm_rows, known_figures
from simulator.fitting.layer_sums import layer_product_samples
from simulator.fitting.measured_gemm import gemm_samples
from simulator.fitting.rows import Families
from simulator.fitting.samples import KernelSamples

__all__ = ["FittedProducts", "fit_products", "product_families", "stack_names"]

# Formats by the table's name that stand for a measured device, with the stacks that count (all without a name):
# vLLM's rows in fp8_block ran from the host, which took 57 us or more for each.
NARROW_FORMATS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "a100-sxm": {"sq": (), "int8_wo": (), "int4_wo": ()},
    "h100-sxm": {"fp8": (), "fp8_block": ("trtllm", "sglang")},
}
# What a calibration calls them, where it differs; formats of training are those that PyTorch multiplies in.
CALIBRATION_DTYPE = {"sq": "int8"}
TRAINING_FORMATS = ("sq", "fp8")
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
        fixed=known_figures(board, "bf16"),
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
    for table, stacks in NARROW_FORMATS[device.name].items():
        if task == "inference" or table in TRAINING_FORMATS:
            fitted = fit_gemm(folder, accelerator, table, stacks)
            chosen = _unmeasured(fitted) if task == "training" else fitted
            found.append(FittedProducts(dtype=CALIBRATION_DTYPE.get(table, table), fitted=chosen))
    return found


def _borrowed(fit: FitEvidence, why: str) -> FitEvidence:
    return type(fit).of(fit.coefficients(), basis="assumed", source=why)


def product_families(found: Sequence[FittedProducts]) -> Families:
    """Coefficients of "matmul" and "quantise" by dtype, with the stated stand-ins; KeyError without bf16."""
    products: dict[str, FitEvidence] = {item.dtype: item.fitted.gemm for item in found}
    wide = products["bf16"]
    products["fp16"] = wide.model_copy(update={"source": f"as bf16, same units and rate: {wide.source}"})
    products["any"] = _borrowed(wide, "coefficients of bf16; no row of another type")
    products["tf32"] = _borrowed(wide, "coefficients of bf16; no row with TF32")
    if "fp8" in products and "int8" not in products:
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

"""Calibrations of single serving stacks, by name such as ``h100-sxm-vllm``, and of devices that only they ran on.

Products and the passes before them are the stack's own, attention too where it was timed alone; the rest is that of
the device's mean over stacks, or of the default calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simulator.fitting.attention_families import attention_families, fit_attention_of
from simulator.fitting.calibrate import ATTENTION_STACKS, TASKS
from simulator.fitting.fit_gemm import fit_gemm
from simulator.fitting.product_families import (
    CALIBRATION_DTYPE,
    FittedProducts,
    product_families,
    stack_names,
)
from simulator.fitting.write_calibration import CalibrationFile

__all__ = ["STACK_CALIBRATIONS", "StackCalibration", "stack_file", "stack_products"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackCalibration:
    """One stack on one device.

    Attributes
    ----------
    accelerator, stack : str
        Catalog name, and framework in the tables.
    name : str
        Of the calibration.
    formats : tuple of str
        Number formats of its products in the table, bf16 first.
    base : str
        Calibration that the other families come from.
    attention_table : str
        The device's name in the table of attention; "" where attention is the base's.
    applies_to : tuple of str
        Accelerators that it is used for unasked.
    """

    accelerator: str
    stack: str
    name: str
    formats: tuple[str, ...]
    base: str = "default"
    attention_table: str = ""
    applies_to: tuple[str, ...] = ()


A100, H100 = "a100-sxm", "h100-sxm"
RTX, B60 = "rtx-pro-6000", "arc-b60"
STACK_CALIBRATIONS = (
    *(
        StackCalibration(
            accelerator="a100-sxm-80gb",
            stack=stack,
            name=f"{A100}-{stack}",
            formats=formats,
            base=f"{A100}-serving",
            attention_table="a100_sxm",
        )
        for stack, formats in (
            ("vllm", ("bf16",)),
            ("sglang", ("bf16",)),
            ("trtllm", ("bf16", "sq", "int8_wo", "int4_wo")),
        )
    ),
    *(
        StackCalibration(
            accelerator=H100,
            stack=stack,
            name=f"{H100}-{stack}",
            formats=formats,
            base=f"{H100}-serving",
            attention_table="h100_sxm",
        )
        for stack, formats in (
            ("vllm", ("bf16", "fp8")),
            ("sglang", ("bf16", "fp8", "fp8_block")),
            ("trtllm", ("bf16", "fp8", "fp8_block")),
        )
    ),
    *(
        StackCalibration(
            accelerator=RTX, stack=stack, name=f"{RTX}-{stack}", formats=formats, applies_to=applies
        )
        for stack, formats, applies in (
            ("vllm", ("bf16", "fp8", "nvfp4"), (RTX,)),
            ("sglang", ("bf16", "fp8", "nvfp4"), ()),
            ("trtllm", ("bf16", "fp8", "fp8_block", "nvfp4"), ()),
        )
    ),
    StackCalibration(accelerator=B60, stack="vllm", name=f"{B60}-vllm", formats=("bf16",), applies_to=(B60,)),
)


def stack_products(folder: Path, which: StackCalibration) -> list[FittedProducts]:
    """Fits of a stack's products, bf16 first; FileNotFoundError if the table is missing."""
    return [
        FittedProducts(
            dtype=CALIBRATION_DTYPE.get(table, table),
            fitted=fit_gemm(folder, which.accelerator, table, (which.stack,)),
        )
        for table in which.formats
    ]


def stack_file(folder: Path, which: StackCalibration, bases: Sequence[CalibrationFile]) -> CalibrationFile:
    """The calibration file of one stack.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    which : StackCalibration
        One of ``STACK_CALIBRATIONS``.
    bases : sequence of CalibrationFile
        With the one that ``which.base`` names.

    Returns
    -------
    CalibrationFile
        Used for both tasks where it applies to a device unasked, else for inference.

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    StopIteration
        If the base is not there.
    """
    base = next(file for file in bases if file.name == which.base)
    products = stack_products(folder, which)
    kernels = {**base.kernels, **product_families(products)}
    stack = stack_names(products[0].fitted.samples)
    if which.attention_table and which.stack in ATTENTION_STACKS:
        found = fit_attention_of(folder, which.attention_table, (which.stack,), "inference")
        kernels |= attention_families(found)
        stack = f"products, attention: {stack}"
    else:
        stack = f"products: {stack}"
    return replace(
        base,
        name=which.name,
        applies_to=which.applies_to,
        tasks=TASKS if which.applies_to else ("inference",),
        stack=f"{stack}; the rest: {which.base}",
        kernels=kernels,
    )

"""Fit all coefficients of one measured device and task from the tables in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardware_specs.calibration import Task
from simulator.fitting.attention_families import attention_families, fit_attention_of
from simulator.fitting.devices import MeasuredDevice
from simulator.fitting.fit_attention import FittedAttention
from simulator.fitting.fit_moe import moe_families
from simulator.fitting.fit_streaming import FittedStreaming, fit_streaming_families
from simulator.fitting.product_families import FittedProducts, fit_products, product_families, stack_names
from simulator.fitting.rows import Families

__all__ = ["TASKS", "DeviceFit", "calibrate_device"]

TASKS: tuple[Task, ...] = ("training", "inference")
# TensorRT-LLM also rotates and writes the cache inside its attention: its rows have fits of their own.
ATTENTION_STACKS = ("vllm", "sglang")
STACK_SUFFIX = {"training": "pytorch", "inference": "serving"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """All coefficients of one device for one task.

    Attributes
    ----------
    device : MeasuredDevice
        What was measured.
    task : str
        training or inference.
    stack : str
        Software of the rows.
    kernels : mapping of family to mapping of dtype to FitEvidence
        As in a calibration file.
    products : tuple of FittedProducts
        Fits of matrix products with their rows, bf16 first.
    attention : tuple of FittedAttention
        The same of attention.
    streaming : tuple of FittedStreaming
        The same of families that only move memory.
    """

    device: MeasuredDevice
    task: Task
    stack: str
    kernels: Families
    products: tuple[FittedProducts, ...]
    attention: tuple[FittedAttention, ...]
    streaming: tuple[FittedStreaming, ...]

    @property
    def name(self) -> str:
        """Name of the calibration, such as ``a100-sxm-pytorch``."""
        return f"{self.device.name}-{STACK_SUFFIX[self.task]}"


def _streaming(fitted: Sequence[FittedStreaming]) -> Families:
    return {item.family: {item.dtype: item.fit} for item in fitted}


def calibrate_device(folder: Path, device: MeasuredDevice, task: Task) -> DeviceFit:
    """Fit every kernel family of one device.

    Parameters
    ----------
    folder : Path
        Holds the measured tables (kernels_gemm.parquet and so on).
    device : MeasuredDevice
        One of ``devices.MEASURED_DEVICES``.
    task : str
        "training" (PyTorch) or "inference" (serving stacks).

    Returns
    -------
    DeviceFit
        Coefficients with their evidence.

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    ModuleNotFoundError
        Without scipy or pyarrow (the ``calibrate`` extra).
    """
    streaming = fit_streaming_families(folder, device, task)
    products = fit_products(folder, device, task)
    attention = fit_attention_of(folder, device.kernel_table, ATTENTION_STACKS, task)
    kernels: Families = {
        **product_families(products),
        **attention_families(attention),
        **_streaming(streaming),
        **moe_families(folder, device.kernel_table, task),
    }
    software = stack_names(products[0].fitted.samples)
    attention_software = ", ".join(str(name) for name in np.unique(attention[0].samples.stack))
    return DeviceFit(
        device=device,
        task=task,
        stack=f"matmul: {software}; attention: {attention_software}",
        kernels=kernels,
        products=tuple(products),
        attention=tuple(attention),
        streaming=tuple(streaming),
    )

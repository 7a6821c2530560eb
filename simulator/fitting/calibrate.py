"""Fit all coefficients of one measured device and task from the tables in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardware_specs.calibration import Task
from hardware_specs.kernel_fits import FitEvidence
from simulator.fitting.attention_families import attention_families, fit_attention_of
from simulator.fitting.devices import MeasuredDevice
from simulator.fitting.fit_attention import FittedAttention
from simulator.fitting.fit_families import FittedRows, fit_matmuls, stack_names
from simulator.fitting.fit_kernels import as_evidence
from simulator.fitting.fit_moe import moe_families
from simulator.fitting.fit_streaming import FittedStreaming, fit_streaming_families
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
    evidence : tuple of FittedRows
        Fits on rows of their own, in the order of fitting.
    attention : tuple of FittedAttention
        The same of attention.
    streaming : tuple of FittedStreaming
        The same of families that only move memory.
    """

    device: MeasuredDevice
    task: Task
    stack: str
    kernels: Families
    evidence: tuple[FittedRows, ...]
    attention: tuple[FittedAttention, ...]
    streaming: tuple[FittedStreaming, ...]

    @property
    def name(self) -> str:
        """Name of the calibration, such as ``a100-sxm-pytorch``."""
        return f"{self.device.name}-{STACK_SUFFIX[self.task]}"


def _borrowed(fit: FitEvidence, why: str) -> FitEvidence:
    return type(fit).of(fit.coefficients(), basis="assumed", source=why)


def _products(fitted: list[FittedRows], device: MeasuredDevice) -> Families:
    fits: dict[str, FitEvidence] = {item.dtype: as_evidence(item.fit, item.rows) for item in fitted}
    wide = fits["bf16"]
    fits["fp16"] = wide.model_copy(update={"source": f"as bf16, same units and rate: {wide.source}"})
    fits["any"] = _borrowed(wide, "coefficients of bf16; no row of another type")
    fits["tf32"] = _borrowed(wide, "coefficients of bf16; no row with TF32")
    if "int8" in device.peak_flop_per_s and "int8" not in fits:
        fits["int8"] = _borrowed(fits["fp8"], "coefficients of fp8, same rate; no row with int8")
    return {"matmul": fits}


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
    matmuls = fit_matmuls(folder, device, task, streaming[0].fit)
    attention = fit_attention_of(folder, device.kernel_table, ATTENTION_STACKS, task)
    kernels: Families = {
        **_products(matmuls, device),
        **attention_families(attention),
        **_streaming(streaming),
        **moe_families(folder, device.kernel_table, task),
    }
    software = stack_names(matmuls[0].rows)
    attention_software = ", ".join(str(name) for name in np.unique(attention[0].samples.stack))
    return DeviceFit(
        device=device,
        task=task,
        stack=f"matmul: {software}; attention: {attention_software}",
        kernels=kernels,
        evidence=tuple(matmuls),
        attention=tuple(attention),
        streaming=tuple(streaming),
    )

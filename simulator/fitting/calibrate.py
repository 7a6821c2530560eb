"""Fit the kernels of one measured device and task from the tables in a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hardware_specs.calibration import Task
from simulator.fitting.devices import MeasuredDevice
from simulator.fitting.fit_families import (
    Families,
    FittedRows,
    fit_attention,
    fit_matmuls,
    fit_streaming_families,
    stack_names,
)
from simulator.fitting.fit_kernels import FittedKernel

__all__ = ["TASKS", "DeviceFit", "calibrate_device"]

TASKS: tuple[Task, ...] = ("training", "inference")
STACK_SUFFIX = {"training": "pytorch", "inference": "serving"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """All kernel coefficients of one device for one task.

    Attributes
    ----------
    device : MeasuredDevice
        What was measured.
    task : str
        training or inference.
    stack : str
        Software of the rows.
    kernels : mapping of family to mapping of dtype to FittedKernel
        As in a calibration file.
    evidence : tuple of FittedRows
        Fits on rows of their own, in the order of fitting.
    unseen : tuple of FittedRows
        Rows of stacks that were not fitted, to score.
    """

    device: MeasuredDevice
    task: Task
    stack: str
    kernels: Families
    evidence: tuple[FittedRows, ...]
    unseen: tuple[FittedRows, ...]

    @property
    def name(self) -> str:
        """Name of the calibration, such as ``a100-sxm-pytorch``."""
        return f"{self.device.name}-{STACK_SUFFIX[self.task]}"


def _borrowed(fit: FittedKernel, why: str, basis: str = "assumed") -> FittedKernel:
    return replace(fit, basis=basis, source=why, rows=0, error={})


def _families(evidence: list[FittedRows], device: MeasuredDevice) -> Families:
    kernels: Families = {}
    for item in evidence:
        kernels.setdefault(item.family, {})[item.dtype] = item.fit
    for family in ("matmul", "attention_prefill", "attention_decode"):
        fits = kernels[family]
        fits["fp16"] = replace(fits["bf16"], source=f"as bf16, same units and rate: {fits['bf16'].source}")
        fits["any"] = _borrowed(fits["bf16"], "coefficients of bf16; no row of another type")
    matmul = kernels["matmul"]
    matmul["tf32"] = _borrowed(matmul["bf16"], "coefficients of bf16; no row with TF32")
    if "int8" in device.peak_flop_per_s and "int8" not in matmul:
        matmul["int8"] = _borrowed(matmul["fp8"], "coefficients of fp8, same rate; no row with int8")
    return kernels


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
    attention, unseen = fit_attention(folder, device, task)
    evidence = [*matmuls, *attention, *streaming]
    software = stack_names(matmuls[0].rows)
    attention_software = stack_names(attention[0].rows)
    return DeviceFit(
        device=device,
        task=task,
        stack=f"matmul: {software}; attention: {attention_software}",
        kernels=_families(evidence, device),
        evidence=tuple(evidence),
        unseen=tuple(unseen),
    )

"""Fit all coefficients of one measured device and task from the tables in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hardware_specs.calibration import Task
from simulator.fitting.attention_families import attention_families, fit_attention_of
from simulator.fitting.devices import H100, MeasuredDevice
from simulator.fitting.fit_attention import FittedAttention
from simulator.fitting.fit_collectives import FittedCollective, fit_collective, fit_in_switch_gain
from simulator.fitting.fit_moe import moe_families
from simulator.fitting.fit_streaming import FittedStreaming, fit_streaming_families
from simulator.fitting.measured_collectives import CollectiveRows, across_node_rows, captured_rows, nccl_rows
from simulator.fitting.product_families import FittedProducts, fit_products, product_families, stack_names
from simulator.fitting.robust_fit import significant
from simulator.fitting.rows import Families

__all__ = ["TASKS", "DeviceFit", "calibrate_device"]

TASKS: tuple[Task, ...] = ("training", "inference")
# TensorRT-LLM also rotates and writes the cache inside its attention: its rows have fits of their own.
ATTENTION_STACKS = ("vllm", "sglang")
STACK_SUFFIX = {"training": "pytorch", "inference": "serving"}

# Rings of many nodes over rails reach more than one message between two GPUs (0.75 of the port in
# collectives.parquet): 46-48 of 50 GB/s per port (NVIDIA/nccl-tests issue 290), 85-96 of 100 GB/s on A100
# nodes (issue 119); 32 B200 over EFA reach 0.74 (micro.csv). The middle of these is used.
SCALE_OUT_EFFICIENCY = 0.85


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
    scale_up, scale_out : FittedCollective
        Both tiers of the fabric.
    products : tuple of FittedProducts
        Fits of matrix products with their rows, bf16 first.
    attention : tuple of FittedAttention
        The same of attention.
    streaming : tuple of FittedStreaming
        The same of families that only move memory.
    collectives, unseen_collectives : CollectiveRows
        Rows behind ``scale_up``, and rows of a stack that was not fitted.
    """

    device: MeasuredDevice
    task: Task
    stack: str
    kernels: Families
    scale_up: FittedCollective
    scale_out: FittedCollective
    products: tuple[FittedProducts, ...]
    attention: tuple[FittedAttention, ...]
    streaming: tuple[FittedStreaming, ...]
    collectives: CollectiveRows
    unseen_collectives: CollectiveRows

    @property
    def name(self) -> str:
        """Name of the calibration, such as ``a100-sxm-pytorch``."""
        return f"{self.device.name}-{STACK_SUFFIX[self.task]}"


def _streaming(fitted: Sequence[FittedStreaming]) -> Families:
    return {item.family: {item.dtype: item.fit} for item in fitted}


def _scale_out(folder: Path, device: MeasuredDevice, base_latency_s: float) -> FittedCollective:
    """Latency and ramp from messages between two nodes of H100; efficiency from published rings."""
    fit = fit_collective(
        across_node_rows(folder, H100), source="collectives, h100_dgx", one_step_base_s=base_latency_s
    )
    return replace(
        fit,
        efficiency=SCALE_OUT_EFFICIENCY,
        basis="assumed",
        source=f"{fit.rows} messages between two h100_dgx nodes in collectives give latency and ramp (and "
        f"{significant(fit.efficiency)} of one port); efficiency assumed, rings reach 0.92-0.96 of a port "
        "(NVIDIA/nccl-tests issue 290), 0.85-0.96 (issue 119), 0.74 on EFA (micro.csv, 32 B200)",
        rows=0,
        error={},
    )


def _with_share(fit: FittedCollective, device: MeasuredDevice) -> FittedCollective:
    share = f"{device.exchange_units} NCCL channels of one block on {device.units} units"
    return replace(
        fit,
        compute_share=significant(device.exchange_units / device.units),
        source=f"{fit.source}; compute share assumed: {share} ({device.exchange_source})",
    )


def calibrate_device(folder: Path, device: MeasuredDevice, task: Task) -> DeviceFit:
    """Fit every family and both fabric tiers of one device.

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
    rows = nccl_rows(folder, device, in_switch_reduction=device.in_switch_reduction)
    library = ", ".join(np.unique(rows.stack))
    source = f"collectives, {device.collective_table}, 2-8 ranks on NVSwitch, 16-bit elements: {library}"
    scale_up = fit_collective(rows, source=source)
    if device.in_switch_reduction:
        scale_up = fit_in_switch_gain(rows, scale_up)
    software = stack_names(products[0].fitted.samples)
    attention_software = ", ".join(str(name) for name in np.unique(attention[0].samples.stack))
    return DeviceFit(
        device=device,
        task=task,
        stack=f"matmul: {software}; attention: {attention_software}; {library}",
        kernels=kernels,
        scale_up=_with_share(scale_up, device),
        scale_out=_with_share(_scale_out(folder, device, scale_up.base_latency_s), device),
        products=tuple(products),
        attention=tuple(attention),
        streaming=tuple(streaming),
        collectives=rows,
        unseen_collectives=captured_rows(folder, device, in_switch_reduction=device.in_switch_reduction),
    )

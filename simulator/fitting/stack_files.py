"""A calibration for each measured device and serving stack: its own kernels, and the rest of the device's mean.

Software moves the time of a kernel by 3 to 20 %, so a stack is part of a calibration's name, as in
``h100-sxm-vllm``; they are used by name (``system.calibration``), and by validation for rows of that stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hardware_specs.calibration import Task
from hardware_specs.kernel_fits import FitEvidence
from simulator.fitting.attention_families import attention_families, fit_attention_of
from simulator.fitting.fit_moe import fit_moe
from simulator.fitting.gemm_families import gemm_families
from simulator.fitting.measured_kernels import read_table
from simulator.fitting.measured_moe import MOE_FORMATS
from simulator.fitting.rows import Families
from simulator.fitting.write_calibration import CalibrationFile

__all__ = ["STACK_DEVICES", "StackDevice", "stack_files"]

INFERENCE: tuple[Task, ...] = ("inference",)
MEAN = "serving"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackDevice:
    """A device of the kernel tables and the stacks that were timed on it.

    Attributes
    ----------
    name, table, accelerator : str
        Start of the calibrations' names, name in the tables, name in the catalog.
    stacks : tuple of str
        Frameworks.
    applies_to : tuple of str
        Accelerators that use the mean over the stacks unasked; empty where another file serves them.
    """

    name: str
    table: str
    accelerator: str
    stacks: tuple[str, ...]
    applies_to: tuple[str, ...] = ()


STACK_DEVICES = (
    StackDevice(
        name="h100-sxm", table="h100_sxm", accelerator="h100-sxm", stacks=("vllm", "sglang", "trtllm")
    ),
    StackDevice(
        name="a100-sxm", table="a100_sxm", accelerator="a100-sxm-80gb", stacks=("vllm", "sglang", "trtllm")
    ),
    StackDevice(
        name="rtx-pro-6000",
        table="rtx_pro_6000_server",
        accelerator="rtx-pro-6000",
        stacks=("vllm", "sglang", "trtllm"),
        applies_to=("rtx-pro-6000",),
    ),
    StackDevice(
        name="arc-b60", table="b60", accelerator="arc-b60", stacks=("vllm",), applies_to=("arc-b60",)
    ),
)


def _moe(folder: Path, device: StackDevice, stack: str) -> Families:
    """Fits of every number format of experts that the stack has rows of."""
    table = read_table(folder, "kernels_moe")
    own = table[(table.device == device.table) & table.framework.str.startswith(stack)]
    families: Families = {"grouped_matmul": {}, "moe_dispatch": {}}
    for dtype in [name for name in MOE_FORMATS if (own.dtype == name).any()]:
        found = fit_moe(folder, device.table, dtype, stack=stack)
        families["grouped_matmul"][dtype] = found.grouped
        families["moe_dispatch"][dtype] = found.dispatch
    for fits in families.values():
        if "bf16" in fits:
            fits["any"] = _assumed(fits["bf16"], "coefficients of bf16; no row of another type")
    return {family: fits for family, fits in families.items() if fits}


def _assumed(fit: FitEvidence, why: str) -> FitEvidence:
    return type(fit).of(fit.coefficients(), basis="assumed", source=why)


def _measured(folder: Path, device: StackDevice, stacks: Sequence[str]) -> Families:
    """Everything that was timed of these stacks on this device."""
    alone = stacks[0] if len(stacks) == 1 else "vllm"
    # TensorRT-LLM also rotates and writes the cache inside its attention: a mean leaves it out.
    attending = [s for s in stacks if s != "trtllm"] or list(stacks)
    return {
        **gemm_families(folder, device.accelerator, stacks),
        **attention_families(fit_attention_of(folder, device.table, attending, "inference")),
        **_moe(folder, device, alone),
    }


def _completed(measured: Families, base: Families, *, same_device: bool) -> Families:
    """Measured families, and those of ``base`` for the rest: assumed ones where that is another device."""
    rest = base
    if not same_device:
        why = "no row of this device; the mean of the measured devices"
        rest = {
            family: {dtype: _assumed(fit, why) for dtype, fit in fits.items()}
            for family, fits in base.items()
        }
    kept = {
        family: {
            dtype: fit for dtype, fit in fits.items() if not (family in measured and fit.basis == "measured")
        }
        for family, fits in rest.items()
    }
    return {family: {**kept.get(family, {}), **measured.get(family, {})} for family in {**kept, **measured}}


def stack_files(
    folder: Path, means: Mapping[str, CalibrationFile], default: CalibrationFile
) -> Iterator[CalibrationFile]:
    """Calibrations by device and stack, and the mean over stacks of devices that have no other file.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    means : mapping of str to CalibrationFile
        Files of the devices' means, by name: they give what a stack was not timed with.
    default : CalibrationFile
        The same for devices without one.

    Yields
    ------
    CalibrationFile
        In the order of ``STACK_DEVICES``.

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    """
    for device in STACK_DEVICES:
        base = means.get(f"{device.name}-{MEAN}", default)
        if device.applies_to:
            families = _completed(
                _measured(folder, device, device.stacks), base.kernels, same_device=base is not default
            )
            base = replace(
                base,
                name=f"{device.name}-{MEAN}",
                applies_to=device.applies_to,
                tasks=("training", "inference"),
                stack=", ".join(device.stacks),
                kernels=families,
            )
            yield base
        for stack in device.stacks:
            yield replace(
                base,
                name=f"{device.name}-{stack}",
                applies_to=(),
                measured_on=base.applies_to,
                tasks=INFERENCE,
                stack=stack,
                kernels=_completed(_measured(folder, device, [stack]), base.kernels, same_device=True),
            )

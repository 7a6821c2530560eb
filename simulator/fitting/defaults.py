"""Coefficients of devices that were not measured, by a stated rule from those that were.

Kernels: geometric mean over the measured devices and both tasks for efficiencies and sharpness, arithmetic
mean for fixed costs; attention as if units did not matter, since theirs are others. Where a best matmul was
published for the device (maximum over shapes, PyTorch), the compute efficiency of the matmul is H100's, times
the ratio of the two published fractions of the peak, and the rest is H100's. Efficiencies that nobody measured do
not transfer well across generations: expect 12 to 23 % per kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardware_specs import load_accelerator
from hardware_specs.kernel_fits import DecodeAttentionFit, FitEvidence, PrefillAttentionFit, QuantiseFit
from hardware_specs.kernel_fits.gemm import GemmFit
from hardware_specs.kernel_fits.grouped_gemm import GroupedGemmFit
from simulator.fitting.calibrate import TASKS, DeviceFit
from simulator.fitting.devices import H100, MeasuredDevice
from simulator.fitting.robust_fit import significant
from simulator.fitting.rows import Families
from simulator.fitting.write_calibration import CalibrationFile

__all__ = ["DERIVED_DEVICES", "DerivedDevice", "best_matmul_fraction", "block_scaled_pass", "derived_files"]

MEAN_RULE = "mean of both tasks' calibrations of a100-sxm and h100-sxm; nothing was measured on this device"
COARSEST = ("row_step", "least_rows")  # a mean of steps is no step
FACTS = ("query_tile", "kv_tile", "packs_groups", "group_limit", "split_limit")
FLOP_PER_SCORE = 4.0 * 128.0  # both products at a head of 128
TABLE_ACCELERATOR = {"h100-sxm": "NVIDIA H100 SXM", "b200-sxm": "NVIDIA B200 SXM", "mi300x": "AMD MI300X"}
TABLE_DTYPE = {"bf16": "bf16", "fp8": "fp8_e4m3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedDevice:
    """A calibration without measured kernels: its name and the devices it serves.

    ``like_units`` says whether its units are of the size of a GPU's: what a unit takes in per clock, and tiles of one
    unit each, say nothing of a TPU's four matrix units or of a processor's cores.
    """

    name: str
    applies_to: tuple[str, ...]
    like_units: bool = True


DERIVED_DEVICES = (
    DerivedDevice(name="blackwell", applies_to=("b200-sxm",)),
    DerivedDevice(name="cdna3", applies_to=("mi300x",)),
    DerivedDevice(
        name="tpu-v5",
        applies_to=("tpu-v5p", "tpu-v3", "tpu-v4", "tpu-v5e", "tpu-v6e", "tpu7x-core"),
        like_units=False,
    ),
    DerivedDevice(name="x86", applies_to=("xeon-8480",), like_units=False),
    DerivedDevice(name="default", applies_to=()),
)


def best_matmul_fraction(folder: Path, accelerator: str, dtype: str) -> float | None:
    """Best published matmul as a fraction of the dense peak [1], from ``micro.csv``; None if there is none.

    Raises FileNotFoundError if the table is missing.
    """
    import pandas as pd

    if accelerator not in TABLE_ACCELERATOR or dtype not in TABLE_DTYPE:
        return None
    frame = pd.read_csv(folder / "micro.csv")
    frame = frame[(frame.kind == "matmul_max_achievable") & (frame.dtype == TABLE_DTYPE[dtype])]
    found = frame.efficiency[frame.accelerator == TABLE_ACCELERATOR[accelerator]]
    return float(found.iloc[0]) if len(found) else None


def _geometric_mean(values: Sequence[float]) -> float:
    return significant(float(np.exp(np.mean(np.log(values)))))


def _mean(values: Sequence[float]) -> float:
    return significant(float(np.mean(values)))


def _mean_fit(fits: Sequence[FitEvidence]) -> FitEvidence:
    """Geometric mean of shares, arithmetic mean of what may be zero: times, counts and weights.

    Facts of a kernel, such as a tile, have no mean: the middle one is taken, and of steps the coarsest.
    """
    means = {}
    for name in type(fits[0]).coefficient_names():
        values = [getattr(f, name) for f in fits]
        if name in FACTS:
            means[name] = sorted(values)[len(values) // 2]
        elif name in COARSEST:
            means[name] = max(values)
        else:
            means[name] = _geometric_mean(values) if name.endswith("_efficiency") else _mean(values)
    return type(fits[0]).of(means, basis="assumed", source=MEAN_RULE)


def _without_units(fit: FitEvidence, device: MeasuredDevice) -> FitEvidence:
    """Attention as if units did not matter: other devices have other units, some of them two.

    The clocks that a unit spends per score become part of the compute efficiency, at a usual head; any unit can
    stream from the whole memory, and tasks cost nothing.
    """
    if isinstance(fit, PrefillAttentionFit):
        board = load_accelerator(device.applies_to[0])
        per_clock = board.matmul_flop_per_unit_clock["bf16"].value
        softmax = fit.score_clocks * per_clock / FLOP_PER_SCORE
        efficiency = significant(1.0 / (1.0 / fit.compute_efficiency + softmax))
        return fit.model_copy(
            update={"compute_efficiency": efficiency, "score_clocks": 0.0, "mask_clocks": 0.0}
        )
    if isinstance(fit, DecodeAttentionFit):
        return fit.model_copy(update={"stream_fraction": 1.0, "task_s": 0.0, "row_tile_s": 0.0})
    return fit


def _mean_families(fits: Sequence[DeviceFit]) -> Families:
    families: Families = {}
    for family in dict.fromkeys(name for fit in fits for name in fit.kernels):
        having = [f for f in fits if family in f.kernels]
        shared = set.intersection(*(set(f.kernels[family]) for f in having))
        families[family] = {
            d: _mean_fit([_without_units(f.kernels[family][d], f.device) for f in having])
            for d in sorted(shared)
        }
    return families


def _without_tiles(families: Families) -> Families:
    """Products whose work divides without loss, where units are nothing like those that were measured."""
    return {
        family: {
            dtype: fit.model_copy(update={"granularity": 0.0})
            if isinstance(fit, (GemmFit, GroupedGemmFit))
            else fit
            for dtype, fit in fits.items()
        }
        for family, fits in families.items()
    }


def _published_matmuls(
    folder: Path, device: DerivedDevice, matmul: Mapping[str, FitEvidence]
) -> dict[str, FitEvidence]:
    """Matmul of a device whose best matmul was published, per dtype."""
    fits: dict[str, FitEvidence] = {}
    for dtype in TABLE_DTYPE:
        here = best_matmul_fraction(folder, device.applies_to[0], dtype) if device.applies_to else None
        there = best_matmul_fraction(folder, H100.name, dtype)
        reference = matmul[dtype].coefficients()
        if here is None or there is None:
            continue
        share = significant(min(reference["compute_efficiency"] * here / there, 1.0))
        fits[dtype] = type(matmul[dtype]).of(
            {**reference, "compute_efficiency": share},
            basis="derived",
            source=f"mean of both h100-sxm calibrations, times {here:.3f} / {there:.3f}, the best published "
            "matmuls as fractions of the peak (micro.csv, stas00/ml-engineering MAMF table)",
        )
    return fits


def block_scaled_pass(kernels: Families) -> QuantiseFit:
    """The pass that narrows activations to blocks of 32 with a scale each, as a pointwise kernel of these families.

    A few threads hold a block and its scale at once, so nothing is read twice and no row waits for its scale. Raises
    KeyError without pointwise kernels.
    """
    plain = kernels["pointwise"]["any"].coefficients()
    return QuantiseFit.of(
        {
            "fixed_s": plain["fixed_s"],
            "memory_efficiency": min(plain["read_efficiency"], plain["write_efficiency"]),
            "row_unit_s": 0.0,
        },
        basis="assumed",
        source="a pointwise kernel of this calibration: a block of 32 is read once, scaled where it is held",
    )


def derived_files(folder: Path, fits: Sequence[DeviceFit]) -> list[CalibrationFile]:
    """Files of the devices that were not measured.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    fits : sequence of DeviceFit
        All measured devices and tasks; H100 among them.

    Returns
    -------
    list of CalibrationFile
        One per entry of ``DERIVED_DEVICES``.

    Raises
    ------
    FileNotFoundError
        If ``micro.csv`` is missing.
    StopIteration
        If H100 is not among the fits.
    """
    hopper = [fit for fit in fits if fit.device is H100]
    hopper_matmul = _mean_families(hopper)["matmul"]
    files = []
    for device in DERIVED_DEVICES:
        kernels = _mean_families(fits)
        published = _published_matmuls(folder, device, hopper_matmul)
        if "bf16" in published:
            same = {dtype: published["bf16"] for dtype in ("fp16", "tf32", "any")}
            eight_bit = {"int8": published.get("fp8", published["bf16"])}
            kernels["matmul"] = {**kernels["matmul"], **same, **eight_bit, **published}
        kernels["quantise"] = {**kernels["quantise"], "mxfp8": block_scaled_pass(kernels)}
        if not device.like_units:
            kernels = _without_tiles(kernels)
        files.append(
            CalibrationFile(
                name=device.name,
                applies_to=device.applies_to,
                tasks=TASKS,
                stack="none: derived from the measured devices by rule",
                kernels=kernels,
            )
        )
    return files

"""Calibrations of eager PyTorch in fp32: products and memory-bound kernels, each timed alone from the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hardware_specs import load_accelerator
from hardware_specs.kernel_fits import FitEvidence, StreamingFit
from simulator.fitting.calibrate import TASKS
from simulator.fitting.devices import A100, A100_PCIE
from simulator.fitting.fit_gemm import FREE, REREADS, RESIDENT, FittedGemm, fit_gemm_rows
from simulator.fitting.fit_streaming import FittedStreaming, borrowed, fit_eager, fit_layers
from simulator.fitting.measured_gemm import gemm_samples
from simulator.fitting.robust_fit import significant
from simulator.fitting.write_calibration import CalibrationFile

__all__ = ["EAGER_DEVICES", "EagerDevice", "EagerFit", "eager_file", "fit_eager_device"]

STACK = "eager PyTorch 2.1, fp32 without TF32"
# What is not measured in eager fp32 comes from the mean of the other calibrations, or from a similar kernel.
FROM_DEFAULT = ("attention_prefill", "attention_decode", "embedding")
LIKE: Mapping[str, str] = {"rms_norm": "layer_norm", "rotary": "pointwise", "optimizer": "pointwise"}
# The start and end of a tile and partial sums take longer on vector units; host work hides behind neither.
PRODUCT = (*(f for f in FREE if f.name != "fill_s"), REREADS, RESIDENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class EagerDevice:
    """A device with fp32 rows: calibration, catalog accelerator, name in the tables, what it is used for unasked.

    ``streaming_table`` is the device whose memory-bound kernels stand for its own; it differs where there are none.
    """

    name: str
    accelerator: str
    table: str
    streaming_table: str
    applies_to: tuple[str, ...]


EAGER_DEVICES = (
    EagerDevice(
        name="a100-pcie-eager",
        accelerator="a100-pcie-40gb",
        table="NVIDIA A100-PCIE-40GB",
        streaming_table="NVIDIA A100-PCIE-40GB",
        applies_to=("a100-pcie-40gb",),
    ),
    EagerDevice(
        name="v100-pcie-eager",
        accelerator="v100-pcie-32gb",
        table="Tesla V100-PCIE-32GB",
        streaming_table="Tesla V100-PCIE-32GB",
        applies_to=("v100-pcie-32gb",),
    ),
    EagerDevice(
        name="t4-eager",
        accelerator="t4",
        table="Tesla T4",
        streaming_table="Tesla T4",
        applies_to=("t4",),
    ),
    EagerDevice(
        name="p4-eager",
        accelerator="p4",
        table="Tesla P4",
        streaming_table="Tesla P4",
        applies_to=("p4",),
    ),
    # Used by name only: the other calibrations of H100 serve 16-bit work.
    EagerDevice(
        name="h100-sxm-eager",
        accelerator="h100-sxm",
        table="NVIDIA H100 80GB HBM3",
        streaming_table="NVIDIA A100-PCIE-40GB",
        applies_to=(),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EagerFit:
    """Coefficients of one device by family, with the samples behind the fitted ones."""

    device: EagerDevice
    products: Mapping[str, FittedGemm]
    streaming: tuple[FittedStreaming, ...]


def fit_eager_device(folder: Path, device: EagerDevice) -> EagerFit:
    """Fit one device.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    device : EagerDevice
        One of ``EAGER_DEVICES``.

    Returns
    -------
    EagerFit
        Streaming kernels have the fixed cost of a launch in ``layer_ops`` on A100, since eager rows are timed
        from the host, whose work a model's kernels hide.

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    """
    source = f"kernels_gemm, {device.table}: {STACK}"
    products = {
        family: fit_gemm_rows(
            gemm_samples(folder, device.accelerator, "fp32", family=family),
            source=source,
            fixed={},
            free=PRODUCT,
        )
        for family in ("matmul", "batched_matmul")
    }
    measured_on = next(d for d in EAGER_DEVICES if d.table == device.streaming_table)
    bandwidth = load_accelerator(measured_on.accelerator).memory_bandwidth.value
    launch = {
        f.family: f.fit.fixed_s for f in fit_layers(folder, A100.layer_table, A100.bandwidth_bytes_per_s)
    }
    streaming = tuple(
        FittedStreaming(
            family=item.family,
            fit=_launched(
                item.fit, device, launch["rms_norm" if item.family == "layer_norm" else "pointwise"]
            ),
            samples=item.samples,
        )
        for item in fit_eager(folder, device.streaming_table, bandwidth)
    )
    return EagerFit(device=device, products=products, streaming=streaming)


def _launched(fit: StreamingFit, device: EagerDevice, fixed_s: float) -> StreamingFit:
    source = f"{fit.source}; fixed cost of a launch in layer_ops, {A100.layer_table}"
    if device.table != device.streaming_table:
        return borrowed(fit, f"efficiencies measured on {A100_PCIE.name}", "derived", fixed_s=fixed_s)
    update = {"fixed_s": fixed_s, "source": source, "timing_s": significant(max(fit.fixed_s - fixed_s, 0.0))}
    return fit.model_copy(update=update)


def eager_file(fit: EagerFit, default: CalibrationFile) -> CalibrationFile:
    """The calibration file of a device; what eager fp32 rows do not tell comes from ``default``."""
    kernels: dict[str, dict[str, FitEvidence]] = {
        family: {"fp32": item.gemm, "any": _unmeasured(item.gemm)} for family, item in fit.products.items()
    }
    streaming = {item.family: item.fit for item in fit.streaming}
    kernels |= {family: {"any": value} for family, value in streaming.items()}
    for family, sibling in LIKE.items():
        kernels[family] = {"any": borrowed(streaming[sibling], f"as {sibling}", "assumed")}
    return CalibrationFile(
        name=fit.device.name,
        applies_to=fit.device.applies_to,
        measured_on=() if fit.device.applies_to else (fit.device.accelerator,),
        tasks=TASKS,
        stack=STACK,
        kernels={
            **{family: default.kernels[family] for family in FROM_DEFAULT},
            **{family: {**by_dtype} for family, by_dtype in kernels.items()},
        },
    )


def _unmeasured(product: FitEvidence) -> FitEvidence:
    return product.model_copy(
        update={
            "basis": "assumed",
            "source": f"coefficients of fp32; no row of another type: {product.source}",
            "rows": 0,
            "error": {},
            "fitted_range": {},
        }
    )

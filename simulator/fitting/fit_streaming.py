"""Fit memory-bound kernel families: eager PyTorch in fp32, layers of PyTorch in 16 bits, and what joins the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hardware_specs.calibration import Task
from hardware_specs.figure import Basis
from hardware_specs.kernel_fits import StreamingFit
from simulator.fitting.devices import A100_PCIE, H100, MeasuredDevice
from simulator.fitting.measured_streaming import eager_samples, layer_samples
from simulator.fitting.robust_fit import Free
from simulator.fitting.samples import KernelSamples, fit_samples

__all__ = [
    "FittedStreaming",
    "borrowed",
    "fit_eager",
    "fit_layers",
    "fit_streaming",
    "fit_streaming_families",
]

# How often the kernels of PyTorch read a row again; fused norms and activations keep it in registers.
REREADS: Mapping[str, float] = {"layer_norm": 1.0, "softmax": 2.0}
# Operators of layer_ops whose blocks each take one token.
BY_ROW = ("activation", "rotary", "rms_norm")

FIXED = Free(name="fixed_s", start=(3e-6, 30e-6), lower=0.0, upper=200e-6, scale=1e-6)
READ = Free(name="read_efficiency", start=(0.6,), lower=0.01, upper=1.0)
WRITE = Free(name="write_efficiency", start=(0.6,), lower=0.01, upper=1.0)
ROWS = Free(name="saturating_rows", start=(30.0, 100.0), lower=0.0, upper=1000.0, scale=100.0)
RESIDENT = Free(name="resident_row_bytes", start=(4e3, 16e3, 48e3), lower=1e3, upper=1e6, scale=1e4)
SHARPNESS = Free(name="row_sharpness", start=(2.0, 5.0), lower=1.0, upper=8.0)
CACHED = (
    Free(name="spill", start=(0.5,), lower=0.0, upper=20.0),
    Free(name="resident_bytes", start=(3e6, 3e7), lower=1e5, upper=1e9, scale=1e7),
)
NEUTRAL: Mapping[str, float] = {
    name: StreamingFit.model_fields[name].default
    for name in (
        "saturating_rows",
        "rereads",
        "resident_row_bytes",
        "row_sharpness",
        "spill",
        "resident_bytes",
    )
}
SAME_WAY: Mapping[str, str] = {"write_efficiency": "read_efficiency"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedStreaming:
    """Coefficients of one family with the rows behind them; ``samples`` is None where they are borrowed."""

    family: str
    fit: StreamingFit
    samples: KernelSamples | None = None
    dtype: str = "any"


def fit_streaming(
    samples: KernelSamples,
    *,
    source: str,
    basis: Basis = "measured",
    like: StreamingFit | None = None,
    by_row: bool = False,
    cached: bool = False,
) -> StreamingFit:
    """Fit the coefficients that rows of one family can tell.

    Parameters
    ----------
    samples : KernelSamples
        Rows of one family and device.
    source, basis : str
        Written beside the coefficients.
    like : StreamingFit, optional
        Plain kernels of the same device: their efficiencies are taken, and only what differs is fitted.
    by_row : bool
        Whether each block takes a row.
    cached : bool
        Whether the bandwidth of the device is that of a cache, which long streams outgrow.

    Returns
    -------
    StreamingFit
        Fixed cost and the efficiencies, reads and writes apart where operators differ in their share; for
        norms and softmax with ``like`` the length of a row that stays in a cache instead; for kernels with a
        block per row the rows that occupy the device.

    Raises
    ------
    ValueError
        If no row is left to fit.
    """
    free, fixed, tied = [FIXED], dict(NEUTRAL), dict(SAME_WAY)
    if like is not None:
        fixed |= {
            "read_efficiency": like.read_efficiency,
            "write_efficiency": like.write_efficiency,
            "rereads": REREADS[samples.family],
        }
        free += [RESIDENT, SHARPNESS]
        tied = {}
    else:
        shares = samples.inputs["read_bytes"] / samples.inputs["written_bytes"]
        free.append(READ)
        if shares.max() > shares.min():
            free.append(WRITE)
            tied = {}
        if by_row:
            free.append(ROWS)
        if cached:
            free += CACHED
    fixed = {name: value for name, value in fixed.items() if name not in {f.name for f in free}}
    found = fit_samples(samples, free, fixed=fixed, source=source, basis=basis, tied=tied)
    assert isinstance(found, StreamingFit)
    return found


def fit_eager(folder: Path, table_device: str, bandwidth_bytes_per_s: float) -> list[FittedStreaming]:
    """Fits of eager fp32 kernels of one device; FileNotFoundError if the table is missing."""
    out: list[FittedStreaming] = []
    for family in ("pointwise", "activation", "layer_norm", "softmax"):
        samples = eager_samples(folder, table_device, bandwidth_bytes_per_s, family)
        fit = fit_streaming(
            samples,
            source=f"kernels_elementwise, {table_device}: fp32, PyTorch 2.1",
            like=out[0].fit if family in REREADS else None,
        )
        out.append(FittedStreaming(family=family, fit=fit, samples=samples))
    return out


def fit_layers(folder: Path, table_device: str, bandwidth_bytes_per_s: float) -> list[FittedStreaming]:
    """Fits of the 16-bit operators of a layer on one device; FileNotFoundError if the table is missing."""
    out = []
    for family in ("pointwise", *BY_ROW, "embedding"):
        samples = layer_samples(folder, table_device, bandwidth_bytes_per_s, family)
        fit = fit_streaming(
            samples, source=f"layer_ops, {table_device}: fp16, PyTorch", by_row=family in BY_ROW
        )
        out.append(FittedStreaming(family=family, fit=fit, samples=samples))
    return out


def borrowed(fit: StreamingFit, why: str, basis: Basis, **changes: float) -> StreamingFit:
    """The same coefficients, or some of them, without the evidence of the rows that they came from."""
    kept = {**fit.coefficients(), **changes}
    return StreamingFit.of(
        kept, basis=basis, source=f"{why}: {fit.source}", common=fit.common, spread=fit.spread
    )


def fit_streaming_families(folder: Path, device: MeasuredDevice, task: Task) -> list[FittedStreaming]:
    """All families that only move memory, pointwise first, for a device with 16-bit layer rows.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    device : MeasuredDevice
        A100 or H100.
    task : str
        Training runs plain activations in one kernel, serving gated ones with a block per token.

    Returns
    -------
    list of FittedStreaming
        Families of ``layer_ops`` are measured; its additions mostly read what the kernel before left in L2, so
        they give the fixed cost only. Efficiencies of plain kernels, norms with a mean and softmax are those of
        eager fp32 kernels on A100 PCIe, whose tensors are far larger than any cache; eager rows are timed from
        the host, so their fixed cost is not used.

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    """
    layers = {f.family: f for f in fit_layers(folder, device.layer_table, device.bandwidth_bytes_per_s)}
    eager = {f.family: f for f in fit_eager(folder, A100_PCIE.eager_table, A100_PCIE.bandwidth_bytes_per_s)}
    basis: Basis = "derived" if device is H100 else "measured"

    def cold(family: str, launch: str) -> FittedStreaming:
        fit = eager[family].fit
        fixed_s = layers[launch].fit.fixed_s
        why = f"fixed cost of {launch} in layer_ops, {device.layer_table}; the rest"
        joined = borrowed(fit, why, basis, fixed_s=fixed_s)
        if basis == "measured":
            joined = joined.model_copy(update={"rows": fit.rows, "error": fit.error})
        return replace(eager[family], fit=joined)

    out = [cold("pointwise", "pointwise")]
    out.append(cold("activation", "pointwise") if task == "training" else layers["activation"])
    out += [layers["rotary"], layers["rms_norm"]]
    out += [cold("layer_norm", "rms_norm"), cold("softmax", "pointwise"), layers["embedding"]]
    plain = borrowed(out[0].fit, "no optimizer kernel was measured; plain kernels", "assumed")
    return [*out, FittedStreaming(family="optimizer", fit=plain)]

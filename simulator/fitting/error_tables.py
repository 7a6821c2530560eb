"""Tables of errors that the fitting command prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hardware_specs.kernel_fits import FitEvidence, GemmFit, QuantiseFit
from simulator.fitting.calibrate import DeviceFit
from simulator.fitting.devices import MeasuredDevice
from simulator.fitting.eager_devices import EagerFit
from simulator.fitting.error_lines import ErrorLine, error_lines
from simulator.fitting.fit_gemm import FittedGemm, gemm_seconds
from simulator.fitting.layer_sums import layer_rows, stack_factor

__all__ = ["coefficient_table", "comparison_table", "eager_table", "error_table", "layer_table"]

DATASHEET = {**GemmFit.ideal(), **{f"quantise.{name}": v for name, v in QuantiseFit.ideal().items()}}
POPULAR = {**DATASHEET, "compute_efficiency": 0.7, "memory_efficiency": 0.8}
ROOFLINES = {"datasheet": DATASHEET, "x0.7/x0.8": POPULAR, "the same + 3 us": {**POPULAR, "fixed_s": 3e-6}}


def _percent(value: float) -> str:
    return f"{100 * value:7.1f}"


def coefficient_table(fit: DeviceFit) -> list[str]:
    """Lines with the coefficients of one device."""
    lines = [
        f"{fit.name}: coefficients",
        f"{'family':18} {'dtype':6} coefficients  rows  basis",
    ]
    for family, by_dtype in fit.kernels.items():
        for dtype, kernel in by_dtype.items():
            shown = "  ".join(f"{name} {value:.4g}" for name, value in kernel.coefficients().items())
            lines.append(f"{family:18} {dtype:6} {shown}  rows {kernel.rows}  {kernel.basis}")
    return lines


def _error_lines(prefix: str, lines: Iterable[ErrorLine]) -> list[str]:
    return [
        f"{prefix} {line.stack:32} {line.size_class:8} {'left out' if line.left_out else 'all':8} "
        f"{line.rows:5d} {_percent(line.mape)} {_percent(line.bias)}"
        for line in lines
    ]


def error_table(fit: DeviceFit) -> list[str]:
    """Lines with the errors by family, dtype, stack and size class [%].

    Of fitted kernels, all rows, and the left-out rows under a fit that did not see them; of collectives and
    of stacks that were not fitted, each row once.
    """
    head = (
        f"{'family':18} {'dtype':6} {'stack':32} {'class':8} {'':8} {'rows':>5} {'MAPE %':>7} {'bias %':>7}"
    )
    lines = [f"{fit.name}: errors", head]
    for item in fit.products:
        prefix, predicted = f"{'matmul':18} {item.dtype:6}", item.fitted.predicted_s()
        lines += _error_lines(prefix, error_lines(item.fitted.samples, predicted))
        lines += _error_lines(prefix, error_lines(item.fitted.samples, predicted, by_stack=False))
    for family, by_dtype in fit.kernels.items():
        if family != "matmul":
            lines += [_fit_errors(family, dtype, kernel) for dtype, kernel in by_dtype.items() if kernel.rows]
    return lines


def _fit_errors(family: str, dtype: str, fit: FitEvidence) -> str:
    classes = "  ".join(f"{name} {_percent(value).strip()}" for name, value in fit.error.items())
    return f"{family:18} {dtype:6} rows {fit.rows}  {classes}"


def _score(fitted: FittedGemm, coefficients: Mapping[str, float]) -> list[str]:
    """MAPE and bias over left-out rows, each stack with the same weight."""
    lines = error_lines(fitted.samples, gemm_seconds(fitted.samples, coefficients), by_stack=False)
    found = {line.size_class: line for line in lines if line.left_out}
    return [_cell(found.get(name)) for name in ("large", "prefill", "middle", "decode")]


def _cell(line: ErrorLine | None) -> str:
    return f"{'-':>15}" if line is None else f"{100 * line.mape:6.1f} ({100 * line.bias:+6.1f})"


def comparison_table(fit: DeviceFit) -> list[str]:
    """Lines that set rooflines and this fit of products side by side on left-out rows: MAPE and bias [%]."""
    head = f"{'dtype':6} {'model':16} {'large':>15} {'prefill':>15} {'middle':>15} {'decode':>15}"
    lines = [f"{fit.name}: rooflines and the fit of products, left-out rows, MAPE (bias) %", head]
    for item in fit.products:
        for name, values in (*ROOFLINES.items(), ("fit", item.fitted.coefficients)):
            known = {k: v for k, v in values.items() if item.fitted.quantise or not k.startswith("quantise.")}
            lines.append(f"{item.dtype:6} {name:16} " + " ".join(_score(item.fitted, known)))
    return lines


def layer_table(folder: Path, device: MeasuredDevice, serving: FittedGemm, own: FittedGemm) -> list[str]:
    """Lines with errors of layer sums [%]: products of serving stacks, the same with one factor, and its own."""
    rows = layer_rows(folder, device)
    found = stack_factor(rows, serving.coefficients)
    kept = stack_factor(rows, own.coefficients)
    shown = {
        "products of serving stacks": found.unscaled,
        f"with compute efficiency x {found.factor:g}": found.fitted,
        "the same, model left out": found.left_out,
        "products fitted on these layers": kept.unscaled,
    }
    lines = [f"{device.name}: sums over a layer without attention, MAPE % by tokens"]
    for label, errors in shown.items():
        lines.append(f"{label:36} " + "  ".join(f"{k} {_percent(v).strip()}" for k, v in errors.items()))
    return lines


def eager_table(fit: EagerFit) -> list[str]:
    """Lines with coefficients and errors [%] of a device's eager fp32 kernels, fitted and left-out rows apart."""
    lines = [f"{fit.device.name}: coefficients, and MAPE % by size class"]
    found: dict[str, FitEvidence] = {
        **{family: item.gemm for family, item in fit.products.items()},
        **{item.family: item.fit for item in fit.streaming},
    }
    for family, kernel in found.items():
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in kernel.coefficients().items())
        errors = "  ".join(f"{name} {_percent(value).strip()}" for name, value in kernel.error.items())
        lines.append(f"{family:18} rows {kernel.rows}  {numbers}  |  {errors}")
    return lines

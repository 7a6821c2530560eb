"""Tables of errors that the fitting command prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from simulator.fitting.calibrate import DeviceFit
from simulator.fitting.fit_families import FittedRows
from simulator.fitting.fit_kernels import Coefficients, ErrorLine, error_lines

__all__ = ["coefficient_table", "comparison_table", "error_table"]

MAXIMUM = 200.0  # a sharpness that is as good as taking the maximum
ROOFLINES = {"datasheet": (1.0, 1.0, 0.0, MAXIMUM), "x0.7/x0.8": (0.7, 0.8, 0.0, MAXIMUM)}


def _percent(value: float) -> str:
    return f"{100 * value:7.1f}"


def coefficient_table(fit: DeviceFit) -> list[str]:
    """Lines with the coefficients of one device."""
    lines = [
        f"{fit.name}: coefficients",
        f"{'family':18} {'dtype':6} {'ec':>6} {'em':>6} {'t0 us':>6} {'p':>6} {'rows':>7}  basis",
    ]
    for family, by_dtype in fit.kernels.items():
        for dtype, kernel in by_dtype.items():
            ec, em, t0, p = kernel.coefficients
            numbers = f"{ec:6.3f} {em:6.3f} {t0 * 1e6:6.2f} {p:6.2f} {kernel.rows:7d}"
            lines.append(f"{family:18} {dtype:6} {numbers}  {kernel.basis}")
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
    for item in fit.evidence:
        prefix = f"{item.family:18} {item.dtype:6}"
        lines += _error_lines(prefix, error_lines(item.rows, item.fit.coefficients, item.fit.blind))
        if item.family in ("matmul", "attention_prefill", "attention_decode"):
            lines += _error_lines(
                prefix, error_lines(item.rows, item.fit.coefficients, item.fit.blind, by_stack=False)
            )
    for item in fit.unseen:
        lines += _error_lines(
            f"{item.family:18} {item.dtype:6}", error_lines(item.rows, item.fit.coefficients)
        )
    return lines


def _score(item: FittedRows, values: Coefficients) -> list[str]:
    """MAPE and bias over fitted and left-out rows together, each stack with the same weight."""
    together = replace(item.rows, left_out=np.zeros_like(item.rows.left_out))
    found = {line.size_class: line for line in error_lines(together, values, by_stack=False)}
    return [_cell(found.get(name)) for name in ("large", "prefill", "middle", "decode")]


def _cell(line: ErrorLine | None) -> str:
    return f"{'-':>15}" if line is None else f"{100 * line.mape:6.1f} ({100 * line.bias:+6.1f})"


def comparison_table(fit: DeviceFit) -> list[str]:
    """Lines that set datasheet roofline, x0.7/x0.8 and this fit side by side: MAPE and bias [%]."""
    head = (
        f"{'family':18} {'dtype':6} {'model':10} {'large':>15} {'prefill':>15} {'middle':>15} {'decode':>15}"
    )
    lines = [f"{fit.name}: rooflines and the fit, MAPE (bias) %", head]
    for item in fit.evidence:
        for name, values in (*ROOFLINES.items(), ("fit", item.fit.coefficients)):
            lines.append(f"{item.family:18} {item.dtype:6} {name:10} " + " ".join(_score(item, values)))
    return lines

"""Errors of predicted times, by software stack and size class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.fitting.rows import FloatArray
from simulator.fitting.samples import KernelSamples

__all__ = ["ErrorLine", "error_lines"]

TOGETHER = "all, equal weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorLine:
    """Error over some rows [1]: mean absolute, and signed (geometric mean of predicted / measured - 1)."""

    stack: str
    size_class: str
    left_out: bool
    rows: int
    mape: float
    bias: float


def error_lines(samples: KernelSamples, predicted_s: FloatArray, *, by_stack: bool = True) -> list[ErrorLine]:
    """Errors by stack (or over all, each stack with the same weight) and size class, left-out rows apart.

    Parameters
    ----------
    samples : KernelSamples
        Measured rows.
    predicted_s : ndarray, shape (rows,)
        Their predicted times [s].
    by_stack : bool
        Whether each stack has lines of its own.

    Returns
    -------
    list of ErrorLine
        None for combinations without a row. Raises nothing.
    """
    lines, log_ratio = [], np.log(predicted_s / samples.measured_s)
    for left_out in (False, True):
        for size_class in np.unique(samples.size_class):
            here = (samples.left_out == left_out) & (samples.size_class == size_class)
            found = {str(s): log_ratio[here & (samples.stack == s)] for s in np.unique(samples.stack[here])}
            groups = (
                {s: [part] for s, part in found.items()} if by_stack else {TOGETHER: list(found.values())}
            )
            lines += [_line(s, str(size_class), left_out, parts) for s, parts in groups.items() if parts]
    return lines


def _line(stack: str, size_class: str, left_out: bool, log_ratios: list[FloatArray]) -> ErrorLine:
    return ErrorLine(
        stack=stack,
        size_class=size_class,
        left_out=left_out,
        rows=sum(part.size for part in log_ratios),
        mape=float(np.mean([np.mean(np.abs(np.expm1(part))) for part in log_ratios])),
        bias=float(np.expm1(np.mean([np.mean(part) for part in log_ratios]))),
    )

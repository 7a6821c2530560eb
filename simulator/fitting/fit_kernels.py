"""Fit the four coefficients of a kernel's time to measured rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np

from hardware_specs.figure import Basis
from hardware_specs.kernel_fits import RooflineFit
from simulator.fitting.robust_fit import ROBUST_SCALE, significant, spread_90
from simulator.fitting.rows import FloatArray, KernelRows, cell_weights
from simulator.fitting.samples import ONE_STACK_COMMON
from simulator.kernels.roofline import kernel_time

__all__ = [
    "Coefficients",
    "ErrorLine",
    "FittedKernel",
    "as_evidence",
    "error_lines",
    "errors_by_class",
    "fit_kernel",
    "predict",
]

UNBIASED_CLASS = "large"  # the class that decides a training step
STARTING_SHARPNESS = (1.3, 3.0, 8.0)
LOWER = (0.01, 0.01, 0.0, 1.0)  # ec, em, t0 in us, p
UPPER = (1.0, 1.0, 100.0, 12.0)
PINNED = 1e-9  # relative width of the bounds of a coefficient that is given

Coefficients = tuple[float, float, float, float]  # ec, em, t0 in seconds, p


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedKernel:
    """Coefficients of one kernel family and dtype, with what is known about them.

    Attributes
    ----------
    compute_efficiency, memory_efficiency : float
        Fractions of the dense peak and of the memory bandwidth, in (0, 1] [1].
    fixed_s : float
        Cost of one launch [s].
    sharpness : float
        p of the p-norm, in [1, 12] [1].
    basis, source : str
        How the numbers came about, and from which tables.
    rows : int
        Rows that the fit saw.
    error : dict of str to float
        Mean absolute relative error by size class [1]. Names that end in ``_left_out`` are of the left-out
        rows under ``blind``.
    blind : tuple of float, optional
        Coefficients fitted without the left-out rows; only to score those rows with.
    """

    compute_efficiency: float
    memory_efficiency: float
    fixed_s: float
    sharpness: float
    basis: str
    source: str
    rows: int
    error: dict[str, float] = field(default_factory=dict)
    blind: Coefficients | None = None

    @property
    def coefficients(self) -> Coefficients:
        """ec, em, t0 [s] and p."""
        return (self.compute_efficiency, self.memory_efficiency, self.fixed_s, self.sharpness)


def as_evidence(fit: FittedKernel, rows: KernelRows) -> RooflineFit:
    """The fit as a calibration holds it; the spread is that of left-out rows under coefficients without them [1]."""
    values = fit.blind or fit.coefficients
    apart = rows.left_out if rows.left_out.any() else ~rows.left_out
    kept = rows.where(apart)
    spread = {"all": spread_90(predict(kept, values), kept.measured_s)}
    return RooflineFit(
        compute_efficiency=fit.compute_efficiency,
        memory_efficiency=fit.memory_efficiency,
        fixed_s=fit.fixed_s,
        sharpness=fit.sharpness,
        basis=cast("Basis", fit.basis),
        source=fit.source,
        rows=fit.rows,
        error=dict(fit.error),
        spread=spread,
        common=ONE_STACK_COMMON,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorLine:
    """Error over some rows [1]: mean absolute, and signed (geometric mean of predicted / measured - 1)."""

    stack: str
    size_class: str
    left_out: bool
    rows: int
    mape: float
    bias: float


def predict(rows: KernelRows, coefficients: Coefficients) -> FloatArray:
    """Seconds of each row under (ec, em, t0 in seconds, p), other kernels included; shape ``(rows,)``."""
    compute_efficiency, memory_efficiency, fixed_s, sharpness = (np.asarray(c) for c in coefficients)
    return rows.other_s + kernel_time(
        flop=rows.flop,
        moved_bytes=rows.moved_bytes,
        peak_flop_per_s=rows.peak_flop_per_s,
        bandwidth_bytes_per_s=rows.bandwidth_bytes_per_s,
        compute_efficiency=compute_efficiency,
        memory_efficiency=memory_efficiency,
        fixed_s=fixed_s,
        sharpness=sharpness,
    )


def fit_kernel(rows: KernelRows, *, source: str, shape: FittedKernel | None = None) -> FittedKernel:
    r"""Fit ec, em, t0 and p by robust least squares on the log ratio of predicted and measured time.

    Parameters
    ----------
    rows : KernelRows
        Measured rows. A first fit without those marked ``left_out`` tells the error on rows that no
        coefficient saw; the coefficients themselves are then fitted to all rows.
    source : str
        Written beside the coefficients.
    shape : FittedKernel, optional
        If given, em, t0 and p are taken from it and only ec is fitted: for rows that are all limited by
        compute, and timed from the host.

    Returns
    -------
    FittedKernel
        With errors of all rows, and of the left-out rows in the first fit, by size class.

    Raises
    ------
    ValueError
        If no row is left to fit.
    ModuleNotFoundError
        Without scipy (the ``calibrate`` extra).

    Notes
    -----
    Minimises a soft-L1 loss over :math:`\sqrt{w_i} \ln(\hat T_i / T_i)`, where w gives each stack and size
    class the same say. One more residual, as heavy as all rows together, is the mean log ratio of the class
    ``large``: four coefficients cannot serve launch-bound and large kernels equally, and this keeps the
    error of the large ones from having a sign. Where there is no FLOP, ec and p have no effect and are
    reported as 1 and 12.
    """
    kept = rows.where(~rows.left_out)
    if not len(kept):
        raise ValueError(f"no rows to fit for {source}")
    blind = _solve(kept, shape)
    coefficients = _solve(rows, shape) if rows.left_out.any() else blind
    return FittedKernel(
        compute_efficiency=coefficients[0],
        memory_efficiency=coefficients[1],
        fixed_s=coefficients[2],
        sharpness=coefficients[3],
        basis="measured",
        source=source,
        rows=len(rows),
        error=errors_by_class(rows, coefficients, blind),
        blind=blind,
    )


def _solve(rows: KernelRows, shape: FittedKernel | None) -> Coefficients:
    from scipy.optimize import least_squares  # type: ignore[import-untyped]  # ships no types

    weights = cell_weights(rows)
    large = rows.size_class == UNBIASED_CLASS
    log_measured = np.log(rows.measured_s)

    def residuals(x: FloatArray) -> FloatArray:
        log_ratio = np.log(predict(rows, (x[0], x[1], x[2] * 1e-6, x[3]))) - log_measured
        bias = np.average(log_ratio[large], weights=weights[large]) if large.any() else 0.0
        return np.append(np.sqrt(weights) * log_ratio, len(rows) * bias)

    lower, upper = np.array(LOWER), np.array(UPPER)
    if shape is not None:
        given = np.array([shape.memory_efficiency, shape.fixed_s * 1e6, shape.sharpness])
        lower[1:], upper[1:] = given * (1 - PINNED), given * (1 + PINNED)
    fits = [
        least_squares(
            residuals,
            np.clip((0.7, 0.7, 3.0, p), lower, upper),
            bounds=(lower, upper),
            loss="soft_l1",
            f_scale=ROBUST_SCALE,
        )
        for p in (STARTING_SHARPNESS if rows.flop.any() else STARTING_SHARPNESS[:1])
    ]
    best = min(fits, key=lambda fit: float(fit.cost)).x
    ec, em, fixed_us, sharpness = (
        significant(min(float(c), float(u))) for c, u in zip(best, UPPER, strict=True)
    )
    if not rows.flop.any():
        ec, sharpness = 1.0, UPPER[3]
    return (ec, em, significant(fixed_us * 1e-6), sharpness)


def error_lines(
    rows: KernelRows, coefficients: Coefficients, blind: Coefficients | None = None, *, by_stack: bool = True
) -> list[ErrorLine]:
    """Errors by stack (or over all, each stack with the same weight) and size class.

    All rows under ``coefficients``, then the left-out rows under ``blind``. Without ``blind``, each row once
    under ``coefficients``, left-out rows apart.
    """
    lines = []
    for left_out in (False, True):
        values = blind if left_out and blind is not None else coefficients
        log_ratio = np.log(predict(rows, values) / rows.measured_s)
        chosen = rows.left_out == left_out
        if blind is not None and not left_out:
            chosen = np.ones_like(rows.left_out)
        for size_class in np.unique(rows.size_class):
            here = chosen & (rows.size_class == size_class)
            parts = [(str(stack), log_ratio[here & (rows.stack == stack)]) for stack in np.unique(rows.stack)]
            parts = [(stack, part) for stack, part in parts if part.size]
            if by_stack:
                lines += [_line(stack, str(size_class), left_out, [part]) for stack, part in parts]
            elif parts:
                lines.append(
                    _line("all, equal weight", str(size_class), left_out, [part for _, part in parts])
                )
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


def errors_by_class(
    rows: KernelRows, coefficients: Coefficients, blind: Coefficients | None = None
) -> dict[str, float]:
    """Mean absolute relative error by size class [1], stacks with the same weight.

    Keys that end in ``_left_out`` are of left-out rows, see `error_lines`.
    """
    return {
        line.size_class + ("_left_out" if line.left_out else ""): significant(line.mape)
        for line in error_lines(rows, coefficients, blind, by_stack=False)
    }

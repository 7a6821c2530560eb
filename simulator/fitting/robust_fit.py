"""Fit coefficients of any closed form to measured times: robustly, on the logarithm of the ratio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = ["Free", "robust_fit", "significant", "spread_90"]

FloatArray = NDArray[np.float64]
ROBUST_SCALE = 0.1  # log ratio above which a row counts by its absolute error, not its square


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """A coefficient to be found.

    Attributes
    ----------
    name : str
        As the rule calls it.
    start : tuple of float
        One or more starting values, in the coefficient's SI unit.
    lower, upper : float
        Bounds, same unit.
    scale : float
        A typical size, same unit: the search runs on value / scale.
    """

    name: str
    start: tuple[float, ...]
    lower: float
    upper: float
    scale: float = 1.0


def significant(value: float) -> float:
    """Round to four significant digits, more than any of these coefficients is known to."""
    return float(f"{value:.4g}")


def robust_fit(
    predict: Callable[[Mapping[str, float]], FloatArray],
    measured_s: FloatArray,
    weights: FloatArray,
    free: Sequence[Free],
) -> dict[str, float]:
    r"""Coefficients that minimise a soft-L1 loss over :math:`\sqrt{w_i} \ln(\hat T_i / T_i)`.

    Parameters
    ----------
    predict : callable
        From coefficients by name to seconds of every row, shape ``(rows,)`` [s].
    measured_s : ndarray, shape (rows,)
        Measured seconds, above zero [s].
    weights : ndarray, shape (rows,)
        Weight of each row [1].
    free : sequence of Free
        What to find; every combination of starting values is tried and the best one kept.

    Returns
    -------
    dict of str to float
        Coefficients in SI units, rounded to four digits and within their bounds.

    Raises
    ------
    ValueError
        If there is no row.
    ModuleNotFoundError
        Without scipy (the ``calibrate`` extra).
    """
    if not measured_s.size:
        raise ValueError("no rows to fit")
    from scipy.optimize import least_squares  # type: ignore[import-untyped]  # ships no types

    scales = np.array([f.scale for f in free])
    lower, upper = (np.array([getattr(f, side) for f in free]) / scales for side in ("lower", "upper"))
    log_measured, root = np.log(measured_s), np.sqrt(weights)

    def named(x: FloatArray) -> dict[str, float]:
        return {f.name: float(v) for f, v in zip(free, x * scales, strict=True)}

    def residuals(x: FloatArray) -> FloatArray:
        return root * (np.log(predict(named(x))) - log_measured)

    best: tuple[float, FloatArray] | None = None
    for start in product(*(f.start for f in free)):
        x0 = np.clip(np.array(start) / scales, lower, upper)
        found = least_squares(residuals, x0, bounds=(lower, upper), loss="soft_l1", f_scale=ROBUST_SCALE)
        if best is None or float(found.cost) < best[0]:
            best = (float(found.cost), found.x)
    assert best is not None
    values = named(best[1])
    return {f.name: min(max(significant(values[f.name]), f.lower), f.upper) for f in free}


def spread_90(predicted_s: FloatArray, measured_s: FloatArray) -> float:
    """90 % quantile of ``|ln(predicted / measured)|`` over rows [1]; ValueError without rows."""
    if not measured_s.size:
        raise ValueError("no rows to take a spread of")
    return significant(float(np.quantile(np.abs(np.log(predicted_s / measured_s)), 0.9)))

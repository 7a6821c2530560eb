"""Fit memory-bound kernel families by pooling their implementations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.fitting.fit_kernels import Coefficients, FittedKernel, errors_by_class, fit_kernel
from simulator.fitting.robust_fit import significant
from simulator.fitting.rows import KernelRows, join_rows

__all__ = ["fit_streaming"]

NO_COMPUTE = (1.0, 12.0)  # ec and p of a kernel whose arithmetic is free
# No stream reaches more of the datasheet bandwidth; an implementation that does was fed from L2 by its loop.
WARM_EFFICIENCY = 0.95


def _geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def fit_streaming(
    layer_parts: Sequence[KernelRows],
    eager_parts: Sequence[KernelRows],
    *,
    source: str,
    basis: str = "measured",
    fixed_s: float = 0.0,
) -> FittedKernel:
    """Fit each implementation alone, then pool.

    Parameters
    ----------
    layer_parts, eager_parts : sequence of KernelRows
        One table per implementation: fused serving kernels, and eager PyTorch kernels.
    source, basis : str
        Written beside the coefficients.
    fixed_s : float
        Cost of one launch where there are no layer rows [s].

    Returns
    -------
    FittedKernel
        The memory efficiency is the geometric mean over the two kinds of stack of the geometric mean over
        their implementations, without those that ran from L2; the fixed cost is the mean of the layer parts.

    Raises
    ------
    ValueError
        If there is no implementation, or one has no row to fit.

    Notes
    -----
    One fit over all rows would let the fixed cost, which is free, take up the gap between implementations.
    Eager rows are timed from the host, so their fixed cost is not the kernel's and is not used.
    """
    fits = [
        [fit_kernel(part, source=source) for part in parts] for parts in (layer_parts, eager_parts) if parts
    ]
    if not fits:
        raise ValueError(f"no implementation to fit for {source}")
    if layer_parts:
        fixed_s = float(np.mean([f.fixed_s for f in fits[0]]))
    coefficients = _pooled([[f.coefficients for f in group] for group in fits], fixed_s)
    blind = _pooled([[f.blind or f.coefficients for f in group] for group in fits], fixed_s)
    rows = join_rows([*layer_parts, *eager_parts])
    return FittedKernel(
        compute_efficiency=coefficients[0],
        memory_efficiency=coefficients[1],
        fixed_s=coefficients[2],
        sharpness=coefficients[3],
        basis=basis,
        source=source,
        rows=sum(f.rows for group in fits for f in group),
        error=errors_by_class(rows, coefficients, blind),
        blind=blind,
    )


def _pooled(groups: Sequence[Sequence[Coefficients]], fixed_s: float) -> Coefficients:
    found = [[em for _, em, _, _ in group] for group in groups]
    cold = [[em for em in group if em < WARM_EFFICIENCY] for group in found]
    kept = [group for group in cold if group] or found
    em = significant(_geometric_mean([_geometric_mean(group) for group in kept]))
    return (NO_COMPUTE[0], em, significant(fixed_s), NO_COMPUTE[1])

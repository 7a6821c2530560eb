"""Times that overlap but not fully: between their maximum and their sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["powered", "smooth_maximum", "smooth_maximum_of_two"]

FloatArray = NDArray[np.float64]


# Powers for which NumPy has another loop where the exponent is one number, which rounds differently.
EXACT = ((2.0, np.square), (0.5, np.sqrt), (-1.0, np.reciprocal))


def powered(base: FloatArray, exponent: FloatArray) -> FloatArray:
    """``base ** exponent``, to the last digit the same for one exponent as for one per row; raises nothing."""
    if exponent.size == 1:
        only = exponent.item()
        for value, exact in EXACT:
            if only == value:
                return np.broadcast_to(exact(base), np.broadcast_shapes(base.shape, exponent.shape))
        raised: FloatArray = base**exponent
        return raised
    found: FloatArray = base**exponent
    for value, exact in EXACT:
        here = exponent == value
        if here.any():
            found = np.where(here, exact(base), found)
    return found


def smooth_maximum(*times_s: FloatArray, sharpness: FloatArray) -> FloatArray:
    r"""The p-norm :math:`(\sum_i t_i^p)^{1/p}` of times.

    Parameters
    ----------
    times_s : ndarray
        At least zero, shapes that broadcast [s].
    sharpness : ndarray
        :math:`p \ge 1` [1]: 1 adds the times, infinity takes the longest.

    Returns
    -------
    ndarray
        Broadcast shape [s]; never below the longest, never above the sum.

    Raises
    ------
    ValueError
        If no time is given.

    Notes
    -----
    Computed relative to the longest time, which neither overflows nor loses the limit p = infinity.
    """
    if not times_s:
        raise ValueError("no times to join")
    longest, others = times_s[0], []
    for time_s in times_s[1:]:
        others.append(np.minimum(longest, time_s))
        longest = np.maximum(longest, time_s)
    safe = np.where(longest > 0, longest, 1.0)
    # The longest is one of itself, which saves the dearest operation.
    total: FloatArray = np.ones(1)
    for other_s in others:
        total = total + powered(other_s / safe, sharpness)
    return np.where(longest > 0, longest * powered(total, 1.0 / sharpness), 0.0)


def smooth_maximum_of_two(one_s: FloatArray, other_s: FloatArray, sharpness: FloatArray) -> FloatArray:
    """`smooth_maximum` of two times [s] with half of its powers; shapes broadcast, raises nothing."""
    longer, shorter = np.maximum(one_s, other_s), np.minimum(one_s, other_s)
    ratio = np.divide(shorter, longer, out=np.zeros_like(longer), where=longer > 0)
    joined: FloatArray = longer * powered(1.0 + powered(ratio, sharpness), 1.0 / sharpness)
    return joined

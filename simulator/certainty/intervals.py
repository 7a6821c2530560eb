"""Intervals of stated coverage around a time: what is known of each kernel, combined over a step.

Errors of different kernels are taken as independent; the same kernel repeated in every layer errs the same way
each time; and a part that all kernels of a software stack share (clocks, versions) does not average out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.certainty.evidence import DEVIATIONS
from simulator.rules import rule

__all__ = ["COVERAGE", "TimeDoubt", "bounds", "half_width", "joined", "stretched"]

FloatArray = NDArray[np.float64]
COVERAGE = 0.9


@rule(
    symbol="h",
    formula="1.645 sqrt(si^2 + sc^2) / T",
    unit="1",
    source="first-order propagation of errors, one part common to all terms (JCGM 100:2008, 5.1 and 5.2)",
)
def half_width(*, seconds: FloatArray, independent_s: FloatArray, shared_s: FloatArray) -> FloatArray:
    """Half-width, in ln, of the 90 % interval of a time.

    Parameters
    ----------
    seconds : ndarray
        The time [s].
    independent_s : ndarray
        Root of the sum of squares of what each kernel errs by on its own, a standard deviation [s].
    shared_s : ndarray
        Plain sum of what all kernels err by together, a standard deviation [s].

    Returns
    -------
    ndarray
        Half-width [1], broadcast shape; zero for no time.

    Raises
    ------
    ValueError
        If the shapes do not broadcast.
    """
    deviation_s = np.sqrt(independent_s**2 + shared_s**2)
    return np.where(seconds > 0, DEVIATIONS * deviation_s / np.where(seconds > 0, seconds, 1.0), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeDoubt:
    """What a time may be off by, as standard deviations: kernels on their own, and all together [s]."""

    independent_s: FloatArray
    shared_s: FloatArray


def stretched(doubt: TimeDoubt, known_s: FloatArray, whole_s: FloatArray) -> TimeDoubt:
    """Doubt of ``whole_s``, of which ``known_s`` was doubted and the rest (the bubble) scales with it [s]."""
    factor = np.where(known_s > 0, whole_s / np.where(known_s > 0, known_s, 1.0), 1.0)
    return TimeDoubt(independent_s=doubt.independent_s * factor, shared_s=doubt.shared_s * factor)


def joined(first: TimeDoubt, *others: TimeDoubt) -> TimeDoubt:
    """Doubt of a sum of times: own errors by squares, shared ones plainly [s]. Broadcasts; raises nothing."""
    square, shared = first.independent_s**2, first.shared_s
    for other in others:
        square, shared = square + other.independent_s**2, shared + other.shared_s
    return TimeDoubt(independent_s=np.sqrt(square), shared_s=shared)


def bounds(seconds: FloatArray, doubt: TimeDoubt) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest time at the stated coverage [s]. Broadcasts; raises nothing."""
    width = np.exp(half_width(seconds=seconds, independent_s=doubt.independent_s, shared_s=doubt.shared_s))
    return seconds / width, seconds * width

"""Intervals of stated coverage around a time: what is known of each kernel, combined over a step.

Errors of different kernels are taken as independent; the same kernel repeated in every layer errs the same way
each time; and a part that all kernels of a software stack share (clocks, versions) does not average out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.rules import at, rule

__all__ = ["COVERAGE", "estimate_intervals", "half_width", "interval_of"]

FloatArray = NDArray[np.float64]
COVERAGE = 0.9
# Half-width of a central 90 % interval of a normal distribution, in standard deviations.
DEVIATIONS = 1.6448536269514722


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


def interval_of(value: float, width: float) -> dict[str, float]:
    """Lowest and highest value at the stated coverage, for a half-width in ln [1]; raises nothing."""
    return {
        "low": value * float(np.exp(-width)),
        "high": value * float(np.exp(width)),
        "coverage": COVERAGE,
    }


def _width(rows: Iterable[Mapping[str, Any]]) -> float:
    """Half-width of the sum of the rows' exposed times; what states no spread (the bubble) scales with the rest."""
    terms = [(r["exposed_s"], r["spread"], r["common"]) for r in rows if r["spread"] is not None]
    seconds, spread, common = np.array(terms, dtype=np.float64).reshape(-1, 3).T
    # A row's spread contains what it shares with the others.
    own = np.maximum((spread / DEVIATIONS) ** 2 - common**2, 0.0)
    width = half_width(
        seconds=np.atleast_1d(seconds.sum()),
        independent_s=np.atleast_1d(np.sqrt(np.sum(seconds**2 * own))),
        shared_s=np.atleast_1d(np.sum(seconds * common)),
    )
    return float(width[0])


def estimate_intervals(
    times: Mapping[str, float | None], tokens_per_s: float, rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Intervals of an estimate's times and of its token rate.

    Parameters
    ----------
    times : mapping
        Quantities [s]: the step, the first token, an output token; None where a task has none.
    tokens_per_s : float
        Token rate [1/s].
    rows : sequence of mapping
        Operator rows with ``name``, ``exposed_s`` [s], ``spread`` and ``common`` [1]; in generation the names
        start with the pass ("prefill.", "decode.").

    Returns
    -------
    dict
        By quantity ``low``, ``high`` and ``coverage``.

    Raises
    ------
    KeyError
        If a row lacks a column.
    """
    passes = {"time_to_first_token_s": "prefill.", "time_per_output_token_s": "decode."}
    found = {}
    for quantity, value in times.items():
        if value is not None:
            own = [r for r in rows if r["name"].startswith(passes.get(quantity, ""))]
            with at(f"interval.{quantity}"):
                found[quantity] = interval_of(value, _width(own or rows))
    step = found["step_time_s"]
    whole = times["step_time_s"] or 0.0
    found["tokens_per_s"] = {
        "low": tokens_per_s * whole / step["high"],
        "high": tokens_per_s * whole / step["low"],
        "coverage": COVERAGE,
    }
    return found

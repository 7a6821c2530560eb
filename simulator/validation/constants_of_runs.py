"""Constants of software stacks that fit their whole runs best, some of them shared; models are left out in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from simulator.fitting.robust_fit import significant
from simulator.fitting.rows import BoolArray, FloatArray
from simulator.validation.stack_runs import Constant, StackRuns

__all__ = ["FittedRates", "Runs", "coordinate", "fit_family", "fit_rates"]

# What stands for kernels alone.
NEUTRAL: Mapping[Constant, float] = {"matmul": 1.0, "attention": 1.0, "compute": 1.0, "host": 0.0}
HOST_UNIT_S = 1e-4
FEW_CONSTANTS = 2


def coordinate(kind: Constant, value: FloatArray) -> FloatArray:
    """Where a fit has a constant: the logarithm of a rate [1], a host's time in units of 0.1 ms. Raises nothing."""
    out: FloatArray = value / HOST_UNIT_S if kind == "host" else np.log(value)
    return out


def _value(kind: Constant, at: float) -> float:
    return float(at * HOST_UNIT_S if kind == "host" else np.exp(at))


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Runs of one stack: seconds measured, and predicted with each constant of the grid.

    ``axes`` are the coordinates of the constants [1], ``log_ratio`` is ln(predicted / measured) of shape (constants of
    the first kind, of the second, rows); ``model`` names the shape of each run's model, ``device`` its accelerator.
    """

    ids: tuple[str, ...]
    model: tuple[str, ...]
    device: tuple[str, ...]
    axes: tuple[FloatArray, ...]
    log_ratio: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRates:
    """Constants by kind (rates [1], host [s]), rows, and mean errors as fractions: fitted, of models left out [1]."""

    runs: StackRuns
    rates: Mapping[Constant, float]
    rows: int
    error: Mapping[str, float]
    common: float


def _mean_error(log_ratio: FloatArray) -> float:
    return significant(float(np.mean(np.abs(np.expm1(log_ratio)))))


def _ratio(runs: Runs) -> Callable[[FloatArray], FloatArray]:
    """ln(predicted / measured) of the rows over the coordinates of the constants, within the grid."""
    from scipy.interpolate import RegularGridInterpolator  # type: ignore[import-untyped]  # ships no types

    found = RegularGridInterpolator(runs.axes, runs.log_ratio)
    low, high = (np.array([f(axis) for axis in runs.axes]) for f in (np.min, np.max))
    return lambda x: np.asarray(found(np.clip(x, low, high))[0], dtype=np.float64)


class _Family:
    """Stacks that are fitted together: the constants of each, then those that they share."""

    def __init__(self, members: Sequence[tuple[StackRuns, Runs]]) -> None:
        self.members = members
        self.ratios = [_ratio(runs) for _, runs in members]
        first, runs = members[0]
        own = [axis for of, r in members for axis in r.axes[: len(of.rates)]]
        self.axes = [*own, *runs.axes[len(first.rates) :]]
        self.n_shared = len(first.shared)

    def of_member(self, number: int, x: FloatArray) -> FloatArray:
        """Coordinates of one stack among those of all."""
        start = sum(len(of.rates) for of, _ in self.members[:number])
        mine = x[start : start + len(self.members[number][0].rates)]
        return np.concatenate([mine, x[len(x) - self.n_shared :]])

    def ratio(self, number: int, x: FloatArray) -> FloatArray:
        return self.ratios[number](self.of_member(number, x))

    def fit(self, keep: Sequence[BoolArray]) -> FloatArray:
        """Coordinates of least mean |ln(predicted / measured)| over some rows of each stack, within the grid."""
        from scipy.optimize import minimize  # type: ignore[import-untyped]  # ships no types

        low, high = (np.array([f(axis) for axis in self.axes]) for f in (np.min, np.max))

        def loss(x: FloatArray) -> float:
            return float(
                np.mean(np.concatenate([np.abs(self.ratio(n, x)[chosen]) for n, chosen in enumerate(keep)]))
            )

        places = [axis[1::2] for axis in self.axes]
        if len(places) > FEW_CONSTANTS:  # along the diagonal: all combinations would be many
            starts = [np.array([place[min(n, len(place) - 1)] for place in places]) for n in range(3)]
        else:
            starts = [np.array(start) for start in product(*places)]
        best = min((minimize(loss, s, method="Nelder-Mead") for s in starts), key=lambda f: float(f.fun))
        out: FloatArray = np.clip(best.x, low, high)
        return out


def fit_family(members: Sequence[tuple[StackRuns, Runs]]) -> list[FittedRates]:
    """Fit the constants of stacks that share some, and score them on each model with those of the others.

    Parameters
    ----------
    members : sequence of (StackRuns, Runs)
        Stacks of one family with the same shared constants, and their runs; one, if it stands alone.

    Returns
    -------
    list of FittedRates
        In the order of ``members``, with the errors that a table of them shows. Raises nothing.
    """
    family = _Family(members)
    models = [np.array(runs.model) for _, runs in members]
    best = family.fit([np.ones(len(m), dtype=np.bool_) for m in models])
    apart = [np.full(len(m), np.nan) for m in models]
    for model in np.unique(np.concatenate(models)):
        others = [m != model for m in models]
        if any(kept.any() for kept in others):
            found = family.fit(others)
            for n, kept in enumerate(others):
                apart[n][~kept] = family.ratio(n, found)[~kept]
    return [_scored(family, n, best, apart) for n in range(len(members))]


def _by_device(family: _Family, apart: Sequence[FloatArray]) -> dict[str, float]:
    """Mean errors of models left out, over all stacks of a family, by device where there are several."""
    devices = np.array([name for _, runs in family.members for name in runs.device])
    errors = np.concatenate(list(apart))
    names = np.unique(devices)
    return {f"left_out_{name}": _mean_error(errors[devices == name]) for name in names if len(names) > 1}


def _scored(family: _Family, number: int, best: FloatArray, apart: Sequence[FloatArray]) -> FittedRates:
    """One stack of a family at the coordinates that fit all rows, and its errors."""
    of, runs = family.members[number]
    alone = np.array([coordinate(kind, np.array(NEUTRAL[kind])) for kind in of.constants])
    here, left_out = family.ratio(number, best), apart[number]
    error = {"before": _mean_error(family.ratios[number](alone)), "fitted": _mean_error(here)}
    known = here if np.isnan(left_out).any() else left_out
    if known is left_out:
        error |= {"left_out": _mean_error(left_out), **_by_device(family, apart)}
    constants = zip(of.constants, family.of_member(number, best), strict=True)
    return FittedRates(
        runs=of,
        rates={kind: significant(_value(kind, float(at))) for kind, at in constants},
        rows=len(runs.ids),
        error=error,
        common=significant(float(np.sqrt(np.mean(known**2)))),
    )


def fit_rates(of: StackRuns, runs: Runs) -> FittedRates:
    """As `fit_family` for a stack that shares nothing; raises nothing."""
    return fit_family([(of, runs)])[0]

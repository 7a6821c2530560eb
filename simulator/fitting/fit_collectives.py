"""Fit efficiency, latencies and ramp of a fabric tier to measured collectives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from simulator.collective_time import collective_time
from simulator.fitting.error_lines import ErrorLine
from simulator.fitting.measured_collectives import CollectiveRows, ring_traffic
from simulator.fitting.robust_fit import significant
from simulator.fitting.rows import FloatArray

__all__ = [
    "FittedCollective",
    "collective_error_lines",
    "fit_collective",
    "fit_in_switch_gain",
    "predict_collective",
]

ROBUST_SCALE = 0.1
LOWER = (0.05, 0.0, 0.0, 0.0)  # e, a in us, al in us, kappa
UPPER = (1.0, 100.0, 20.0, 5.0)
START = (0.8, 5.0, 0.8, 1.2)
IN_SWITCH_MIN_BYTES = 2 * 2**20  # below about 2 MiB NCCL keeps the ring


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCollective:
    """Coefficients of collectives on one tier, with what is known about them.

    Attributes
    ----------
    efficiency : float
        Fraction of the one-way link bandwidth that a long ring transfer reaches, in (0, 1] [1].
    base_latency_s, step_latency_s : float
        Once per collective, and per dependent exchange [s].
    ramp : float
        Weight of the square-root term [1].
    in_switch_gain : float
        Efficiency of the in-switch all-reduce, in which each rank sends its message once, over that of the
        ring [1]. Its latency is the ring's: two steps alone would make small messages twice too fast,
        since NCCL uses the switch from about 2 MiB only.
    compute_share : float
        Share of the compute units that a running exchange occupies, in [0, 1] [1]; not fitted.
    basis, source : str
        How the numbers came about, and from which tables.
    rows : int
        Rows that the fit saw.
    error : dict of str to float
        Mean absolute relative error by size class [1]; names that end in ``_left_out`` are of held-out rows.
    """

    efficiency: float
    base_latency_s: float
    step_latency_s: float
    ramp: float
    in_switch_gain: float
    basis: str
    source: str
    rows: int
    error: dict[str, float] = field(default_factory=dict)
    compute_share: float = 0.0


def predict_collective(rows: CollectiveRows, fit: FittedCollective) -> FloatArray:
    """Seconds of each row; in-switch rows by the faster of ring and switch; shape ``(rows,)``."""
    sent_bytes, steps = ring_traffic(rows.operation, rows.n_ranks, rows.message_bytes)
    ring_s = _seconds(rows, fit, sent_bytes, steps, fit.efficiency)
    switch_efficiency = min(1.0, fit.efficiency * fit.in_switch_gain)
    switch_s = _seconds(rows, fit, rows.message_bytes, steps, switch_efficiency)
    return np.where(rows.in_switch, np.minimum(ring_s, switch_s), ring_s)


def _seconds(
    rows: CollectiveRows, fit: FittedCollective, sent_bytes: FloatArray, steps: FloatArray, efficiency: float
) -> FloatArray:
    return collective_time(
        sent_bytes=sent_bytes,
        n_steps=steps,
        bandwidth_bytes_per_s=np.asarray(rows.link_bytes_per_s),
        efficiency=np.asarray(efficiency),
        base_latency_s=np.asarray(fit.base_latency_s),
        step_latency_s=np.asarray(fit.step_latency_s),
        ramp=np.asarray(fit.ramp),
    )


def _cell_weights(rows: CollectiveRows) -> FloatArray:
    parts = zip(rows.operation, rows.n_ranks, rows.size_class, strict=True)
    cells = np.array([f"{operation}/{ranks}/{size}" for operation, ranks, size in parts])
    names, index, counts = np.unique(cells, return_inverse=True, return_counts=True)
    weights: FloatArray = len(rows) / (len(names) * counts[index].astype(np.float64))
    return weights


def fit_collective(
    rows: CollectiveRows, *, source: str, one_step_base_s: float | None = None
) -> FittedCollective:
    """Fit e, a, al and kappa to the rows that run as rings.

    Parameters
    ----------
    rows : CollectiveRows
        Rows with ``in_switch`` or ``left_out`` set are not fitted.
    source : str
        Written beside the coefficients.
    one_step_base_s : float, optional
        For rows that all have one step, where only the sum of the two latencies shows: the part of it that
        is called base latency [s].

    Returns
    -------
    FittedCollective
        With in_switch_gain 1; errors by size class.

    Raises
    ------
    ValueError
        If no row is left to fit.
    ModuleNotFoundError
        Without scipy (the ``calibrate`` extra).

    Notes
    -----
    Soft-L1 loss over log ratios, each operation, rank count and size class with the same weight.
    """
    from scipy.optimize import least_squares  # type: ignore[import-untyped]  # ships no types

    seen = rows.where(~rows.left_out & ~rows.in_switch)
    if not len(seen):
        raise ValueError(f"no rows to fit for {source}")
    root_weights = np.sqrt(_cell_weights(seen))
    log_measured = np.log(seen.measured_s)

    def build(x: FloatArray) -> FittedCollective:
        e, base_s, step_s, ramp = float(x[0]), float(x[1]) * 1e-6, float(x[2]) * 1e-6, float(x[3])
        if one_step_base_s is not None:
            base_s, step_s = one_step_base_s, max(base_s - one_step_base_s, 0.0)
        return FittedCollective(
            efficiency=e,
            base_latency_s=base_s,
            step_latency_s=step_s,
            ramp=ramp,
            in_switch_gain=1.0,
            basis="measured",
            source=source,
            rows=len(seen),
        )

    solution = least_squares(
        lambda x: root_weights * (np.log(predict_collective(seen, build(x))) - log_measured),
        START,
        bounds=(LOWER, UPPER),
        loss="soft_l1",
        f_scale=ROBUST_SCALE,
    )
    fit = build(solution.x)
    rounded = replace(
        fit,
        efficiency=significant(fit.efficiency),
        base_latency_s=significant(fit.base_latency_s),
        step_latency_s=significant(fit.step_latency_s),
        ramp=significant(fit.ramp),
    )
    return replace(rounded, error=_errors_by_class(rows.where(~rows.in_switch), rounded))


def fit_in_switch_gain(rows: CollectiveRows, ring: FittedCollective) -> FittedCollective:
    """Add the in-switch gain to a fitted ring.

    Parameters
    ----------
    rows : CollectiveRows
        All rows of the device; those with ``in_switch`` set, of at least 2 MiB and not left out, are fitted.
    ring : FittedCollective
        Everything else is kept as it is here.

    Returns
    -------
    FittedCollective
        With the gain, and errors over all rows by size class.

    Raises
    ------
    ValueError
        If no row is left to fit.
    ModuleNotFoundError
        Without scipy (the ``calibrate`` extra).
    """
    from scipy.optimize import minimize_scalar

    seen = rows.where(rows.in_switch & ~rows.left_out & (rows.message_bytes >= IN_SWITCH_MIN_BYTES))
    if not len(seen):
        raise ValueError(f"no in-switch rows to fit for {ring.source}")

    def loss(gain: float) -> float:
        ratio = np.log(predict_collective(seen, replace(ring, in_switch_gain=float(gain))) / seen.measured_s)
        return float(np.mean(np.sqrt(1 + (ratio / ROBUST_SCALE) ** 2)))

    gain = minimize_scalar(loss, bounds=(0.3, 1 / ring.efficiency), method="bounded").x
    fit = replace(ring, in_switch_gain=significant(float(gain)), rows=ring.rows + len(seen))
    return replace(fit, error=_errors_by_class(rows, fit))


def _errors_by_class(rows: CollectiveRows, fit: FittedCollective) -> dict[str, float]:
    ratio = predict_collective(rows, fit) / rows.measured_s
    errors = {}
    for size_class in np.unique(rows.size_class):
        for left_out in (False, True):
            keep = (rows.size_class == size_class) & (rows.left_out == left_out)
            if keep.any():
                name = str(size_class) + ("_left_out" if left_out else "")
                errors[name] = significant(float(np.mean(np.abs(ratio[keep] - 1))))
    return errors


def collective_error_lines(rows: CollectiveRows, fit: FittedCollective) -> list[ErrorLine]:
    """Errors by operation, rank count and size class; fitted and left-out rows apart."""
    ratio = predict_collective(rows, fit) / rows.measured_s
    names = [f"{o} n={int(n)}" for o, n in zip(rows.operation, rows.n_ranks, strict=True)]
    stacks = np.array(names, dtype=np.str_)
    lines = []
    for stack in np.unique(stacks):
        for size_class in np.unique(rows.size_class):
            for left_out in (False, True):
                keep = (stacks == stack) & (rows.size_class == size_class) & (rows.left_out == left_out)
                if keep.any():
                    lines.append(
                        ErrorLine(
                            stack=str(stack),
                            size_class=str(size_class),
                            left_out=left_out,
                            rows=int(keep.sum()),
                            mape=float(np.mean(np.abs(ratio[keep] - 1))),
                            bias=float(np.expm1(np.mean(np.log(ratio[keep])))),
                        )
                    )
    return lines

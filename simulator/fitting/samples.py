"""Measured kernels as a rule sees them, and the fit of any rule's coefficients to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from hardware_specs.figure import Basis
from hardware_specs.kernel_fits import FitEvidence
from simulator.fitting.robust_fit import Free, robust_fit, significant, spread_90
from simulator.fitting.rows import BoolArray, FloatArray, TextArray, left_out_by_group
from simulator.kernels.models import KERNEL_MODELS

__all__ = [
    "KernelSamples",
    "class_errors",
    "evidence_of",
    "fit_samples",
    "fold_of",
    "join_samples",
    "predict_samples",
    "sample_weights",
]

MODEL_SCATTER = 0.05  # relative error that a few coefficients leave at best
# Stacks that time the same kernels differ by 3-8 % (bf16 GEMM, medians of pairs): what one stack alone cannot show.
ONE_STACK_COMMON = 0.05
MIN_CLASS_ROWS = 20  # fewer left-out rows of a class have no quantile of their own
WORK = ("flop", "moved_bytes", "operand_bytes")
DEVICE = ("peak_flop_per_s", "bandwidth_bytes_per_s", "units", "clock_hz")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSamples:
    """Measured kernels of one family and dtype; arrays have the shape ``(rows,)``.

    Attributes
    ----------
    family : str
        Key of `simulator.kernels.models.KERNEL_MODELS`.
    inputs : mapping of str to ndarray
        What the family's rule asks for besides its coefficients: sizes [1], counted work [FLOP, byte], figures
        of the device [SI].
    measured_s, other_s, rounding_s : ndarray
        Measured time, the known part of it that other kernels take, and the standard error from rounding [s].
    stack, size_class, group : ndarray of str
        Software; class by size; what is held out as a whole, such as an (n, k) pair.
    row : ndarray of int
        Row of the table, to name it in a message.
    """

    family: str
    inputs: Mapping[str, FloatArray]
    measured_s: FloatArray
    stack: TextArray
    size_class: TextArray
    group: TextArray
    other_s: FloatArray
    rounding_s: FloatArray
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.measured_s.size)

    @property
    def left_out(self) -> BoolArray:
        """Rows that no coefficient sees, shape ``(rows,)``: whole groups, by a checksum of their names."""
        return left_out_by_group(self.group.tolist())

    def where(self, keep: BoolArray) -> KernelSamples:
        """The rows for which ``keep``, a boolean array of shape ``(rows,)``, is true."""
        arrays = {
            f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name not in ("family", "inputs")
        }
        inputs = {name: np.broadcast_to(v, keep.shape)[keep] for name, v in self.inputs.items()}
        return replace(self, inputs=inputs, **arrays)


def join_samples(parts: Iterable[KernelSamples]) -> KernelSamples:
    """Samples of one family one below the other; ValueError for none, or for several families."""
    tables = list(parts)
    if len({t.family for t in tables}) != 1:
        raise ValueError("samples to join must be of one family")
    arrays = {
        f.name: np.concatenate([getattr(t, f.name) for t in tables])
        for f in fields(KernelSamples)
        if f.name not in ("family", "inputs")
    }
    inputs = {
        name: np.concatenate([np.broadcast_to(t.inputs[name], len(t)) for t in tables])
        for name in tables[0].inputs
    }
    return KernelSamples(family=tables[0].family, inputs=inputs, **arrays)


def predict_samples(samples: KernelSamples, coefficients: Mapping[str, float]) -> FloatArray:
    """Seconds of each row under coefficients by name [SI], other kernels included; shape ``(rows,)``."""
    model = KERNEL_MODELS[samples.family]
    values = {name: np.full(1, value) for name, value in coefficients.items()}
    asked = {k: v for k, v in samples.inputs.items() if k in model.inputs}
    return samples.other_s + model.rule(**asked, **values)


def sample_weights(samples: KernelSamples) -> FloatArray:
    """Weights that give each (stack, size class) the same total, with mean 1; shape ``(rows,)`` [1].

    Small shapes dominate the tables' counts; without this they would decide every coefficient. Rows whose
    rounding is coarser than the scatter of a good model count for less.
    """
    cells = np.char.add(np.char.add(samples.stack, "|"), samples.size_class)
    names, index, counts = np.unique(cells, return_inverse=True, return_counts=True)
    noise = samples.rounding_s / (MODEL_SCATTER * samples.measured_s)
    weights: FloatArray = len(samples) / (len(names) * counts[index].astype(np.float64)) / (1 + noise**2)
    return weights


def fold_of(groups: Sequence[str]) -> NDArray[np.int64]:
    """0 or 1 for each group name, by a checksum: left-out rows of fold 0 state the spread, those of 1 test it."""
    return np.array([crc32(f"{name}|fold".encode()) % 2 for name in groups], dtype=np.int64)


def fit_samples(
    samples: KernelSamples,
    free: Sequence[Free],
    *,
    fixed: Mapping[str, float],
    source: str,
    basis: Basis = "measured",
    tied: Mapping[str, str] | None = None,
    hold_out: bool = True,
) -> FitEvidence:
    """Fit a family's coefficients to the rows that are not left out, and say how they do on the others.

    Parameters
    ----------
    samples : KernelSamples
        All rows; those of left-out groups are scored, never fitted.
    free : sequence of Free
        Coefficients to find.
    fixed : mapping of str to float
        The other coefficients of the family [SI].
    source, basis : str
        Written beside the coefficients.
    tied : mapping of str to str, optional
        Coefficients that always equal another one.
    hold_out : bool
        Whether groups are left out at all; too few rows cannot spare any.

    Returns
    -------
    FitEvidence
        An instance of the family's class of coefficients, with errors, spread and range.

    Raises
    ------
    ValueError
        If no row is left to fit, or a coefficient is neither free nor fixed.
    ModuleNotFoundError
        Without scipy (the ``calibrate`` extra).
    """
    left_out = samples.left_out & hold_out
    kept = samples.where(~left_out)
    if not len(kept):
        raise ValueError(f"no rows to fit for {source}")

    def complete(found: Mapping[str, float]) -> dict[str, float]:
        known = {**fixed, **found}
        return {**known, **{name: known[other] for name, other in (tied or {}).items()}}

    coefficients = complete(
        robust_fit(lambda c: predict_samples(kept, complete(c)), kept.measured_s, sample_weights(kept), free)
    )
    fit = KERNEL_MODELS[samples.family].fit
    predicted = predict_samples(samples, coefficients)
    return fit.of(coefficients, **evidence_of(samples, predicted, left_out, source=source, basis=basis))


def evidence_of(
    samples: KernelSamples,
    predicted_s: FloatArray,
    left_out: BoolArray,
    *,
    source: str,
    basis: Basis = "measured",
) -> dict[str, Any]:
    """Fields of `FitEvidence` for coefficients that were fitted to the rows that are not left out.

    Parameters
    ----------
    samples : KernelSamples
        All rows.
    predicted_s : ndarray, shape (rows,)
        Their times under the coefficients [s].
    left_out : ndarray of bool, shape (rows,)
        Rows that the fit did not see.
    source, basis : str
        Written beside the coefficients.

    Returns
    -------
    dict
        Rows, errors by size class, spread, common part and range.

    Raises
    ------
    ValueError
        If there is no row.
    """
    kept = samples.where(~left_out)
    return {
        "basis": basis,
        "source": source,
        "rows": len(kept),
        "error": class_errors(samples, predicted_s, left_out),
        "spread": _spread(samples, predicted_s, left_out),
        "common": _common(samples, predicted_s),
        "fitted_range": _ranges(kept),
    }


def class_errors(samples: KernelSamples, predicted: FloatArray, left_out: BoolArray) -> dict[str, float]:
    """Mean absolute relative error by size class [1], stacks with the same weight, left-out rows apart.

    ``predicted`` [s] and ``left_out`` have the shape ``(rows,)``; raises nothing.
    """
    off, errors = np.abs(predicted / samples.measured_s - 1.0), {}
    for suffix, chosen in (("", ~left_out), ("_left_out", left_out)):
        for name in np.unique(samples.size_class):
            here = chosen & (samples.size_class == name)
            means = [off[here & (samples.stack == s)].mean() for s in np.unique(samples.stack[here])]
            if means:
                errors[f"{name}{suffix}"] = significant(float(np.mean(means)))
    return errors


def _spread(samples: KernelSamples, predicted: FloatArray, left_out: BoolArray) -> dict[str, float]:
    """90 % quantile of the log ratio on left-out rows of fold 0, overall and by class."""
    apart = left_out & (fold_of(samples.group.tolist()) == 0)
    if apart.sum() < MIN_CLASS_ROWS:
        apart = left_out if left_out.sum() >= MIN_CLASS_ROWS else np.ones_like(apart)
    spread = {"all": spread_90(predicted[apart], samples.measured_s[apart])}
    for name in np.unique(samples.size_class):
        here = apart & (samples.size_class == name)
        if here.sum() >= MIN_CLASS_ROWS:
            spread[str(name)] = spread_90(predicted[here], samples.measured_s[here])
    return spread


def _common(samples: KernelSamples, predicted: FloatArray) -> float:
    """Standard deviation over stacks of the mean log ratio [1]: what all kernels of a stack share."""
    return stack_common(np.log(predicted / samples.measured_s), samples.stack)


def stack_common(ratio: FloatArray, stack: TextArray) -> float:
    """Standard deviation over stacks of the mean of ``ratio``, the log of predicted over measured [1].

    Both have the shape ``(rows,)``. Where there is one stack, what stacks have been seen to differ by; raises nothing.
    """
    means = [float(ratio[stack == s].mean()) for s in np.unique(stack)]
    return (
        ONE_STACK_COMMON
        if len(means) < 2
        else max(significant(float(np.std(means, ddof=1))), ONE_STACK_COMMON)
    )


def _ranges(samples: KernelSamples) -> dict[str, list[float]]:
    """Smallest and largest of each size [1] in the rows that were fitted."""
    return {
        name: [float(np.min(v)), float(np.max(v))]
        for name, v in samples.inputs.items()
        if name not in WORK and name not in DEVICE and not name.endswith("_bytes")
    }

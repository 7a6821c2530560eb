"""Coefficients from a user's own measured kernels: all of them where rows suffice, a few of a sibling's where not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hardware_specs import CalibrationSpec
from hardware_specs.errors import Problem, SpecError
from hardware_specs.kernel_fits import FitEvidence, KernelFamily, StreamingFit
from simulator.certainty.evidence import kernel_fit
from simulator.fitting.fit_attention import fit_decode, fit_prefill
from simulator.fitting.fit_moe import fit_moe_rows
from simulator.fitting.fit_streaming import REREADS, fit_streaming
from simulator.fitting.measured_moe import MoeRows
from simulator.fitting.processor_fits import PROCESSOR_FITS
from simulator.fitting.robust_fit import Free, robust_fit, significant, spread_90
from simulator.fitting.rows import FloatArray, TextArray
from simulator.fitting.samples import (
    KernelSamples,
    class_errors,
    fit_samples,
    predict_samples,
    sample_weights,
)
from simulator.fitting.user_families import UserFamilies
from simulator.fitting.user_products import fit_products

__all__ = ["FEW_ROWS", "FULL_ROWS", "FittedFamily", "fit_families", "too_few"]

FULL_ROWS, FEW_ROWS = 100, 12
FOLDS = 6  # in which few rows are held out in turn
LEAST_LEFT_OUT, MOST_LEFT_OUT = 0.1, 0.6  # of the rows; outside, whole groups are too coarse to hold out
# What a new device or software version changes first; the shape of the curve is the sibling's.
FEW_FREE: Mapping[str, Free] = {
    **{
        name: Free(name=name, start=(0.7,), lower=0.01, upper=1.0)
        for name in ("compute_efficiency", "memory_efficiency", "read_efficiency", "write_efficiency")
    },
    "fixed_s": Free(name="fixed_s", start=(5e-6,), lower=0.0, upper=400e-6, scale=1e-6),
    # What a unit takes in from the last cache changes with the generation: 45 bytes a clock on A100, 74 on H100.
    "feed_bytes_per_clock": Free(
        name="feed_bytes_per_clock", start=(60.0,), lower=10.0, upper=1000.0, scale=50.0
    ),
}
# Products of single tokens hide behind the stream: no time tells their efficiency.
HIDDEN = {"attention_decode": ("compute_efficiency",)}
FULL_FITS: Mapping[str, Callable[..., FitEvidence]] = {
    "matmul": fit_products,
    "batched_matmul": fit_products,
    "attention_prefill": fit_prefill,
    "attention_decode": fit_decode,
    "mla_prefill": fit_prefill,
    "mla_decode": fit_decode,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedFamily:
    """Coefficients of one family and type from a user's rows.

    Attributes
    ----------
    family, dtype : str
        Keys of the calibration.
    fit : FitEvidence
        With errors by size class.
    rows, left_out : int
        Rows that the fit saw, and those that it was scored on alone [1]; few rows are all of both, in turn.
    like : str
        The calibration whose curve was kept, or "" where all coefficients are fitted.
    apart : tuple of float
        Error of each left-out row of a fit of all coefficients, as a fraction [1].
    """

    family: KernelFamily
    dtype: str
    fit: FitEvidence
    rows: int
    left_out: int
    like: str = ""
    apart: tuple[float, ...] = ()


def too_few(family: str, dtype: str, rows: int, like: CalibrationSpec | None) -> Problem:
    """The refusal of a family with too few rows, by name and count; raises nothing."""
    rule = f"rows are too few: a fit of all coefficients needs {FULL_ROWS}"
    if rows < FEW_ROWS:
        rule += f", one of a few coefficients {FEW_ROWS}"
        fix = f"measure at least {FEW_ROWS - rows} more shapes" + (
            "" if like else " and give --like CALIBRATION"
        )
    else:
        kept = "give --like CALIBRATION (such as default) to keep the shape of its curve"
        fix = f"measure {FULL_ROWS - rows} more shapes, or {kept}"
    return Problem(path=f"{family} {dtype}", value=str(rows), rule=rule, fix=fix)


def _shapes(samples: KernelSamples) -> TextArray:
    """The sizes of each row as one text, shape ``(rows,)``."""
    sizes = np.stack([np.broadcast_to(v, samples.measured_s.shape) for v in samples.inputs.values()], axis=1)
    return np.array(["/".join(f"{value:.6g}" for value in row) for row in sizes], dtype=np.str_)


def _repeated(family: str, dtype: str, samples: KernelSamples) -> Problem | None:
    """The refusal of rows that repeat a few shapes, none of which could then be held out; None if there are enough."""
    shapes = np.unique(_shapes(samples)).size
    if len(samples) < FEW_ROWS or shapes >= FEW_ROWS:
        return None
    rule = f"{len(samples)} rows are repeats of {shapes} shapes: a fit needs {FEW_ROWS} different ones"
    fix = f"measure at least {FEW_ROWS - shapes} more shapes"
    return Problem(path=f"{family} {dtype}", value=str(shapes), rule=rule, fix=fix)


def _held_apart(samples: KernelSamples) -> KernelSamples:
    """The same rows; where whole groups would hold out nearly none or nearly all, whole shapes are the groups."""
    if LEAST_LEFT_OUT <= samples.left_out.mean() <= MOST_LEFT_OUT:
        return samples
    return replace(samples, group=_shapes(samples))


def _full(
    family: str, samples: KernelSamples, plain: FitEvidence | None, source: str, processor: bool
) -> FitEvidence:
    held = _held_apart(samples)
    if processor and family in PROCESSOR_FITS:
        return PROCESSOR_FITS[family](held, source=source)
    if family in FULL_FITS:
        return FULL_FITS[family](held, source=source)
    like = plain if family in REREADS and isinstance(plain, StreamingFit) else None
    return fit_streaming(held, source=source, like=like)


def _folds(samples: KernelSamples) -> NDArray[np.intp]:
    """Fold of each row, whole groups together where there are enough of them, shape ``(rows,)``."""
    names = samples.group if np.unique(samples.group).size >= FOLDS else samples.row.astype(np.str_)
    return np.unique(names, return_inverse=True)[1] % FOLDS


def _few(samples: KernelSamples, sibling: FitEvidence, source: str) -> FitEvidence:
    """A few coefficients anew, starting where the sibling's are, and errors of rows held out in turn."""
    known = sibling.coefficients()
    skipped = HIDDEN.get(samples.family, ())
    free = [
        replace(f, start=(min(max(known[name], f.lower), f.upper),))
        for name, f in FEW_FREE.items()
        if name in known and name not in skipped
    ]
    fixed = {name: value for name, value in known.items() if name not in {f.name for f in free}}
    fit = fit_samples(samples, free, fixed=fixed, source=source, hold_out=False)
    folds, predicted = _folds(samples), np.empty_like(samples.measured_s)
    for fold in np.unique(folds):
        kept, apart = samples.where(folds != fold), samples.where(folds == fold)

        def seconds(found: Mapping[str, float], rows: KernelSamples = kept) -> FloatArray:
            return predict_samples(rows, {**fixed, **found})

        found = robust_fit(seconds, kept.measured_s, sample_weights(kept), free)
        predicted[folds == fold] = predict_samples(apart, {**fixed, **found})
    everywhere = np.ones(len(samples), dtype=np.bool_)
    apart_error = class_errors(samples, predicted, everywhere)
    # So few rows may miss what the sibling's many have shown.
    wide = {
        **sibling.spread,
        "all": max(spread_90(predicted, samples.measured_s), sibling.spread.get("all", 0.0)),
    }
    spread = {name: max(value, wide["all"]) for name, value in wide.items()}
    return fit.model_copy(update={"error": {**fit.error, **apart_error}, "spread": spread})


def _one(
    family: KernelFamily,
    dtype: str,
    samples: KernelSamples,
    like: CalibrationSpec | None,
    plain: FitEvidence | None,
    source: str,
    processor: bool,
) -> FittedFamily | Problem:
    rows = len(samples)
    if rows >= FULL_ROWS:
        fit = _full(family, samples, plain, source, processor)
        held = _held_apart(samples)
        off = np.abs(predict_samples(held, fit.coefficients()) / held.measured_s - 1.0)[held.left_out]
        return FittedFamily(
            family=family,
            dtype=dtype,
            fit=fit,
            rows=fit.rows,
            left_out=rows - fit.rows,
            apart=tuple(off.tolist()),
        )
    if rows < FEW_ROWS or like is None:
        return too_few(family, dtype, rows, like)
    sibling = kernel_fit(like, family, dtype)[0]
    fit = _few(samples, sibling, f"{source}; the other coefficients are those of {like.name}")
    return FittedFamily(family=family, dtype=dtype, fit=fit, rows=rows, left_out=rows, like=like.name)


def _moe(dtype: str, layers: MoeRows, source: str) -> list[FittedFamily]:
    fit = fit_moe_rows(layers, source=source)
    pairs: tuple[tuple[KernelFamily, FitEvidence], ...] = (
        ("grouped_matmul", fit.grouped),
        ("moe_dispatch", fit.dispatch),
    )
    return [
        FittedFamily(family=family, dtype=dtype, fit=part, rows=part.rows, left_out=len(layers) - part.rows)
        for family, part in pairs
    ]


def fit_families(found: UserFamilies, *, source: str, like: CalibrationSpec | None) -> list[FittedFamily]:
    """Fit everything that a user's tables have rows of.

    Parameters
    ----------
    found : UserFamilies
        Samples by family and type.
    source : str
        Written beside the coefficients, before the stacks of the rows.
    like : CalibrationSpec, optional
        A measured sibling: families with few rows keep the shape of its curves.

    Returns
    -------
    list of FittedFamily
        In the order of ``found``.

    Raises
    ------
    SpecError
        If a type has no units or a family too few rows; all are named.
    ModuleNotFoundError
        Without scipy (the ``calibrate`` extra).
    """
    problems = list(found.problems)
    counts = {key: len(samples) for key, samples in found.samples.items()}
    problems += [
        too_few(family, dtype, rows, like)
        for (family, dtype), rows in counts.items()
        if rows < (FULL_ROWS if like is None else FEW_ROWS)
    ]
    repeated = (_repeated(family, dtype, samples) for (family, dtype), samples in found.samples.items())
    problems += [problem for problem in repeated if problem]
    # Eight coefficients of layers that are timed as a whole have no few that a sibling leaves open.
    problems += [
        too_few("moe", dtype, len(layers), like)
        for dtype, layers in found.moe.items()
        if len(layers) < FULL_ROWS
    ]
    if problems:
        raise SpecError(problems)
    plain = None if like is None else kernel_fit(like, "pointwise", "any")[0]
    fitted: list[FittedFamily] = []
    for (family, dtype), samples in found.samples.items():
        of_rows = f"{source} ({_stacks(samples.stack)})"
        done = _one(family, dtype, samples, like, plain, of_rows, found.processor)
        if isinstance(done, Problem):
            raise SpecError([done])
        plain = done.fit if family == "pointwise" else plain
        fitted.append(done)
    for dtype, layers in found.moe.items():
        fitted += _moe(dtype, layers, f"{source} ({_stacks(layers.stack)})")
    return [replace(done, fit=_wandering(done.fit, found.pace)) for done in fitted]


def _wandering(fit: FitEvidence, pace: float) -> FitEvidence:
    """The same fit; what all its kernels share grows by how far the pace wandered, as a run meets another pace."""
    return fit.model_copy(update={"common": significant(math.hypot(fit.common, pace))}) if pace else fit


def _stacks(stack: TextArray) -> str:
    names: Sequence[str] = sorted({str(name).rstrip("-") for name in stack})
    return ", ".join(names)

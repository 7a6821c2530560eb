"""Coefficients from a user's own measured kernels: all of them where rows suffice, a few of a sibling's where not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hardware_specs import CalibrationSpec
from hardware_specs.errors import Problem, SpecError
from hardware_specs.kernel_fits import FitEvidence, GemmFit, KernelFamily, QuantiseFit, StreamingFit
from hardware_specs.schema import AcceleratorSpec
from simulator.certainty.evidence import kernel_fit
from simulator.fitting.fit_attention import fit_decode, fit_prefill
from simulator.fitting.fit_gemm import fit_format, known_figures, with_known_pass
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

__all__ = ["FEW_ROWS", "FULL_ROWS", "FittedFamily", "few_coefficients", "fit_families", "too_few"]

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
PRODUCTS = ("matmul", "batched_matmul")
TWINS = ("bf16", "fp16")  # whose products are as long
HIDDEN = {"attention_decode": ("compute_efficiency",)}
FULL_FITS: Mapping[str, Callable[..., FitEvidence]] = {
    "attention_prefill": fit_prefill,
    "attention_decode": fit_decode,
    "mla_prefill": fit_prefill,
    "mla_decode": fit_decode,
}


@dataclass(slots=True, kw_only=True)
class _Around:
    """What a fit knows beside its own rows: the device, a sibling, and what was fitted before it."""

    accelerator: AcceleratorSpec
    processor: bool
    like: CalibrationSpec | None
    plain: FitEvidence | None  # of plain streaming kernels
    product: GemmFit  # of 16-bit products

    def learn(self, family: str, dtype: str, fit: FitEvidence) -> None:
        """Later families use plain kernels, and narrow products the fixed time of wide ones."""
        if family == "pointwise":
            self.plain = fit
        if family == "matmul" and dtype in TWINS and isinstance(fit, GemmFit):
            self.product = fit


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


def _off(samples: KernelSamples, predicted_s: FloatArray) -> tuple[float, ...]:
    """Error of each left-out row, as a fraction [1]."""
    return tuple(np.abs(predicted_s / samples.measured_s - 1.0)[samples.left_out].tolist())


def _products(
    family: KernelFamily, dtype: str, samples: KernelSamples, around: _Around, source: str
) -> tuple[dict[KernelFamily, FitEvidence], tuple[float, ...]]:
    """The product, and the pass that its rows time too; and the errors of left-out rows."""
    done = fit_format(samples, around.accelerator, dtype, source=source, wide=around.product)
    fits: dict[KernelFamily, FitEvidence] = {family: done.gemm}
    if done.quantise:
        fits["quantise"] = done.quantise
    return fits, _off(done.samples, done.predicted_s())


def _full(
    family: KernelFamily, dtype: str, samples: KernelSamples, around: _Around, source: str
) -> tuple[dict[KernelFamily, FitEvidence], tuple[float, ...]]:
    """Fits of all coefficients by family, and the error of each row that they did not see [1]."""
    held = _held_apart(samples)
    if family in PRODUCTS and not around.processor:
        return _products(family, dtype, held, around, source)
    if around.processor and family in PROCESSOR_FITS:
        fit: FitEvidence = PROCESSOR_FITS[family](held, source=source)
    elif family in FULL_FITS:
        fit = FULL_FITS[family](held, source=source)
    else:
        like = around.plain if family in REREADS and isinstance(around.plain, StreamingFit) else None
        fit = fit_streaming(held, source=source, like=like)
    return {family: fit}, _off(held, predict_samples(held, fit.coefficients()))


def _folds(samples: KernelSamples) -> NDArray[np.intp]:
    """Fold of each row, whole groups together where there are enough of them, shape ``(rows,)``."""
    names = samples.group if np.unique(samples.group).size >= FOLDS else samples.row.astype(np.str_)
    return np.unique(names, return_inverse=True)[1] % FOLDS


def few_coefficients(
    samples: KernelSamples, sibling: FitEvidence, source: str, figures: Mapping[str, float]
) -> FitEvidence:
    """A few coefficients anew, and errors of rows held out in turn.

    Parameters
    ----------
    samples : KernelSamples
        Rows of one family and type.
    sibling : FitEvidence
        Where the search starts, and where the coefficients that it leaves alone come from.
    source : str
        Written beside the coefficients.
    figures : mapping of str to float
        Coefficients that follow from the device itself [SI], instead of the sibling's.

    Returns
    -------
    FitEvidence
        At least as wide as the sibling's: so few rows may miss what its many have shown.

    Raises
    ------
    ValueError
        If there is no row.
    """
    known = {**sibling.coefficients(), **figures}
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
    wide = {
        **sibling.spread,
        "all": max(spread_90(predicted, samples.measured_s), sibling.spread.get("all", 0.0)),
    }
    spread = {name: max(value, wide["all"]) for name, value in wide.items()}
    return fit.model_copy(update={"error": {**fit.error, **apart_error}, "spread": spread})


def _one(
    family: KernelFamily, dtype: str, samples: KernelSamples, around: _Around, source: str
) -> list[FittedFamily] | Problem:
    rows, like = len(samples), around.like
    if rows >= FULL_ROWS:
        fits, apart = _full(family, dtype, samples, around, source)
        return [
            FittedFamily(
                family=name,
                dtype=dtype,
                fit=fit,
                rows=fit.rows,
                left_out=rows - fit.rows,
                apart=apart if name == family else (),
            )
            for name, fit in fits.items()
        ]
    if rows < FEW_ROWS or like is None:
        return too_few(family, dtype, rows, like)
    sibling, figures = kernel_fit(like, family, dtype)[0], {}
    source = f"{source}; the other coefficients are those of {like.name}"
    if family in PRODUCTS and not around.processor:
        narrowing = kernel_fit(like, "quantise", dtype)[0]
        assert isinstance(narrowing, QuantiseFit)
        samples = with_known_pass(samples, narrowing)
        figures = known_figures(around.accelerator, dtype)
    fit = few_coefficients(samples, sibling, source, figures)
    return [FittedFamily(family=family, dtype=dtype, fit=fit, rows=rows, left_out=rows, like=like.name)]


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


def fit_families(
    found: UserFamilies, *, source: str, like: CalibrationSpec | None, base: CalibrationSpec
) -> list[FittedFamily]:
    """Fit everything that a user's tables have rows of.

    Parameters
    ----------
    found : UserFamilies
        Samples by family and type.
    source : str
        Written beside the coefficients, before the stacks of the rows.
    like : CalibrationSpec, optional
        A measured sibling: families with few rows keep the shape of its curves.
    base : CalibrationSpec
        The calibration that gives what no row tells, such as the fixed time of 16-bit products.

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
    wide = kernel_fit(base, "matmul", "bf16")[0]
    assert isinstance(wide, GemmFit)
    around = _Around(
        accelerator=found.accelerator,
        processor=found.processor,
        like=like,
        plain=None if like is None else kernel_fit(like, "pointwise", "any")[0],
        product=wide,
    )
    fitted: list[FittedFamily] = []
    for (family, dtype), samples in sorted(found.samples.items(), key=lambda item: _narrow(item[0][1])):
        done = _one(family, dtype, samples, around, f"{source} ({_stacks(samples.stack)})")
        if isinstance(done, Problem):
            raise SpecError([done])
        for item in done:
            around.learn(item.family, item.dtype, item.fit)
        fitted += done
    for dtype, layers in found.moe.items():
        fitted += _moe(dtype, layers, f"{source} ({_stacks(layers.stack)})")
    return [replace(done, fit=_wandering(done.fit, found.pace)) for done in fitted]


def _wandering(fit: FitEvidence, pace: float) -> FitEvidence:
    """The same fit; what all its kernels share grows by how far the pace wandered, as a run meets another pace."""
    return fit.model_copy(update={"common": significant(math.hypot(fit.common, pace))}) if pace else fit


def _narrow(dtype: str) -> bool:
    """Formats that are fitted after the 16-bit products of the same stacks."""
    return dtype not in (*TWINS, "any")


def _stacks(stack: TextArray) -> str:
    names: Sequence[str] = sorted({str(name).rstrip("-") for name in stack})
    return ", ".join(names)

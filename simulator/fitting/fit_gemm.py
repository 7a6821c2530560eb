"""Fit matrix products, and the pass that narrows their activations where rows time both together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware_specs import AcceleratorSpec, load_accelerator
from hardware_specs.figure import Basis
from hardware_specs.kernel_fits import GemmFit, QuantiseFit
from simulator.fitting.measured_gemm import WIDE_BYTES, gemm_samples, narrow
from simulator.fitting.measured_kernels import Tables
from simulator.fitting.robust_fit import Free, robust_fit
from simulator.fitting.rows import FloatArray
from simulator.fitting.samples import KernelSamples, evidence_of, predict_samples, sample_weights
from simulator.kernels.gemm import FILLED_LENGTH
from simulator.kernels.quantise import quantise_time

__all__ = [
    "FREE",
    "REREADS",
    "RESIDENT",
    "FittedGemm",
    "fit_format",
    "fit_gemm",
    "fit_gemm_rows",
    "gemm_seconds",
    "known_figures",
    "tile_steps",
    "with_known_pass",
]

NARROW_WEIGHT = 0.1  # of a row with n or k below 512
# Hopper's and Blackwell's matrix units take tiles whose height is any multiple of 8 (PTX ISA, wgmma and tcgen05:
# N from 8 to 256 in steps of 8); libraries for the other generations are built with 64 and 128.
FINE_GENERATIONS = ("hopper", "blackwell")
# Kernels that widen weights inside, and those of 8-bit integers, have variants for few rows: an instruction of
# mma.sync is 16 x 8 (PTX ISA, mma), and TensorRT-LLM has vector kernels below 16 rows.
SHALLOW_FORMATS = ("int8_wo", "int4_wo", "int8", "sq")
QUANTISE = "quantise."
FREE = (
    Free(name="compute_efficiency", start=(0.8,), lower=0.02, upper=1.0),
    Free(name="memory_efficiency", start=(0.85,), lower=0.05, upper=1.0),
    Free(name="fixed_s", start=(3e-6,), lower=0.0, upper=1e-4, scale=1e-6),
    Free(name="fill_s", start=(5e-7,), lower=0.0, upper=1e-5, scale=1e-6),
    Free(name="sharpness", start=(3.0, 7.0), lower=1.0, upper=12.0),
    Free(name="feed_bytes_per_clock", start=(50.0, 130.0), lower=10.0, upper=1000.0, scale=50.0),
    Free(name="tile_s", start=(1e-6,), lower=0.0, upper=2e-5, scale=1e-6),
    Free(name="split_s", start=(2e-6,), lower=0.0, upper=1e-4, scale=1e-6),
    Free(name="tail", start=(0.05, 0.7), lower=0.0, upper=1.0),
    Free(name="memory_ramp_s", start=(2e-7,), lower=0.0, upper=2e-5, scale=1e-6),
)
REREADS = Free(name="rereads", start=(0.5,), lower=0.0, upper=2.0)
RESIDENT = Free(name="resident_bytes", start=(2e6, 1e8), lower=1e6, upper=1e9, scale=1e7)
PASS = (
    Free(name=f"{QUANTISE}fixed_s", start=(5e-6,), lower=0.0, upper=1e-4, scale=1e-6),
    Free(name=f"{QUANTISE}memory_efficiency", start=(0.4,), lower=0.02, upper=1.0),
    Free(name=f"{QUANTISE}row_unit_s", start=(2e-7,), lower=0.0, upper=1e-5, scale=1e-6),
)
NOT_FREE = ("fixed_s", "fill_s")  # of a product behind a pass: rows tell only the sum of both


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedGemm:
    """Coefficients of one accelerator, number format and choice of stacks, with the rows behind them.

    ``quantise`` is None where no pass is timed. Both share their errors, which are those of the rows.
    """

    gemm: GemmFit
    quantise: QuantiseFit | None
    samples: KernelSamples

    @property
    def coefficients(self) -> dict[str, float]:
        """Coefficients as `gemm_seconds` takes them [SI]."""
        narrowing = self.quantise.coefficients() if self.quantise else {}
        return {**self.gemm.coefficients(), **{f"{QUANTISE}{name}": v for name, v in narrowing.items()}}

    def predicted_s(self) -> FloatArray:
        """Seconds of each row under the coefficients, shape ``(rows,)`` [s]."""
        return gemm_seconds(self.samples, self.coefficients)


def tile_steps(generation: str, dtype: str = "bf16") -> dict[str, float]:
    """Step and least height of tiles [1] on a generation of accelerators for a number format; raises nothing."""
    if dtype in SHALLOW_FORMATS:
        return {"row_step": 8.0, "least_rows": 16.0}
    return {"row_step": 8.0 if generation in FINE_GENERATIONS else 64.0, "least_rows": 64.0}


def known_figures(board: AcceleratorSpec, dtype: str) -> dict[str, float]:
    """Coefficients of products that follow from a device and a number format, by name [SI]; raises nothing."""
    return {**tile_steps(board.generation, dtype), "resident_bytes": board.l2_capacity.value}


def _split(coefficients: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Coefficients of the product and of the pass, by their own names."""
    parts: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for name, value in coefficients.items():
        apart = name.startswith(QUANTISE)
        parts[apart][name.removeprefix(QUANTISE)] = value
    return parts


def gemm_seconds(samples: KernelSamples, coefficients: Mapping[str, float]) -> FloatArray:
    """Seconds of each row, shape ``(rows,)`` [s].

    Parameters
    ----------
    samples : KernelSamples
        From `gemm_samples`.
    coefficients : mapping of str to float
        Of the product by name; those of a pass before it start with ``quantise.`` [SI].

    Returns
    -------
    ndarray
        Product and pass together.

    Raises
    ------
    TypeError
        If a coefficient is missing or unknown.
    """
    product, narrowing = _split(coefficients)
    seconds = predict_samples(samples, product)
    if not narrowing:
        return seconds
    return seconds + _pass_seconds(samples, narrowing)


def _pass_seconds(samples: KernelSamples, coefficients: Mapping[str, float]) -> FloatArray:
    """Seconds of the pass in front of each product [s]; none where there is none."""
    inputs = samples.inputs
    return quantise_time(
        flop=np.zeros(1),
        moved_bytes=inputs["quantise_bytes"],
        rows=inputs["batch"] * inputs["m"],
        peak_flop_per_s=np.ones(1),
        bandwidth_bytes_per_s=inputs["bandwidth_bytes_per_s"],
        units=inputs["units"],
        **{name: np.full(1, value) for name, value in coefficients.items()},
    )


def with_known_pass(samples: KernelSamples, quantise: QuantiseFit) -> KernelSamples:
    """The same products, their passes as time that other kernels take; KeyError for samples of other families."""
    other_s = samples.other_s + _pass_seconds(samples, quantise.coefficients())
    bare = {**samples.inputs, "quantise_bytes": np.zeros_like(other_s)}
    return replace(samples, inputs=bare, other_s=other_s)


def _weights(samples: KernelSamples) -> FloatArray:
    """Weights by stack and size class [1], less for narrow products; mean 1."""
    weights = sample_weights(samples) * np.where(narrow(samples), NARROW_WEIGHT, 1.0)
    return weights / weights.mean()


def fit_gemm_rows(
    samples: KernelSamples,
    *,
    source: str,
    fixed: Mapping[str, float],
    free: Sequence[Free] = FREE,
    quantised: bool = False,
    basis: Basis = "measured",
) -> FittedGemm:
    """Fit coefficients to the rows that are not left out, and say how they do on the others.

    Parameters
    ----------
    samples : KernelSamples
        From `gemm_samples`.
    source, basis : str
        Written beside the coefficients.
    fixed : mapping of str to float
        Coefficients of the product that are known [SI]; what is neither fixed nor free has its default.
    free : sequence of Free
        Coefficients of the product to find.
    quantised : bool
        Whether rows contain a pass, whose three coefficients are then found too.

    Returns
    -------
    FittedGemm
        With errors of product and pass together.

    Raises
    ------
    ValueError
        If no row is left to fit.
    """
    kept = samples.where(~samples.left_out)
    if kept.inputs["k"].min() >= FILLED_LENGTH:  # such rows tell only the sum of both fixed times
        free = [f for f in free if f.name != "fill_s"]
    known = {name: value for name, value in fixed.items() if name not in {f.name for f in free}}
    defaults = {
        name: GemmFit.model_fields[name].default
        for name in GemmFit.coefficient_names()
        if not GemmFit.model_fields[name].is_required()
    }
    wanted = [*free, *(PASS if quantised else ())]
    found = robust_fit(
        lambda c: gemm_seconds(kept, {**defaults, **known, **c}), kept.measured_s, _weights(kept), wanted
    )
    coefficients = {**defaults, **known, **found}
    evidence = evidence_of(
        samples, gemm_seconds(samples, coefficients), samples.left_out, source=source, basis=basis
    )
    product, narrowing = _split(coefficients)
    return FittedGemm(
        gemm=GemmFit.of(product, **evidence),
        quantise=QuantiseFit.of(narrowing, **evidence) if quantised else None,
        samples=samples,
    )


def fit_format(
    samples: KernelSamples, board: AcceleratorSpec, dtype: str, *, source: str, wide: GemmFit | None = None
) -> FittedGemm:
    """Fit the products of one device and number format, whoever measured them.

    Parameters
    ----------
    samples : KernelSamples
        From `gemm_samples`.
    board : AcceleratorSpec
        The device.
    dtype : str
        Format by the name of the table or of a calibration.
    source : str
        Written beside the coefficients.
    wide : GemmFit, optional
        Of 16-bit products of the same stacks: rows that time a pass too tell only the sum of both fixed times.

    Returns
    -------
    FittedGemm
        Rereads are free for narrow formats, whose kernels do not order tiles for the cache as libraries of
        16-bit products do.

    Raises
    ------
    ValueError
        If no row is left to fit.
    """
    quantised = bool(samples.inputs["quantise_bytes"].any())
    fixed, free = known_figures(board, dtype), list(FREE)
    if samples.inputs["second_operand_bytes"].max() < WIDE_BYTES:
        free.append(REREADS)
    if quantised:
        source += "; rows time quantising the activations and the product together"
        if wide is not None:
            fixed |= {name: getattr(wide, name) for name in NOT_FREE}
            free = [f for f in free if f.name not in NOT_FREE]
    return fit_gemm_rows(samples, source=source, fixed=fixed, free=free, quantised=quantised)


def fit_gemm(folder: Tables, accelerator: str, dtype: str, stacks: Sequence[str] = ()) -> FittedGemm:
    """Fit the products of one accelerator and number format from ``kernels_gemm``.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    accelerator : str
        Catalog name.
    dtype : str
        As the table says, a key of ``GEMM_FORMATS``.
    stacks : sequence of str, optional
        Frameworks to fit together; all without.

    Returns
    -------
    FittedGemm
        As `fit_format`; behind a pass the fixed time is that of the same stacks' bf16.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If it has no such row.
    """
    samples = gemm_samples(folder, accelerator, dtype, stacks)
    passes = bool(samples.inputs["quantise_bytes"].any())
    wide = fit_gemm(folder, accelerator, "bf16", stacks).gemm if passes else None
    names = ", ".join(str(name) for name in np.unique(samples.stack))
    source = f"kernels_gemm, {accelerator}, {dtype}: {names}"
    return fit_format(samples, load_accelerator(accelerator), dtype, source=source, wide=wide)

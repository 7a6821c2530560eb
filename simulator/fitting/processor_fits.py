"""Fits of a processor's kernels: its cores work alone on small blocks, and its bandwidth is that of caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product

from hardware_specs.kernel_fits import FitEvidence, GemmFit
from simulator.fitting.fit_attention import PREFILL, loss_of, tidy
from simulator.fitting.fit_gemm import FREE
from simulator.fitting.fit_streaming import fit_streaming
from simulator.fitting.robust_fit import Free
from simulator.fitting.samples import KernelSamples, fit_samples

__all__ = ["PROCESSOR_FITS"]

# A core works off its share in blocks of a few rows: no tile is left half empty, and no time hides another.
PRODUCT = (
    *(f for f in FREE if f.name in ("compute_efficiency", "memory_efficiency", "fixed_s")),
    Free(name="sharpness", start=(1.2,), lower=1.0, upper=12.0),
    Free(name="panel_copies", start=(2.0,), lower=0.0, upper=20.0),
)
WHOLE: Mapping[str, float] = {
    **{
        name: GemmFit.model_fields[name].default
        for name in GemmFit.coefficient_names()
        if not GemmFit.model_fields[name].is_required()
    },
    "granularity": 0.0,
}
# Exponentials take a core several clocks per score; a GPU has units for them.
CLOCKS = {"score_clocks": 60.0, "mask_clocks": 60.0}
QUERY_TILES, KEY_TILES = (16.0, 32.0, 64.0), (4.0, 16.0, 64.0)


def fit_product(samples: KernelSamples, *, source: str) -> FitEvidence:
    """Coefficients of products without tiles; ValueError if no row is left to fit."""
    known = {name: value for name, value in WHOLE.items() if name not in {f.name for f in PRODUCT}}
    return fit_samples(samples, PRODUCT, fixed=known, source=source)


def fit_prompts(samples: KernelSamples, *, source: str) -> FitEvidence:
    """Coefficients of attention of prompts in small tiles; ValueError if no row is left to fit."""
    free = [
        replace(f, start=(1.0,), upper=CLOCKS[f.name], scale=1.0) if f.name in CLOCKS else f for f in PREFILL
    ]
    fits = [
        fit_samples(
            samples,
            free,
            fixed={"query_tile": queries, "kv_tile": keys, "packs_groups": 0.0, "least_width": 1.0},
            source=source,
        )
        for queries, keys in product(QUERY_TILES, KEY_TILES)
    ]
    return tidy(min(fits, key=lambda fit: loss_of(samples, fit)))


def fit_stream(samples: KernelSamples, *, source: str) -> FitEvidence:
    """Coefficients of a stream that may outgrow a cache; ValueError if no row is left to fit."""
    return fit_streaming(samples, source=source, cached=True)


# By family; what is not here is fitted as on other devices.
PROCESSOR_FITS: Mapping[str, Callable[..., FitEvidence]] = {
    "matmul": fit_product,
    "batched_matmul": fit_product,
    "attention_prefill": fit_prompts,
    **{
        family: fit_stream
        for family in (
            "pointwise",
            "activation",
            "layer_norm",
            "rms_norm",
            "softmax",
            "embedding",
            "optimizer",
        )
    },
}

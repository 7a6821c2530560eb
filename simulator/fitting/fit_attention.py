"""Fit prefill and decode attention, of one software stack or of several together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from hardware_specs.figure import Basis
from hardware_specs.kernel_fits import FitEvidence
from simulator.fitting.measured_attention import AttentionRows, attention_samples
from simulator.fitting.measured_kernels import Tables
from simulator.fitting.robust_fit import Free
from simulator.fitting.samples import KernelSamples, fit_samples, predict_samples, sample_weights

__all__ = [
    "PREFILL",
    "DecodeChoice",
    "FittedAttention",
    "decode_choices",
    "fit_attention_rows",
    "fit_decode",
    "fit_prefill",
    "loss_of",
    "stack_rows",
    "tidy",
]

COMPUTE = Free(name="compute_efficiency", start=(0.7,), lower=0.05, upper=1.0)
MEMORY = Free(name="memory_efficiency", start=(0.6,), lower=0.05, upper=1.0)
FIXED = Free(name="fixed_s", start=(8e-6,), lower=0.0, upper=400e-6, scale=1e-6)
PREFILL = (
    COMPUTE,
    MEMORY,
    FIXED,
    Free(name="sharpness", start=(1.5, 4.0), lower=1.0, upper=12.0),
    Free(name="score_clocks", start=(0.03,), lower=0.0, upper=1.0, scale=0.1),
    Free(name="mask_clocks", start=(0.2,), lower=0.0, upper=2.0),
    Free(name="imbalance", start=(0.4,), lower=0.0, upper=2.0),
)
# From where heads of 64 are as dear as wider ones up to where those of 128 are.
WIDTH = Free(name="least_width", start=(70.0,), lower=1.0, upper=128.0, scale=50.0)
# One width of heads cannot tell products and softmax apart: the softmax is that of H100's stacks together.
SCORE_CLOCKS = 0.03
QUERY_TILE = 128.0
# What the tiles are is a fact of the kernels; which fact is decided by the rows that are fitted.
PREFILL_CHOICES: tuple[Mapping[str, float], ...] = tuple(
    {"query_tile": QUERY_TILE, "kv_tile": keys, "packs_groups": packs}
    for keys, packs in product((64.0, 128.0), (0.0, 1.0))
)

DECODE_SHARPNESS = 2.0
DECODE = (
    MEMORY,
    FIXED,
    Free(name="stream_fraction", start=(0.015, 0.2), lower=1e-3, upper=1.0, scale=0.01),
    Free(name="task_s", start=(2e-6,), lower=0.0, upper=30e-6, scale=1e-6),
    Free(name="split_s", start=(3e-6,), lower=0.0, upper=40e-6, scale=1e-6),
    Free(name="split_step_s", start=(0.05e-6,), lower=0.0, upper=5e-6, scale=1e-7),
)
# What only some stacks do, by what it costs them; all others do without.
OPTIONAL: Mapping[str, Free] = {
    "sequence_s": Free(name="sequence_s", start=(5e-9,), lower=0.0, upper=100e-9, scale=1e-8),
    "regroup_s": Free(name="regroup_s", start=(5e-6,), lower=0.0, upper=40e-6, scale=1e-6),
    "row_tile_s": Free(name="row_tile_s", start=(2e-6,), lower=0.0, upper=20e-6, scale=1e-6),
}
UNLIMITED = 1e9
LEAST_S, LEAST = 1e-11, 1e-6
MOST_SPLITS = 128.0
KV_TILE, SMALL_KV_TILE = 128.0, 32.0
TENSORRT_GROUP_LIMIT = 32.0  # query heads per key head over which its kernels take each head alone


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeChoice:
    """A kind of decode kernel: its optional coefficients, those that are not fitted, whether it splits caches."""

    free: tuple[str, ...]
    splits: bool = True
    kv_tile: float = KV_TILE
    group_limit: float = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedAttention:
    """Coefficients of one family and dtype with the rows behind them."""

    family: str
    dtype: str
    fit: FitEvidence
    samples: KernelSamples


def tidy(fit: FitEvidence) -> FitEvidence:
    """The same fit with coefficients that ended next to zero set to it: they are below any measurement."""
    update = {
        name: 0.0
        for name, value in fit.coefficients().items()
        if value < (LEAST_S if name.endswith("_s") else LEAST)
    }
    return fit.model_copy(update=update)


def loss_of(samples: KernelSamples, fit: FitEvidence) -> float:
    """Weighted mean of ``|ln(predicted / measured)|`` over the rows that were fitted [1]."""
    kept = samples.where(~samples.left_out)
    off = np.abs(np.log(predict_samples(kept, fit.coefficients()) / kept.measured_s))
    return float(np.average(off, weights=sample_weights(kept)))


def fit_prefill(samples: KernelSamples, *, source: str, basis: Basis = "measured") -> FitEvidence:
    """Fit the coefficients of attention of many queries.

    Parameters
    ----------
    samples : KernelSamples
        Of family "attention_prefill" or "mla_prefill", of one stack or several.
    source, basis : str
        Written beside the coefficients.

    Returns
    -------
    PrefillAttentionFit
        Tiles and packing are those under which the fitted rows fit best. Where all heads have one width, the
        clocks of a score and the least width are not fitted.

    Raises
    ------
    ValueError
        If no row is left to fit.
    """
    free, known = [*PREFILL, WIDTH], {}
    if np.unique(samples.inputs["head_dim"]).size == 1:
        free = [f for f in PREFILL if f.name != "score_clocks"]
        known = {"score_clocks": SCORE_CLOCKS, "least_width": 1.0}
    fits = [
        fit_samples(samples, free, fixed={**choice, **known}, source=source, basis=basis)
        for choice in PREFILL_CHOICES
    ]
    return tidy(min(fits, key=lambda fit: loss_of(samples, fit)))


def decode_choices(samples: KernelSamples) -> list[DecodeChoice]:
    """Kinds of decode kernels to try for the stacks of some samples; raises nothing.

    Latent attention shares one reading among all heads, or has no kernel for it. TensorRT-LLM has kernels of its
    own for groups. The others scan their sequences, or copy queries into groups.
    """
    if samples.family == "mla_decode":
        kinds = [
            DecodeChoice(free=("sequence_s", "row_tile_s"), group_limit=limit, splits=splits)
            for limit, splits in product((1.0, UNLIMITED), (True, False))
        ]
    elif all(name.startswith("trtllm") for name in samples.stack):
        kinds = [DecodeChoice(free=("row_tile_s",), group_limit=TENSORRT_GROUP_LIMIT)]
    else:
        kinds = [DecodeChoice(free=("sequence_s", "regroup_s"))]
    return [replace(kind, kv_tile=tile) for kind in kinds for tile in (SMALL_KV_TILE, KV_TILE)]


def fit_decode(samples: KernelSamples, *, source: str, basis: Basis = "measured") -> FitEvidence:
    """Fit the coefficients of attention against a cache.

    Parameters
    ----------
    samples : KernelSamples
        Of family "attention_decode" or "mla_decode", of one stack or several.
    source, basis : str
        Written beside the coefficients.

    Returns
    -------
    DecodeAttentionFit
        The kind of kernel is the one under which the fitted rows fit best. Products are hidden behind the
        stream, except in latent attention: elsewhere they run at the full peak.

    Raises
    ------
    ValueError
        If no row is left to fit.
    """
    latent = samples.family == "mla_decode"
    fits = []
    for choice in decode_choices(samples):
        free = [*DECODE, *(OPTIONAL[name] for name in choice.free), *([COMPUTE] if latent else [])]
        fixed = {name: 0.0 for name in OPTIONAL if name not in choice.free}
        if not choice.splits:
            free = [f for f in free if not f.name.startswith("split")]
            fixed |= {"split_s": 0.0, "split_step_s": 0.0}
        fixed |= {"sharpness": DECODE_SHARPNESS, "kv_tile": choice.kv_tile, "group_limit": choice.group_limit}
        fixed["split_limit"] = MOST_SPLITS if choice.splits else 1.0
        if not latent:
            fixed["compute_efficiency"] = 1.0
        fits.append(fit_samples(samples, free, fixed=fixed, source=source, basis=basis))
    return tidy(min(fits, key=lambda fit: loss_of(samples, fit)))


def fit_attention_rows(folder: Tables, rows: AttentionRows) -> FittedAttention:
    """Read and fit some rows of the table.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    rows : AttentionRows
        Which rows; several stacks are fitted together, each with the same say.

    Returns
    -------
    FittedAttention
        Keyed by the number format that the kernel runs in.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If there are no such rows.
    """
    samples = attention_samples(folder, rows)
    names = ", ".join(str(name) for name in np.unique(samples.stack))
    what = "latent attention, " if rows.latent else ""
    phase = "causal prompts" if rows.phase == "prefill" else "one token per sequence"
    source = (
        f"kernels_attention, {rows.device.table}, {what}{phase}, {rows.dtype} over {rows.kv_dtype}: {names}"
    )
    fit = (fit_prefill if rows.phase == "prefill" else fit_decode)(samples, source=source)
    return FittedAttention(family=samples.family, dtype=rows.key, fit=fit, samples=samples)


def stack_rows(rows: AttentionRows, stacks: Sequence[str]) -> list[AttentionRows]:
    """The same rows, one stack at a time; raises nothing."""
    return [replace(rows, stacks=(name,)) for name in stacks]

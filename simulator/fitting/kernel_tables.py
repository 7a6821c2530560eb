"""Rows of a kernel table by family and type: sizes and counted work, ready for any coefficients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import SpecError
from hardware_specs.schema import AcceleratorSpec
from simulator.fitting.fit_gemm import QUANTISE, gemm_seconds
from simulator.fitting.fit_moe import DISPATCH, GROUPED, moe_layer_seconds
from simulator.fitting.measured_attention import AttentionDevice, AttentionRows, attention_samples
from simulator.fitting.measured_gemm import GEMM_FORMATS, format_key, gemm_samples
from simulator.fitting.measured_moe import MOE_FORMATS, MoeRows, moe_rows
from simulator.fitting.measured_streaming import ARITHMETIC, EAGER_BYTES, EAGER_READS, eager_samples
from simulator.fitting.rows import BoolArray, FloatArray, TextArray
from simulator.fitting.samples import KernelSamples, predict_samples

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DEFAULTS", "Coefficients", "SampledRows", "sampled_rows", "with_defaults"]

Frames: TypeAlias = "Mapping[str, pd.DataFrame]"
Places = NDArray[np.int64]
# Coefficients by kernel family and name, in SI units.
Coefficients = Mapping[str, Mapping[str, float]]
# Blank and absent columns that have a plain meaning.
DEFAULTS: Mapping[str, str | int | bool] = {
    "framework": "unstated",
    "version": "",
    "kernel": "",
    "quality": "ok",
    "batch": 1,
    "weights_rotated": True,
    "kind": "gqa",
    "moe_tp": 1,
    "moe_ep": 1,
    "distribution": "balanced",
    "gated": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledRows:
    """Some rows of one family and type; arrays have the shape ``(rows,)``.

    Attributes
    ----------
    families : tuple of str
        Kernel families that make up the time: one, but for a layer of experts.
    dtype : str
        Type whose coefficients they take.
    numbers : ndarray of int
        Index of each row in the frame [1].
    measured_s : ndarray
        Seconds [s].
    size_class : ndarray of str
        Class by size.
    left_out : ndarray of bool
        Rows of the groups that no shipped coefficient saw.
    predict : callable
        From coefficients by family to seconds [s].
    """

    families: tuple[str, ...]
    dtype: str
    numbers: NDArray[np.int64]
    measured_s: FloatArray
    size_class: TextArray
    left_out: BoolArray
    predict: Callable[[Coefficients], FloatArray]


def with_defaults(frame: pd.DataFrame) -> pd.DataFrame:
    """A kernel table with `DEFAULTS` where columns are blank or absent; the cache is of the operands' type."""
    filled = frame.copy()
    for name, value in DEFAULTS.items():
        filled[name] = filled[name].where(filled[name].notna(), value) if name in filled else value
    if "dtype" in filled:
        own = filled["dtype"]
        filled["kv_dtype"] = (
            filled["kv_dtype"].where(filled["kv_dtype"].notna(), own) if "kv_dtype" in filled else own
        )
    return filled


def sampled_rows(
    kind: str, frame: pd.DataFrame, accelerator: AcceleratorSpec, *, clean: bool = True
) -> Iterator[SampledRows]:
    """Rows of one device by family and type.

    Parameters
    ----------
    kind : str
        Kind of table.
    frame : DataFrame
        Its rows of one device, in the columns of that kind.
    accelerator : AcceleratorSpec
        The device.
    clean : bool
        Leave rows away that beat the memory, as a fit must.

    Yields
    ------
    SampledRows
        Rows that no family has a place for are left away. ``left_out`` holds for calibrations of all stacks: the
        choice is by shape.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    plain = with_defaults(frame)
    plain["device"] = accelerator.name
    tables = {kind: plain.reset_index(drop=True)}
    places = plain.index.to_numpy(dtype=np.int64)
    readers: Mapping[str, Callable[..., Iterator[SampledRows]]] = {
        "kernels_attention": partial(_attention, clean=clean),
        "kernels_elementwise": _elementwise,
        "kernels_gemm": _products,
        "kernels_moe": _experts,
    }
    if kind in readers:
        yield from readers[kind](tables, accelerator, places)


def _of_samples(samples: KernelSamples, dtype: str, places: NDArray[np.int64]) -> SampledRows:
    return SampledRows(
        families=(samples.family,),
        dtype=dtype,
        numbers=places[samples.row],
        measured_s=samples.measured_s,
        size_class=samples.size_class,
        left_out=samples.left_out,
        predict=lambda found: predict_samples(samples, found[samples.family]),
    )


def _attention(
    tables: Frames, accelerator: AcceleratorSpec, places: Places, *, clean: bool
) -> Iterator[SampledRows]:
    frame = tables["kernels_attention"]
    device = AttentionDevice(table=accelerator.name, accelerator=accelerator.name, own=accelerator)
    keys = frame[["framework", "kind", "phase", "dtype", "kv_dtype"]].drop_duplicates()
    for stack, kind, phase, dtype, kv_dtype in keys.itertuples(index=False):
        rows = AttentionRows(
            device=device, phase=phase, dtype=dtype, kv_dtype=kv_dtype, stacks=(stack,), latent=kind == "mla"
        )
        if _has(accelerator, rows.compute_dtype):
            samples = attention_samples(tables, rows, clean=clean)
            if len(samples):
                yield _of_samples(samples, rows.key, places)


def _has(accelerator: AcceleratorSpec, dtype: str) -> bool:
    return dtype in {*accelerator.matmul_flop_per_unit_clock, *accelerator.peak}


def _elementwise(
    tables: Mapping[str, pd.DataFrame], accelerator: AcceleratorSpec, places: NDArray[np.int64]
) -> Iterator[SampledRows]:
    frame = tables["kernels_elementwise"]
    bandwidth = accelerator.memory_bandwidth.value
    seen: set[str] = set()
    for family, reads in EAGER_READS.items():
        # An operator that several families fit is scored once, in the first; on a processor activations are not plain.
        arithmetic = ARITHMETIC if accelerator.kind == "cpu" and family == "pointwise" else ()
        own = frame[frame["op"].isin([name for name in reads if name not in seen and name not in arithmetic])]
        seen |= set(reads) - set(arithmetic)
        if len(own):
            kept = {"kernels_elementwise": own}
            samples = eager_samples(kept, accelerator.name, bandwidth, family, tuple(EAGER_BYTES))
            if len(samples):
                yield _of_samples(samples, "any", places)


def _experts(
    tables: Mapping[str, pd.DataFrame], accelerator: AcceleratorSpec, places: NDArray[np.int64]
) -> Iterator[SampledRows]:
    for dtype in _distinct(tables["kernels_moe"], "dtype"):
        form = MOE_FORMATS.get(dtype)
        if form is None or not _has(accelerator, form.compute):
            continue
        rows = moe_rows(tables, accelerator.name, dtype)

        def predict(found: Coefficients, rows: MoeRows = rows) -> FloatArray:
            parts = ((GROUPED, "grouped_matmul"), (DISPATCH, "moe_dispatch"))
            named = {f"{prefix}{k}": v for prefix, family in parts for k, v in found[family].items()}
            return moe_layer_seconds(rows, named)

        yield SampledRows(
            families=("grouped_matmul", "moe_dispatch"),
            dtype=dtype,
            numbers=places[rows.row.astype(np.int64)],
            measured_s=rows.measured_s,
            size_class=rows.size_class,
            left_out=rows.left_out,
            predict=predict,
        )


def _products(tables: Frames, accelerator: AcceleratorSpec, places: Places) -> Iterator[SampledRows]:
    frame = tables["kernels_gemm"]
    for stack in _distinct(frame, "framework"):
        for dtype in _distinct(frame, "dtype"):
            if dtype not in GEMM_FORMATS:
                continue
            for family in ("matmul", "batched_matmul"):
                try:
                    samples = gemm_samples(tables, accelerator, dtype, (stack,), family=family)
                except (SpecError, ValueError):
                    continue  # no such row, or no units for the type
                yield _of_products(samples, format_key(accelerator, dtype) or dtype, places)


def _of_products(samples: KernelSamples, key: str, places: Places) -> SampledRows:
    quantised = bool(samples.inputs["quantise_bytes"].any())

    def predict(found: Coefficients) -> FloatArray:
        narrowing = {f"{QUANTISE}{name}": v for name, v in found["quantise"].items()} if quantised else {}
        return gemm_seconds(samples, {**found[samples.family], **narrowing})

    return SampledRows(
        families=(samples.family, "quantise") if quantised else (samples.family,),
        dtype=key,
        numbers=places[samples.row],
        measured_s=samples.measured_s,
        size_class=samples.size_class,
        left_out=samples.left_out,
        predict=predict,
    )


def _distinct(frame: pd.DataFrame, column: str) -> Sequence[str]:
    return [str(value) for value in dict.fromkeys(frame[column])]

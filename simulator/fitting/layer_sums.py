"""Sums over the operators of a layer, with the products' coefficients of other software stacks and one scale.

Software stacks read memory equally fast and differ in how well they keep the matrix units busy. So the one number that
carries coefficients of products from one stack to another is a factor on their compute efficiency; what is
limited by memory stays. Whole models are left out: a model is scored under the factor that the others give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardware_specs import load_accelerator
from simulator.fitting.devices import MeasuredDevice
from simulator.fitting.fit_streaming import fit_layers
from simulator.fitting.measured_kernels import read_table
from simulator.fitting.rows import FloatArray, TextArray
from simulator.fitting.samples import KernelSamples, predict_samples
from simulator.kernels.size_classes import matmul_class, token_class

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LayerRows",
    "LayerSums",
    "StackFactor",
    "layer_product_samples",
    "layer_rows",
    "layer_sums",
    "stack_factor",
]

FP16_BYTES = 2.0
PRODUCTS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
# Additions, rotary, both norms, activation; the products; the embedding is outside of a layer.
OPERATORS_OF_A_LAYER = 9
FACTORS = np.round(np.arange(0.5, 1.31, 0.01), 2)
FITTED_CLASS = "prefill"  # few tokens do not show how busy the matrix units are


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSums:
    """Measured and predicted seconds of layers without attention, shape ``(layers,)`` [s].

    ``model`` and ``size_class`` say what is left out together and by how many tokens rows are reported.
    """

    model: TextArray
    size_class: TextArray
    measured_s: FloatArray
    predicted_s: FloatArray

    def log_ratio(self) -> FloatArray:
        """ln(predicted / measured) of each layer [1]."""
        return np.log(self.predicted_s / self.measured_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFactor:
    """Factor on the compute efficiency of products [1], and MAPE by size class: before, fitted, models left out."""

    factor: float
    by_model: Mapping[str, float]
    unscaled: Mapping[str, float]
    fitted: Mapping[str, float]
    left_out: Mapping[str, float]


def layer_product_samples(folder: Path, device: MeasuredDevice) -> KernelSamples:
    """The four fp16 projections of a layer in ``layer_ops``; FileNotFoundError if the table is missing.

    The columns of units and clock are what the products' rule may ask for; a group is a model.
    """
    frame = read_table(folder, "layer_ops")
    frame = frame[(frame.device == device.layer_table) & frame.op.isin(PRODUCTS)]
    tokens, hidden, ffn, heads, kv_heads, tp, median = (
        frame[name].to_numpy(dtype=np.float64)
        for name in ("tokens", "hidden", "ffn", "heads", "kv_heads", "tp", "median_us")
    )
    chosen = [(frame.op == name).to_numpy() for name in PRODUCTS]
    widths = (hidden + 2 * kv_heads * hidden / heads, hidden / tp)
    n = np.select(chosen, [widths[0] / tp, hidden, 2 * ffn / tp, hidden])
    k = np.select(chosen, [hidden, widths[1], hidden, ffn / tp])
    figures = {
        "peak_flop_per_s": device.peak_flop_per_s["fp16"],
        "bandwidth_bytes_per_s": device.bandwidth_bytes_per_s,
        "units": float(device.units),
        "clock_hz": load_accelerator(device.applies_to[0]).clock.value,
        "operand_bytes": FP16_BYTES,
        "second_operand_bytes": FP16_BYTES,
    }
    return KernelSamples(
        family="matmul",
        inputs={
            "batch": np.ones_like(tokens),
            "m": tokens,
            "n": n,
            "k": k,
            "flop": 2.0 * tokens * n * k,
            "moved_bytes": FP16_BYTES * (tokens * k + k * n + tokens * n),
            **{name: np.full_like(tokens, value) for name, value in figures.items()},
        },
        measured_s=median * 1e-6,
        stack=np.full(len(frame), "pytorch-layer"),
        size_class=matmul_class(np.ones_like(tokens), tokens, n, k),
        group=frame.model.to_numpy(dtype=np.str_),
        other_s=np.zeros_like(tokens),
        rounding_s=np.full_like(tokens, 1e-6 / 12**0.5),
        row=frame.index.to_numpy(dtype=np.int64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRows:
    """Rows of all operators of layers, with what does not depend on the products' coefficients.

    ``products`` are the rows of the projections; ``table`` holds a line per row, products first, with layer,
    operator, measured and (for memory-bound operators) predicted seconds [s].
    """

    products: KernelSamples
    table: pd.DataFrame


def layer_rows(folder: Path, device: MeasuredDevice) -> LayerRows:
    """Rows of a device's layers, memory-bound operators predicted; FileNotFoundError if the table is missing."""
    frame = read_table(folder, "layer_ops")
    products = layer_product_samples(folder, device)
    parts = [(products, np.full(len(products), np.nan))]
    for item in fit_layers(folder, device.layer_table, device.bandwidth_bytes_per_s):
        if item.family != "embedding" and item.samples is not None:
            parts.append((item.samples, predict_samples(item.samples, item.fit.coefficients())))
    rows = np.concatenate([part.row for part, _ in parts])
    table = frame.loc[rows, ["model", "tp", "tokens", "op"]].reset_index(drop=True)
    table["measured"] = np.concatenate([part.measured_s for part, _ in parts])
    table["predicted"] = np.concatenate([predicted for _, predicted in parts])
    return LayerRows(products=products, table=table)


def layer_sums(rows: LayerRows, products: Mapping[str, float]) -> LayerSums:
    """Measured and predicted sums of layers.

    Parameters
    ----------
    rows : LayerRows
        Of one device.
    products : mapping of str to float
        Coefficients of the family "matmul" [SI].

    Returns
    -------
    LayerSums
        A layer for each model, tensor degree and number of tokens that has rows of all nine operators; repeated
        rows are averaged. Raises nothing.
    """
    table = rows.table.copy()
    table.loc[: len(rows.products) - 1, "predicted"] = predict_samples(rows.products, products)
    single = table.groupby(["model", "tp", "tokens", "op"], as_index=False).mean(numeric_only=True)
    whole = single.groupby(["model", "tp", "tokens"], as_index=False).agg(
        measured=("measured", "sum"), predicted=("predicted", "sum"), operators=("op", "size")
    )
    whole = whole.loc[whole.operators == OPERATORS_OF_A_LAYER]
    return LayerSums(
        model=whole.model.to_numpy(dtype=np.str_),
        size_class=np.array([token_class(t) for t in whole.tokens], dtype=np.str_),
        measured_s=whole.measured.to_numpy(dtype=np.float64),
        predicted_s=whole.predicted.to_numpy(dtype=np.float64),
    )


def _errors(sums: LayerSums) -> dict[str, float]:
    off = np.abs(np.expm1(sums.log_ratio()))
    return {str(name): float(off[sums.size_class == name].mean()) for name in np.unique(sums.size_class)}


def stack_factor(rows: LayerRows, products: Mapping[str, float]) -> StackFactor:
    """The factor that carries coefficients of products to this stack, and what it leaves.

    Parameters
    ----------
    rows : LayerRows
        Of one device.
    products : mapping of str to float
        Coefficients of the family "matmul" of other stacks [SI].

    Returns
    -------
    StackFactor
        The factor has the least mean absolute log ratio over layers of at least 512 tokens; errors by class of tokens
        as fractions [1]. An efficiency does not rise above 1. Raises nothing.
    """
    efficiency = products["compute_efficiency"]
    tried = [
        layer_sums(rows, {**products, "compute_efficiency": min(efficiency * float(f), 1.0)}) for f in FACTORS
    ]
    models = [str(name) for name in np.unique(tried[0].model)]
    best = _best(tried, models)
    apart = {name: _best(tried, [other for other in models if other != name]) for name in models}
    blind = np.select(
        [tried[0].model == name for name in models], [tried[place].predicted_s for place in apart.values()]
    )
    return StackFactor(
        factor=float(FACTORS[best]),
        by_model={name: float(FACTORS[place]) for name, place in apart.items()},
        unscaled=_errors(tried[int(np.argmin(np.abs(FACTORS - 1.0)))]),
        fitted=_errors(tried[best]),
        left_out=_errors(replace(tried[0], predicted_s=blind)),
    )


def _best(tried: Sequence[LayerSums], models: Sequence[str]) -> int:
    """Place of the factor with the least error on some models' layers of many tokens."""
    seen = np.isin(tried[0].model, list(models)) & (tried[0].size_class == FITTED_CLASS)
    return int(np.argmin([np.abs(sums.log_ratio()[seen]).mean() for sums in tried]))

"""Read kernels that a table states as an efficiency by exact shape: products, grouped products, fused attention.

``micro.csv`` holds them for the machines that some training runs ran on, so that a prediction of those runs with these
kernels is calibrated, not blind. The table states FLOP/s; what its FLOP are is a convention of its benchmarks:
products 2 m n k, attention 2 s^2 a (d_k + d_v) forward and 2.5 times that backward, over the full square though the
mask is causal (SimuMax, simu_tools/efficency_test/test_fa_efficiency.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hardware_specs import AcceleratorSpec, load_accelerator
from simulator.fitting.measured_gemm import product_figures
from simulator.fitting.measured_kernels import Tables, read_table
from simulator.fitting.rows import FloatArray, TextArray
from simulator.fitting.samples import KernelSamples
from simulator.kernels.size_classes import matmul_class, prefill_class

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CollectiveRate",
    "EfficiencyTable",
    "attention_efficiencies",
    "collective_rate",
    "grouped_efficiencies",
    "product_efficiencies",
    "streaming_efficiency",
]

BYTES = {"bf16": 2.0, "fp16": 2.0, "fp32": 4.0}
# Of the units TFLOPS and GB/s: the source multiplies its bandwidths by 2^30 (SimuMax, simumax/core/config.py).
FLOP_PER_SECOND, BYTES_PER_SECOND = 1e12, 2.0**30
FORWARD_PRODUCTS, BACKWARD_PRODUCTS = 2.0, 5.0
MICRO = 1e-6
WEIGHT_GRADIENT = "bwd_grad_w"
NO_TIME = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficiencyTable:
    """Rows of one machine.

    Attributes
    ----------
    source, accelerator : str
        Column ``source`` of the table, and the catalog's accelerator.
    stack : str
        Software of the benchmarks, for people.
    """

    source: str
    accelerator: str
    stack: str

    @property
    def board(self) -> AcceleratorSpec:
        """Its figures; SpecError for a name that the catalog does not have."""
        return load_accelerator(self.accelerator)


def _rows(folder: Tables, table: EfficiencyTable, *operations: str) -> pd.DataFrame:
    frame = read_table(folder, "micro")
    frame = frame[(frame.source == table.source) & frame.op.isin(operations)]
    if not len(frame):
        raise ValueError(f"micro has no {' or '.join(operations)} row of {table.source}")
    return frame


def _words(shapes: pd.Series[str]) -> list[dict[str, str]]:
    """The text of each shape, ``a=1,b=2``, by key."""
    return [dict(re.findall(r"(\w+)=(\w+)", text)) for text in shapes]


def _samples(
    family: str,
    frame: pd.DataFrame,
    inputs: Mapping[str, FloatArray],
    flop: FloatArray,
    table: EfficiencyTable,
    size_class: TextArray,
    group: list[str],
) -> KernelSamples:
    rate = frame.value.to_numpy(dtype=np.float64) * FLOP_PER_SECOND
    count = len(frame)
    return KernelSamples(
        family=family,
        inputs={**inputs, **product_figures(table.board, "bf16", count)},
        measured_s=flop / rate,
        stack=np.full(count, table.stack),
        size_class=size_class,
        group=np.array(group, dtype=np.str_),
        other_s=np.full(count, NO_TIME),
        rounding_s=np.full(count, NO_TIME),
        row=frame.index.to_numpy(dtype=np.int64),
    )


def _sizes(frame: pd.DataFrame) -> tuple[FloatArray, ...]:
    batch, m, n, k = (frame[name].to_numpy(dtype=np.float64) for name in ("batch", "m", "n", "k"))
    return batch, m, n, k


def product_efficiencies(folder: Tables, table: EfficiencyTable) -> KernelSamples:
    """Products of 16 bits by exact shape; whole (n, k) pairs are groups.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    table : EfficiencyTable
        Whose rows.

    Returns
    -------
    KernelSamples
        Of family "matmul". A result that is accumulated is read and written at its own width.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If it has no such row.
    """
    frame = _rows(folder, table, "matmul")
    batch, m, n, k = _sizes(frame)
    words = _words(frame["shape"])
    passes = np.array([2.0 if w["accumulate"] == "True" else 1.0 for w in words])
    out = passes * np.array([BYTES[w["out_dtype"]] for w in words])
    width = frame.dtype.map(BYTES).to_numpy(dtype=np.float64)
    flop = 2.0 * batch * m * n * k
    inputs = {
        "batch": batch,
        "m": m,
        "n": n,
        "k": k,
        "flop": flop,
        "moved_bytes": batch * (width * (m * k + n * k) + out * m * n),
        "operand_bytes": width,
        "second_operand_bytes": width,
        "quantise_bytes": np.zeros_like(m),
    }
    group = [f"{b:.0f}x{c:.0f}" for b, c in zip(n, k, strict=True)]
    return _samples("matmul", frame, inputs, flop, table, matmul_class(batch, m, n, k), group)


def grouped_efficiencies(folder: Tables, table: EfficiencyTable) -> KernelSamples:
    """Grouped products by exact shape, each expert with the same rows; whole shapes are groups.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    table : EfficiencyTable
        Whose rows.

    Returns
    -------
    KernelSamples
        Of family "grouped_matmul": ``m`` counts the rows of all experts. In a weight gradient the experts' matrices
        are what is accumulated, at the width of the gradients.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If it has no such row.
    """
    frame = _rows(folder, table, "group_matmul")
    experts, each, n, k = _sizes(frame)
    words = _words(frame["shape"])
    matrices = np.array(
        [
            2.0 * BYTES[w["main_grad_dtype"]] if w["stage"] == WEIGHT_GRADIENT else BYTES[w["dtype"]]
            for w in words
        ]
    )
    width = frame.dtype.map(BYTES).to_numpy(dtype=np.float64)
    rows, weight = experts * each, np.array([w["stage"] == WEIGHT_GRADIENT for w in words])
    flop = 2.0 * rows * n * k
    inputs = {
        # All experts' rows of dW one below the other, each a sum over an expert's rows.
        "m": np.where(weight, experts * k, rows),
        "experts_hit": experts,
        "n": n,
        "k": np.where(weight, each, k),
        "flop": flop,
        "moved_bytes": matrices * experts * n * k + width * rows * (n + k),
        "operand_bytes": width,
    }
    group = [f"{e:.0f}x{a:.0f}x{b:.0f}x{c:.0f}" for e, a, b, c in zip(experts, each, n, k, strict=True)]
    everything = np.full(len(frame), "all")
    return _samples("grouped_matmul", frame, inputs, flop, table, everything, group)


def attention_efficiencies(folder: Tables, table: EfficiencyTable, *, latent: bool = False) -> KernelSamples:
    """Causal attention of whole sequences, forward and backward; head layouts are groups.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    table : EfficiencyTable
        Whose rows.
    latent : bool
        Rows whose keys are wider than their values, instead of those with one width.

    Returns
    -------
    KernelSamples
        Of family "attention_prefill" or "mla_prefill". The FLOP of the kernel are those of the pairs that the mask
        leaves; the table's are of the full square.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If it has no such row.
    """
    frame = _rows(folder, table, "sdp_fwd", "sdp_bwd")
    words = _words(frame["shape"])
    apart = np.array([w["qk_head_dim"] != w["v_head_dim"] for w in words])
    frame, words = frame[apart == latent], [w for w, wide in zip(words, apart, strict=True) if wide == latent]
    if not words:
        raise ValueError(f"micro has no attention row of {table.source} with such heads")
    names = ("batch", "seq_len", "head_num", "kv_head_num", "qk_head_dim", "v_head_dim")
    batch, length, heads, kv_heads, key, value = (np.array([float(w[n]) for w in words]) for n in names)
    products = np.where(frame.op == "sdp_fwd", FORWARD_PRODUCTS, BACKWARD_PRODUCTS)
    width = frame.dtype.map(BYTES).to_numpy(dtype=np.float64)
    pairs, dim = length * (length + 1.0) / 2.0, (key + value) / 2.0
    stream = batch * length * width * (heads * (key + value) + kv_heads * (key + value))
    # Backward: query, key, value, result and its gradient come in, three gradients go out.
    backward = stream + batch * length * width * (heads * (key + value) + kv_heads * (key + value))
    inputs = {
        "flop": 2.0 * products * batch * heads * dim * pairs,
        "moved_bytes": np.where(frame.op == "sdp_fwd", stream, backward),
        "batch": batch,
        "query_length": length,
        "kv_length": length,
        "kv_span": length,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": dim,
        "pairs": pairs,
    }
    square = products * batch * length**2 * heads * (key + value)
    group = [f"{w['head_num']}/{w['kv_head_num']}/{w['qk_head_dim']}" for w in words]
    family = "mla_prefill" if latent else "attention_prefill"
    return _samples(family, frame, inputs, square, table, prefill_class(length), group)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRate:
    """A collective of n ranks as a table states it.

    Attributes
    ----------
    bytes_per_s : float
        :math:`w` in the time :math:`s S (1 + o/n)/w + s l (n + o)` of a message of :math:`S` bytes [byte/s].
    latency_s : float
        :math:`l` [s].
    scale, offset : float
        :math:`s, o`: 2 and -1 of an all-reduce, 1 and -1 of the others [1].
    """

    bytes_per_s: float
    latency_s: float
    scale: float
    offset: float

    def seconds(self, message_bytes: float, ranks: float) -> float:
        """Time of one collective [s]; raises ZeroDivisionError for no rank."""
        steps = ranks + self.offset
        return self.scale * (message_bytes * steps / ranks / self.bytes_per_s + self.latency_s * steps)


def collective_rate(folder: Tables, table: EfficiencyTable, operation: str) -> CollectiveRate:
    """What a collective reaches between the accelerators of a node.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    table : EfficiencyTable
        Whose row.
    operation : str
        Column ``op``, such as "all_gather"; of several equal rows the first.

    Returns
    -------
    CollectiveRate
        The latency is that of each exchange: the source multiplies it by their number
        (SimuMax, simumax/core/config.py).

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If it has no such row, or the row's notes do not state latency, scale and offset.
    """
    frame = _rows(folder, table, operation)
    found = re.search(r"latency_us=([\d.]+) scale=(\d+) offset=(-?\d+)", str(frame.notes.iloc[0]))
    if found is None:
        raise ValueError(f"the {operation} row of {table.source} states no latency_us, scale and offset")
    latency, scale, offset = (float(text) for text in found.groups())
    return CollectiveRate(
        bytes_per_s=float(frame.value.iloc[0]) * BYTES_PER_SECOND,
        latency_s=latency * MICRO,
        scale=scale,
        offset=offset,
    )


def streaming_efficiency(folder: Tables, table: EfficiencyTable, operation: str) -> tuple[float, float]:
    """Bandwidth that a kernel sustains over the device's [1], at most 1, and its fixed time [s].

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    table : EfficiencyTable
        Whose row.
    operation : str
        Column ``op``, such as "membw_default".

    Returns
    -------
    tuple of float
        The one row's value over the catalog's bandwidth, and the latency that its notes state.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If it has no such row, or the row states no latency.
    """
    frame = _rows(folder, table, operation)
    latency = re.search(r"latency_us=([\d.]+)", str(frame.notes.iloc[0]))
    if latency is None:
        raise ValueError(f"the {operation} row of {table.source} states no latency_us")
    reached = float(frame.value.iloc[0]) * BYTES_PER_SECOND
    return min(reached / table.board.memory_bandwidth.value, 1.0), float(latency[1]) * MICRO

"""Read measured attention kernels: prompts, single tokens against a cache, and multi-head latent attention.

Work is counted as the engine counts it: Q, K, V and the output move once, and the causal mask halves the pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hardware_specs import dense_peak_flop_per_s, load_accelerator
from hardware_specs.schema import AcceleratorSpec
from simulator.fitting.measured_kernels import Tables, read_table
from simulator.fitting.rows import BoolArray, FloatArray, TextArray
from simulator.fitting.samples import KernelSamples
from simulator.kernels.size_classes import decode_class, prefill_class

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ATTENTION_DEVICES",
    "AttentionDevice",
    "AttentionRows",
    "MlaForm",
    "attention_samples",
    "beats_memory",
    "stacks_of",
]

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0}
WIDE_BYTES = 2.0  # least width of outputs, and of queries of single tokens
SHORTEST_PROMPT = 16  # a prompt of one token is a decode step
NOT_CLEAN = "suspect_above_hbm_peak"
LATENT, ROTATED, KEY, VALUE = 512.0, 64.0, 192.0, 128.0  # widths of DeepSeek's latent attention
RESIDENT_EXPONENT = 4.0  # how suddenly a loop's working set leaves the cache when it outgrows it


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionDevice:
    """A device of ``kernels_attention``: its name there, its catalog accelerator, and what its loops measured.

    Attributes
    ----------
    table, accelerator : str
        Name in the table, and in the catalog.
    resident : bool
        Whether a cache of keys and values that fits the device's L2 was read from it: the loops of these
        devices beat their memory's peak there. Elsewhere nothing shows it.
    own : AcceleratorSpec, optional
        Figures of a device that the catalog does not have.
    """

    table: str
    accelerator: str
    resident: bool = False
    own: AcceleratorSpec | None = None

    @property
    def board(self) -> AcceleratorSpec:
        """Its figures; SpecError for a name that the catalog does not have."""
        return self.own or load_accelerator(self.accelerator)


ATTENTION_DEVICES = (
    AttentionDevice(table="h100_sxm", accelerator="h100-sxm"),
    AttentionDevice(table="a100_sxm", accelerator="a100-sxm-80gb"),
    AttentionDevice(table="rtx_pro_6000_server", accelerator="rtx-pro-6000", resident=True),
    AttentionDevice(table="b60", accelerator="arc-b60", resident=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRows:
    """Which rows of the table: of a device, a phase, the types of operands and cache, and some stacks.

    Attributes
    ----------
    device : AttentionDevice
        Whose.
    phase, dtype, kv_dtype : str
        "prefill" or "decode"; type of the operands, and of keys and values.
    stacks : tuple of str
        Frameworks; empty: all.
    latent : bool
        Whether multi-head latent attention instead of heads with keys of their own.
    shortest : int
        Queries of the shortest prompt [1].
    """

    device: AttentionDevice
    phase: str
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    stacks: tuple[str, ...] = ()
    latent: bool = False
    shortest: int = SHORTEST_PROMPT

    @property
    def compute_dtype(self) -> str:
        """Type that the products run in: TensorRT-LLM computes prompts in 8 bits when its cache holds 8 bits."""
        narrow = self.stacks == ("trtllm",) and self.phase == "prefill" and not self.latent
        has = self.device.board.matmul_flop_per_unit_clock
        return "fp8" if narrow and self.kv_dtype == "fp8" and "fp8" in has else self.dtype

    @property
    def key(self) -> str:
        """Name in a calibration: the type of the cache for tokens, of the products for prompts.

        Prompts whose products are wider than the cache that they read are apart.
        """
        if self.phase != "prefill":
            return self.kv_dtype
        widened = BYTES[self.kv_dtype] < BYTES[self.compute_dtype]
        return "fp8_cache" if widened else self.compute_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaForm:
    """Widths of one form of latent attention [1]: of a key, of a value, and what a cached token holds."""

    key: float
    value: float
    cached: float


# Prompts: keys and values are unfolded per head, except in SGLang, which attends to the latent vectors.
UNFOLDED = MlaForm(key=KEY, value=VALUE, cached=0.0)
FOLDED = MlaForm(key=LATENT + ROTATED, value=LATENT, cached=LATENT + ROTATED)


def _column(frame: pd.DataFrame, name: str) -> FloatArray:
    return frame[name].to_numpy(dtype=np.float64)  # the columns are int32; products overflow


def _frame(folder: Tables, rows: AttentionRows) -> pd.DataFrame:
    frame = read_table(folder, "kernels_attention")
    frame = frame.assign(row=np.arange(len(frame)))
    frame = frame[(frame.device == rows.device.table) & (frame.kind == ("mla" if rows.latent else "gqa"))]
    frame = frame[(frame.phase == rows.phase) & (frame.dtype == rows.dtype)]
    frame = frame[(frame.kv_dtype == rows.kv_dtype) & (frame.quality != NOT_CLEAN)]
    if rows.stacks:
        frame = frame[frame.framework.isin(rows.stacks)]
    if rows.phase == "prefill":
        frame = frame[frame.q_len >= rows.shortest]
    if rows.latent:
        # Repeats of one key lie up to 6.6 times apart: what else ran beside a kernel only ever delays it.
        keys = ["framework", "version", "batch", "q_len", "kv_len", "heads"]
        frame = frame.sort_values("latency_us", kind="stable").drop_duplicates(keys).sort_values("row")
    return frame


def stacks_of(folder: Tables, rows: AttentionRows) -> list[str]:
    """Frameworks with rows, sorted; FileNotFoundError if the table is missing."""
    return sorted(str(name) for name in _frame(folder, rows).framework.unique())


def _stack(frame: pd.DataFrame) -> TextArray:
    return (frame.framework + "-" + frame.version).to_numpy(dtype=np.str_)


def _device_inputs(rows: AttentionRows, count: int) -> dict[str, FloatArray]:
    board = rows.device.board
    units, clock = board.units.value, board.clock.value
    figures = {
        "units": units,
        "clock_hz": clock,
        "peak_flop_per_s": dense_peak_flop_per_s(board, rows.compute_dtype),
        "bandwidth_bytes_per_s": board.memory_bandwidth.value,
    }
    return {name: np.full(count, value) for name, value in figures.items()}


def _prefill_inputs(rows: AttentionRows, frame: pd.DataFrame) -> dict[str, FloatArray]:
    batch, query, keys, heads, kv_heads, dim = (
        _column(frame, name) for name in ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
    )
    width, cached = BYTES[rows.dtype], BYTES[rows.kv_dtype]
    output = max(width, WIDE_BYTES)
    if rows.latent:
        folded = (frame.framework == "sglang").to_numpy()
        key = np.where(folded, FOLDED.key, UNFOLDED.key)
        value = np.where(folded, FOLDED.value, UNFOLDED.value)
        kv_heads = np.where(folded, 1.0, heads)
        dim = (key + value) / 2.0
        kv_bytes = np.where(folded, cached * FOLDED.cached, width * (KEY + VALUE) * heads)
    else:
        key = value = dim
        kv_bytes = 2.0 * cached * kv_heads * dim
    pairs = query * (keys - (query - 1.0) / 2.0)
    return {
        "flop": 4.0 * batch * heads * dim * pairs,
        "moved_bytes": batch * query * heads * (width * key + output * value) + batch * keys * kv_bytes,
        "batch": batch,
        "query_length": query,
        "kv_length": keys,
        "kv_span": keys,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": dim,
        "pairs": pairs,
    }


def _decode_inputs(rows: AttentionRows, frame: pd.DataFrame) -> dict[str, FloatArray]:
    batch, keys, heads, kv_heads, dim = (
        _column(frame, name) for name in ("batch", "kv_len", "heads", "kv_heads", "head_dim")
    )
    cached = BYTES[rows.kv_dtype]
    if rows.latent:
        dim = np.full_like(batch, (FOLDED.key + FOLDED.value) / 2.0)
        token_bytes = np.full_like(batch, cached * FOLDED.cached)
    else:
        token_bytes = 2.0 * cached * dim
    query_bytes = 2.0 * max(BYTES[rows.dtype], WIDE_BYTES) * dim
    moved = batch * (keys * kv_heads * token_bytes + heads * query_bytes)
    if rows.device.resident:
        capacity = rows.device.board.l2_capacity.value
        moved = moved * (1.0 - np.minimum(1.0, (capacity / moved) ** RESIDENT_EXPONENT))
    return {
        "flop": 4.0 * batch * heads * dim * keys,
        "moved_bytes": moved,
        "batch": batch,
        "kv_length": keys,
        "heads": heads,
        "kv_heads": kv_heads,
        "token_bytes": token_bytes,
        "query_bytes": query_bytes,
    }


def _layouts(frame: pd.DataFrame) -> Iterable[str]:
    columns = zip(frame.heads, frame.kv_heads, frame.head_dim, strict=True)
    return (f"{heads}/{kv_heads}/{dim}" for heads, kv_heads, dim in columns)


def attention_samples(folder: Tables, rows: AttentionRows, *, clean: bool = True) -> KernelSamples:
    """Samples of attention kernels; whole head layouts (heads, key heads, width) form a group.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    rows : AttentionRows
        Which rows.
    clean : bool
        Leave rows of single tokens away that beat the memory unmarked (`beats_memory`).

    Returns
    -------
    KernelSamples
        Rows marked as above the memory's peak are left away. Of repeated keys of latent attention the quickest stays.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    """
    frame = _frame(folder, rows)
    prefill = rows.phase == "prefill"
    inputs = (_prefill_inputs if prefill else _decode_inputs)(rows, frame)
    inputs |= _device_inputs(rows, len(frame))
    sizes = (
        prefill_class(inputs["query_length"])
        if prefill
        else decode_class(inputs["batch"], inputs["kv_length"], inputs["kv_heads"])
    )
    samples = KernelSamples(
        family=("mla_" if rows.latent else "attention_") + rows.phase,
        inputs=inputs,
        measured_s=_column(frame, "latency_us") * 1e-6,
        stack=_stack(frame),
        size_class=sizes,
        group=np.array(list(_layouts(frame)), dtype=np.str_),
        other_s=np.zeros(len(frame)),
        rounding_s=np.zeros(len(frame)),
        row=frame.row.to_numpy(dtype=np.int64),
    )
    return samples.where(~beats_memory(samples)) if clean else samples


def beats_memory(samples: KernelSamples) -> BoolArray:
    """Rows that moved their bytes faster than the memory can: a benchmark that was read from a cache."""
    return samples.measured_s < samples.inputs["moved_bytes"] / samples.inputs["bandwidth_bytes_per_s"]

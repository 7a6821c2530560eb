"""Read the measured MoE layers: what each rank computes and moves, under the routing that was timed.

A row times one rank's share of a layer: rows sorted to experts, a grouped product up, the activation, a grouped
product down and the weighted sum. Under skewed routing the fullest rank is timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from hardware_specs.catalog import load_accelerator
from hardware_specs.schema import dense_peak_flop_per_s
from simulator.fitting.measured_kernels import Tables, read_table
from simulator.fitting.rows import BoolArray, FloatArray, TextArray, left_out_by_group
from simulator.kernels.moe_routing import RankLoad, skewed_load

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MOE_ACCELERATORS",
    "MOE_FORMATS",
    "MoeDevice",
    "MoeFormat",
    "MoeRows",
    "dealt_load",
    "moe_device",
    "moe_rows",
    "without_false_gates",
]

# Names in the table -> names in the catalog.
MOE_ACCELERATORS = {
    "h100_sxm": "h100-sxm",
    "a100_sxm": "a100-sxm-80gb",
    "rtx_pro_6000_server": "rtx-pro-6000",
    "b60": "arc-b60",
}
ACTIVATION_BYTES = 2.0  # between the kernels, whatever the products take
PREFILL_TOKENS, DECODE_TOKENS = 512, 64
FEWEST_SHAPES = 4  # to hold out whole layer shapes and still have some to fit


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeFormat:
    """Widths of a number format of the table [byte per element] and the type of its matrix units.

    Scales are counted: one of 2 bytes for 128 int4 weights, one byte for 32 (mxfp4) or 16 (nvfp4) values.
    """

    weight_bytes: float
    operand_bytes: float
    compute: str


MOE_FORMATS: Mapping[str, MoeFormat] = {
    "bf16": MoeFormat(weight_bytes=2.0, operand_bytes=2.0, compute="bf16"),
    "fp16": MoeFormat(weight_bytes=2.0, operand_bytes=2.0, compute="fp16"),
    "fp8": MoeFormat(weight_bytes=1.0, operand_bytes=1.0, compute="fp8"),
    "fp8_block": MoeFormat(weight_bytes=1.0, operand_bytes=1.0, compute="fp8"),
    "int4_wo": MoeFormat(weight_bytes=0.5 + 2 / 128, operand_bytes=2.0, compute="bf16"),
    "w4a16_mxfp4": MoeFormat(weight_bytes=0.5 + 1 / 32, operand_bytes=2.0, compute="bf16"),
    "nvfp4": MoeFormat(weight_bytes=0.5 + 1 / 16, operand_bytes=0.5 + 1 / 16, compute="fp4"),
    "w4a8_mxfp4_mxfp8": MoeFormat(weight_bytes=0.5 + 1 / 32, operand_bytes=1.0, compute="fp8"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeRows:
    """Measured MoE layers of one device and format; arrays have the shape ``(rows,)``.

    Attributes
    ----------
    accelerator, dtype : str
        Catalog name, and format of the table.
    tokens, hidden, ffn, topk, experts, ranks : ndarray
        Tokens of all ranks, width of the stream, inner width of an expert on this rank (after tensor
        parallelism), picks per token, experts of all ranks, and ranks that share them [1].
    up_width : ndarray
        Columns of the first product: twice ``ffn`` where it is gated [1].
    rows, experts_hit : ndarray
        Of the rank that was timed [1].
    measured_s : ndarray
        Seconds [s].
    stack, kernel, size_class, group : ndarray of str
        Software; its kernel; prefill, middle or decode; layer shape (hidden, ffn, topk, experts of the model),
        which is held out as a whole (where there are fewer than four, together with the parallel degrees).
    row : ndarray
        Index in the table [1].
    """

    accelerator: str
    dtype: str
    tokens: FloatArray
    hidden: FloatArray
    ffn: FloatArray
    topk: FloatArray
    experts: FloatArray
    ranks: FloatArray
    up_width: FloatArray
    rows: FloatArray
    experts_hit: FloatArray
    measured_s: FloatArray
    stack: TextArray
    kernel: TextArray
    size_class: TextArray
    group: TextArray
    row: FloatArray

    def __len__(self) -> int:
        return int(self.measured_s.size)

    @property
    def left_out(self) -> BoolArray:
        """Rows of the layer shapes that no coefficient sees, shape ``(rows,)``."""
        return left_out_by_group(self.group.tolist())

    def where(self, keep: BoolArray) -> MoeRows:
        """The rows for which ``keep``, a boolean array of shape ``(rows,)``, is true."""
        arrays = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("accelerator", "dtype")
        }
        return replace(self, **{name: array[keep] for name, array in arrays.items()})


def _column(frame: pd.DataFrame, name: str) -> FloatArray:
    return frame[name].to_numpy(dtype=np.float64)


def _shapes(frame: pd.DataFrame) -> list[str]:
    columns = zip(frame.hidden, frame.inter, frame.topk, frame.experts, strict=True)
    return [f"{hidden}/{inter}/{topk}/{experts}" for hidden, inter, topk, experts in columns]


def _groups(frame: pd.DataFrame) -> TextArray:
    """Layer shapes; with fewer than four of them, shapes under one pair of parallel degrees."""
    shapes = _shapes(frame)
    if len(set(shapes)) < FEWEST_SHAPES:
        degrees = zip(frame.moe_tp, frame.moe_ep, strict=True)
        shapes = [f"{shape}/tp{tp}/ep{ep}" for shape, (tp, ep) in zip(shapes, degrees, strict=True)]
    return np.array(shapes, dtype=np.str_)


def without_false_gates(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``gated`` false for every layer shape that a row of the same device says has no gate.

    Only TensorRT-LLM's rows say that a shape has not. vLLM's and SGLang's of the same models say that it has, but
    72 of them would then beat the memory's peak; so the table's word for a shape holds for all stacks of the
    devices on which a row says so. On the others, older releases, layers of these shapes take the time of three
    matrices. The whole table is needed: one stack's rows do not show it. Raises KeyError if a column is missing.
    """
    says_plain = table[~table.gated.astype(bool)]
    known = set(zip(says_plain.device, _shapes(says_plain), strict=True))
    plain = np.array(
        [pair in known for pair in zip(table.device, _shapes(table), strict=True)], dtype=np.bool_
    )
    return table.assign(gated=table.gated.to_numpy(dtype=np.bool_) & ~plain)


def _dealt_below(
    edge: FloatArray, tokens: FloatArray, stride: FloatArray, experts: FloatArray, local: FloatArray
) -> FloatArray:
    """Rows of the first ``local`` experts that one pick of each token gives them, picks starting at ``edge`` [1]."""
    few = np.minimum(tokens, stride)

    def spread(upto: FloatArray) -> FloatArray:
        """First picks below ``upto`` when they are spread over one stride."""
        return np.ceil(np.clip(upto, 0.0, stride) * few / stride)

    def cyclic(upto: FloatArray) -> FloatArray:
        """Whole numbers below ``upto`` that are less than ``local`` modulo ``experts``."""
        return np.floor(upto / experts) * local + np.minimum(upto % experts, local)

    here = spread(local - edge) + spread(experts + local - edge) - spread(experts - edge)
    return np.where(tokens < stride, here, cyclic(tokens + edge) - cyclic(edge))


def dealt_load(*, tokens: FloatArray, topk: FloatArray, experts: FloatArray, ranks: FloatArray) -> RankLoad:
    r"""Load of the first rank as the table's "balanced" routing deals rows [1].

    The i-th pick of a token goes to expert :math:`o + i s` modulo E with :math:`s = \lceil E / k \rceil`, where the
    first picks o of up to s tokens are spread over [0, s). Where k does not divide E the last picks come round to
    the first rank again: with few tokens it has up to twice the mean. Shapes broadcast; raises nothing for
    positive counts.
    """
    local, stride = experts / ranks, np.ceil(experts / topk)
    rows = np.zeros_like(local)
    for pick in range(int(np.max(topk))):
        dealt = _dealt_below(pick * stride, tokens, stride, experts, local)
        rows = rows + np.where(pick < topk, dealt, 0.0)
    return RankLoad(rows, np.minimum(rows, local))


def _load(frame: pd.DataFrame) -> RankLoad:
    exponent = frame.distribution.str.extract(r"power_law_([\d.]+)")[0].to_numpy(dtype=np.float64)
    skewed = ~np.isnan(exponent)
    tokens, topk, experts, ranks = (_column(frame, name) for name in ("tokens", "topk", "experts", "moe_ep"))
    even = dealt_load(tokens=tokens, topk=topk, experts=experts, ranks=ranks)
    bent = skewed_load(
        tokens=tokens, topk=topk, experts=experts, ranks=ranks, exponent=np.where(skewed, exponent, 1.0)
    )
    return RankLoad(*(np.where(skewed, there, here) for there, here in zip(bent, even, strict=True)))


def moe_rows(folder: Tables, device: str, dtype: str, *, stack: str = "", kernel: str = "") -> MoeRows:
    """MoE layers of one device and format.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    device, dtype : str
        Names of the table, such as ``"h100_sxm"`` and ``"bf16"``.
    stack, kernel : str
        Start of the framework's name, and part of the kernel's; empty for all.

    Returns
    -------
    MoeRows
        In the order of the table.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    KeyError
        If the format is not known.
    """
    table = without_false_gates(read_table(folder, "kernels_moe"))
    chosen = (table.device == device) & (table.dtype == dtype) & table.framework.str.startswith(stack)
    frame = table[chosen & table.kernel.str.contains(kernel, regex=False)]
    tokens, tensor_ranks = _column(frame, "tokens"), _column(frame, "moe_tp")
    ffn = _column(frame, "inter") / tensor_ranks
    load = _load(frame)
    classes = np.select([tokens >= PREFILL_TOKENS, tokens > DECODE_TOKENS], ["prefill", "middle"], "decode")
    return MoeRows(
        accelerator=MOE_ACCELERATORS.get(device, device),
        dtype=dtype,
        tokens=tokens,
        hidden=_column(frame, "hidden"),
        ffn=ffn,
        topk=_column(frame, "topk"),
        experts=_column(frame, "experts"),
        ranks=_column(frame, "moe_ep"),
        up_width=np.where(frame.gated, 2.0, 1.0) * ffn,
        rows=load.rows,
        experts_hit=load.experts_hit,
        measured_s=_column(frame, "latency_us") * 1e-6,
        stack=(frame.framework + "-" + frame.version).to_numpy(dtype=np.str_),
        kernel=frame.kernel.to_numpy(dtype=np.str_),
        size_class=classes.astype(np.str_),
        group=_groups(frame),
        row=frame.index.to_numpy(dtype=np.float64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeDevice:
    """Figures of a device that efficiencies are fractions of [SI]."""

    peak_flop_per_s: float
    vector_flop_per_s: float
    bandwidth_bytes_per_s: float
    units: float
    clock_hz: float


def moe_device(accelerator: str, dtype: str) -> MoeDevice:
    """Datasheet figures of a catalog accelerator in a format of the table.

    Raises KeyError for an unknown format, SpecError for an unknown accelerator or a type that it has not.
    """
    spec = load_accelerator(accelerator)
    vector = spec.units.value * spec.clock.value * spec.vector_flop_per_unit_clock.value
    return MoeDevice(
        peak_flop_per_s=dense_peak_flop_per_s(spec, MOE_FORMATS[dtype].compute),
        vector_flop_per_s=vector,
        bandwidth_bytes_per_s=spec.memory_bandwidth.value,
        units=spec.units.value,
        clock_hz=spec.clock.value,
    )

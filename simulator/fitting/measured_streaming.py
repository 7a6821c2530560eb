"""Read memory-bound kernels: layer operators of PyTorch in 16 bits, and eager PyTorch kernels in fp32.

The efficiency of such a kernel belongs to its implementation more than to the device, so each operator is
kept apart as a stack of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simulator.fitting.measured_kernels import Tables, read_table
from simulator.fitting.rows import FloatArray, TextArray
from simulator.fitting.samples import KernelSamples

__all__ = [
    "ARITHMETIC",
    "EAGER_BYTES",
    "EAGER_READS",
    "EAGER_WRITES",
    "LAYER_FAMILIES",
    "eager_samples",
    "layer_samples",
]

LARGE_S = 100e-6  # above this the fixed cost is a few percent
SMALL_S = 20e-6  # below this a whole microsecond is more than 5 %
MICROSECOND_ROUNDING_S = 1e-6 / 12**0.5  # standard deviation of rounding to whole microseconds
FP32_BYTES, FP16_BYTES = 4.0, 2.0
EAGER_BYTES: Mapping[str, float] = {"fp32": FP32_BYTES, "bf16": FP16_BYTES, "fp16": FP16_BYTES}

# Operators of layer_ops by kernel family.
LAYER_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "pointwise": ("add",),
    "activation": ("mlp_act",),
    "rotary": ("attn_rope",),
    "rms_norm": ("input_layernorm", "post_attention_layernorm"),
    "embedding": ("emb",),
}
# Tensors that each operator of kernels_elementwise reads, by family; all but those of `EAGER_WRITES` write one. The
# names with a u are unary. Parts of an optimizer count as the engine counts them: Adam reads the gradient and both
# moments and writes the moments, beside the weights, which are moved all the same.
EAGER_READS: Mapping[str, Mapping[str, int]] = {
    "pointwise": {
        **{name: 2 for name in ("add", "mul", "div", "pow")},
        **{name: 1 for name in ("addu", "mulu", "divu", "powu", "tanh", "gelu", "relu", "copy")},
    },
    "activation": {"gelu": 1, "relu": 1, "silu": 1},
    "layer_norm": {"ln": 1},
    "rms_norm": {"rms_norm": 1},
    "softmax": {"softmax": 1, "cross_entropy": 1},
    "embedding": {"embedding": 1},
    "optimizer": {"adamw": 3, "grad_norm": 1, "clip": 1},
}
# What a processor spends arithmetic on that no stream hides.
ARITHMETIC = ("gelu", "relu", "tanh", "pow", "powu")
EAGER_WRITES: Mapping[str, float] = {"adamw": 2.0, "grad_norm": 1e-3}


def _samples(
    family: str,
    *,
    rows: FloatArray,
    row_bytes: FloatArray,
    read_rows: FloatArray | float,
    bandwidth_bytes_per_s: float,
    measured_s: FloatArray,
    rounding_s: float,
    stack: TextArray,
    group: TextArray,
    row: FloatArray,
    written_rows: FloatArray | float = 1.0,
) -> KernelSamples:
    """Samples that write and read ``written_rows`` and ``read_rows`` tensors of ``rows`` x ``row_bytes``."""
    tensor = rows * row_bytes
    written = tensor * written_rows
    sizes = np.select([measured_s >= LARGE_S, measured_s >= SMALL_S], ["large", "middle"], "decode")
    return KernelSamples(
        family=family,
        inputs={
            # Arithmetic is far from the limit: none is counted, so any peak will do.
            "flop": np.zeros_like(rows),
            "peak_flop_per_s": np.ones_like(rows),
            "read_bytes": tensor * read_rows,
            "written_bytes": written,
            "shared_bytes": np.zeros_like(rows),
            "rows": rows,
            "row_bytes": row_bytes,
            "bandwidth_bytes_per_s": np.full_like(rows, bandwidth_bytes_per_s),
        },
        measured_s=measured_s,
        stack=stack,
        size_class=sizes.astype(np.str_),
        group=group,
        other_s=np.zeros_like(rows),
        rounding_s=np.full_like(rows, rounding_s),
        row=row.astype(np.int64),
    )


def layer_samples(
    folder: Tables, table_device: str, bandwidth_bytes_per_s: float, family: str
) -> KernelSamples:
    """Memory-bound operators of ``layer_ops`` (fp16); whole (model, tensor degree) pairs form a group.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    table_device : str
        The device's name there.
    bandwidth_bytes_per_s : float
        Of its memory [byte/s].
    family : str
        Key of ``LAYER_FAMILIES``.

    Returns
    -------
    KernelSamples
        An addition reads two tensors and writes one, a gated activation likewise at the width of the MLP; the
        others read and write each element once.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    """
    frame = read_table(folder, "layer_ops")
    frame = frame[(frame.device == table_device) & frame.op.isin(LAYER_FAMILIES[family])]
    tokens, hidden, ffn, heads, kv_heads, tp, median = (
        frame[name].to_numpy(dtype=np.float64)
        for name in ("tokens", "hidden", "ffn", "heads", "kv_heads", "tp", "median_us")
    )
    width = {
        "activation": ffn / tp,
        "rotary": (heads + kv_heads) * (hidden / heads) / tp,
    }.get(family, hidden)
    groups = [f"{model}/{degree}" for model, degree in zip(frame.model, frame.tp, strict=True)]
    return _samples(
        family,
        rows=tokens,
        row_bytes=FP16_BYTES * width,
        read_rows=2.0 if family in ("pointwise", "activation") else 1.0,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        measured_s=median * 1e-6,
        rounding_s=MICROSECOND_ROUNDING_S,
        stack=("layer-" + frame.op).to_numpy(dtype=np.str_),
        group=np.array(groups, dtype=np.str_),
        row=frame.index.to_numpy(dtype=np.float64),
    )


def eager_samples(
    folder: Tables,
    table_device: str,
    bandwidth_bytes_per_s: float,
    family: str,
    dtypes: Sequence[str] = ("fp32",),
    without: Sequence[str] = (),
) -> KernelSamples:
    """Eager PyTorch kernels of ``kernels_elementwise``; whole shapes (rows x columns) form a group.

    Parameters
    ----------
    folder, table_device, bandwidth_bytes_per_s
        As for :func:`layer_samples`.
    family : str
        Key of ``EAGER_READS``.
    dtypes : sequence of str
        Keys of ``EAGER_BYTES``.
    without : sequence of str
        Operators to leave away.

    Returns
    -------
    KernelSamples
        Operators of the family, each a stack of its own; all of them share the shapes that are held out.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    """
    frame = read_table(folder, "kernels_elementwise")
    reads = {name: count for name, count in EAGER_READS[family].items() if name not in without}
    frame = frame[
        (frame.device == table_device) & frame.op.isin(tuple(reads)) & frame.dtype.isin(tuple(dtypes))
    ]
    shapes = [f"{rows}x{columns}" for rows, columns in zip(frame.rows, frame.cols, strict=True)]
    return _samples(
        family,
        rows=frame.rows.to_numpy(dtype=np.float64),
        row_bytes=frame.dtype.map(EAGER_BYTES).to_numpy(dtype=np.float64)
        * frame.cols.to_numpy(dtype=np.float64),
        read_rows=np.array([float(reads[name]) for name in frame.op]),
        written_rows=np.array([EAGER_WRITES.get(str(name), 1.0) for name in frame.op]),
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        measured_s=frame.latency_us.to_numpy(dtype=np.float64) * 1e-6,
        rounding_s=0.0,
        stack=("eager-" + frame.op).to_numpy(dtype=np.str_),
        group=np.array(shapes, dtype=np.str_),
        row=frame.index.to_numpy(dtype=np.float64),
    )

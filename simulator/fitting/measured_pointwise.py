"""Read memory-bound kernels: layer operators of a serving stack, and eager PyTorch kernels.

The efficiency of such a kernel belongs to its implementation more than to the device, so each operator is
kept apart as an implementation of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hardware_specs.calibration import Task
from simulator.fitting.devices import A100_PCIE, MeasuredDevice
from simulator.fitting.measured_kernels import read_table
from simulator.fitting.rows import FloatArray, KernelRows, TextArray, left_out_by_group

__all__ = ["STREAMING", "Implementations", "eager_rows", "layer_operator_rows"]

LARGE_S = 100e-6  # above this the fixed cost is a few percent
SMALL_S = 20e-6  # below this a whole microsecond is more than 5 %
MICROSECOND_ROUNDING_S = 1e-6 / 12**0.5  # standard deviation of rounding to whole microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementations:
    """What stands for a family: operators of layer_ops (fp16) and of kernels_elementwise (fp32, eager).

    The latter with the number of tensors that each reads and writes. ``fixed_from`` names the family whose
    fixed cost is taken where there are only eager rows, which are timed from the host.
    """

    layer: tuple[str, ...] = ()
    eager: Mapping[str, int] = field(default_factory=dict)
    fixed_from: str = ""


# Unary and binary, on equal terms. "pow" of two tensors is limited by its arithmetic, not by memory.
_PLAIN = Implementations(layer=("add",), eager={"add": 3, "mul": 3, "addu": 2, "mulu": 2})
_SHARED = {
    "pointwise": _PLAIN,
    "rotary": Implementations(layer=("attn_rope",)),
    "rms_norm": Implementations(layer=("input_layernorm", "post_attention_layernorm")),
    "layer_norm": Implementations(eager={"ln": 2}, fixed_from="rms_norm"),
    "softmax": Implementations(eager={"softmax": 2}, fixed_from="pointwise"),
    "embedding": Implementations(layer=("emb",)),
    # Nothing closer is measured: a stream of reads and writes.
    "optimizer": Implementations(layer=("add",), eager={"add": 3}),
}
STREAMING: Mapping[Task, Mapping[str, Implementations]] = {
    "training": {
        **_SHARED,
        "activation": Implementations(eager={"gelu": 2, "relu": 2}, fixed_from="pointwise"),
    },
    "inference": {**_SHARED, "activation": Implementations(layer=("mlp_act",))},
}


def _streaming(
    moved_bytes: FloatArray,
    measured_s: FloatArray,
    rounding_s: float,
    bandwidth_bytes_per_s: float,
    stack: TextArray,
    groups: list[str],
) -> KernelRows:
    sizes = np.select([measured_s >= LARGE_S, measured_s >= SMALL_S], ["large", "middle"], "decode")
    return KernelRows(
        flop=np.zeros_like(moved_bytes),
        moved_bytes=moved_bytes,
        peak_flop_per_s=np.ones_like(moved_bytes),  # no FLOP are counted, any peak will do
        bandwidth_bytes_per_s=np.full_like(moved_bytes, bandwidth_bytes_per_s),
        measured_s=measured_s,
        stack=stack,
        size_class=sizes.astype(np.str_),
        left_out=left_out_by_group(groups),
        other_s=np.zeros_like(moved_bytes),
        rounding_s=np.full_like(moved_bytes, rounding_s),
    )


def layer_operator_rows(folder: Path, device: MeasuredDevice, operator: str) -> KernelRows:
    """One memory-bound operator of ``layer_ops``; whole (model, tensor degree) pairs held out.

    An addition reads two tensors and writes one, a gated activation likewise at the width of the MLP;
    rotary embedding, normalisation and embedding read and write each element once.
    """
    frame = read_table(folder, "layer_ops")
    frame = frame[(frame.device == device.layer_table) & (frame.op == operator)]
    tokens, hidden, ffn, heads, kv_heads, tp = (
        frame[name].to_numpy(dtype=np.float64)
        for name in ("tokens", "hidden", "ffn", "heads", "kv_heads", "tp")
    )
    rotated = 2 * (heads + kv_heads) * (hidden / heads) / tp
    elements = {"add": 3 * hidden, "mlp_act": 3 * ffn / tp, "attn_rope": rotated}.get(operator, 2 * hidden)
    return _streaming(
        moved_bytes=2.0 * tokens * elements,
        measured_s=frame.median_us.to_numpy(dtype=np.float64) * 1e-6,
        rounding_s=MICROSECOND_ROUNDING_S,
        bandwidth_bytes_per_s=device.bandwidth_bytes_per_s,
        stack=("layer-" + frame.op).to_numpy(dtype=np.str_),
        groups=[f"{model}/{degree}" for model, degree in zip(frame.model, frame.tp, strict=True)],
    )


def eager_rows(folder: Path, operator: str, tensors: int) -> KernelRows:
    """One eager PyTorch kernel (A100 PCIe 40 GB, fp32) that moves ``tensors``; row lengths held out."""
    frame = read_table(folder, "kernels_elementwise")
    frame = frame[(frame.device == A100_PCIE.eager_table) & (frame.op == operator)]
    elements = frame.rows.to_numpy(dtype=np.float64) * frame.cols.to_numpy(dtype=np.float64)
    return _streaming(
        moved_bytes=4.0 * tensors * elements,
        measured_s=frame.latency_us.to_numpy(dtype=np.float64) * 1e-6,
        rounding_s=0.0,
        bandwidth_bytes_per_s=A100_PCIE.bandwidth_bytes_per_s,
        stack=("eager-" + frame.op).to_numpy(dtype=np.str_),
        groups=[f"cols{cols}" for cols in frame.cols],
    )

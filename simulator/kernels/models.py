"""Which closed form times which kernel family, and what it needs to know of an operator and a device.

A rule names its inputs; what it may ask for is a size of the operator by role (``m``, ``heads``, ...), the
counted work, a figure of the device, or a coefficient of the family.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hardware_specs.kernel_fits import (
    DecodeAttentionFit,
    FitEvidence,
    GemmFit,
    GroupedGemmFit,
    MoeDispatchFit,
    PrefillAttentionFit,
    QuantiseFit,
    ScanFit,
    StreamingFit,
)
from simulator.kernels.attention_decode import decode_attention_time
from simulator.kernels.attention_prefill import prefill_attention_time
from simulator.kernels.gemm import gemm_time
from simulator.kernels.grouped_gemm import grouped_gemm_time
from simulator.kernels.moe_dispatch import moe_dispatch_time
from simulator.kernels.moe_routing import distinct_experts
from simulator.kernels.quantise import quantise_time
from simulator.kernels.scan import scan_time
from simulator.kernels.streaming import streaming_time
from simulator.rules import RULES

if TYPE_CHECKING:
    from simulator.arrays.columns import Inputs
    from simulator.kernels.counting import Work
    from workloads.operator_graph import Extent, Operator

FloatArray = NDArray[np.float64]
# Families whose coefficients are those of the matmul type; the others run in the attention type.
MATMUL_FAMILIES: tuple[str, ...] = ("matmul", "grouped_matmul", "quantise")


def _length(extent: Extent) -> FloatArray:
    """Elements along an extent [1]; the graph's own function would load networkx for commands that need none."""
    return sum((part.size for part in extent[1:]), extent[0].size)


def _rows(operator: Operator) -> FloatArray:
    """Rows that the blocks of a streaming kernel work on [1]: what it writes first, without its last extent."""
    rows = np.ones(1)
    for extent in operator.writes[0].extents[:-1]:
        rows = rows * _length(extent)
    return rows


def _operand(operator: Operator, inputs: Inputs) -> FloatArray:
    """Bytes per element of what a kernel reads first [byte]."""
    narrowed = operator.kind in ("matmul", "grouped_matmul")
    return inputs.precision.operand if narrowed else inputs.precision.activations


def _second_operand(operator: Operator, inputs: Inputs) -> FloatArray:
    """Bytes per element of a product's weights, or of its other operand where it has none [byte]."""
    weights = operator.kind == "matmul" and any(tensor.kind == "weights" for tensor in operator.reads)
    return inputs.precision.weights_operand if weights else _operand(operator, inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelModel:
    """A family's rule and the class of its coefficients.

    Attributes
    ----------
    family : str
        Key in a calibration.
    rule : callable
        Registered rule; keyword arguments are arrays that broadcast, the result is seconds [s].
    fit : type of FitEvidence
        Names of the coefficients and their ideal values.
    inputs : frozenset of str
        What the rule asks for.
    """

    family: str
    rule: Callable[..., FloatArray]
    fit: type[FitEvidence]
    inputs: frozenset[str]

    def seconds(
        self, operator: Operator, work: Work, peak_flop_per_s: FloatArray, inputs: Inputs
    ) -> FloatArray:
        """Time of one execution of an operator on one device.

        Parameters
        ----------
        operator : Operator
            Sharded; its extents give the sizes by role [1].
        work : Work
            Counted FLOP and bytes.
        peak_flop_per_s : ndarray
            Dense peak of the type that it computes in [FLOP/s].
        inputs : Inputs
            Columns of the device and of the precision.

        Returns
        -------
        ndarray
            Seconds [s], broadcast shape.

        Raises
        ------
        KeyError
            If the rule asks for a size that the operator does not have.
        """
        device, coefficients = inputs.device, inputs.device.kernels[self.family]
        known: dict[str, FloatArray] = {
            "flop": work.flop,
            "moved_bytes": work.moved_bytes,
            "operand_bytes": _operand(operator, inputs),
            "second_operand_bytes": _second_operand(operator, inputs),
            "peak_flop_per_s": peak_flop_per_s,
            "bandwidth_bytes_per_s": device.memory_bandwidth_bytes_per_s,
            "units": device.units,
            "clock_hz": device.clock_hz,
            **coefficients,
        }
        if "rows" in self.inputs:
            rows = _rows(operator)
            known.update(
                read_bytes=work.moved_bytes - work.written_bytes,
                written_bytes=work.written_bytes,
                shared_bytes=work.shared_bytes,
                rows=rows,
                row_bytes=work.written_bytes / np.maximum(rows, 1.0),
            )
        if "experts_hit" in self.inputs:
            known["experts_hit"] = distinct_experts(
                **{role: _length(operator.extents[role]) for role in ("tokens", "topk", "experts")}
            )
        if "token_bytes" in self.inputs:
            head_dim = _length(operator.extents["head_dim"])
            known.update(
                token_bytes=2.0 * head_dim * inputs.precision.kv_cache,
                query_bytes=2.0 * head_dim * inputs.precision.activations,
            )
        asked = {
            name: known[name] if name in known else _length(operator.extents[name])
            for name in sorted(self.inputs)
        }
        return self.rule(**asked)

    def sizes(self, operator: Operator) -> dict[str, FloatArray]:
        """Sizes of an operator by role [1]; raises nothing."""
        return {name: _length(extent) for name, extent in operator.extents.items()}


def _model(family: str, rule: Callable[..., FloatArray], fit: type[FitEvidence]) -> KernelModel:
    name = getattr(rule, "__name__", "")
    asked = frozenset(inspect.signature(RULES[name].function).parameters)
    return KernelModel(family=family, rule=rule, fit=fit, inputs=asked)


# Every kernel family of `hardware_specs.kernel_fits.KernelFamily`.
KERNEL_MODELS: dict[str, KernelModel] = {
    **{family: _model(family, gemm_time, GemmFit) for family in ("matmul", "batched_matmul")},
    **{
        family: _model(family, prefill_attention_time, PrefillAttentionFit)
        for family in ("attention_prefill", "mla_prefill")
    },
    **{
        family: _model(family, decode_attention_time, DecodeAttentionFit)
        for family in ("attention_decode", "mla_decode")
    },
    **{
        family: _model(family, streaming_time, StreamingFit)
        for family in (
            "pointwise",
            "activation",
            "rotary",
            "rms_norm",
            "layer_norm",
            "softmax",
            "embedding",
            "optimizer",
        )
    },
    "quantise": _model("quantise", quantise_time, QuantiseFit),
    "scan": _model("scan", scan_time, ScanFit),
    "grouped_matmul": _model("grouped_matmul", grouped_gemm_time, GroupedGemmFit),
    "moe_dispatch": _model("moe_dispatch", moe_dispatch_time, MoeDispatchFit),
}

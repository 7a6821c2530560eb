"""What an operator costs before any hardware rate: FLOP, bytes in memory, bytes on the wire.

One counting rule per operator kind; a kind without one is an error, never free of charge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import PrecisionColumns
from simulator.kernels.moe_routing import distinct_experts
from simulator.kernels.scan import scan_flop
from simulator.rules import rule
from workloads.operator_graph import WEIGHT_KINDS, Operator, Tensor, elements, length

FloatArray = NDArray[np.float64]

FLOP_PER_MULTIPLY_ADD = 2.0
# Query-key and probability-value products; the backward kernel recomputes the first and has four more.
FORWARD_ATTENTION_PRODUCTS = 2.0
BACKWARD_ATTENTION_PRODUCTS = 5.0
# Half the values of a 2:4 sparse matrix stay, each with a 2-bit index.
SPARSE_VALUES_FRACTION = 0.5
SPARSE_INDEX_BYTES = 0.5 * 2 / 8
MASK_BYTES = 1.0
STATISTICS_BYTES = 4.0
TOKEN_ID_BYTES = 8.0

PeakClass = Literal["matmul", "attention", "vector"]
ZERO: FloatArray = np.zeros(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one execution of an operator does on one device.

    Attributes
    ----------
    flop : ndarray
        Operations carried out (causal kernels: what the mask leaves) [FLOP].
    moved_bytes : ndarray
        Read and written in device memory [byte].
    written_bytes : ndarray
        The part of it that is written [byte].
    shared_bytes : ndarray
        The part that is read once for all rows: weights of kernels that stream [byte].
    message_bytes : ndarray
        The whole message of a collective, nccl-tests' convention [byte].
    """

    flop: FloatArray
    moved_bytes: FloatArray
    message_bytes: FloatArray
    written_bytes: FloatArray = field(default_factory=lambda: ZERO)
    shared_bytes: FloatArray = field(default_factory=lambda: ZERO)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorKind:
    """How a kind is counted and which kernel model and peak it runs at."""

    flop: Callable[[Operator], FloatArray]
    family: str
    peak: PeakClass


def _extent(operator: Operator, role: str) -> FloatArray:
    return length(operator.extents[role])


@rule(
    symbol="F",
    formula="2 b m n k",
    unit="FLOP",
    source="definition: one multiply-add is 2 FLOP",
)
def matmul_flop(*, batch: FloatArray, m: FloatArray, n: FloatArray, k: FloatArray) -> FloatArray:
    """FLOP of ``batch`` products of an m x k by a k x n matrix [FLOP]; sizes [1] broadcast; raises nothing."""
    return FLOP_PER_MULTIPLY_ADD * batch * m * n * k


@rule(
    symbol="F",
    formula="2 q b a P d; q products, P query-key pairs under the mask",
    unit="FLOP",
    source="Dao, arXiv:2307.08691, section 4.1 (backward 2.5 times forward)",
)
def attention_flop(
    *, batch: FloatArray, heads: FloatArray, pairs: FloatArray, head_dim: FloatArray, products: float
) -> FloatArray:
    """FLOP of a fused attention kernel [FLOP]; sizes [1] broadcast; raises nothing."""
    return FLOP_PER_MULTIPLY_ADD * products * batch * heads * pairs * head_dim


def _matmul(op: Operator) -> FloatArray:
    return matmul_flop(batch=_extent(op, "batch"), m=_extent(op, "m"), n=_extent(op, "n"), k=_extent(op, "k"))


def _scan(op: Operator) -> FloatArray:
    roles = ("batch", "tokens", "heads", "head_dim", "state", "groups", "chunk")
    return scan_flop(**{role: _extent(op, role) for role in roles})


def _grouped(op: Operator) -> FloatArray:
    return matmul_flop(batch=np.ones(1), m=_extent(op, "m"), n=_extent(op, "n"), k=_extent(op, "k"))


def _attention(products: float) -> Callable[[Operator], FloatArray]:
    def count(op: Operator) -> FloatArray:
        return attention_flop(
            batch=_extent(op, "batch"),
            heads=_extent(op, "heads"),
            pairs=_extent(op, "pairs"),
            head_dim=_extent(op, "head_dim"),
            products=products,
        )

    return count


def _per_element(flop_per_element: float) -> Callable[[Operator], FloatArray]:
    """Operations per element of the largest tensor touched, be it read (a reduction) or written.

    They are limited by memory on every device of the catalog.
    """

    def count(op: Operator) -> FloatArray:
        largest = elements(op.writes[0])
        for tensor in op.reads:
            if tensor.kind not in WEIGHT_KINDS:
                largest = np.maximum(largest, elements(tensor))
        return flop_per_element * largest

    return count


def _none(op: Operator) -> FloatArray:
    return ZERO


OPERATOR_KINDS: dict[str, OperatorKind] = {
    "matmul": OperatorKind(flop=_matmul, family="matmul", peak="matmul"),
    # Both operands in the activations' type: runs at the peak of that type, whatever the recipe.
    "grouped_matmul": OperatorKind(flop=_grouped, family="grouped_matmul", peak="matmul"),
    "wide_matmul": OperatorKind(flop=_matmul, family="matmul", peak="attention"),
    "batched_matmul": OperatorKind(flop=_matmul, family="batched_matmul", peak="attention"),
    "attention": OperatorKind(
        flop=_attention(FORWARD_ATTENTION_PRODUCTS), family="attention_prefill", peak="attention"
    ),
    "attention_backward": OperatorKind(
        flop=_attention(BACKWARD_ATTENTION_PRODUCTS), family="attention_prefill", peak="attention"
    ),
    "attention_decode": OperatorKind(
        flop=_attention(FORWARD_ATTENTION_PRODUCTS), family="attention_decode", peak="attention"
    ),
    "latent_attention": OperatorKind(
        flop=_attention(FORWARD_ATTENTION_PRODUCTS), family="mla_prefill", peak="attention"
    ),
    "latent_attention_backward": OperatorKind(
        flop=_attention(BACKWARD_ATTENTION_PRODUCTS), family="mla_prefill", peak="attention"
    ),
    "layer_norm": OperatorKind(flop=_per_element(5.0), family="layer_norm", peak="vector"),
    "rms_norm": OperatorKind(flop=_per_element(4.0), family="rms_norm", peak="vector"),
    "rotary": OperatorKind(flop=_per_element(3.0), family="rotary", peak="vector"),
    "latent_rotary": OperatorKind(flop=_per_element(3.0), family="rotary", peak="vector"),
    "softmax": OperatorKind(flop=_per_element(5.0), family="softmax", peak="vector"),
    "cross_entropy": OperatorKind(flop=_per_element(5.0), family="softmax", peak="vector"),
    "pointwise": OperatorKind(flop=_per_element(1.0), family="pointwise", peak="vector"),
    # Steps of eager code that differ from a pointwise kernel in their gradients only.
    "mask_addition": OperatorKind(flop=_per_element(1.0), family="pointwise", peak="vector"),
    "power": OperatorKind(flop=_per_element(2.0), family="pointwise", peak="vector"),
    "gradient_sum": OperatorKind(flop=_per_element(1.0), family="pointwise", peak="vector"),
    "residual": OperatorKind(flop=_per_element(2.0), family="pointwise", peak="vector"),
    "activation": OperatorKind(flop=_per_element(8.0), family="activation", peak="vector"),
    "quantise": OperatorKind(flop=_per_element(2.0), family="quantise", peak="vector"),
    "position_embedding": OperatorKind(flop=_per_element(1.0), family="pointwise", peak="vector"),
    "scan": OperatorKind(flop=_scan, family="scan", peak="attention"),
    "moe_dispatch": OperatorKind(flop=_none, family="moe_dispatch", peak="vector"),
    "expert_activation": OperatorKind(flop=_per_element(8.0), family="moe_dispatch", peak="vector"),
    "moe_combine": OperatorKind(flop=_per_element(2.0), family="moe_dispatch", peak="vector"),
    "embedding": OperatorKind(flop=_none, family="embedding", peak="vector"),
    "optimizer": OperatorKind(flop=_per_element(12.0), family="optimizer", peak="vector"),
    "collective": OperatorKind(flop=_none, family="collective", peak="vector"),
    # A tensor under another name: no kernel runs.
    "view": OperatorKind(flop=_none, family="view", peak="vector"),
}


# Of tensors whose type no plan chooses [byte].
FIXED_WIDTHS: Mapping[str, FloatArray] = {
    "mask": np.full(1, MASK_BYTES),
    "statistics": np.full(1, STATISTICS_BYTES),
    "token_ids": np.full(1, TOKEN_ID_BYTES),
}


def bytes_per_element(precision: PrecisionColumns) -> Mapping[str, FloatArray]:
    """Bytes per element of each tensor kind [byte]."""
    return {
        "weights": precision.weights,
        "plain_weights": precision.plain_weights,
        "sparse_weights": SPARSE_VALUES_FRACTION * precision.weights + SPARSE_INDEX_BYTES,
        "activations": precision.activations,
        "operand": precision.operand,
        "kv_cache": precision.kv_cache,
        "gradients": precision.gradients,
        "master": precision.optimizer,
        **FIXED_WIDTHS,
    }


def _operand_width(
    operator: Operator, tensor: Tensor, widths: Mapping[str, FloatArray], precision: PrecisionColumns
) -> FloatArray:
    """Bytes per element as this operator moves the tensor: products read weights in the compute type."""
    if operator.kind in ("matmul", "grouped_matmul") and tensor.kind == "weights":
        return precision.weights_operand
    return widths[tensor.kind]


def _skipped(operator: Operator, tensor: Tensor) -> bool:
    """A lookup touches the rows that it needs, not the table that holds them."""
    return operator.kind in ("embedding", "position_embedding") and tensor.kind in WEIGHT_KINDS


def _touched(operator: Operator, tensor: Tensor) -> FloatArray:
    """Elements of a tensor that an operator moves [1]: of experts' matrices those of the experts hit."""
    if operator.kind != "grouped_matmul" or tensor.kind not in WEIGHT_KINDS:
        return elements(tensor)
    routing = {role: _extent(operator, role) for role in ("tokens", "topk", "experts")}
    return elements(tensor) * distinct_experts(**routing) / routing["experts"]


def count(operator: Operator, precision: PrecisionColumns) -> Work:
    """Count one execution of a (sharded) operator.

    Parameters
    ----------
    operator : Operator
        Sizes per device.
    precision : PrecisionColumns
        Bytes per element by tensor class.

    Returns
    -------
    Work
        Arrays of the broadcast shape of sizes and widths [FLOP, byte, byte]; not multiplied by ``scale``.

    Raises
    ------
    NotImplementedError
        If the operator's kind has no counting rule.
    """
    if operator.kind not in OPERATOR_KINDS:
        raise NotImplementedError(f"operator kind {operator.kind} ({operator.name}) has no counting rule")
    widths = bytes_per_element(precision)
    if operator.kind == "view":
        return Work(flop=ZERO, moved_bytes=ZERO, message_bytes=ZERO)
    if operator.kind == "collective":
        (message,) = operator.reads
        width = precision.activation_communication if message.kind == "activations" else widths[message.kind]
        return Work(flop=ZERO, moved_bytes=ZERO, message_bytes=elements(message) * width)
    read, written = (
        sum(
            (
                _touched(operator, t) * _operand_width(operator, t, widths, precision)
                for t in tensors
                if not _skipped(operator, t)
            ),
            ZERO,
        )
        for tensors in (operator.reads, operator.writes)
    )
    kind = OPERATOR_KINDS[operator.kind]
    return Work(
        flop=kind.flop(operator),
        moved_bytes=read + written,
        message_bytes=ZERO,
        written_bytes=written,
        shared_bytes=_shared(operator, widths) if kind.peak == "vector" else ZERO,
    )


def _shared(operator: Operator, widths: Mapping[str, FloatArray]) -> FloatArray:
    """Bytes of the weights that an operator reads whole, however many rows there are [byte]."""
    weights = (t for t in operator.reads if t.kind in WEIGHT_KINDS and not _skipped(operator, t))
    return sum((elements(t) * widths[t.kind] for t in weights), ZERO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters of a block on one device [1], and the bytes that their weights are stored in [byte]."""

    count: FloatArray
    stored_bytes: FloatArray


def parameters_of(
    operators: Sequence[Operator], precision: PrecisionColumns, named: str = "", labelled: str = ""
) -> Parameters:
    """Parameters that operators hold, each tensor once; one by name, or those with a label; zero where there are none.

    Sizes and widths broadcast; KeyError for a kind without width.
    """
    widths = bytes_per_element(precision)
    held = {
        tensor.name: tensor
        for op in operators
        for tensor in op.reads
        if tensor.kind in WEIGHT_KINDS
        and named in ("", tensor.name)
        and (not labelled or any(part.label == labelled for extent in tensor.extents for part in extent))
    }
    return Parameters(
        count=sum((elements(t) for t in held.values()), ZERO),
        stored_bytes=sum((elements(t) * widths[t.kind] for t in held.values()), ZERO),
    )

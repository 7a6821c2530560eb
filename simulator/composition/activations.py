"""Bytes that the forward pass keeps for the backward pass: a walk over the operators of a sharded block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import PrecisionColumns
from simulator.kernels.counting import bytes_per_element
from simulator.rules import rule
from workloads.operator_graph import Operator, elements
from workloads.rematerialisation import makers, shares_dropped

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedBytes:
    """What one block keeps per micro-batch on one device [byte].

    Attributes
    ----------
    everything : ndarray
        Without recomputation.
    dropped : ndarray
        The part that modules drop which run again, the attention core (selective recomputation) or others.
    block_input : ndarray
        What full recomputation keeps.
    largest_working_set : ndarray
        Most bytes that one operator's activations occupy while it runs.
    """

    everything: FloatArray
    dropped: FloatArray
    block_input: FloatArray
    largest_working_set: FloatArray


def _kept_widths(precision: PrecisionColumns) -> dict[str, FloatArray]:
    """Bytes per element by class of what is kept: operands in the type of the activations."""
    return {**bytes_per_element(precision), "operand": precision.activations}


def _activation_bytes(operator: Operator, widths: dict[str, FloatArray]) -> FloatArray:
    total: FloatArray = ZERO
    for tensor in (*operator.reads, *operator.writes):
        if tensor.kind in ("activations", "operand", "mask", "statistics"):
            total = total + elements(tensor) * widths[tensor.kind]
    return total


def saved_bytes(
    operators: Sequence[Operator], precision: PrecisionColumns, modules: Mapping[str, FloatArray]
) -> SavedBytes:
    """Walk the operators of a sharded forward block.

    Parameters
    ----------
    operators : sequence of Operator
        Sizes per device.
    precision : PrecisionColumns
        Bytes per element by class; operands are kept in the activations' type.
    modules : mapping of str to ndarray
        Modules that run again, of :data:`MODULES` of `workloads.rematerialisation`: 1, or the share of layers [1].

    Returns
    -------
    SavedBytes
        Arrays of the broadcast shape [byte]. A tensor that several operators keep is counted once.

    Raises
    ------
    KeyError
        If a tensor's kind has no width, or a module is unknown.
    """
    widths = _kept_widths(precision)
    sizes = {t.name: elements(t) * widths[t.kind] for op in operators for t in op.saved}
    shares = shares_dropped(operators, modules)
    everything, dropped, block_input = ZERO, ZERO, ZERO
    for name, size in sizes.items():
        everything = everything + size
        if name not in shares:
            block_input = block_input + size
        elif np.any(shares[name]):
            dropped = dropped + shares[name] * size
    working: FloatArray = ZERO
    for op in operators:
        # Operators that only other rows of a sweep have are there with a scale of 0.
        working = np.maximum(working, _activation_bytes(op, widths) * (op.scale > 0))
    return SavedBytes(
        everything=everything, dropped=dropped, block_input=block_input, largest_working_set=working
    )


def named_bytes(
    operators: Sequence[Operator], kept: Mapping[str, FloatArray], precision: PrecisionColumns
) -> FloatArray:
    """Bytes of the results that a plan keeps by name, of a sharded forward block [byte].

    ``kept`` is the share of each tensor by name [1]. A tensor that is scattered after it was made is kept in shards.
    Raises KeyError if a tensor's kind has no width.
    """
    widths = dict(bytes_per_element(precision))
    sizes: dict[str, FloatArray] = {}
    for op in operators:
        for tensor in (*op.writes, *op.reads):
            if tensor.name in kept and op.kind != "collective":
                size = elements(tensor) * widths[tensor.kind]
                sizes[tensor.name] = np.minimum(sizes.get(tensor.name, size), size)
    return sum((kept[name] * size for name, size in sizes.items()), ZERO)


def kept_by_module(
    operators: Sequence[Operator],
    precision: PrecisionColumns,
    *,
    modules: Mapping[str, FloatArray],
    named: Mapping[str, FloatArray],
    recompute_all: FloatArray,
) -> dict[str, FloatArray]:
    """Bytes that one sharded layer keeps per micro-batch, by the module that makes them [byte].

    Parameters
    ----------
    operators : sequence of Operator
        Sizes per device.
    precision : PrecisionColumns
        Bytes per element by class.
    modules, named : mapping of str to ndarray
        Shares of modules that run again, and of tensors that are kept by name, as for :func:`saved_bytes` and
        :func:`named_bytes` [1].
    recompute_all : ndarray
        1 where the whole layer runs again, or the share of layers [1].

    Returns
    -------
    dict
        By the module of an operator, "layer input" for what comes from outside; sums to :func:`kept_bytes`.

    Raises
    ------
    KeyError
        If a tensor's kind has no width, or a module is unknown.
    """
    widths = _kept_widths(precision)
    maker = {name: op.module for name, op in makers(operators).items()}
    dropped = shares_dropped(operators, modules)
    parts: dict[str, FloatArray] = {}

    def add(name: str, size: FloatArray) -> None:
        module = maker.get(name, "layer input")
        parts[module] = parts.get(module, ZERO) + size

    sizes = {t.name: elements(t) * widths[t.kind] for op in operators for t in op.saved}
    for name, size in sizes.items():
        outside = float(name not in maker)
        kept = (1.0 - recompute_all) * (1.0 - dropped.get(name, ZERO)) + recompute_all * outside
        add(name, kept * size)
    for name, share in named.items():
        add(name, recompute_all * named_bytes(operators, {name: share}, precision))
    return parts


@rule(
    symbol="A",
    formula="all: input + named; modules: everything - dropped; none: everything",
    unit="B",
    source="Korthikanti et al., arXiv:2205.05198, sections 4 and 5 (here from a walk over the operators); "
    "Megatron-core, option --recompute-modules",
)
def kept_bytes(
    *,
    everything_bytes: FloatArray,
    dropped_bytes: FloatArray,
    input_bytes: FloatArray,
    named_bytes: FloatArray,
    recompute_all: FloatArray,
) -> FloatArray:
    """Bytes one layer keeps per micro-batch under a recompute choice [byte]; raises nothing.

    ``dropped_bytes`` are what modules give up that run again, none where whole layers do. Switches are 0 or 1, or the
    share of a stage's layers that recompute: then it is the mean of its layers.
    """
    by_modules = everything_bytes - dropped_bytes
    return recompute_all * (input_bytes + named_bytes) + (1.0 - recompute_all) * by_modules


@rule(
    symbol="k",
    formula="v = 1: min(p - i, m); v > 1: min(2 (p - i - 1) + (v - 1) p + 1, m v) / v",
    unit="1",
    source="Narayanan et al., arXiv:2104.04473, section 2.2; Korthikanti et al., arXiv:2205.05198, section 4.2.3",
)
def micro_batches_in_flight(
    *,
    stage: FloatArray,
    pipeline_parallel: FloatArray,
    virtual_pipeline: FloatArray,
    micro_batches: FloatArray,
) -> FloatArray:
    """Micro-batches whose activations stage ``stage`` (from 0) holds at once [1] under (interleaved) 1F1B.

    All arguments [1] broadcast; fractional when interleaved, since a chunk holds 1/v of a stage; raises nothing.
    """
    plain = np.minimum(pipeline_parallel - stage, micro_batches)
    chunks = 2.0 * (pipeline_parallel - stage - 1.0) + (virtual_pipeline - 1.0) * pipeline_parallel + 1.0
    interleaved = np.minimum(chunks, micro_batches * virtual_pipeline) / virtual_pipeline
    return np.where(virtual_pipeline > 1, interleaved, plain)

"""What composition needs to know of the blocks: a few columns per distinct combination, to be gathered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import DeviceColumns, Inputs
from simulator.communication.wires import NO_WIRES, Wires, wires_of
from simulator.composition.activations import SavedBytes, kept_bytes, named_bytes, saved_bytes
from simulator.composition.blocks import (
    DENSE_LAYER,
    BlockCost,
    Blocks,
    OperatorCost,
    cost_block,
    cost_blocks,
    kept_by_name,
    widest_last,
)
from simulator.kernels.counting import OPERATOR_KINDS
from simulator.per_device.optimizers import CODE
from simulator.per_device.structure import Structure
from simulator.rules import at, rule
from workloads.operator_graph import Operator
from workloads.optimizer_graph import newton_schulz

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)
BLOCKS = ("embedding", "layer", "head")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    """Blocks of one micro-batch on one device; ``layer`` is one decoder layer.

    Layers in front of those with experts count with the embedding, since the first stage has them all.
    Seconds [s] of each block and pass, the part of them that waits for tensor-parallel exchanges (and, in a layer, for
    those of context and expert ranks), the part of the backward pass that computes gradients of weights, how long a
    layer's exchanges occupy the wires of a device by pass [s], what
    they may be off by (`BlockCost`, both passes) [s^2, s], parameters
    [1] per tensor-parallel rank and the bytes of their weights [byte], FLOP of the forward pass that run again where
    recomputation stops at what is needed [1], bytes kept for the backward
    pass [byte], energy [J], and kernels of all blocks whose sizes lie outside what was fitted [1].
    """

    layer_forward_s: FloatArray
    layer_backward_s: FloatArray
    embedding_forward_s: FloatArray
    embedding_backward_s: FloatArray
    head_forward_s: FloatArray
    head_backward_s: FloatArray
    layer_weight_gradients_s: FloatArray
    embedding_weight_gradients_s: FloatArray
    head_weight_gradients_s: FloatArray
    layer_exchange_s: FloatArray
    embedding_exchange_s: FloatArray
    head_exchange_s: FloatArray
    layer_context_s: FloatArray
    layer_expert_s: FloatArray
    embedding_context_s: FloatArray
    layer_forward_inside_wire_s: FloatArray
    layer_forward_across_wire_s: FloatArray
    layer_backward_inside_wire_s: FloatArray
    layer_backward_across_wire_s: FloatArray
    layer_variance_s2: FloatArray
    embedding_variance_s2: FloatArray
    head_variance_s2: FloatArray
    layer_shared_s: FloatArray
    embedding_shared_s: FloatArray
    head_shared_s: FloatArray
    layer_parameters: FloatArray
    expert_parameters: FloatArray
    embedding_parameters: FloatArray
    head_norm_parameters: FloatArray
    head_matrix_parameters: FloatArray
    layer_weight_bytes: FloatArray
    expert_weight_bytes: FloatArray
    embedding_weight_bytes: FloatArray
    head_norm_weight_bytes: FloatArray
    head_matrix_weight_bytes: FloatArray
    layer_run_again: FloatArray
    layer_kept_bytes: FloatArray
    layer_rebuilt_bytes: FloatArray
    embedding_kept_bytes: FloatArray
    head_kept_bytes: FloatArray
    layer_orthogonal_s: FloatArray
    expert_orthogonal_s: FloatArray
    working_bytes: FloatArray
    head_working_bytes: FloatArray
    layer_compute_j: FloatArray
    layer_memory_j: FloatArray
    layer_network_j: FloatArray
    ends_compute_j: FloatArray
    ends_memory_j: FloatArray
    ends_network_j: FloatArray
    extrapolated_kernels: FloatArray


@rule(
    symbol="E",
    formula="F eF + B eB",
    unit="J",
    source="energy proportional to operations and to bytes moved (Horowitz, ISSCC 2014, "
    "doi:10.1109/ISSCC.2014.6757323)",
)
def switching_energy(*, amount: FloatArray, j_per_unit: FloatArray) -> FloatArray:
    """Energy of ``amount`` FLOP or bytes at ``j_per_unit`` joules each [J]; broadcasts; raises nothing."""
    return amount * j_per_unit


def _joule_per_flop(device: DeviceColumns, cost: OperatorCost) -> FloatArray:
    peak = OPERATOR_KINDS[cost.operator.kind].peak
    if peak == "matmul":
        return device.matmul_j_per_flop
    return device.attention_j_per_flop if peak == "attention" else device.vector_j_per_flop


def block_energy(costs: Iterable[BlockCost], inputs: Inputs) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Compute, memory and network energy of one micro-batch through some blocks, one device [J]."""
    compute, memory, network = ZERO, ZERO, ZERO
    tiers = inputs.fabric.across
    for block in costs:
        for c in widest_last(block.operators, lambda cost: cost):
            per_flop = _joule_per_flop(inputs.device, c)
            compute = compute + switching_energy(amount=c.work.flop, j_per_unit=per_flop)
            memory = memory + switching_energy(
                amount=c.work.moved_bytes, j_per_unit=inputs.device.memory_j_per_byte
            )
            network = network + switching_energy(
                amount=c.inner_bytes, j_per_unit=inputs.fabric.inner.j_per_byte
            )
            for sent, tier in zip(c.across_bytes, tiers, strict=False):
                network = network + switching_energy(amount=sent, j_per_unit=tier.j_per_byte)
    return compute, memory, network


def _exchange_seconds(axis: str, *costs: BlockCost) -> FloatArray:
    total: FloatArray = ZERO
    for block in costs:
        for c in block.operators:
            if c.operator.kind == "collective" and c.operator.axis == axis:
                total = total + c.exposed_s
    return total


def _recomputing(inputs: Inputs) -> FloatArray:
    """Share of the layers that recompute, 1 where none does: the others rebuild nothing [1]."""
    share = inputs.plan.recompute_core
    return np.where(share > 0, share, 1.0)


def _orthogonal_seconds(blocks: Blocks, inputs: Inputs, *, experts: bool) -> FloatArray:
    """Muon's products for one layer's matrices on one device [s], zero under other optimizers."""
    chosen = inputs.plan.optimizer == CODE["muon"]
    if not np.any(chosen) or not blocks.backward:
        return ZERO
    graph = newton_schulz(blocks.forward_operators["layer"], experts=experts)
    return chosen * cost_block("optimizer.newton_schulz", graph, inputs).seconds


def _block_wires(block: BlockCost, inputs: Inputs) -> Wires:
    """How long the exchanges of a block occupy the wires, no longer than they take and the block does [s]."""
    inner, across, busy = ZERO, [ZERO] * len(inputs.fabric.across), ZERO
    for c in block.operators:
        if c.across_bytes:
            inner, busy = inner + c.inner_bytes, busy + c.busy_s
            across = [a + b for a, b in zip_longest(across, c.across_bytes, fillvalue=ZERO)]
    if busy is ZERO:
        return NO_WIRES
    least = np.minimum(busy, block.seconds)
    found = wires_of(inner, across, inputs.fabric)
    return Wires(inside_s=np.minimum(found.inside_s, least), across_s=np.minimum(found.across_s, least))


def _kept(blocks: Blocks, inputs: Inputs) -> dict[str, SavedBytes]:
    return {name: saved_bytes(ops, inputs.precision) for name, ops in blocks.forward_operators.items()}


def layer_table(structure: Structure, inputs: Inputs) -> tuple[LayerTable, Blocks]:
    """Evaluate the blocks and reduce them to the columns that composition gathers.

    Parameters
    ----------
    structure : Structure
        Key of the partition.
    inputs : Inputs
        Distinct rows.

    Returns
    -------
    tuple of LayerTable and Blocks
        Columns, and the operators behind them.

    Raises
    ------
    NotImplementedError
        If an operator kind lacks a rule.
    """
    blocks = cost_blocks(structure, inputs)
    kept = _kept(blocks, inputs)
    forward, backward, held = blocks.forward, blocks.backward, blocks.parameters
    layer_kept = _kept_bytes(kept["layer"], blocks.forward_operators["layer"], structure, inputs)
    both = {n: [forward[n], *([backward[n]] if n in backward else [])] for n in forward}
    with at("energy_j.layer"):
        layer_j = block_energy(both["layer"], inputs)
    with at("energy_j.ends"):
        ends_j = block_energy([*both["embedding"], *both["head"]], inputs)

    wires = [
        _block_wires(forward["layer"], inputs),
        _block_wires(backward["layer"], inputs) if backward else NO_WIRES,
    ]

    def seconds(name: str) -> FloatArray:
        return backward[name].seconds if name in backward else ZERO

    table = LayerTable(
        layer_forward_s=forward["layer"].seconds,
        layer_backward_s=seconds("layer"),
        embedding_forward_s=forward["embedding"].seconds,
        embedding_backward_s=seconds("embedding"),
        head_forward_s=forward["head"].seconds,
        head_backward_s=seconds("head"),
        **{
            f"{n}_weight_gradients_s": backward[n].weight_gradients_s if n in backward else ZERO
            for n in BLOCKS
        },
        layer_exchange_s=_exchange_seconds("tensor", *both["layer"]),
        embedding_exchange_s=_exchange_seconds("tensor", *both["embedding"]),
        head_exchange_s=_exchange_seconds("tensor", *both["head"]),
        layer_context_s=_exchange_seconds("context", *both["layer"]),
        layer_expert_s=_exchange_seconds("expert", *both["layer"]),
        embedding_context_s=ZERO,
        layer_forward_inside_wire_s=wires[0].inside_s,
        layer_forward_across_wire_s=wires[0].across_s,
        layer_backward_inside_wire_s=wires[1].inside_s,
        layer_backward_across_wire_s=wires[1].across_s,
        **{f"{n}_variance_s2": sum((b.variance_s2 for b in both[n]), ZERO) for n in BLOCKS},
        **{f"{n}_shared_s": sum((b.shared_s for b in both[n]), ZERO) for n in BLOCKS},
        layer_parameters=held["layer"].count,
        expert_parameters=held["experts"].count,
        embedding_parameters=held["embedding"].count,
        head_norm_parameters=held["head"].count - held["head_matrix"].count,
        head_matrix_parameters=held["head_matrix"].count,
        layer_weight_bytes=held["layer"].stored_bytes,
        expert_weight_bytes=held["experts"].stored_bytes,
        embedding_weight_bytes=held["embedding"].stored_bytes,
        head_norm_weight_bytes=held["head"].stored_bytes - held["head_matrix"].stored_bytes,
        head_matrix_weight_bytes=held["head_matrix"].stored_bytes,
        layer_run_again=_run_again(both["layer"], inputs),
        layer_kept_bytes=layer_kept,
        layer_rebuilt_bytes=(kept["layer"].everything - layer_kept) / _recomputing(inputs),
        embedding_kept_bytes=kept["embedding"].everything,
        head_kept_bytes=kept["head"].everything,
        layer_orthogonal_s=_orthogonal_seconds(blocks, inputs, experts=False),
        expert_orthogonal_s=_orthogonal_seconds(blocks, inputs, experts=True),
        working_bytes=kept["layer"].largest_working_set,
        head_working_bytes=kept["head"].largest_working_set,
        layer_compute_j=layer_j[0],
        layer_memory_j=layer_j[1],
        layer_network_j=layer_j[2],
        ends_compute_j=ends_j[0],
        ends_memory_j=ends_j[1],
        ends_network_j=ends_j[2],
        extrapolated_kernels=sum((b.extrapolated for name in both for b in both[name]), ZERO),
    )
    if structure.layer.first_dense:
        table = _with_dense_layers(table, blocks, structure, inputs)
    return table, blocks


def _run_again(passes: Sequence[BlockCost], inputs: Inputs) -> FloatArray:
    """FLOP that run a second time over those of the forward pass, 1 where all of them do [1]."""
    if len(passes) == 1 or not np.any(inputs.plan.recompute_needed):
        return np.ones(1)
    once = sum((c.work.flop for c in passes[0].operators), ZERO)
    again = sum((c.work.flop for c in passes[1].operators if c.operator.phase == "recompute"), ZERO)
    return np.where(inputs.plan.recompute_needed > 0, again / once, 1.0)


def _kept_bytes(
    kept: SavedBytes, forward: Sequence[Operator], structure: Structure, inputs: Inputs
) -> FloatArray:
    """What a layer keeps under the plan's recompute choice [byte]."""
    named = ZERO
    if np.any(inputs.plan.recompute_needed):
        named = named_bytes(forward, kept_by_name(structure, inputs), inputs.precision)
    with at("memory.activations_bytes"):
        return kept_bytes(
            everything_bytes=kept.everything,
            core_bytes=kept.core,
            input_bytes=kept.block_input,
            named_bytes=named,
            recompute_core=inputs.plan.recompute_core,
            recompute_all=inputs.plan.recompute_all,
        )


def _with_dense_layers(table: LayerTable, blocks: Blocks, structure: Structure, inputs: Inputs) -> LayerTable:
    """The table with the layers in front of those with experts counted to the embedding."""
    n = inputs.model.first_dense
    passes = [blocks.forward[DENSE_LAYER]]
    if DENSE_LAYER in blocks.backward:
        passes.append(blocks.backward[DENSE_LAYER])
    kept = saved_bytes(blocks.forward_operators[DENSE_LAYER], inputs.precision)
    per_layer = _kept_bytes(kept, blocks.forward_operators[DENSE_LAYER], structure, inputs)
    held = blocks.parameters[DENSE_LAYER]
    compute_j, memory_j, network_j = block_energy(passes, inputs)
    backward_s = passes[1].seconds if len(passes) > 1 else ZERO
    return replace(
        table,
        embedding_forward_s=table.embedding_forward_s + n * passes[0].seconds,
        embedding_backward_s=table.embedding_backward_s + n * backward_s,
        embedding_weight_gradients_s=table.embedding_weight_gradients_s
        + n * (passes[1].weight_gradients_s if len(passes) > 1 else ZERO),
        embedding_exchange_s=table.embedding_exchange_s + n * _exchange_seconds("tensor", *passes),
        embedding_context_s=n * _exchange_seconds("context", *passes),
        # The same kernel errs alike in every layer.
        embedding_variance_s2=table.embedding_variance_s2 + n**2 * sum((b.variance_s2 for b in passes), ZERO),
        embedding_shared_s=table.embedding_shared_s + n * sum((b.shared_s for b in passes), ZERO),
        embedding_parameters=table.embedding_parameters + n * held.count,
        embedding_weight_bytes=table.embedding_weight_bytes + n * held.stored_bytes,
        embedding_kept_bytes=table.embedding_kept_bytes + n * per_layer,
        layer_rebuilt_bytes=np.maximum(
            table.layer_rebuilt_bytes, (kept.everything - per_layer) / _recomputing(inputs)
        ),
        working_bytes=np.maximum(table.working_bytes, kept.largest_working_set),
        ends_compute_j=table.ends_compute_j + n * compute_j,
        ends_memory_j=table.ends_memory_j + n * memory_j,
        ends_network_j=table.ends_network_j + n * network_j,
    )


def stacked(tables: Iterable[LayerTable], rows: Iterable[int]) -> LayerTable:
    """Tables below each other, each broadcast to its number of rows first; ValueError if there are none."""
    parts = list(zip(tables, rows, strict=True))
    return LayerTable(
        **{
            f.name: np.concatenate([np.broadcast_to(getattr(t, f.name), (n,)) for t, n in parts])
            for f in fields(LayerTable)
        }
    )

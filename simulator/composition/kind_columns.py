"""One layer of each kind as columns, and the layer that stands for all of them: their mean.

A stage holds some layers of each kind. Composition counts its layers and multiplies them by those of the mean layer,
which is exact for the whole model, and for a stage where kinds are spread evenly over stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs, ModelColumns
from simulator.communication.wires import NO_WIRES, Wires, wires_of
from simulator.composition.activations import SavedBytes, kept_bytes, named_bytes, saved_bytes
from simulator.composition.block_energy import block_energy
from simulator.composition.blocks import BlockCost, Blocks, chosen_modules, cost_block, kept_by_name
from simulator.kernels.counting import OPERATOR_KINDS
from simulator.per_device.optimizers import CODE
from simulator.per_device.structure import Structure
from simulator.rules import at
from workloads.layer_kinds import LayerKind, layers_behind, layers_in_front
from workloads.operator_graph import Operator
from workloads.optimizer_graph import newton_schulz

FloatArray = NDArray[np.float64]
Columns = Mapping[str, FloatArray]
ZERO: FloatArray = np.zeros(1)


def _mean(layers: Sequence[FloatArray], values: Sequence[FloatArray]) -> FloatArray:
    """Mean of what one layer of each kind brings, ``layers`` of each [1]."""
    total = sum((n * x for n, x in zip(layers, values, strict=True)), ZERO)
    return total / np.maximum(sum(layers, ZERO), 1.0)


def weight_gradient_seconds(cost: BlockCost | None) -> FloatArray:
    """What operators that compute nothing but gradients of weights add to a backward pass [s]; raises nothing."""
    return ZERO if cost is None else cost.weight_gradients_s


def exchange_seconds(axis: str, *costs: BlockCost) -> FloatArray:
    """Exposed time of the exchanges along an axis in some passes [s]; raises nothing."""
    total: FloatArray = ZERO
    for block in costs:
        for c in block.operators:
            if c.operator.kind == "collective" and c.operator.axis == axis:
                total = total + c.exposed_s
    return total


def _recomputing(inputs: Inputs) -> FloatArray:
    """Share of the layers that recompute, 1 where none does: the others rebuild nothing [1]."""
    share = inputs.plan.recompute_share
    return np.where(share > 0, share, 1.0)


def _orthogonal(layer: Sequence[Operator], inputs: Inputs, *, trains: bool) -> dict[str, FloatArray]:
    """Time [s], FLOP and bytes of Muon's products for one layer's matrices on one device, apart for experts.

    Zero under other optimizers.
    """
    chosen = inputs.plan.optimizer == CODE["muon"]
    columns: dict[str, FloatArray] = {}
    for of in ("", "expert_"):
        names = [f"{of}orthogonal_{unit}" for unit in ("s", "flop", "bytes")]
        values = [ZERO, ZERO, ZERO]
        if trains and np.any(chosen):
            graph = newton_schulz(layer, experts=bool(of))
            cost = cost_block("optimizer.newton_schulz", graph, inputs)
            flop = sum((c.work.flop for c in cost.operators), ZERO)
            moved = sum((c.work.moved_bytes for c in cost.operators), ZERO)
            values = [chosen * x for x in (cost.seconds, flop, moved)]
        columns.update(zip(names, values, strict=True))
    return columns


def _block_wires(block: BlockCost | None, inputs: Inputs) -> Wires:
    """How long the exchanges of a block occupy the wires, no longer than they take and the block does [s]."""
    if block is None:
        return NO_WIRES
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


def _flop(block: BlockCost, phase: str, *, projections: bool) -> FloatArray:
    """FLOP of a phase of a pass [1]: all, or those of the products outside the attention core."""
    counted = (
        c.work.flop
        for c in block.operators
        if c.operator.phase == phase
        and not (projections and OPERATOR_KINDS[c.operator.kind].peak == "vector")
        and not (projections and c.operator.module == "attention_core")
    )
    return sum(counted, ZERO)


def _flop_run(
    forward: BlockCost, backward: BlockCost | None, inputs: Inputs
) -> tuple[FloatArray, FloatArray]:
    """FLOP of a forward pass, and those of it that run a second time in a layer that recomputes what is needed.

    Where modules are named, of the products outside the attention core; both alike where whole layers run again.
    """
    plan = inputs.plan
    if backward is None or not np.any(plan.recompute_needed + plan.recompute_named):
        return np.ones(1), np.ones(1)
    named = (plan.recompute_needed == 0) & (plan.recompute_named > 0)
    once, again = (
        np.where(named, *(_flop(block, phase, projections=p) for p in (True, False)))
        for block, phase in ((forward, "forward"), (backward, "recompute"))
    )
    return once, np.where((plan.recompute_needed > 0) | named, again / _recomputing(inputs), once)


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
            dropped_bytes=kept.dropped,
            input_bytes=kept.block_input,
            named_bytes=named,
            recompute_all=inputs.plan.recompute_all,
        )


def columns_of_layer(name: str, blocks: Blocks, structure: Structure, inputs: Inputs) -> Columns:
    """What one layer of a kind brings, by the names that `LayerTable` has for it.

    Parameters
    ----------
    name : str
        Of its block.
    blocks : Blocks
        Costed.
    structure, inputs : Structure, Inputs
        Key and distinct rows of the partition.

    Returns
    -------
    dict of ndarray
        Seconds, counts, bytes and joules; ``flop_once`` and ``flop_again`` are the FLOP of the forward pass and those
        of them that run a second time.

    Raises
    ------
    NotImplementedError
        If an operator kind of Muon's products lacks a rule.
    """
    forward, backward = blocks.forward[name], blocks.backward.get(name)
    passes = [forward] if backward is None else [forward, backward]
    operators = blocks.forward_operators[name]
    saved = saved_bytes(operators, inputs.precision, chosen_modules(inputs.plan))
    kept = _kept_bytes(saved, operators, structure, inputs)
    with at("energy_j.layer"):
        compute_j, memory_j, network_j = block_energy(passes, inputs)
    wires = _block_wires(forward, inputs), _block_wires(backward, inputs)
    once, again = _flop_run(forward, backward, inputs)
    return {
        "forward_s": forward.seconds,
        "backward_s": ZERO if backward is None else backward.seconds,
        "weight_gradients_s": weight_gradient_seconds(backward),
        "exchange_s": exchange_seconds("tensor", *passes),
        "context_s": exchange_seconds("context", *passes),
        "expert_s": exchange_seconds("expert", *passes),
        "forward_inside_wire_s": wires[0].inside_s,
        "forward_across_wire_s": wires[0].across_s,
        "backward_inside_wire_s": wires[1].inside_s,
        "backward_across_wire_s": wires[1].across_s,
        "variance_s2": sum((b.variance_s2 for b in passes), ZERO),
        "shared_s": sum((b.shared_s for b in passes), ZERO),
        "parameters": blocks.parameters[name].count,
        "expert_parameters": blocks.experts[name].count,
        "weight_bytes": blocks.parameters[name].stored_bytes,
        "expert_weight_bytes": blocks.experts[name].stored_bytes,
        "kept_bytes": kept,
        "rebuilt_bytes": (saved.everything - kept) / _recomputing(inputs),
        "working_bytes": saved.largest_working_set,
        "flop_once": once,
        "flop_again": again,
        **_orthogonal(operators, inputs, trains=backward is not None),
        "compute_j": compute_j,
        "memory_j": memory_j,
        "network_j": network_j,
    }


# One layer at a time has these, so the greatest counts.
GREATEST = ("rebuilt_bytes", "working_bytes")
# Of these two neighbours may be at hand together.
OF_NEIGHBOURS = ("parameters", "weight_bytes")


def mean_layer(kinds: Mapping[LayerKind, Columns], inputs: Inputs) -> dict[str, FloatArray]:
    """Columns of the layer that stands for all behind those in front.

    Parameters
    ----------
    kinds : mapping of LayerKind to columns
        As :func:`columns_of_layer` makes them.
    inputs : Inputs
        Rows, which say how many layers of each kind there are.

    Returns
    -------
    dict of ndarray
        The mean by layers; the greatest of any kind for what one layer has at a time. ``greatest_parameters`` are
        those of the largest layer [1], ``pair_weight_bytes`` the weights of the two heaviest that follow each other
        [byte]. Kernels err alike in every layer, so deviations are averaged, not their squares.

    Raises
    ------
    ValueError
        If shapes do not broadcast.
    """
    layers = {kind: layers_behind(kind, inputs.model) for kind in kinds}
    there = [kind for kind, n in layers.items() if np.any(n > 0)] or list(kinds)[:1]
    columns, n = [kinds[kind] for kind in there], [layers[kind] for kind in there]
    held = {name: [c[name] for c in columns] for name in columns[0]}
    if len(columns) == 1:
        out = dict(columns[0])
    else:
        held |= {
            name: [np.where(k > 0, x, 0.0) for k, x in zip(n, held[name], strict=True)]
            for name in (*GREATEST, *OF_NEIGHBOURS)
        }
        out = {name: _greatest(held[name]) if name in GREATEST else _mean(n, held[name]) for name in held}
        out["variance_s2"] = _mean(n, [np.sqrt(x) for x in held["variance_s2"]]) ** 2
    out["greatest_parameters"] = _greatest(held["parameters"])
    out["pair_weight_bytes"] = _two_neighbours(held["weight_bytes"], inputs)
    return out


def _greatest(values: Sequence[FloatArray]) -> FloatArray:
    found = values[0]
    for other in values[1:]:
        found = np.maximum(found, other)
    return found


def _two_neighbours(weight_bytes: Sequence[FloatArray], inputs: Inputs) -> FloatArray:
    """Weights of two layers that follow each other, the heaviest two that do [byte].

    Where not every layer has experts, no two neighbours do.
    """
    greatest = _greatest(weight_bytes)
    if len(weight_bytes) == 1:
        return 2.0 * greatest
    least = np.full(1, np.inf)
    for held in weight_bytes:
        least = np.minimum(least, np.where(held > 0, held, np.inf))
    return greatest + np.where(inputs.model.experts_every > 1, least, greatest)


def front_layers(kinds: Mapping[LayerKind, Columns], inputs: Inputs) -> dict[str, FloatArray]:
    """Sums over the layers in front of those with experts: columns as :func:`mean_layer`, maxima where it has maxima.

    Raises ValueError if shapes do not broadcast.
    """
    out: dict[str, FloatArray] = {}
    for kind, columns in kinds.items():
        if not kind.dense:
            continue
        n = layers_in_front(kind, inputs.model)
        for name, values in columns.items():
            before = out.get(name, ZERO)
            if name in GREATEST:
                out[name] = np.maximum(before, np.where(n > 0, values, 0.0))
            elif name == "variance_s2":
                # The same kernel errs alike in every layer.
                out[name] = (np.sqrt(before) + n * np.sqrt(values)) ** 2
            else:
                out[name] = before + n * values
    return out


def layers_of_stage(
    kind: LayerKind, layers: FloatArray, embedding: FloatArray, model: ModelColumns
) -> FloatArray:
    """Layers of a kind on a stage [1]: their part of its ``layers``, and those in front that go with the embedding.

    ``embedding`` is 1 where the stage holds it [1]. Shapes broadcast; raises nothing.
    """
    behind = np.maximum(model.n_layers - model.first_dense, 1.0)
    return layers * layers_behind(kind, model) / behind + embedding * layers_in_front(kind, model)

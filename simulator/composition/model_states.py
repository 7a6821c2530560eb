"""Weights, gradients and optimizer states of a stage on one device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.composition.data_parallel import apart
from simulator.composition.layer_table import LayerTable
from simulator.composition.stage_kinds import StageKind
from simulator.rules import at, rule

FloatArray = NDArray[np.float64]


@rule(
    symbol="M",
    formula="N b / d",
    unit="B",
    source="Rajbhandari et al., arXiv:1910.02054, section 3 and figure 1 (d = data-parallel ranks where the "
    "stage shards this owner, else 1)",
)
def state_bytes(*, parameters: FloatArray, bytes_per_parameter: FloatArray, shards: FloatArray) -> FloatArray:
    """Weights, gradients or optimizer states of one device [byte]; counts [1] and widths [byte] broadcast.

    Raises nothing.
    """
    return parameters * bytes_per_parameter / shards


def _held(
    parts: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
    layers: FloatArray,
    first: FloatArray,
    last: FloatArray,
    tied: bool,
) -> FloatArray:
    """Sum over a stage of what one layer, the embedding, the head's norm and the head's matrix bring."""
    layer, embedding, head_norm, head_matrix = parts
    own_matrix = np.maximum(last - first, 0.0) if tied else last
    return layers * layer + first * embedding + last * head_norm + own_matrix * head_matrix


def stage_parameters(
    table: LayerTable, layers: FloatArray, *, first: FloatArray, last: FloatArray, tied: bool
) -> FloatArray:
    """Parameters of one stage per tensor-parallel rank [1].

    ``first`` and ``last`` are 1 where the stage holds the embedding and the head (shares where it has half). A tied
    head shares the embedding's matrix where both are on one stage and has a copy of it elsewhere. Raises nothing.
    """
    parts = (
        table.layer_parameters,
        table.embedding_parameters,
        table.head_norm_parameters,
        table.head_matrix_parameters,
    )
    return _held(parts, layers, first, last, tied)


def stage_weight_bytes(
    table: LayerTable, layers: FloatArray, *, first: FloatArray, last: FloatArray, tied: bool
) -> FloatArray:
    """Stored bytes of the weights that :func:`stage_parameters` counts [byte]. Raises nothing."""
    parts = (
        table.layer_weight_bytes,
        table.embedding_weight_bytes,
        table.head_norm_weight_bytes,
        table.head_matrix_weight_bytes,
    )
    return _held(parts, layers, first, last, tied)


def _sharded_states(
    inputs: Inputs, parameters: FloatArray, weight_bytes: FloatArray, ranks: FloatArray, copies: FloatArray
) -> dict[str, FloatArray]:
    """Weights, gradients and optimizer states of parameters that ``ranks`` hold alike, of each of ``copies`` [byte].

    The states of two copies are split among the holders of both.
    """
    precision, plan = inputs.precision, inputs.plan
    # A stage may be empty of layers; an empty one has no mean width.
    mean_width = np.divide(weight_bytes, parameters, out=np.zeros_like(weight_bytes), where=parameters > 0)
    owners = (
        ("weights", mean_width, 3, ranks),
        ("gradients", precision.gradients, 2, ranks),
        ("optimizer", precision.optimizer, 1, ranks * copies),
    )
    out = {}
    for owner, width, from_stage, sharers in owners:
        with at(f"memory.{owner}_bytes"):
            out[owner] = state_bytes(
                parameters=copies * parameters,
                bytes_per_parameter=width,
                shards=np.where(plan.zero_stage >= from_stage, sharers, 1.0),
            )
    return out


def stage_states(
    inputs: Inputs, table: LayerTable, stage: StageKind, copies: FloatArray, *, tied: bool
) -> dict[str, FloatArray]:
    """Bytes of weights, gradients and optimizer states of a stage on one device [byte].

    Those of experts that fewer ranks hold alike are shared among fewer. Raises nothing.
    """
    plan, first, last = inputs.plan, stage.embedding, stage.head
    parameters, weight_bytes = np.broadcast_arrays(
        stage_parameters(table, stage.layers, first=first, last=last, tied=tied),
        stage_weight_bytes(table, stage.layers, first=first, last=last, tied=tied),
    )
    dense, experts = apart(parameters, stage.layers * table.expert_parameters, inputs)
    dense_bytes, expert_bytes = apart(weight_bytes, stage.layers * table.expert_weight_bytes, inputs)
    held, held_bytes = np.broadcast_arrays(dense, dense_bytes)
    owners = _sharded_states(inputs, held, held_bytes, plan.zero_group, copies)
    wider = inputs.precision.optimizer_ends - inputs.precision.optimizer
    if np.any(wider > 0):
        of_ends = first * (table.embedding_parameters - table.front_parameters) + np.maximum(
            last - first, 0.0 if tied else last
        ) * (table.head_matrix_parameters)
        shards = np.where(plan.zero_stage >= 1, plan.zero_group * copies, 1.0)
        owners["optimizer"] = owners["optimizer"] + copies * of_ends * wider / shards
    if not np.any(experts):
        return owners
    held, held_bytes = np.broadcast_arrays(experts, expert_bytes)
    of_experts = _sharded_states(inputs, held, held_bytes, plan.expert_copies, copies)
    return {owner: size + of_experts[owner] for owner, size in owners.items()}


@rule(
    symbol="u",
    formula="kept: l; else min(1 + a, l) (at least 1)",
    unit="1",
    source="Zhao et al., PyTorch FSDP, arXiv:2304.11277, sections 3.2 and 3.3: the layer that computes and those that "
    "are prefetched are unsharded; without resharding after the forward pass all of them are",
)
def unsharded_layers(
    *, layers: FloatArray, prefetch_layers: FloatArray, reshard_after_forward: FloatArray
) -> FloatArray:
    """Layers of a stage whose weights are whole at once [1]; raises nothing.

    Of ``layers`` [1] some are gathered ahead; ``reshard_after_forward`` is 0 where weights are kept in between.
    """
    some = np.minimum(1.0 + prefetch_layers, np.maximum(layers, 1.0))
    return np.where(reshard_after_forward > 0, some, layers)


def unsharded_bytes(inputs: Inputs, table: LayerTable, stage: StageKind, *, tied: bool) -> FloatArray:
    """What ZeRO-2 and 3 hold unsharded: some layers, or the larger embedding or head; or all of them [byte].

    Raises nothing.
    """
    plan, gradient = inputs.plan, inputs.precision.gradients
    weights, gradients = (plan.zero_stage >= 3) * 1.0, (plan.zero_stage >= 2) * gradient
    whole = unsharded_layers(
        layers=stage.layers,
        prefetch_layers=plan.prefetch_layers,
        reshard_after_forward=plan.reshard_after_forward,
    )
    # The two heaviest neighbours first; the others are as heavy as layers are on average.
    pair, further = np.minimum(whole, 2.0) / 2.0, np.maximum(whole - 2.0, 0.0)
    gathered = pair * table.layer_pair_weight_bytes + further * table.layer_weight_bytes
    layer = weights * gathered + gradients * table.layer_greatest_parameters
    embedding = weights * table.embedding_weight_bytes + gradients * table.embedding_parameters
    head = weights * table.head_matrix_weight_bytes + gradients * table.head_matrix_parameters
    largest = np.maximum(layer, np.maximum(stage.embedding * embedding, stage.head * head))
    if not np.all(plan.reshard_after_forward):
        every = stage_weight_bytes(table, stage.layers, first=stage.embedding, last=stage.head, tied=tied)
        kept = weights * every + gradients * table.layer_greatest_parameters
        largest = np.where(plan.reshard_after_forward > 0, largest, np.maximum(largest, kept))
    return np.where(np.maximum(plan.zero_group, plan.expert_copies * plan.experts_apart) > 1, largest, 0.0)

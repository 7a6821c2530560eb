"""Bytes per device by owner, at the stage that needs most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.composition.activations import micro_batches_in_flight
from simulator.composition.data_parallel import apart
from simulator.composition.layer_table import LayerTable
from simulator.composition.stage_kinds import StageKind, StageKinds
from simulator.pipelines.schedules import scheduled_in_flight
from simulator.rules import at, rule

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)

OWNERS = ("weights", "gradients", "optimizer", "activations", "kv_cache", "buffers", "reserved")
STAGES = ("first", "middle", "last")
# The layer that computes and the one that is prefetched are both unsharded (ZeRO-3, FSDP).
UNSHARDED_LAYERS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Owners' bytes at the heaviest stage, their sum, and which stage it is (index into :data:`STAGES`)."""

    owners: dict[str, FloatArray]
    peak_bytes: FloatArray
    heaviest_stage: FloatArray


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


@rule(
    symbol="A",
    formula="k l a + k e + r",
    unit="B",
    source="k micro-batches in flight keep a per layer and e at the ends; one layer is rebuilt at a time (r)",
)
def activation_bytes(
    *,
    in_flight: FloatArray,
    layers: FloatArray,
    per_layer_bytes: FloatArray,
    ends_bytes: FloatArray,
    rebuilt_bytes: FloatArray,
) -> FloatArray:
    """Activations of a stage in training [byte]; raises nothing."""
    return in_flight * (layers * per_layer_bytes + ends_bytes) + rebuilt_bytes


@rule(
    symbol="G",
    formula="f = 1: max(G - A, 0); f = 0: G",
    unit="B",
    source="PyTorch, torch.optim.Optimizer.zero_grad(set_to_none=True): the backward pass allocates gradients while it "
    "frees activations, so that a step peaks at its start or at its end",
)
def gradients_beside(
    *, gradients_bytes: FloatArray, activations_bytes: FloatArray, freed: FloatArray
) -> FloatArray:
    """Gradients that live beside the most activations [byte]; ``freed`` is 1 where none outlive a step. Broadcasts.

    Raises nothing.
    """
    return np.where(freed > 0, np.maximum(gradients_bytes - activations_bytes, 0.0), gradients_bytes)


@rule(
    symbol="C",
    formula="l b s 2 n_kv d w / t_kv",
    unit="B",
    source="keys and values of every cached token (Pope et al., arXiv:2211.05102, section 3.3)",
)
def kv_cache_bytes(
    *,
    layers: FloatArray,
    sequences: FloatArray,
    cached_tokens: FloatArray,
    kv_heads_per_rank: FloatArray,
    head_dim: FloatArray,
    bytes_per_element: FloatArray,
) -> FloatArray:
    """Key and value cache of a stage [byte]: counts [1], ``bytes_per_element`` [byte]; raises nothing."""
    return layers * sequences * cached_tokens * 2.0 * kv_heads_per_rank * head_dim * bytes_per_element


def _cache(inputs: Inputs, layers: FloatArray) -> FloatArray:
    model, plan, task = inputs.model, inputs.plan, inputs.task
    return kv_cache_bytes(
        layers=layers,
        sequences=task.batch / plan.data_parallel,
        cached_tokens=np.minimum(task.cached_length, model.window),
        kv_heads_per_rank=np.maximum(model.kv_heads / plan.tensor_parallel, 1.0),
        head_dim=model.head_dim,
        bytes_per_element=inputs.precision.kv_cache,
    )


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


def _unsharded_bytes(inputs: Inputs, table: LayerTable, stage: StageKind) -> FloatArray:
    """What ZeRO-2 and 3 hold unsharded for a moment: two layers, or the larger embedding or head [byte]."""
    plan, gradient = inputs.plan, inputs.precision.gradients
    weights, gradients = (plan.zero_stage >= 3) * 1.0, (plan.zero_stage >= 2) * gradient
    layer = UNSHARDED_LAYERS * weights * table.layer_weight_bytes + gradients * table.layer_parameters
    embedding = weights * table.embedding_weight_bytes + gradients * table.embedding_parameters
    head = weights * table.head_matrix_weight_bytes + gradients * table.head_matrix_parameters
    largest = np.maximum(layer, np.maximum(stage.embedding * embedding, stage.head * head))
    return np.where(np.maximum(plan.zero_group, plan.expert_copies * plan.experts_apart) > 1, largest, 0.0)


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


def _states(
    inputs: Inputs,
    table: LayerTable,
    stage: StageKind,
    parameters: FloatArray,
    weight_bytes: FloatArray,
    copies: FloatArray,
) -> dict[str, FloatArray]:
    """States of a stage; those of experts that fewer ranks hold alike are shared among fewer."""
    plan = inputs.plan
    dense, experts = apart(parameters, stage.layers * table.expert_parameters, inputs)
    dense_bytes, expert_bytes = apart(weight_bytes, stage.layers * table.expert_weight_bytes, inputs)
    held, held_bytes = np.broadcast_arrays(dense, dense_bytes)
    owners = _sharded_states(inputs, held, held_bytes, plan.zero_group, copies)
    if not np.any(experts):
        return owners
    held, held_bytes = np.broadcast_arrays(experts, expert_bytes)
    of_experts = _sharded_states(inputs, held, held_bytes, plan.expert_copies, copies)
    return {owner: size + of_experts[owner] for owner, size in owners.items()}


def _training(
    inputs: Inputs,
    table: LayerTable,
    stage: StageKind,
    parameters: FloatArray,
    weight_bytes: FloatArray,
    copies: FloatArray,
    micro_batches: FloatArray,
) -> dict[str, FloatArray]:
    plan = inputs.plan
    owners = _states(inputs, table, stage, parameters, weight_bytes, copies)
    with at("memory.activations_bytes"):
        in_flight = micro_batches_in_flight(
            stage=stage.position,
            pipeline_parallel=plan.pipeline_parallel,
            virtual_pipeline=plan.virtual_pipeline,
            micro_batches=micro_batches,
        )
        if np.any(plan.schedule > 0):
            scheduled = scheduled_in_flight(
                schedule=plan.schedule, stages=plan.pipeline_parallel, micro_batches=micro_batches
            )
            in_flight = np.where(plan.schedule > 0, scheduled, in_flight)
        if np.any(plan.overlap_expert_parallel):
            # Another micro-batch computes while rows pass.
            in_flight = np.minimum(in_flight + plan.overlap_expert_parallel, micro_batches)
        owners["activations"] = activation_bytes(
            in_flight=in_flight,
            layers=stage.layers,
            per_layer_bytes=table.layer_kept_bytes,
            ends_bytes=stage.embedding * table.embedding_kept_bytes,
            # The head runs forward and straight back: one micro-batch of logits, whatever is in flight.
            rebuilt_bytes=np.maximum(table.layer_rebuilt_bytes, stage.head * table.head_kept_bytes),
        )
    with at("memory.gradients_bytes"):
        owners["gradients"] = gradients_beside(
            gradients_bytes=owners["gradients"],
            activations_bytes=owners["activations"],
            freed=plan.free_gradients * (micro_batches == 1),
        )
    owners["kv_cache"] = ZERO
    owners["buffers"] = _unsharded_bytes(inputs, table, stage) + np.maximum(
        table.working_bytes, stage.head * table.head_working_bytes
    )
    return owners


def _inference(
    inputs: Inputs, table: LayerTable, stage: StageKind, parameters: FloatArray, weight_bytes: FloatArray
) -> dict[str, FloatArray]:
    with at("memory.weights_bytes"):
        weights = state_bytes(
            parameters=parameters,
            bytes_per_parameter=np.divide(
                weight_bytes, parameters, out=np.zeros_like(weight_bytes), where=parameters > 0
            ),
            shards=np.ones(1),
        )
    with at("memory.kv_cache_bytes"):
        cache = _cache(inputs, stage.layers)
    working = np.maximum(table.working_bytes, stage.head * table.head_working_bytes)
    return {
        "weights": weights,
        "gradients": ZERO,
        "optimizer": ZERO,
        "activations": ZERO,
        "kv_cache": cache,
        "buffers": working,
    }


def memory(
    inputs: Inputs,
    table: LayerTable,
    kinds: StageKinds,
    micro_batches: FloatArray,
    *,
    tied: bool,
    training: bool,
) -> Memory:
    """Bytes per device by owner at the heaviest stage.

    Parameters
    ----------
    inputs : Inputs
        Rows.
    table : LayerTable
        Gathered to the same rows.
    kinds : StageKinds
        Layers and ends by kind of stage [1].
    micro_batches : ndarray
        Micro-batches per replica [1].
    tied : bool
        Whether the head shares the embedding's matrix.
    training : bool
        Whether gradients, optimizer states and kept activations exist.

    Returns
    -------
    Memory
        Bytes; owners sum to the peak.

    Raises
    ------
    ValueError
        If shapes do not broadcast.
    """
    candidates, totals = [], []
    for stage in kinds:
        first, last = stage.embedding, stage.head
        held, stored = np.broadcast_arrays(
            stage_parameters(table, stage.layers, first=first, last=last, tied=tied),
            stage_weight_bytes(table, stage.layers, first=first, last=last, tied=tied),
        )
        owners = (
            _training(inputs, table, stage, held, stored, kinds.copies, micro_batches)
            if training
            else _inference(inputs, table, stage, held, stored)
        )
        owners["reserved"] = inputs.device.reserved_bytes
        candidates.append(owners)
        # A stage that does not exist needs nothing, so it is never the heaviest.
        present = (stage.layers > 0) | (first > 0) | (last > 0)
        totals.append(np.where(present, sum((owners[o] for o in OWNERS), ZERO), 0.0))
    best, heaviest, chosen = totals[0], np.zeros_like(totals[0]), candidates[0]
    for number in (1, 2):
        heavier = totals[number] > best
        best = np.where(heavier, totals[number], best)
        heaviest = np.where(heavier, float(number), heaviest)
        chosen = {o: np.where(heavier, candidates[number][o], chosen[o]) for o in OWNERS}
    return Memory(owners=chosen, peak_bytes=best, heaviest_stage=heaviest)

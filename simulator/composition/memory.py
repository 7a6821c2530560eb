"""Bytes per device by owner, at the stage that needs most."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.composition.activations import micro_batches_in_flight
from simulator.composition.host_update import owned_states
from simulator.composition.layer_table import LayerTable
from simulator.composition.memory_overheads import (
    bucket_copy_bytes,
    engine_bytes,
    fragmented,
    head_kept_bytes,
    head_working_bytes,
)
from simulator.composition.model_states import (
    stage_parameters,
    stage_states,
    stage_weight_bytes,
    state_bytes,
    unsharded_bytes,
)
from simulator.composition.offload import LAYERS_HERE, Movable, Stored, offloads, stored
from simulator.composition.stage_kinds import StageKind, StageKinds
from simulator.pipelines.schedules import scheduled_in_flight
from simulator.rules import at, rule
from workloads.attention import keys_in_cache
from workloads.layer_kinds import over_layers

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ZERO: FloatArray = np.zeros(1)

MODEL_STATES = ("weights", "gradients", "optimizer")
OWNERS = ("weights", "gradients", "optimizer", "activations", "kv_cache", "buffers", "reserved")
STAGES = ("first", "middle", "last")
MIDDLE = STAGES.index("middle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Owners' bytes at the heaviest stage, their sum, and which stage it is (index into :data:`STAGES`).

    ``heaviest_kind`` is its number among the kinds of stage, of which a plan by hand may have several middle ones.
    ``host_bytes`` and ``nvme_bytes`` are the most bytes that a device of any stage keeps there, ``fits`` is
    whether all tiers hold what they must.
    """

    owners: dict[str, FloatArray]
    peak_bytes: FloatArray
    heaviest_stage: FloatArray
    heaviest_kind: FloatArray
    host_bytes: FloatArray
    nvme_bytes: FloatArray
    fits: BoolArray


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


def _cache(inputs: Inputs, stage: StageKind) -> FloatArray:
    model, plan, task = inputs.model, inputs.plan, inputs.task
    layers = stage.layers + stage.embedding * model.first_dense
    return kv_cache_bytes(
        layers=layers,
        sequences=task.batch / plan.data_parallel,
        cached_tokens=over_layers(
            keys_in_cache(task.cached_length, model.window, model.chunk), task.cached_length, model
        ),
        kv_heads_per_rank=np.maximum(model.kv_heads / plan.tensor_parallel, 1.0),
        head_dim=model.head_dim,
        bytes_per_element=inputs.precision.kv_cache,
    )


def rebuilt_bytes(inputs: Inputs, table: LayerTable, stage: StageKind) -> tuple[FloatArray, FloatArray]:
    """What a layer that runs again makes, and what the head keeps [byte]: one of them lives at a time.

    The head runs forward and straight back: one micro-batch of logits, whatever is in flight. Raises nothing.
    """
    return table.layer_rebuilt_bytes, stage.head * head_kept_bytes(inputs, table.head_kept_bytes)


def working_bytes(inputs: Inputs, table: LayerTable, stage: StageKind) -> FloatArray:
    """Largest set of tensors that one operator of a stage works on [byte]; raises nothing."""
    return np.maximum(table.working_bytes, stage.head * head_working_bytes(inputs, table.head_working_bytes))


def in_flight(inputs: Inputs, stage: StageKind, micro_batches: FloatArray) -> FloatArray:
    """Micro-batches whose activations a stage keeps [1]; raises nothing."""
    plan = inputs.plan
    held = micro_batches_in_flight(
        stage=stage.position,
        pipeline_parallel=plan.pipeline_parallel,
        virtual_pipeline=plan.virtual_pipeline,
        micro_batches=micro_batches,
    )
    if np.any(plan.schedule > 0):
        scheduled = scheduled_in_flight(
            schedule=plan.schedule, stages=plan.pipeline_parallel, micro_batches=micro_batches
        )
        held = np.where(plan.schedule > 0, scheduled, held)
    if np.any(plan.overlap_expert_parallel):
        # Another micro-batch computes while rows pass.
        held = np.minimum(held + plan.overlap_expert_parallel, micro_batches)
    return held


def training_stage(
    inputs: Inputs,
    table: LayerTable,
    stage: StageKind,
    copies: FloatArray,
    micro_batches: FloatArray,
    *,
    tied: bool,
) -> Stored:
    """Bytes of one kind of stage by owner in training, without what the driver reserves [byte]; raises nothing."""
    plan = inputs.plan
    owners = stage_states(inputs, table, stage, copies, tied=tied)
    rebuilt = np.maximum(*rebuilt_bytes(inputs, table, stage))
    with at("memory.activations_bytes"):
        held = in_flight(inputs, stage, micro_batches)
        owners["activations"] = activation_bytes(
            in_flight=held,
            layers=stage.layers,
            per_layer_bytes=table.layer_kept_bytes,
            ends_bytes=stage.embedding * table.embedding_kept_bytes,
            rebuilt_bytes=rebuilt,
        )
    with at("memory.gradients_bytes"):
        owners["gradients"] = gradients_beside(
            gradients_bytes=owners["gradients"],
            activations_bytes=owners["activations"],
            freed=plan.free_gradients * (micro_batches == 1),
        )
    owners["kv_cache"] = ZERO
    with at("memory.buffers_bytes"):
        unsharded = unsharded_bytes(inputs, table, stage, tied=tied)
        owners["buffers"] = unsharded + working_bytes(inputs, table, stage)
        bucketed = not np.all(np.isnan(plan.gradient_bucket))
        if bucketed or np.any(plan.deepspeed):
            parameters = stage_parameters(
                table, stage.layers, first=stage.embedding, last=stage.head, tied=tied
            )
        if bucketed:
            owners["buffers"] = owners["buffers"] + bucket_copy_bytes(inputs, parameters)
        if np.any(plan.deepspeed):
            owners["buffers"] = owners["buffers"] + engine_bytes(inputs, parameters, held)
    kept = owners["activations"] - rebuilt
    found = _moved(inputs, table, stage, copies, owners, kept, tied=tied)
    with at("memory.buffers_bytes"):
        found.owners["buffers"] = found.owners["buffers"] + fragmented(
            held_bytes=sum(found.owners.values(), ZERO), fragmentation=plan.fragmentation
        )
    return found


def _moved(
    inputs: Inputs,
    table: LayerTable,
    stage: StageKind,
    copies: FloatArray,
    owners: dict[str, FloatArray],
    kept: FloatArray,
    *,
    tied: bool,
) -> Stored:
    """What stays on the device and what is offloaded; of activations only what is ``kept`` for the backward pass.

    A host that updates holds gradients for it.
    """
    if not offloads(inputs):
        return Stored(owners=owners, host=ZERO, nvme=ZERO)
    share = np.minimum(LAYERS_HERE / np.maximum(stage.layers, 1.0), 1.0)
    movable = {o: Movable(total=owners[o], staging=share * owners[o]) for o in MODEL_STATES}
    # States that the host updates do not pass through the device.
    states = movable["optimizer"]
    movable["optimizer"] = replace(states, staging=(1.0 - inputs.plan.update_on_host) * states.staging)
    movable["activations"] = Movable(
        total=kept, staging=np.minimum(LAYERS_HERE * table.layer_kept_bytes, kept)
    )
    found = stored(inputs, owners, movable)
    there = inputs.plan.update_on_host * (inputs.plan.offload["gradients"] == 0)
    if not np.any(there):
        return found
    owned = owned_states(inputs, table, stage, copies, tied=tied)
    return replace(found, host=found.host + there * owned["gradients"])


def _inference(inputs: Inputs, table: LayerTable, stage: StageKind, *, tied: bool) -> Stored:
    first, last = stage.embedding, stage.head
    parameters, weight_bytes = np.broadcast_arrays(
        stage_parameters(table, stage.layers, first=first, last=last, tied=tied),
        stage_weight_bytes(table, stage.layers, first=first, last=last, tied=tied),
    )
    with at("memory.weights_bytes"):
        weights = state_bytes(
            parameters=parameters,
            bytes_per_parameter=np.divide(
                weight_bytes, parameters, out=np.zeros_like(weight_bytes), where=parameters > 0
            ),
            shards=np.ones(1),
        )
    with at("memory.kv_cache_bytes"):
        cache = _cache(inputs, stage)
    working = np.maximum(table.working_bytes, stage.head * table.head_working_bytes)
    owners = {
        "weights": weights,
        "gradients": ZERO,
        "optimizer": ZERO,
        "activations": ZERO,
        "kv_cache": cache,
        "buffers": working,
    }
    return Stored(owners=owners, host=ZERO, nvme=ZERO)


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
    host = nvme = ZERO
    for stage in kinds:
        found = (
            training_stage(inputs, table, stage, kinds.copies, micro_batches, tied=tied)
            if training
            else _inference(inputs, table, stage, tied=tied)
        )
        owners = {**found.owners, "reserved": inputs.device.reserved_bytes}
        candidates.append(owners)
        # A stage that does not exist needs nothing, so it is never the heaviest.
        present = (stage.layers > 0) | (stage.embedding > 0) | (stage.head > 0)
        totals.append(np.where(present, sum((owners[o] for o in OWNERS), ZERO), 0.0))
        host, nvme = np.maximum(host, present * found.host), np.maximum(nvme, present * found.nvme)
    best, heaviest, chosen = totals[0], np.zeros_like(totals[0]), candidates[0]
    for number, (total, owners) in enumerate(zip(totals[1:], candidates[1:], strict=True), 1):
        heavier = total > best
        best = np.where(heavier, total, best)
        heaviest = np.where(heavier, float(number), heaviest)
        chosen = {o: np.where(heavier, owners[o], chosen[o]) for o in OWNERS}
    device = inputs.device
    fits = best <= device.memory_capacity_bytes
    for held, capacity in ((host, device.host_capacity_bytes), (nvme, device.nvme_capacity_bytes)):
        if np.any(held > 0):
            fits = fits & ~(held > capacity)
    return Memory(
        owners=chosen,
        peak_bytes=best,
        # Further kinds are middle stages.
        heaviest_stage=np.where(heaviest < len(STAGES), heaviest, float(MIDDLE)),
        heaviest_kind=heaviest,
        host_bytes=host,
        nvme_bytes=nvme,
        fits=fits,
    )

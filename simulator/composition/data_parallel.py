"""Exchanges between data-parallel replicas: inside the layers (ZeRO-2 and 3) and at the end of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.communication import collectives
from simulator.communication.exchanges import NO_EXCHANGE, Exchange, combined
from simulator.communication.placement import Group, place
from simulator.composition.layer_table import LayerTable
from simulator.rules import rule

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)


def _exchange(collective: str, message_bytes: FloatArray, group: Group, inputs: Inputs) -> Exchange:
    """A collective by the plan's algorithm."""
    return collectives.exchange(
        collective, message_bytes, group, inputs.fabric, inputs.plan.collective_algorithm
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """Ranks that hold the same parameters: all of them, those that share one sharded copy, and copies of a shard."""

    everyone: Group
    sharers: Group
    copies: Group


def replicas_of(ranks: FloatArray, stride: FloatArray, group: FloatArray, inputs: Inputs) -> Replicas:
    """Placement of ``ranks`` that are ``stride`` apart, ``group`` of which share a copy [1]; raises nothing."""
    devices, fabric = inputs.plan.devices, inputs.fabric
    everyone = place(ranks, stride, devices, fabric)
    if not np.any(group != ranks):
        one = np.ones(1)
        return Replicas(everyone=everyone, sharers=everyone, copies=place(one, one, devices, fabric))
    return Replicas(
        everyone=everyone,
        sharers=place(group, stride, devices, fabric),
        copies=place(ranks / group, stride * group, devices, fabric),
    )


def replica_group(inputs: Inputs) -> Replicas:
    """Placement of the ranks that hold the same parameters: replicas and context ranks, next to the tensor ranks."""
    plan = inputs.plan
    stride = np.where(
        plan.context_parallel > 1, np.minimum(plan.context_stride, plan.data_stride), plan.data_stride
    )
    return replicas_of(plan.gradient_ranks, stride, plan.zero_group, inputs)


def expert_group(inputs: Inputs) -> Replicas:
    """Placement of the ranks that hold the same part of the same experts: beyond the ranks that share experts."""
    plan = inputs.plan
    stride = plan.tensor_stride * plan.expert_tensor_parallel * plan.expert_parallel
    return replicas_of(plan.expert_copies, stride, plan.expert_copies, inputs)


def apart(total: FloatArray, experts: FloatArray, inputs: Inputs) -> tuple[FloatArray, FloatArray]:
    """What all gradient ranks hold alike of some total, and what only copies of experts do; raises nothing."""
    if not np.any(experts) or not np.any(inputs.plan.experts_apart):
        return total, ZERO
    alone = experts * inputs.plan.experts_apart
    return total - alone, alone


def _sum_of(one: Exchange, other: Exchange) -> Exchange:
    """Both, one after the other."""
    return combined(one, other, np.add)


def _reduced(message_bytes: FloatArray, group: Replicas, inputs: Inputs) -> Exchange:
    """Gradients to their shards, and sums of equal shards over the copies (hybrid sharding)."""
    scattered = _exchange("reduce_scatter", message_bytes, group.sharers, inputs)
    if not np.any(group.copies.ranks > 1):
        return scattered
    shard = message_bytes / group.sharers.ranks
    return _sum_of(scattered, _exchange("all_reduce", shard, group.copies, inputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class InLayer:
    """Per layer and micro-batch: gathering sharded parameters (ZeRO-3), scattering gradients (ZeRO-2, 3).

    ``again`` is the gathering for the backward pass; none where weights are kept from the forward pass.
    """

    gather: Exchange
    again: Exchange
    reduce: Exchange


def _switched(done: Exchange, switch: FloatArray) -> Exchange:
    return combined(done, done, lambda figure, _: figure * switch)


def in_layer(inputs: Inputs, parameters: FloatArray, group: Replicas) -> InLayer:
    """Exchanges of a unit with ``parameters`` per tensor-parallel rank [1]; zero below ZeRO-2; raises nothing."""
    stage = inputs.plan.zero_stage
    if not np.any(stage >= 2):
        return InLayer(gather=NO_EXCHANGE, again=NO_EXCHANGE, reduce=NO_EXCHANGE)
    gather = _exchange("all_gather", parameters * inputs.precision.weights, group.sharers, inputs)
    reduce = _reduced(parameters * inputs.precision.gradient_communication, group, inputs)
    gather = _switched(gather, (stage >= 3).astype(np.float64))
    return InLayer(
        gather=gather,
        again=_switched(gather, inputs.plan.reshard_after_forward),
        reduce=_switched(reduce, (stage >= 2).astype(np.float64)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOfStep:
    """Exchanges once per step: gradients (ZeRO-0: all-reduce; 1: reduce-scatter), new weights (ZeRO-1, 2).

    ``tied`` sums the gradients of an embedding matrix that the first and the last stage share, ``mirrored`` those of
    the two copies of a model that runs in both directions.
    """

    reduce: Exchange
    gather: Exchange
    tied: Exchange
    mirrored: Exchange


def _between_ends(inputs: Inputs, parameters: FloatArray) -> Exchange:
    """All-reduce of gradients that the first and the last stage share; none on one stage."""
    plan = inputs.plan
    ends = np.where(plan.pipeline_parallel > 1, 2.0, 1.0)
    stride = np.maximum(plan.pipeline_parallel - 1.0, 1.0) * plan.pipeline_stride
    pair = place(ends, stride, plan.devices, inputs.fabric)
    return _exchange("all_reduce", parameters * inputs.precision.gradient_communication, pair, inputs)


@rule(
    symbol="k",
    formula="max(N/B, 1)",
    unit="1",
    source="Li et al., PyTorch Distributed, VLDB 2020, doi:10.14778/3415478.3415530, section 4.1: gradients of B "
    "parameters are one message; the number is not rounded, so that more parameters are never faster",
)
def gradient_buckets(*, parameters: FloatArray, bucket_elements: FloatArray) -> FloatArray:
    """Messages in which gradients of ``parameters`` are exchanged, ``bucket_elements`` in each [1].

    Broadcasts; raises nothing.
    """
    return np.maximum(parameters / bucket_elements, 1.0)


def buckets_of(parameters: FloatArray, layers: FloatArray, inputs: Inputs) -> FloatArray:
    """Buckets of a stage [1]: of the plan's size, else one for each of its ``layers``; raises nothing."""
    given = inputs.plan.gradient_bucket
    if np.all(np.isnan(given)):
        return layers
    found = gradient_buckets(parameters=parameters, bucket_elements=given)
    return np.where(np.isnan(given), layers, found)


def _at_end(inputs: Inputs, parameters: FloatArray, group: Replicas) -> tuple[Exchange, Exchange]:
    """Exchanges of gradients and of new weights among ranks that hold the same parameters."""
    stage, one = inputs.plan.zero_stage, np.ones(1)
    # Without buckets of a size they are as fast as one message: what each costs to start is left out.
    count = buckets_of(parameters, one, inputs)
    of_bucket = parameters / count
    message = of_bucket * inputs.precision.gradient_communication
    whole = _exchange("all_reduce", message, group.everyone, inputs)
    scatter = _reduced(message, group, inputs)
    gather = _exchange("all_gather", of_bucket * inputs.precision.weights, group.sharers, inputs)
    plain, first = stage == 0, stage == 1
    reduce = combined(whole, scatter, lambda all_of_it, part: np.where(plain, all_of_it, part * first))
    gather = _switched(gather, ((stage == 1) | (stage == 2)).astype(np.float64))
    if count is one:
        return reduce, gather
    return _switched(reduce, count), _switched(gather, count)


def end_of_step(
    inputs: Inputs,
    parameters: FloatArray,
    experts: FloatArray,
    group: Replicas,
    *,
    tied_parameters: FloatArray,
    copies: FloatArray,
) -> EndOfStep:
    """Exchanges of a stage with ``parameters`` per tensor-parallel rank, and ``experts`` that fewer hold alike [1].

    ``tied_parameters`` are those that the first and the last stage share, zero where none are; of ``copies`` of the
    model each device has parameters [1]. Raises nothing.
    """
    reduce, gather = _at_end(inputs, parameters, group)
    if np.any(experts):
        own_reduce, own_gather = _at_end(inputs, experts, expert_group(inputs))
        reduce, gather = _sum_of(reduce, own_reduce), _sum_of(gather, own_gather)
    mirrored = NO_EXCHANGE
    if np.any(copies > 1):
        # Devices at mirrored places hold the same two stages; with shards each sums its own.
        held = (parameters + experts) / np.where(inputs.plan.zero_stage >= 1, group.sharers.ranks, 1.0)
        mirrored = _between_ends(inputs, held * (copies > 1))
    return EndOfStep(
        reduce=reduce, gather=gather, tied=_between_ends(inputs, tied_parameters), mirrored=mirrored
    )


@rule(
    symbol="Te",
    formula="(1 - o) T + o (e + c (T - e)), e = min(T, max(T + q - W (1 - 1/k), T/k + d))",
    unit="s",
    source="Li et al., PyTorch Distributed, VLDB 2020, doi:10.14778/3415478.3415530: buckets start as soon as "
    "their layers are done, the last one cannot be hidden",
)
def exposed_exchange(
    *,
    exchange_s: FloatArray,
    window_s: FloatArray,
    buckets: FloatArray,
    overlap: FloatArray,
    compute_share: FloatArray,
    queue_s: FloatArray = ZERO,
    wait_s: FloatArray = ZERO,
) -> FloatArray:
    """Part of a bucketed exchange that compute does not hide [s].

    ``exchange_s`` in ``buckets`` equal parts may run beside ``window_s`` of compute where ``overlap`` is 1;
    the first bucket is ready after 1/k of the window, the last at its end. While hidden it takes ``compute_share``
    of the compute units from the kernels beside it. Other exchanges in the window keep it from the wires for
    ``queue_s``, and it keeps them for ``wait_s`` [s]. Broadcasts; raises nothing.
    """
    share = 1.0 / np.maximum(buckets, 1.0)
    late = exchange_s + queue_s - window_s * (1.0 - share)
    waiting = np.minimum(np.maximum(late, exchange_s * share + wait_s), exchange_s)
    return np.where(overlap > 0, waiting + compute_share * (exchange_s - waiting), exchange_s)


UnitExchanges = tuple[InLayer, InLayer, InLayer]


def _of_layer(table: LayerTable, inputs: Inputs, group: Replicas) -> InLayer:
    """Exchanges of a layer: of what all gradient ranks hold alike, and then of its experts."""
    dense, experts = apart(table.layer_parameters, table.expert_parameters, inputs)
    shared = in_layer(inputs, dense, group)
    if not np.any(experts):
        return shared
    alone = in_layer(inputs, experts, expert_group(inputs))
    return InLayer(
        gather=_sum_of(shared.gather, alone.gather),
        again=_sum_of(shared.again, alone.again),
        reduce=_sum_of(shared.reduce, alone.reduce),
    )


def unit_exchanges(table: LayerTable, inputs: Inputs, group: Replicas, *, tied: bool) -> UnitExchanges:
    """In-layer exchanges of a layer, of the embedding and of the head.

    A head tied to the embedding on the same stage brings only its norm. Raises nothing.
    """
    single = inputs.plan.pipeline_parallel == 1
    own_matrix = np.where(single, 0.0, table.head_matrix_parameters) if tied else table.head_matrix_parameters
    return (
        _of_layer(table, inputs, group),
        in_layer(inputs, table.embedding_parameters, group),
        in_layer(inputs, table.head_norm_parameters + own_matrix, group),
    )

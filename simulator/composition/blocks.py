"""Blocks of a model on one device: embedding, one layer of each kind, head; each forward and backward, timed.

Everything here depends on few columns (sizes, tensor degree, micro-batch, precision, recompute, device), so
a sweep evaluates it once per distinct combination.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import DeviceColumns, Inputs, PlanColumns
from simulator.certainty.doubt import Doubt, exchange_doubt, kernel_doubt
from simulator.certainty.fitted_ranges import outside_fit
from simulator.composition.split_products import split_pairs
from simulator.composition.streams import Issue, issue_order, longest_path
from simulator.kernels.counting import OPERATOR_KINDS, Parameters, Work, count, parameters_of
from simulator.kernels.dispatch import dispatched_time
from simulator.kernels.models import KERNEL_MODELS
from simulator.per_device.context_parallel import ContextRanks
from simulator.per_device.expert_parallel import ExpertRanks, rows_over_mean
from simulator.per_device.layer_exchange import layer_exchange
from simulator.per_device.sharding import ShardDegrees, shard
from simulator.per_device.structure import Structure
from simulator.per_device.tensor_exchanges import TensorExchanges
from simulator.rules import at
from workloads.attention import AttentionShape
from workloads.backward_pass import backward
from workloads.decoder_graph import LayerSizes, layer_of_kind
from workloads.embedding_and_head import embedding, head
from workloads.operator_graph import Graph, Operator, operators
from workloads.quantise import with_quantise_passes
from workloads.rematerialisation import (
    KEPT_WORDS,
    MODULES,
    kept_tensors,
    modules_run_again,
    shares_run_again,
)

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ZERO: FloatArray = np.zeros(1)
ONE: FloatArray = np.ones(1)
ATTENTION = "attention"
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCost:
    """One operator of a block: its work, its time and what it adds to the block [s, J].

    All arrays are multiplied by the operator's ``scale``.
    """

    operator: Operator
    work: Work
    busy_s: FloatArray
    exposed_s: FloatArray
    inner_bytes: FloatArray
    across_bytes: tuple[FloatArray, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCost:
    """A block in one pass: operators in issue order and the block's time [s].

    ``variance_s2`` sums the squares of what each operator errs by on its own [s^2], ``shared_s`` what they err by
    together [s], both as standard deviations; ``extrapolated`` counts the kernels of sizes that nobody measured [1].
    ``weight_gradients_s`` is what operators that compute nothing but gradients of weights add to its time [s].
    """

    name: str
    operators: Sequence[OperatorCost]
    seconds: FloatArray
    weight_gradients_s: FloatArray
    variance_s2: FloatArray
    shared_s: FloatArray
    extrapolated: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """All blocks of a partition by name, layers by that of their kind; graphs are the sharded ones.

    ``backward`` is empty in inference. ``parameters`` has the output matrix as "head_matrix" too, ``experts`` what the
    experts of a layer hold of its parameters.
    """

    forward: dict[str, BlockCost]
    backward: dict[str, BlockCost]
    forward_operators: dict[str, list[Operator]]
    parameters: dict[str, Parameters]
    experts: dict[str, Parameters]


def _peak(device: DeviceColumns, operator: Operator) -> FloatArray:
    kind = OPERATOR_KINDS[operator.kind]
    if kind.peak == "vector":
        return device.vector_flop_per_s
    if kind.peak == "attention":
        return device.attention_flop_per_s
    sparse = operator.attributes.get("sparse")
    return device.matmul_flop_per_s * (device.sparse_speedup if sparse is not None else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """Seconds of one execution [s], bytes sent on each tier [byte], and how far off the time may be."""

    seconds: FloatArray
    inner_bytes: FloatArray
    across_bytes: tuple[FloatArray, ...]
    doubt: Doubt


def operator_time(operator: Operator, work: Work, inputs: Inputs, exchanges: TensorExchanges) -> OperatorTime:
    """Time of one execution of an operator.

    Raises KeyError if the device has no coefficients for the operator's kernel family.
    """
    family = OPERATOR_KINDS[operator.kind].family
    if family == "view":
        return OperatorTime(seconds=ZERO, inner_bytes=ZERO, across_bytes=(), doubt=(ZERO, ZERO))
    if family == "collective":
        done = (
            exchanges.of(operator.collective, work.message_bytes)
            if operator.axis == "tensor"
            else layer_exchange(operator, work.message_bytes, inputs)
        )
        return OperatorTime(
            seconds=done.seconds,
            inner_bytes=done.inner_bytes,
            across_bytes=done.across_bytes,
            doubt=exchange_doubt(work.message_bytes, done.leaves_node, inputs.device),
        )
    seconds = KERNEL_MODELS[family].seconds(operator, work, _peak(inputs.device, operator), inputs)
    if np.any(inputs.device.between_s):
        seconds = dispatched_time(kernel_s=seconds, between_s=inputs.device.between_s)
    return OperatorTime(
        seconds=seconds,
        inner_bytes=ZERO,
        across_bytes=(),
        doubt=kernel_doubt(operator, family, inputs.device),
    )


def _scaled(work: Work, scale: FloatArray) -> Work:
    return Work(
        flop=work.flop * scale,
        moved_bytes=work.moved_bytes * scale,
        message_bytes=work.message_bytes * scale,
        written_bytes=work.written_bytes * scale,
    )


# Exchanges that are cut with their products: where, what they add [s], and the units that they take [1].
InParts = Mapping[int, tuple[BoolArray, FloatArray, FloatArray]]


def _finished(
    issues: Sequence[Issue], durations: Sequence[FloatArray], inputs: Inputs, in_parts: InParts
) -> tuple[FloatArray, list[FloatArray]]:
    """Time of a block and what each operator adds to it, under the plan's overlap [s]."""
    return longest_path(
        issues,
        durations,
        inputs.plan.overlap_tensor_parallel,
        inputs.fabric.inner.compute_share,
        inputs.plan.overlap_expert_parallel,
        inputs.plan.overlap_shared_experts,
        in_parts,
    )


def _added_by_weight_gradients(
    issues: Sequence[Issue],
    busy: Sequence[FloatArray],
    total: FloatArray,
    inputs: Inputs,
    in_parts: InParts,
) -> FloatArray:
    """What gradients of weights add to a block [s]: exchanges that they hide are in the open without them."""
    late = [issue.operator.weight_gradient for issue in issues]
    if not any(late):
        return ZERO
    plan = inputs.plan
    hides = (plan.overlap_tensor_parallel, plan.overlap_expert_parallel, plan.overlap_shared_experts)
    if not (in_parts or any(np.any(hidden) for hidden in hides)):
        return sum((s for s, put_off in zip(busy, late, strict=True) if put_off), ZERO)
    rest = [np.zeros_like(s) if put_off else s for s, put_off in zip(busy, late, strict=True)]
    return np.maximum(total - _finished(issues, rest, inputs, in_parts)[0], 0.0)


def cost_block(
    name: str, graph: Graph, inputs: Inputs, exchanges: TensorExchanges | None = None
) -> BlockCost:
    """Count, rate and compose one sharded block.

    Parameters
    ----------
    name : str
        Block and pass, e.g. "layer.forward"; rules are recorded under ``operators.<block>.<operator>``.
    graph : networkx.DiGraph
        Sharded, in issue order.
    inputs : Inputs
        Columns that broadcast against the graph's sizes.
    exchanges : TensorExchanges, optional
        Collectives that other blocks of the same rows share.

    Returns
    -------
    BlockCost
        Times [s]; the operators' exposed times sum to the block's.

    Raises
    ------
    NotImplementedError
        If an operator kind has no counting rule.
    """
    exchanges = exchanges or TensorExchanges(inputs)
    issues = issue_order(graph)
    counted: list[Work] = []
    times: list[OperatorTime] = []
    prefix = name.split(".")[0]
    for op in (issue.operator for issue in issues):
        with at(f"operators.{prefix}.{op.name}"):
            work = count(op, inputs.precision)
            times.append(operator_time(op, work, inputs, exchanges))
        counted.append(_scaled(work, op.scale))
    busy = [t.seconds * issue.operator.scale for t, issue in zip(times, issues, strict=True)]

    def kernel_s(op: Operator) -> FloatArray:
        return operator_time(op, count(op, inputs.precision), inputs, exchanges).seconds * op.scale

    pairs = split_pairs(issues, busy, inputs, exchanges, kernel_s)
    for i, pair in pairs.items():
        busy[i] = np.where(pair.chosen, pair.exchange_s, busy[i])
        busy[pair.product] = np.where(pair.chosen, pair.product_s, busy[pair.product])
    shown_pairs = {i: (pair.chosen, pair.exposed_s, pair.compute_share) for i, pair in pairs.items()}
    total, exposed = _finished(issues, busy, inputs, shown_pairs)
    costs = [
        OperatorCost(
            operator=issue.operator,
            work=work,
            busy_s=seconds,
            exposed_s=shown,
            inner_bytes=t.inner_bytes * issue.operator.scale,
            across_bytes=tuple(sent * issue.operator.scale for sent in t.across_bytes),
        )
        for issue, work, t, seconds, shown in zip(issues, counted, times, busy, exposed, strict=True)
    ]
    doubted = widest_last([(c, t.doubt) for c, t in zip(costs, times, strict=True)], lambda pair: pair[0])
    return BlockCost(
        name=name,
        operators=costs,
        seconds=total,
        weight_gradients_s=_added_by_weight_gradients(issues, busy, total, inputs, shown_pairs),
        variance_s2=sum(((c.exposed_s * own) ** 2 for c, (own, _) in doubted), ZERO),
        shared_s=sum((c.exposed_s * shared for c, (_, shared) in doubted), ZERO),
        extrapolated=sum(
            (
                outside_fit(c.operator, OPERATOR_KINDS[c.operator.kind].family, inputs.device)
                for c, _ in doubted
            ),
            ZERO,
        ),
    )


def widest_last(items: Sequence[Item], cost_of: Callable[[Item], OperatorCost]) -> list[Item]:
    """Items in an order in which a sum over them is cheap: what attends to a context depends on it, all else does not.

    The order is that of the operators otherwise, the same for one plan and for many. Raises nothing.
    """
    return sorted(items, key=lambda item: ATTENTION in cost_of(item).operator.kind)


def layer_sizes(inputs: Inputs) -> LayerSizes:
    """Sizes of one micro-batch on one replica, from the columns."""
    model, task = inputs.model, inputs.task
    return LayerSizes(
        hidden=model.hidden,
        ffn=model.ffn,
        experts=model.experts,
        topk=model.topk,
        moe_ffn=model.moe_ffn,
        shared_ffn=model.shared_ffn,
        query_rank=model.query_rank,
        kv_rank=model.kv_rank,
        rope_dim=model.rope_dim,
        value_dim=model.value_dim,
        vocab=model.vocab,
        positions=model.positions,
        token_types=model.token_types,
        attention=AttentionShape(
            batch=inputs.plan.micro_batch_size,
            query_length=task.query_length,
            kv_length=task.kv_length,
            heads=model.heads,
            kv_heads=model.kv_heads,
            head_dim=model.head_dim,
            window=model.window,
            chunk=model.chunk,
        ),
    )


def _expert_ranks(inputs: Inputs, *, training: bool) -> ExpertRanks:
    """How experts are split: with sequence parallelism each tensor rank routes its own tokens, if rows leave it."""
    plan = inputs.plan
    shards = plan.sequence_parallel * plan.experts_apart * (plan.tensor_parallel > 1)
    with at("operators.layer.experts_dispatch"):
        fullest = rows_over_mean(
            expert_imbalance=plan.expert_imbalance,
            expert_capacity=plan.expert_capacity,
            expert_padding=plan.expert_padding,
        )
    return ExpertRanks(
        ranks=plan.expert_parallel,
        parts=plan.expert_tensor_parallel,
        imbalance=fullest,
        takes_shards=shards,
        gathers_rows=shards * (plan.expert_tensor_parallel > 1),
        sorts=training * (plan.expert_parallel > 1) * (inputs.model.experts > plan.expert_parallel) * ONE,
    )


def kept_by_name(structure: Structure, inputs: Inputs) -> dict[str, FloatArray]:
    """Share of each tensor of a layer that the plan keeps by name [1]; raises nothing."""
    kept = inputs.plan.recompute_kept * inputs.plan.recompute_needed
    words = {word: np.mod(np.floor(kept / 2.0**i), 2.0) for i, word in enumerate(KEPT_WORDS)}
    return kept_tensors(words, joined=structure.layer.gated_mlp and not structure.layer.eager)


def chosen_modules(plan: PlanColumns) -> dict[str, FloatArray]:
    """Share of the layers in which a module runs again because the plan names it [1], by word; raises nothing."""
    named = plan.recompute_named * plan.recompute_share
    found = {w: named * np.mod(np.floor(plan.recompute_modules / 2.0**i), 2.0) for i, w in enumerate(MODULES)}
    # Selective recomputation is that of the attention core.
    found["core_attn"] = plan.recompute_core - plan.recompute_all
    return {word: share for word, share in found.items() if np.any(share)}


def _shares_again(structure: Structure, inputs: Inputs, forward: Sequence[Operator]) -> dict[str, FloatArray]:
    """Share of each operator that runs again [1]."""
    plan = inputs.plan
    again = modules_run_again(forward, chosen_modules(plan))
    if not np.any(plan.recompute_all):
        return again
    if not np.any(plan.recompute_needed):
        return {name: plan.recompute_all + share for name, share in again.items()}
    needed = shares_run_again(forward, kept_by_name(structure, inputs))
    return {
        name: plan.recompute_all * np.where(plan.recompute_needed > 0, needed[name], 1.0) + share
        for name, share in again.items()
    }


def cost_blocks(structure: Structure, inputs: Inputs) -> Blocks:
    """Cost every block of a partition.

    Parameters
    ----------
    structure : Structure
        The partition's key.
    inputs : Inputs
        Its (distinct) rows.

    Returns
    -------
    Blocks
        Times [s], work and parameters per tensor-parallel rank [1].

    Raises
    ------
    NotImplementedError
        If an operator kind has no counting or backward rule.
    """
    sizes, plan, exchanges = layer_sizes(inputs), inputs.plan, TensorExchanges(inputs)
    training = structure.layer.computation == "training"
    degrees = ShardDegrees(
        tensor=plan.tensor_parallel,
        kv_heads=inputs.model.kv_heads,
        sequence=plan.sequence_parallel,
        experts=_expert_ranks(inputs, training=training) if structure.layer.experts else None,
        context=ContextRanks(
            ranks=plan.context_parallel,
            ring=plan.ring,
            gathered=plan.gathered,
            ulysses=plan.ulysses,
            zigzag=plan.zigzag,
        ),
    )
    layers = {kind.name: layer_of_kind(structure.layer, sizes, kind) for kind in structure.layer.kinds}
    for rewrite in structure.rewrites:
        layers = {name: rewrite(layer) for name, layer in layers.items()}
    whole = {
        "embedding": embedding(structure.layer, sizes),
        **layers,
        "head": head(structure.layer, sizes),
    }

    def finished(graph: Graph) -> Graph:
        sharded = shard(graph, degrees)
        if not structure.quantised:
            return sharded
        return with_quantise_passes(sharded, inputs.precision.quantised, grouped=training)

    sharded = {name: finished(graph) for name, graph in whole.items()}
    done = Blocks(
        forward={n: cost_block(f"{n}.forward", g, inputs, exchanges) for n, g in sharded.items()},
        backward={},
        forward_operators={n: operators(g) for n, g in sharded.items()},
        parameters={
            **{n: parameters_of(operators(g), inputs.precision) for n, g in sharded.items()},
            "head_matrix": parameters_of(operators(sharded["head"]), inputs.precision, named="head_weight"),
        },
        experts={
            n: parameters_of(operators(sharded[n]), inputs.precision, labelled="experts") for n in layers
        },
    )
    if training:
        # Eager code hands the first micro-batch's gradients over; frameworks that fuse have a buffer for them.
        several = inputs.task.batch > plan.data_parallel * plan.micro_batch_size
        accumulates = several.astype(np.float64) if structure.layer.eager else ONE
        for name, graph in whole.items():
            again = _shares_again(structure, inputs, operators(graph)) if name in layers else None
            turned = finished(backward(graph, run_again=again, accumulates=accumulates))
            done.backward[name] = cost_block(f"{name}.backward", turned, inputs, exchanges)
    return done

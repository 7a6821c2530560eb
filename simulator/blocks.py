"""Blocks of a model on one device: embedding, one layer, head; each forward and backward, timed.

Everything here depends on few columns (sizes, tensor degree, micro-batch, precision, recompute, device), so
a sweep evaluates it once per distinct combination.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.collectives import exchange
from simulator.columns import DeviceColumns, Inputs
from simulator.counting import OPERATOR_KINDS, Parameters, Work, count, parameters_of
from simulator.kernels.models import KERNEL_MODELS
from simulator.placement import place
from simulator.rules import at
from simulator.sharding import ShardDegrees, shard
from simulator.streams import issue_order, longest_path
from workloads.attention import AttentionShape
from workloads.backward_pass import backward
from workloads.compression import GraphRewrite
from workloads.decoder_graph import LayerSizes, LayerStructure, decoder_layer
from workloads.embedding_and_head import embedding, head
from workloads.operator_graph import Graph, Operator, operators
from workloads.quantise import with_quantise_passes

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)
ONE: FloatArray = np.ones(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The key by which rows are partitioned: what decides which operators there are.

    Attributes
    ----------
    layer : LayerStructure
        Operators of a layer.
    quantised : bool
        Whether any row needs quantise passes.
    rewrites : tuple of callable
        Compression rewrites of the layer graph.
    """

    layer: LayerStructure
    quantised: bool = False
    rewrites: tuple[GraphRewrite, ...] = ()


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
    outer_bytes: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCost:
    """A block in one pass: operators in issue order and the block's time [s]."""

    name: str
    operators: Sequence[OperatorCost]
    seconds: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """All blocks of a partition; the backward ones are None in inference. Graphs are the sharded ones."""

    forward: dict[str, BlockCost]
    backward: dict[str, BlockCost]
    forward_operators: dict[str, list[Operator]]
    parameters: dict[str, Parameters]


def _peak(device: DeviceColumns, operator: Operator) -> FloatArray:
    kind = OPERATOR_KINDS[operator.kind]
    if kind.peak == "vector":
        return device.vector_flop_per_s
    if kind.peak == "attention":
        return device.attention_flop_per_s
    sparse = operator.attributes.get("sparse")
    return device.matmul_flop_per_s * (device.sparse_speedup if sparse is not None else 1.0)


def operator_seconds(
    operator: Operator, work: Work, inputs: Inputs
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Seconds of one execution and the bytes that it sends on the inner and outer tier [s, byte, byte].

    Raises KeyError if the device has no coefficients for the operator's kernel family.
    """
    family = OPERATOR_KINDS[operator.kind].family
    if family == "view":
        return ZERO, ZERO, ZERO
    if family == "collective":
        group = place(
            inputs.plan.tensor_parallel, inputs.plan.tensor_stride, inputs.plan.devices, inputs.fabric
        )
        done = exchange(
            operator.collective, work.message_bytes, group, inputs.fabric, inputs.plan.collective_algorithm
        )
        return done.seconds, done.inner_bytes, done.outer_bytes
    seconds = KERNEL_MODELS[family].seconds(operator, work, _peak(inputs.device, operator), inputs)
    return seconds, ZERO, ZERO


def _scaled(work: Work, scale: FloatArray) -> Work:
    return Work(
        flop=work.flop * scale, moved_bytes=work.moved_bytes * scale, message_bytes=work.message_bytes * scale
    )


def cost_block(name: str, graph: Graph, inputs: Inputs) -> BlockCost:
    """Count, rate and compose one sharded block.

    Parameters
    ----------
    name : str
        Block and pass, e.g. "layer.forward"; rules are recorded under ``operators.<block>.<operator>``.
    graph : networkx.DiGraph
        Sharded, in issue order.
    inputs : Inputs
        Columns that broadcast against the graph's sizes.

    Returns
    -------
    BlockCost
        Times [s]; the operators' exposed times sum to the block's.

    Raises
    ------
    NotImplementedError
        If an operator kind has no counting rule.
    """
    issues = issue_order(graph)
    costs: list[tuple[Operator, Work, FloatArray, FloatArray, FloatArray]] = []
    prefix = name.split(".")[0]
    for issue in issues:
        op = issue.operator
        with at(f"operators.{prefix}.{op.name}"):
            work = count(op, inputs.precision)
            seconds, inner, outer = operator_seconds(op, work, inputs)
        costs.append((op, _scaled(work, op.scale), seconds * op.scale, inner * op.scale, outer * op.scale))
    total, exposed = longest_path(
        issues, [c[2] for c in costs], inputs.plan.overlap_tensor_parallel, inputs.fabric.inner.compute_share
    )
    return BlockCost(
        name=name,
        operators=[
            OperatorCost(
                operator=op, work=work, busy_s=busy, exposed_s=shown, inner_bytes=inner, outer_bytes=outer
            )
            for (op, work, busy, inner, outer), shown in zip(costs, exposed, strict=True)
        ],
        seconds=total,
    )


def layer_sizes(inputs: Inputs) -> LayerSizes:
    """Sizes of one micro-batch on one replica, from the columns."""
    model, task = inputs.model, inputs.task
    return LayerSizes(
        hidden=model.hidden,
        ffn=model.ffn,
        vocab=model.vocab,
        positions=model.positions,
        attention=AttentionShape(
            batch=inputs.plan.micro_batch_size,
            query_length=task.query_length,
            kv_length=task.kv_length,
            heads=model.heads,
            kv_heads=model.kv_heads,
            head_dim=model.head_dim,
            window=model.window,
        ),
    )


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
    sizes, plan = layer_sizes(inputs), inputs.plan
    degrees = ShardDegrees(
        tensor=plan.tensor_parallel, kv_heads=inputs.model.kv_heads, sequence=plan.sequence_parallel
    )
    layer = decoder_layer(structure.layer, sizes)
    for rewrite in structure.rewrites:
        layer = rewrite(layer)
    whole = {
        "embedding": embedding(structure.layer, sizes),
        "layer": layer,
        "head": head(structure.layer, sizes),
    }

    def finished(graph: Graph) -> Graph:
        sharded = shard(graph, degrees)
        return with_quantise_passes(sharded, inputs.precision.quantised) if structure.quantised else sharded

    sharded = {name: finished(graph) for name, graph in whole.items()}
    done = Blocks(
        forward={n: cost_block(f"{n}.forward", g, inputs) for n, g in sharded.items()},
        backward={},
        forward_operators={n: operators(g) for n, g in sharded.items()},
        parameters={
            **{n: parameters_of(operators(g), inputs.precision) for n, g in sharded.items()},
            "head_matrix": parameters_of(operators(sharded["head"]), inputs.precision, named="head_weight"),
        },
    )
    if structure.layer.computation == "training":
        for name, graph in whole.items():
            again = (plan.recompute_core, plan.recompute_all) if name == "layer" else (None, None)
            turned = finished(backward(graph, recompute_core=again[0], recompute_all=again[1]))
            done.backward[name] = cost_block(f"{name}.backward", turned, inputs)
    return done

"""The per-operator table of one scenario: totals over a step on one device of the slowest stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.blocks import BlockCost, OperatorCost
from simulator.columns import Inputs
from simulator.counting import OPERATOR_KINDS
from simulator.data_parallel import replica_group, unit_exchanges
from simulator.evaluate import Detail

FloatArray = NDArray[np.float64]
Row = dict[str, Any]
ZERO: FloatArray = np.zeros(1)
ONE: FloatArray = np.ones(1)


def _one(value: FloatArray) -> float:
    return float(np.asarray(value).reshape(-1)[0])


def _bound(cost: OperatorCost, inputs: Inputs) -> str:
    """Which term is the longest: computing, moving bytes, the fixed cost, or the network."""
    kind = OPERATOR_KINDS[cost.operator.kind]
    if kind.family == "collective":
        return "network"
    if kind.family == "view" or _one(cost.busy_s) == 0:
        return "none"
    fit, device = inputs.device.kernels[kind.family], inputs.device
    peak = {"matmul": device.matmul_flop_per_s, "attention": device.attention_flop_per_s}.get(
        kind.peak, device.vector_flop_per_s
    )
    terms = {
        "compute": _one(cost.work.flop) / _one(peak * fit.get("compute_efficiency", ONE)),
        "memory": _one(cost.work.moved_bytes)
        / _one(device.memory_bandwidth_bytes_per_s * fit.get("memory_efficiency", ONE)),
        "latency": _one(fit.get("fixed_s", ZERO) * cost.operator.scale),
    }
    return max(terms, key=lambda name: terms[name])


def _picked(cost: OperatorCost, node: int) -> tuple[float, ...]:
    """FLOP, bytes, message bytes, busy and exposed seconds of one node of the decode quadrature."""
    values = (cost.work.flop, cost.work.moved_bytes, cost.work.message_bytes, cost.busy_s, cost.exposed_s)
    return tuple(float(v[node] if v.shape[0] > 1 else v[0]) for v in values)


def _block_rows(
    block: BlockCost,
    prefix: str,
    weights: FloatArray,
    inputs: Inputs,
    dtypes: dict[str, str],
    evidence: dict[str, str],
) -> Iterator[Row]:
    for cost in block.operators:
        numbers = np.zeros(5)
        for node in range(weights.shape[0]):
            numbers += np.array(_picked(cost, node)) * weights[node]
        if not numbers.any():
            continue
        op = cost.operator
        kind = OPERATOR_KINDS[op.kind]
        communication = kind.family == "collective"
        yield {
            "name": f"{prefix}.{op.name}",
            "module": op.module,
            "phase": "communication" if communication else op.phase,
            "kind": op.collective or op.kind,
            "stream": f"{op.axis}_parallel" if communication else "compute",
            "count": float(weights.sum()),
            "flop": numbers[0],
            "bytes": numbers[1],
            "message_bytes": numbers[2],
            "busy_s": numbers[3],
            "exposed_s": numbers[4],
            "bound": _bound(cost, inputs),
            "dtype": dtypes.get(kind.peak, "fp32"),
            "evidence": evidence.get(kind.family, "datasheet"),
        }


def _plain_row(
    name: str, module: str, phase: str, kind: str, stream: str, count: float, busy: float, exposed: float
) -> Row:
    return {
        "name": name,
        "module": module,
        "phase": phase,
        "kind": kind,
        "stream": stream,
        "count": count,
        "flop": 0.0,
        "bytes": 0.0,
        "message_bytes": 0.0,
        "busy_s": busy,
        "exposed_s": exposed,
        "bound": "network" if phase == "communication" else "none",
        "dtype": "",
        "evidence": "",
    }


def _slowest(detail: Detail, inputs: Inputs) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Layers, and 0/1 for embedding and head, of the slowest stage, by node of the decode quadrature."""
    stage, layers = detail.step.stages.slowest(), detail.step.layers
    single = inputs.plan.pipeline_parallel == 1
    n = np.where(stage == 0, layers.first, np.where(stage == 1, layers.middle, layers.last))
    last = (stage == 2) | ((stage == 0) & single)
    return n, (stage == 0).astype(np.float64), last.astype(np.float64)


def _data_rows(detail: Detail, inputs: Inputs, micro_batches: float, n_layers: float) -> Iterator[Row]:
    """Data-parallel exchanges: inside the layers, and at the end of the step."""
    step = detail.step
    in_layers = micro_batches * _one(step.stages.at_slowest(step.stages.data_s))
    if in_layers > 0:
        layer, embedding, head = unit_exchanges(detail.table, inputs, replica_group(inputs), tied=detail.tied)
        # A layer's weights are gathered for each pass; those of the ends serve both.
        gathers = (2.0 if detail.blocks.backward else 1.0, 1.0, 1.0)
        units = zip((layer, embedding, head), gathers, strict=True)
        once = [unit.gather.seconds * times + unit.reduce.seconds for unit, times in units]
        busy = micro_batches * (_one(once[0]) * n_layers + _one(once[1]) + _one(once[2]))
        yield _plain_row(
            "parameters.exchange",
            "parameters",
            "communication",
            "all_gather",
            "data_parallel",
            micro_batches * n_layers,
            max(busy, in_layers),
            in_layers,
        )
    if step.end is None:
        return
    sharded = _one(inputs.plan.zero_stage) >= 1
    reduce_busy = _one(step.end.reduce.seconds + step.end.tied.seconds)
    closing = (
        ("gradients.exchange", "reduce_scatter" if sharded else "all_reduce", reduce_busy, step.end_reduce_s),
        ("weights.exchange", "all_gather", _one(step.end.gather.seconds), step.end_gather_s),
    )
    for name, collective, busy, exposed in closing:
        if busy > 0:
            yield _plain_row(
                name, "parameters", "communication", collective, "data_parallel", 1.0, busy, _one(exposed)
            )


def detail_rows(
    detail: Detail, inputs: Inputs, *, prefix: str, dtypes: dict[str, str], evidence: dict[str, str]
) -> list[Row]:
    """Rows of one pass.

    Parameters
    ----------
    detail : Detail
        An evaluated pass of a single scenario.
    inputs : Inputs
        Its columns, length one.
    prefix : str
        Put in front of names ("decode." in generation).
    dtypes, evidence : mapping
        Compute type by peak class, evidence class by kernel family.

    Returns
    -------
    list of dict
        ``exposed_s`` sums to the pass's share of the step [s].

    Raises
    ------
    KeyError
        If an operator kind is unknown.
    """
    n_layers, first, last = _slowest(detail, inputs)
    step, weights = detail.step, detail.weight[:, 0]
    micro = step.micro_batches
    per_node = np.broadcast_to(micro, weights.shape) * weights
    rows: list[Row] = []
    shares = {"embedding": first, "layer": n_layers, "head": last}
    for blocks in (detail.blocks.forward, detail.blocks.backward):
        for name, block in blocks.items():
            if np.any(shares[name] > 0):
                rows += _block_rows(
                    block, f"{prefix}{name}", per_node * shares[name], inputs, dtypes, evidence
                )
    if step.optimizer is not None:
        rows += _block_rows(step.optimizer, f"{prefix}optimizer", weights, inputs, dtypes, evidence)
    total_weight = float(weights.sum())
    if total_weight > 0:
        rows += _data_rows(detail, inputs, _one(micro), _one(n_layers))
        for name, kind, seconds in (
            ("pipeline.p2p", "send", step.pipeline_p2p_s),
            ("pipeline.bubble", "bubble", step.bubble_s),
        ):
            amount = float(np.sum(np.broadcast_to(seconds, weights.shape) * weights))
            if amount > 0:
                phase = "bubble" if kind == "bubble" else "communication"
                rows.append(
                    _plain_row(
                        f"{prefix}{name}", "pipeline", phase, kind, "pipeline", total_weight, amount, amount
                    )
                )
    return rows

"""The per-operator table of one scenario: totals over a step on one device of the slowest stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs, first_value
from simulator.certainty.evidence import FamilyEvidence
from simulator.composition.blocks import BlockCost, OperatorCost
from simulator.composition.data_parallel import replica_group, unit_exchanges
from simulator.composition.evaluate import Detail
from simulator.composition.kind_columns import layers_of_stage
from simulator.kernels.counting import OPERATOR_KINDS
from simulator.kernels.models import KERNEL_MODELS
from simulator.kernels.size_classes import size_class
from workloads.layer_kinds import KINDS
from workloads.operator_graph import Operator

FloatArray = NDArray[np.float64]
Row = dict[str, Any]
ZERO: FloatArray = np.zeros(1)
ONE: FloatArray = np.ones(1)


def _bound(cost: OperatorCost, inputs: Inputs) -> str:
    """Which term is the longest: computing, moving bytes, the fixed cost, or the network."""
    kind = OPERATOR_KINDS[cost.operator.kind]
    if kind.family == "collective":
        return "network"
    if kind.family == "view" or first_value(cost.busy_s) == 0:
        return "none"
    fit, device = inputs.device.kernels[kind.family], inputs.device
    peak = {"matmul": device.matmul_flop_per_s, "attention": device.attention_flop_per_s}.get(
        kind.peak, device.vector_flop_per_s
    )
    terms = {
        "compute": first_value(cost.work.flop) / first_value(peak * fit.get("compute_efficiency", ONE)),
        "memory": first_value(cost.work.moved_bytes)
        / first_value(
            device.memory_bandwidth_bytes_per_s
            * fit.get("memory_efficiency", fit.get("read_efficiency", ONE))
        ),
        "latency": first_value((fit.get("fixed_s", ZERO) + device.between_s) * cost.operator.scale),
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
    dtypes: Mapping[str, str],
    evidence: Mapping[str, FamilyEvidence],
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
            **_doubt(op, kind.family, evidence.get(kind.family)),
        }


def _doubt(operator: Operator, family: str, evidence: FamilyEvidence | None) -> Row:
    """Evidence class of an operator's coefficients, half-width of its time, and sizes beyond the fitted ones."""
    if evidence is None:
        return {"evidence": "datasheet", "spread": None, "common": None, "beyond": ""}
    sizes = KERNEL_MODELS[family].sizes(operator) if family in KERNEL_MODELS else {}
    return {
        "evidence": evidence.label,
        "spread": evidence.half_width(size_class(family, sizes)),
        "common": evidence.common,
        "beyond": ", ".join(evidence.beyond(sizes)),
    }


def _plain_row(
    name: str,
    module: str,
    phase: str,
    kind: str,
    stream: str,
    count: float,
    busy: float,
    exposed: float,
    evidence: FamilyEvidence | None,
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
        "evidence": "" if evidence is None else evidence.label,
        "spread": None if evidence is None else evidence.half_width("all"),
        "common": None if evidence is None else evidence.common,
        "beyond": "",
    }


def _slowest(detail: Detail) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Layers, and shares of embedding and head, of the slowest stage, by node of the decode quadrature."""
    stages, kinds = detail.step.stages, detail.step.kinds
    n, first, last = (stages.at_slowest(kinds.by_stage(name)) for name in ("layers", "embedding", "head"))
    return n, first, last


def _orthogonal_rows(
    detail: Detail, inputs: Inputs, prefix: str, dtypes: Mapping[str, str], evidence: FamilyEvidence | None
) -> Iterator[Row]:
    """Products by which Muon orthogonalises updates, as one row."""
    done = detail.step.orthogonal
    if done is None:
        return
    seconds, flop, moved = (first_value(v) for v in (done.seconds, done.flop, done.moved_bytes))
    device = inputs.device
    streaming = moved / first_value(device.memory_bandwidth_bytes_per_s)
    row = _plain_row(
        f"{prefix}optimizer.newton_schulz",
        "optimizer",
        "optimizer",
        "matmul",
        "compute",
        1.0,
        seconds,
        seconds,
        evidence,
    )
    bound = "compute" if flop / first_value(device.attention_flop_per_s) > streaming else "memory"
    yield {**row, "flop": flop, "bytes": moved, "bound": bound, "dtype": dtypes.get("attention", "")}


def _row_on_host(row: Row, inputs: Inputs) -> Row:
    """A row of the update as the host's processors run it, by data-sheet figures."""
    device = inputs.device
    computing = row["flop"] / first_value(device.host_vector_flop_per_s)
    bound = "compute" if computing > row["bytes"] / first_value(device.host_memory_bytes_per_s) else "memory"
    known = {"evidence": "datasheet", "spread": None, "common": None, "beyond": ""}
    return {**row, **known, "stream": "host", "bound": bound, "dtype": "fp32"}


def _copy_rows(detail: Detail, prefix: str) -> Iterator[Row]:
    """Copies to and from a host or drives, hidden or not."""
    weights, copies = detail.weight[:, 0], detail.step.copies
    exposed, busy, moved = (
        float(np.sum(np.broadcast_to(values, weights.shape) * weights))
        for values in (detail.step.offload_s, copies.busy_s, copies.moved_bytes)
    )
    if busy > 0:
        name, count = f"{prefix}offload.copies", float(weights.sum())
        row = _plain_row(name, "parameters", "communication", "copy", "offload", count, busy, exposed, None)
        yield {**row, "message_bytes": moved}


def _data_rows(
    detail: Detail,
    inputs: Inputs,
    micro_batches: float,
    n_layers: float,
    evidence: FamilyEvidence | None,
) -> Iterator[Row]:
    """Data-parallel exchanges: inside the layers, and at the end of the step."""
    step = detail.step
    in_layers = micro_batches * first_value(step.stages.at_slowest(step.stages.data_s))
    if in_layers > 0:
        layer, embedding, head = unit_exchanges(detail.table, inputs, replica_group(inputs), tied=detail.tied)
        # A layer's weights are gathered for each pass; those of the ends serve both.
        again_s = layer.again.seconds if detail.blocks.backward else np.zeros(1)
        once = [unit.gather.seconds + unit.reduce.seconds for unit in (layer, embedding, head)]
        once[0] = once[0] + again_s
        busy = micro_batches * (first_value(once[0]) * n_layers + first_value(once[1]) + first_value(once[2]))
        yield _plain_row(
            "parameters.exchange",
            "parameters",
            "communication",
            "all_gather",
            "data_parallel",
            micro_batches * n_layers,
            max(busy, in_layers),
            in_layers,
            evidence,
        )
    if step.end is None:
        return
    sharded = first_value(inputs.plan.zero_stage) >= 1
    reduce_busy = first_value(step.end.reduce.seconds + step.end.tied.seconds + step.end.mirrored.seconds)
    closing = (
        ("gradients.exchange", "reduce_scatter" if sharded else "all_reduce", reduce_busy, step.end_reduce_s),
        ("weights.exchange", "all_gather", first_value(step.end.gather.seconds), step.end_gather_s),
    )
    for name, collective, busy, exposed in closing:
        if busy > 0:
            yield _plain_row(
                name,
                "parameters",
                "communication",
                collective,
                "data_parallel",
                1.0,
                busy,
                first_value(exposed),
                evidence,
            )


def detail_rows(
    detail: Detail,
    inputs: Inputs,
    *,
    prefix: str,
    dtypes: Mapping[str, str],
    evidence: Mapping[str, FamilyEvidence],
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
        Compute type by peak class, evidence by kernel family (empty where no coefficient is used).

    Returns
    -------
    list of dict
        ``exposed_s`` sums to the pass's share of the step [s].

    Raises
    ------
    KeyError
        If an operator kind is unknown.
    """
    n_layers, first, last = _slowest(detail)
    step, weights = detail.step, detail.weight[:, 0]
    micro = step.micro_batches
    per_node = np.broadcast_to(micro, weights.shape) * weights
    rows: list[Row] = []
    shares = {
        "embedding": first,
        **{kind.name: layers_of_stage(kind, n_layers, first, inputs.model) for kind in KINDS},
        "head": last,
    }
    for blocks in (detail.blocks.forward, detail.blocks.backward):
        for name, block in blocks.items():
            if np.any(shares[name] > 0):
                rows += _block_rows(
                    block, f"{prefix}{name}", per_node * shares[name], inputs, dtypes, evidence
                )
    if step.optimizer is not None:
        update = _block_rows(step.optimizer, f"{prefix}optimizer", weights, inputs, dtypes, evidence)
        there = first_value(inputs.plan.update_on_host) > 0
        rows += [_row_on_host(row, inputs) for row in update] if there else update
        rows += _orthogonal_rows(detail, inputs, prefix, dtypes, evidence.get("matmul"))
    total_weight = float(weights.sum())
    if total_weight > 0:
        rows += _data_rows(
            detail, inputs, first_value(micro), first_value(n_layers), evidence.get("collective")
        )
        rows += _copy_rows(detail, prefix)
        for name, kind, seconds in (
            ("pipeline.p2p", "send", step.pipeline_p2p_s),
            ("pipeline.bubble", "bubble", step.bubble_s),
        ):
            amount = float(np.sum(np.broadcast_to(seconds, weights.shape) * weights))
            if amount > 0:
                phase = "bubble" if kind == "bubble" else "communication"
                known = None if kind == "bubble" else evidence.get("collective")
                row_name = f"{prefix}{name}"
                rows.append(
                    _plain_row(
                        row_name, "pipeline", phase, kind, "pipeline", total_weight, amount, amount, known
                    )
                )
    return rows

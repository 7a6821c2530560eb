"""When operators finish: an array-valued longest path over streams that each run one thing at a time.

Operators are issued in graph order, kernels on the compute stream and exchanges on the stream of their axis.
An operator starts when its stream is free and what it reads is there. ``exposed`` time is what an operator
adds to the finish of the whole block: a kernel its own duration, an exchange the time that the compute stream
stands still for it. Exposed times therefore sum to the block's time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.per_device.context_parallel import RING_EXCHANGE, exposed_ring
from simulator.per_device.expert_parallel import exposed_rows
from simulator.rules import at
from workloads.operator_graph import Graph, Operator, operators

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ZERO: FloatArray = np.zeros(1)
NOWHERE: BoolArray = np.zeros(1, dtype=bool)
NOTHING_IN_PARTS: Mapping[int, tuple[BoolArray, FloatArray, FloatArray]] = {}
# The plain MLP of a layer with experts serves every token.
SHARED_EXPERTS = "mlp"
EXPERT_TIME = "time.expert_parallel_s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One operator in issue order.

    Attributes
    ----------
    operator : Operator
        What is issued.
    is_exchange : bool
        Whether it runs on a network stream.
    waits_for : tuple of int
        Positions of the exchanges (through chains of exchanges) whose result it reads.
    after : tuple of int
        Positions of everything it reads from directly (used by exchanges).
    """

    operator: Operator
    is_exchange: bool
    waits_for: tuple[int, ...]
    after: tuple[int, ...]


def issue_order(graph: Graph) -> list[Issue]:
    """Issue list of a sharded graph; raises KeyError if its insertion order is not topological."""
    position: dict[str, int] = {}
    issues: list[Issue] = []
    for op in operators(graph):
        after = tuple(position[name] for name in graph.predecessors(op.name))
        waits: list[int] = []
        for i in after:
            if issues[i].is_exchange:
                waits.extend(w for w in (*issues[i].waits_for, i) if w not in waits)
        position[op.name] = len(issues)
        issues.append(
            Issue(operator=op, is_exchange=op.kind == "collective", waits_for=tuple(waits), after=after)
        )
    return issues


def longest_path(
    issues: Sequence[Issue],
    durations: Sequence[FloatArray],
    overlap: FloatArray,
    displaced: FloatArray | float = 0.0,
    overlap_rows: FloatArray = ZERO,
    overlap_shared: FloatArray = ZERO,
    in_parts: Mapping[int, tuple[BoolArray, FloatArray, FloatArray]] = NOTHING_IN_PARTS,
) -> tuple[FloatArray, list[FloatArray]]:
    """Finish time of a block and what each operator adds to it.

    Parameters
    ----------
    issues : sequence of Issue
        In issue order.
    durations : sequence of ndarray
        Seconds of each, zero where it is switched off [s].
    overlap : ndarray
        1 where tensor-parallel exchanges may run beside kernels that do not need them, 0 where they block [1]. A ring
        of context ranks always runs beside its kernel, their other exchanges never.
    displaced : ndarray or float
        Share of the compute units that a running exchange takes from the kernels beside it [1].
    overlap_rows : ndarray
        1 where exchanges of experts' rows run beside the kernels of another micro-batch, 0 where they block [1].
    overlap_shared : ndarray
        1 where they run beside the shared experts of their own micro-batch [1]; another micro-batch hides more.

    in_parts : mapping of int to tuple
        Exchanges that are cut with their product, by position: where they are, what they then add [s], and the share
        of the compute units that they take [1].

    Returns
    -------
    tuple
        Time of the block [s], and exposed seconds per operator, which sum to it.

    Raises
    ------
    IndexError
        If there are fewer durations than issues.
    """
    compute, network = ZERO, ZERO
    finish: list[FloatArray] = []
    exposed: list[FloatArray] = []

    def stand_still(until: Sequence[int], now: FloatArray) -> FloatArray:
        for i in until:
            late = np.maximum(finish[i] - now, 0.0)
            exposed[i] = exposed[i] + late
            now = now + late
        return now

    for position, issue in enumerate(issues):
        duration = durations[position]
        exposed.append(ZERO)
        if not issue.is_exchange:
            compute = stand_still(issue.waits_for, compute) + duration
            exposed[position] = duration
            # What is not made again is in memory from the start.
            kept = issue.operator.phase == "recompute"
            finish.append(np.where(issue.operator.scale > 0, compute, 0.0) if kept else compute)
            continue
        if issue.operator.collective == RING_EXCHANGE:
            (kernel,) = issue.after
            exposed[position] = exposed_ring(
                exchange_s=duration,
                attention_s=durations[kernel],
                context_parallel=issue.operator.attributes["ranks"],
            )
            compute = compute + exposed[position]
            finish.append(compute)
            continue
        among_tensor_ranks = issue.operator.axis not in ("context", "expert")
        # The others are issued behind all kernels in front of them, those that they do not need included.
        ready = ZERO if among_tensor_ranks else compute
        if issue.operator.phase == "recompute":
            # What a part of a layer takes from memory is gathered when the part runs, unless exchanges run beside it.
            ready = np.maximum(ready, compute * (1.0 - overlap))
        for i in issue.after:
            ready = np.maximum(ready, finish[i])
        apart = np.maximum(overlap_rows, overlap_shared) if issue.operator.axis == "expert" else ZERO
        cut, added, _ = in_parts.get(position, (NOWHERE, ZERO, ZERO))
        runs = (duration > 0) & (apart == 0) & ~cut
        # What is switched off neither waits for the stream nor occupies it.
        end = np.where(runs, np.maximum(network, ready) + duration, ready)
        network = np.where(runs, end, network)
        finish.append(end)
        beside = overlap if among_tensor_ranks else ZERO
        blocked = np.where(runs, (1.0 - beside) * np.maximum(end - compute, 0.0), 0.0)
        blocked = blocked + np.where(cut, added, 0.0) if position in in_parts else blocked
        exposed[position] = blocked
        compute = compute + blocked
    exchanges = [i for i, issue in enumerate(issues) if issue.is_exchange]
    compute = stand_still(exchanges, compute)
    for i, waiting in _waiting_rows(issues, durations, compute, overlap_rows, overlap_shared):
        exposed[i] = exposed[i] + waiting
        compute = compute + waiting
    # What was hidden still cost the kernels beside it their share of the device.
    for i in exchanges:
        cut, _, taken = in_parts.get(i, (NOWHERE, ZERO, ZERO))
        share = np.where(cut, taken, displaced) if i in in_parts else displaced
        cost = share * np.maximum(durations[i] - exposed[i], 0.0)
        exposed[i] = exposed[i] + cost
        compute = compute + cost
    return compute, exposed


def _waiting_rows(
    issues: Sequence[Issue],
    durations: Sequence[FloatArray],
    rest_s: FloatArray,
    beside_batch: FloatArray,
    beside_shared: FloatArray,
) -> Iterator[tuple[int, FloatArray]]:
    """What exchanges of rows that run apart from the block's order still add to it, by position [s].

    Beside another micro-batch the ``rest_s`` of its equal pass [s] hides them, but for its own exchanges, which they
    wait for: so a pass is the longer of all exchanges and of everything but rows, and never longer for a faster
    kernel. Beside the shared experts, whose kernels do not wait for any row, those of the same phase hide them.
    """
    if not np.any(beside_batch) and not np.any(beside_shared):
        return
    rows = [i for i, issue in enumerate(issues) if issue.is_exchange and issue.operator.axis == "expert"]
    kernels = [i for i, issue in enumerate(issues) if not issue.is_exchange]
    total_s = sum((durations[i] for i in rows), ZERO)
    batch, shared = beside_batch > 0, (beside_shared > 0) & (beside_batch == 0)
    all_s = ZERO
    if rows and np.any(batch):
        others = (durations[i] for i, issue in enumerate(issues) if issue.is_exchange and i not in rows)
        with at(EXPERT_TIME):
            all_s = exposed_rows(exchange_s=total_s, kernels_s=np.maximum(rest_s - sum(others, ZERO), 0.0))
    for phase in dict.fromkeys(issues[i].operator.phase for i in rows):
        here = [i for i in rows if issues[i].operator.phase == phase]
        own_s, phase_s = sum((durations[i] for i in here), ZERO), ZERO
        if np.any(shared) and np.any(own_s):
            beside = [durations[k] for k in kernels if _is_shared_expert(issues[k].operator, phase)]
            with at(EXPERT_TIME):
                phase_s = exposed_rows(exchange_s=own_s, kernels_s=sum(beside, ZERO))
        for i in here:
            of_all, of_own = _share(durations[i], total_s), _share(durations[i], own_s)
            yield i, np.where(batch, all_s * of_all, np.where(shared, phase_s * of_own, 0.0))


def _is_shared_expert(operator: Operator, phase: str) -> bool:
    """Whether a kernel of a layer with experts belongs to those that serve every token."""
    return operator.module == SHARED_EXPERTS and operator.phase == phase


def _share(part_s: FloatArray, total_s: FloatArray) -> FloatArray:
    return np.divide(part_s, total_s, out=np.zeros_like(part_s * total_s), where=total_s > 0)


def layer_chain(
    layer_s: FloatArray,
    gather_s: FloatArray,
    reduce_s: FloatArray,
    *,
    overlap_gather: FloatArray,
    overlap_reduce: FloatArray,
    queue_s: FloatArray = ZERO,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Finish of one, two and three equal layers whose parameters are gathered and gradients reduced.

    The gather of a layer is issued when the layer before it starts (one layer is prefetched); the reduction
    when its own layer ends. Both share the data stream. Without overlap each blocks the compute stream.

    Parameters
    ----------
    layer_s, gather_s, reduce_s : ndarray
        Time of one layer, of its parameter gather, of its gradient reduction [s].
    overlap_gather, overlap_reduce : ndarray
        1 where the exchange runs beside compute [1].
    queue_s : ndarray
        What the hidden exchanges of a layer wait for the wires, which the layer's own exchanges use [s].

    Returns
    -------
    tuple of three ndarray
        Finish times of chains of one, two and three layers [s]; the difference of the last two is the period.

    Raises
    ------
    ValueError
        If shapes do not broadcast.
    """
    hidden_gather, hidden_reduce = gather_s * overlap_gather, reduce_s * overlap_reduce
    busy_s = layer_s + gather_s * (1.0 - overlap_gather) + reduce_s * (1.0 - overlap_reduce)
    finishes: list[FloatArray] = []
    compute, stream = ZERO, hidden_gather
    ready = stream
    for _ in range(3):
        start = np.maximum(compute, ready)
        compute = start + busy_s
        # The last layer prefetches nothing: its chain ends with compute and its own reduction.
        reduced = np.where(hidden_reduce > 0, np.maximum(stream, compute) + hidden_reduce, 0.0)
        finishes.append(np.maximum(compute, reduced))
        ready = stream = np.maximum(stream, start) + hidden_gather + queue_s
        stream = np.where(hidden_reduce > 0, np.maximum(stream, compute) + hidden_reduce, stream)
    return finishes[0], finishes[1], finishes[2]


def chain_of(n_layers: FloatArray, chain: tuple[FloatArray, FloatArray, FloatArray]) -> FloatArray:
    """Finish of ``n_layers`` layers [1] from the finishes of one, two and three [s]: first, then periods."""
    one, two, three = chain
    return (
        np.where(n_layers >= 1, one, 0.0)
        + np.where(n_layers >= 2, two - one, 0.0)
        + np.maximum(n_layers - 2.0, 0.0) * (three - two)
    )

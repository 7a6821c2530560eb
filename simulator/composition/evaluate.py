"""Evaluate a partition: blocks once per distinct combination, composition on every row; generation sums steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.axis_tables import Factor
from simulator.arrays.columns import Inputs, TaskColumns, take
from simulator.arrays.shared_columns import dense, mapped
from simulator.certainty.intervals import TimeDoubt, bounds, joined
from simulator.composition.blocks import Blocks
from simulator.composition.layer_cache import FEW_BLOCKS, LayerCache
from simulator.composition.layer_table import LayerTable, layer_table
from simulator.composition.memory import OWNERS
from simulator.composition.step import Step, compose
from simulator.per_device.structure import Structure
from simulator.spaces.partition import Partition, Splitter
from workloads.attention import UNBOUNDED

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

TIMES = (
    "compute_s",
    "tensor_parallel_s",
    "context_parallel_s",
    "expert_parallel_s",
    "data_parallel_s",
    "offload_s",
    "pipeline_p2p_s",
    "bubble_s",
    "optimizer_s",
)
ENERGIES = ("static_j", "compute_j", "memory_j", "network_j", "host_j", "offload_j")
# Decode time is smooth in the context, so few Gauss-Legendre nodes integrate any number of steps.
DECODE_NODES = 5
# An even number, so that no node lies in the middle of the range.
CHUNK_NODES = 4
# Blocks are kept for later chunks where at least this many rows can share each.
WORTH_KEEPING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Results by row, each an array [s, byte, J, 1]; ``times`` sum to ``step_time_s``, owners to the peak.

    The doubts say what the step, the first token and an output token may be off by [s]; ``extrapolated_kernels`` counts
    the kernels of one pass whose sizes lie outside what their coefficients were fitted on [1].
    """

    step_time_s: FloatArray
    tokens_per_s: FloatArray
    time_to_first_token_s: FloatArray
    time_per_output_token_s: FloatArray
    mfu: FloatArray
    hfu: FloatArray
    times: Mapping[str, FloatArray]
    memory: Mapping[str, FloatArray]
    peak_bytes: FloatArray
    capacity_bytes: FloatArray
    heaviest_stage: FloatArray
    host_bytes: FloatArray
    nvme_bytes: FloatArray
    host_capacity_bytes: FloatArray
    nvme_capacity_bytes: FloatArray
    energy: Mapping[str, FloatArray]
    energy_j: FloatArray
    feasible: FloatArray
    step_doubt: TimeDoubt
    first_token_doubt: TimeDoubt
    output_token_doubt: TimeDoubt
    extrapolated_kernels: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One evaluated pass with its operators, and how often it runs per step [1]."""

    name: str
    blocks: Blocks
    table: LayerTable
    step: Step
    weight: FloatArray
    tied: bool


def _totals(partition: Partition, table: LayerTable, step: Step) -> Totals:
    kind = partition.graphical.kind
    nothing = np.full(1, np.nan)
    return Totals(
        step_time_s=step.step_time_s,
        tokens_per_s=step.tokens_per_s,
        time_to_first_token_s=step.step_time_s if kind == "prefill" else nothing,
        time_per_output_token_s=step.step_time_s if kind == "decode" else nothing,
        mfu=step.mfu,
        hfu=step.hfu,
        times={name: getattr(step, name) for name in TIMES},
        memory=step.memory.owners,
        peak_bytes=step.memory.peak_bytes,
        capacity_bytes=partition.inputs.device.memory_capacity_bytes,
        heaviest_stage=step.memory.heaviest_stage,
        energy={name: getattr(step.energy, name) for name in ENERGIES},
        energy_j=step.energy.total_j,
        host_bytes=step.memory.host_bytes,
        nvme_bytes=step.memory.nvme_bytes,
        host_capacity_bytes=partition.inputs.device.host_capacity_bytes,
        nvme_capacity_bytes=partition.inputs.device.nvme_capacity_bytes,
        feasible=step.memory.fits.astype(np.float64),
        step_doubt=step.doubt,
        first_token_doubt=step.doubt,
        output_token_doubt=step.doubt,
        extrapolated_kernels=table.extrapolated_kernels
        + (step.optimizer.extrapolated if step.optimizer is not None else 0.0),
    )


def _of_range(first: FloatArray, steps: FloatArray, nodes: int) -> tuple[FloatArray, FloatArray]:
    """Contexts and weights for the ``steps`` steps behind a context of ``first`` tokens."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return first + (steps + 1.0) / 2.0 + points[:, None] * steps / 2.0, weights[:, None] / 2.0 * steps


def _of_chunks(first: FloatArray, chunks: FloatArray, chunk: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Contexts and weights for the steps of whole ``chunks`` behind a context of ``first`` tokens.

    A node lies at its place of the range, rounded to a whole chunk, and at the same place of that chunk: so the sum
    over places in a chunk is that of the quadrature, and what rounding does to nodes on both sides of the middle
    cancels for a cost that grows in proportion to the context. There are as many nodes on one side as on the other.
    """
    points, weights = np.polynomial.legendre.leggauss(CHUNK_NODES)
    place = (points[:, None] + 1.0) / 2.0
    context = first + 0.5 + chunk * (np.floor(chunks * place) + place)
    return context, weights[:, None] / 2.0 * chunks * chunk


def decode_contexts(
    prompt: FloatArray, output: FloatArray, window: FloatArray, chunk: FloatArray = UNBOUNDED
) -> tuple[FloatArray, FloatArray]:
    """Contexts at which decode is evaluated, shape (nodes, n), and the steps that each stands for [1].

    The ``output`` - 1 steps attend to prompt + 1 ... prompt + output - 1 tokens; nodes and weights are
    those of Gauss and Legendre on that range widened by half a step on each side. Where a sliding ``window``
    fills on the way the cost has a kink: the steps before and after it have nodes of their own. Where a ``chunk`` ends
    the cost falls: the rest of the first chunk, whole chunks and the begun one have nodes of their own.
    """
    steps = np.maximum(output - 1.0, 0.0)
    growing = np.clip(window - prompt, 0.0, steps)
    # No model has both a window and chunks: either all steps are growing, or none of them passes a chunk's end.
    begun = np.minimum(chunk - np.mod(prompt, chunk), steps)
    parts = [(prompt, begun)]
    if np.any((growing > 0) & (growing < steps)):
        parts = [(prompt, np.minimum(growing, begun)), (prompt + growing, steps - growing)]
    nodes = [_of_range(first, n, DECODE_NODES) for first, n in parts]
    if np.any(begun < steps):
        size = np.where(np.isfinite(chunk), chunk, 1.0)
        whole = np.floor((steps - begun) / size)
        nodes.append(_of_chunks(prompt + begun, whole, size))
        passed = begun + whole * size
        nodes.append(_of_range(prompt + passed, steps - passed, DECODE_NODES))
    return np.concatenate([c for c, _ in nodes]), np.concatenate([w for _, w in nodes])


def _decode_inputs(partition: Partition) -> tuple[Structure, Inputs, FloatArray]:
    """The decode steps of generation as rows: every row once per node."""
    inputs, n = mapped(partition.inputs, dense), partition.rows.n
    contexts, weights = decode_contexts(
        *np.broadcast_arrays(
            inputs.task.query_length, dense(partition.output_length), inputs.model.window, inputs.model.chunk
        )
    )
    nodes = contexts.shape[0]
    contexts = np.broadcast_to(contexts, (nodes, n)).reshape(-1)
    tiled = take(inputs, np.tile(np.arange(n), nodes)) if n > 1 else inputs
    task = TaskColumns(
        batch=tiled.task.batch,
        query_length=np.ones(1),
        kv_length=contexts,
        cached_length=tiled.task.cached_length,
    )
    structure = replace(partition.structure, layer=replace(partition.structure.layer, computation="decode"))
    return structure, replace(tiled, task=task), np.broadcast_to(weights, (nodes, n))


def _sum_steps(first: FloatArray, steps: FloatArray, weights: FloatArray) -> FloatArray:
    shape = weights.shape
    return first + np.sum(np.broadcast_to(steps, (shape[0] * shape[1],)).reshape(shape) * weights, axis=0)


def _most(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Largest value over the nodes that stand for any step, by row."""
    by_node = np.broadcast_to(values, (weights.size,)).reshape(weights.shape)
    return np.max(np.where(weights > 0, by_node, 0.0), axis=0)


def _generation(partition: Partition, prefill: Totals) -> tuple[Totals, Detail]:
    structure, inputs, weights = _decode_inputs(partition)
    # Contexts make every row distinct: nothing is shared.
    table, blocks = layer_table(structure, inputs)
    step = compose(structure, inputs, table)
    n_steps = np.sum(weights, axis=0)
    total = _sum_steps(prefill.step_time_s, step.step_time_s, weights)
    decode_s = total - prefill.step_time_s
    # A kernel errs alike in every decode step.
    decode_doubt = TimeDoubt(
        independent_s=_sum_steps(np.zeros(1), step.doubt.independent_s, weights),
        shared_s=_sum_steps(np.zeros(1), step.doubt.shared_s, weights),
    )

    def utilisation(first: FloatArray, steps: FloatArray) -> FloatArray:
        return _sum_steps(first * prefill.step_time_s, steps * step.step_time_s, weights) / total

    energy = {
        name: _sum_steps(prefill.energy[name], getattr(step.energy, name), weights) for name in ENERGIES
    }
    generated = Totals(
        step_time_s=total,
        tokens_per_s=partition.inputs.task.batch * partition.output_length / total,
        time_to_first_token_s=prefill.step_time_s,
        time_per_output_token_s=np.divide(
            decode_s, n_steps, out=np.full_like(decode_s, np.nan), where=n_steps > 0
        ),
        mfu=utilisation(prefill.mfu, step.mfu),
        hfu=utilisation(prefill.hfu, step.hfu),
        times={name: _sum_steps(prefill.times[name], getattr(step, name), weights) for name in TIMES},
        memory=prefill.memory,
        peak_bytes=prefill.peak_bytes,
        capacity_bytes=prefill.capacity_bytes,
        heaviest_stage=prefill.heaviest_stage,
        host_bytes=prefill.host_bytes,
        nvme_bytes=prefill.nvme_bytes,
        host_capacity_bytes=prefill.host_capacity_bytes,
        nvme_capacity_bytes=prefill.nvme_capacity_bytes,
        energy=energy,
        energy_j=sum(energy.values(), np.zeros(1)),
        feasible=prefill.feasible,
        step_doubt=joined(prefill.step_doubt, decode_doubt),
        first_token_doubt=prefill.step_doubt,
        output_token_doubt=TimeDoubt(
            independent_s=decode_doubt.independent_s / np.maximum(n_steps, 1.0),
            shared_s=decode_doubt.shared_s / np.maximum(n_steps, 1.0),
        ),
        extrapolated_kernels=prefill.extrapolated_kernels + _most(table.extrapolated_kernels, weights),
    )
    return generated, Detail(
        name="decode", blocks=blocks, table=table, step=step, weight=weights, tied=structure.layer.tied
    )


def evaluate(partition: Partition) -> tuple[Totals, list[Detail]]:
    """Evaluate every row of a partition, and keep the operators.

    Parameters
    ----------
    partition : Partition
        Legal rows of one structure.

    Returns
    -------
    tuple of Totals and list of Detail
        Results by row (length one where nothing varies), and the passes with their operators.

    Raises
    ------
    NotImplementedError
        If an operator kind lacks a rule.
    """
    table, blocks = layer_table(partition.structure, partition.inputs)
    step = compose(partition.structure, partition.inputs, table)
    totals = _totals(partition, table, step)
    name = partition.graphical.kind if partition.graphical.kind != "generation" else "prefill"
    details = [
        Detail(
            name=name,
            blocks=blocks,
            table=table,
            step=step,
            weight=np.ones((1, 1)),
            tied=partition.structure.layer.tied,
        )
    ]
    if partition.graphical.kind == "generation":
        totals, decode = _generation(partition, _dense_totals(totals))
        details.append(decode)
    return totals, details


def _dense_totals(totals: Totals) -> Totals:
    return mapped(totals, dense)


def layer_columns(partition: Partition, cache: LayerCache, splitter: Splitter) -> LayerTable:
    """Blocks of every row, from ``cache`` where they were evaluated before."""

    def table_of(positions: list[IndexArray], n: int) -> LayerTable:
        own = positions[: len(splitter.space.axes)]
        few = splitter.partition(partition.choice, np.arange(n), [Factor(range(len(own)), own)])
        inputs = mapped(few.inputs, dense) if n <= FEW_BLOCKS else few.inputs
        return layer_table(few.structure, inputs)[0]

    key, rows = partition.layer_key, partition.rows
    if math.prod(rows.lengths[axis] for axis in key.axes) * WORTH_KEEPING > splitter.space.n_rows:
        # Nearly every row has blocks of its own: other chunks would find nothing, and parts are shared within this one.
        mask = rows.mask(key.axes)
        cache.n_evaluated += rows.level(mask).n if mask else 1
        return layer_table(partition.structure, partition.inputs)[0]
    return cache.table(key.cache_key, rows, key.axes, table_of)


def evaluate_totals(partition: Partition, cache: LayerCache, splitter: Splitter) -> Totals:
    """Totals of every row, as :func:`evaluate`; blocks that were evaluated before come from ``cache``.

    ``splitter`` is the one that made the partition: it makes the rows that new blocks are evaluated on.
    """
    table = layer_columns(partition, cache, splitter)
    totals = _totals(partition, table, compose(partition.structure, partition.inputs, table))
    if partition.graphical.kind == "generation":
        return _generation(partition, _dense_totals(totals))[0]
    return totals


def step_bounds(totals: Totals, partition: Partition) -> dict[str, FloatArray]:
    """Interval of the step time [s]; NaN where no coefficient is used, so that nothing is known of its error."""
    low, high = bounds(totals.step_time_s, totals.step_doubt)
    known = partition.graphical.fidelity == "calibrated"
    return {
        "step_time_low_s": low if known else np.full(1, np.nan),
        "step_time_high_s": high if known else np.full(1, np.nan),
    }


# Columns of a row's results, in order.
RESULT_COLUMNS = (
    "data_parallel",
    "micro_batch_size",
    "step_time_s",
    "step_time_low_s",
    "step_time_high_s",
    "tokens_per_s",
    "tokens_per_s_per_device",
    "time_to_first_token_s",
    "time_per_output_token_s",
    "mfu",
    "hfu",
    *TIMES,
    "peak_bytes",
    "capacity_bytes",
    *(f"{owner}_bytes" for owner in OWNERS),
    "host_bytes",
    "nvme_bytes",
    "energy_j",
    "average_power_w_per_device",
    "extrapolated_kernels",
    "feasible",
)


def totals_columns(totals: Totals, partition: Partition) -> dict[str, FloatArray]:
    """Totals by name, each a column over ``partition.rows`` or of length one; raises nothing."""
    devices = partition.inputs.plan.devices
    power = totals.energy_j / totals.step_time_s
    found = {
        "data_parallel": partition.inputs.plan.data_parallel,
        "micro_batch_size": partition.inputs.plan.micro_batch_size,
        "step_time_s": totals.step_time_s,
        **step_bounds(totals, partition),
        "tokens_per_s": totals.tokens_per_s,
        "tokens_per_s_per_device": totals.tokens_per_s / devices,
        "time_to_first_token_s": totals.time_to_first_token_s,
        "time_per_output_token_s": totals.time_per_output_token_s,
        "mfu": totals.mfu,
        "hfu": totals.hfu,
        **totals.times,
        "peak_bytes": totals.peak_bytes,
        "capacity_bytes": totals.capacity_bytes,
        **{f"{owner}_bytes": totals.memory[owner] for owner in OWNERS},
        "host_bytes": totals.host_bytes,
        "nvme_bytes": totals.nvme_bytes,
        "energy_j": totals.energy_j,
        "average_power_w_per_device": power / devices,
        "extrapolated_kernels": totals.extrapolated_kernels,
        "feasible": totals.feasible,
    }
    return {name: found[name] for name in RESULT_COLUMNS}


def result_columns(totals: Totals, partition: Partition) -> dict[str, FloatArray]:
    """Totals as flat columns, each of the length of ``partition.rows``; the columns of a sweep's frame."""
    n = partition.rows.n
    flat = totals_columns(totals, partition)
    return {name: np.broadcast_to(dense(values), (n,)) for name, values in flat.items()}

"""Plans that a search need not time: those that do not fit, and those that cannot be among the best.

A plan is bounded by its layers alone, which are few and known: branch and bound, where the branches are the rows of a
chunk that share their layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs, PlanColumns
from simulator.arrays.shared_columns import dense
from simulator.composition.evaluate import layer_columns
from simulator.composition.layer_cache import LayerCache
from simulator.composition.layer_table import LayerTable
from simulator.composition.memory import memory
from simulator.composition.step import kinds_of_stage, micro_batches_per_replica
from simulator.pipelines.schedules import SPLIT, follows
from simulator.searching.best_rows import Objective
from simulator.spaces.partition import Partition, Splitter

__all__ = ["Promising", "least_cost", "least_step_time", "promising"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IndexArray = NDArray[np.int64]
ROUNDING = 1e-9


@dataclass(slots=True)
class Promising:
    """Rows of a chunk that fit, and what they cost at least.

    Attributes
    ----------
    fits : ndarray of bool
        By row.
    least : ndarray
        Least cost [unit of the objective]; of length one and minus infinity where nothing is known.
    """

    fits: BoolArray
    least: Any

    def rows(self, limit: float) -> IndexArray:
        """Rows that fit and may cost no more than ``limit`` [unit of the objective]."""
        wanted = self.fits
        if np.isfinite(limit):
            wanted = wanted & np.broadcast_to(dense(self.least <= limit), wanted.shape)
        return np.flatnonzero(wanted)

    def first(self, count: int) -> IndexArray:
        """The ``count`` rows that fit and may cost least, in row order; any where nothing is known."""
        rows = np.flatnonzero(self.fits)
        if len(rows) > count:
            least = np.broadcast_to(dense(self.least), self.fits.shape)[rows]
            rows = np.sort(rows[np.argpartition(least, count)[:count]])
        return rows


def promising(
    partition: Partition, cache: LayerCache, splitter: Splitter, objective: Objective | None
) -> Promising:
    """Which rows fit in memory, and what each costs at least.

    Parameters
    ----------
    partition, cache, splitter
        As for :func:`simulator.composition.evaluate.evaluate_totals`.
    objective : Objective or None
        What is wanted; None, or one that has no bound, leaves all that fit.

    Returns
    -------
    Promising
        By row.

    Raises
    ------
    NotImplementedError
        If an operator kind lacks a rule.
    """
    inputs, structure, n = partition.inputs, partition.structure, partition.rows.n
    table = layer_columns(partition, cache, splitter)
    micro_batches = micro_batches_per_replica(inputs)
    needed = memory(
        inputs,
        table,
        kinds_of_stage(inputs),
        micro_batches,
        tied=structure.layer.tied,
        training=structure.layer.computation == "training",
    )
    fits = np.broadcast_to(dense(needed.fits), (n,))
    least = np.full(1, -np.inf)
    if objective is not None:
        decoding = structure.layer.computation == "decode"
        least_s = least_step_time(inputs, table, micro_batches, decoding=decoding)
        least = least_cost(objective, inputs, least_s, partition.graphical.kind)
    return Promising(fits=fits, least=least)


def _short_ends(plan: PlanColumns) -> bool:
    """Whether any plan says how many layers its stages have."""
    ends = (plan.first_stage_layers, plan.last_stage_layers)
    return bool(plan.stage_layers) or any(bool(np.any(n == n)) for n in ends)


def least_step_time(
    inputs: Inputs, table: LayerTable, micro_batches: FloatArray, *, decoding: bool
) -> FloatArray:
    """Time that a step takes at least [s]: that of its pipeline if all stages were equal.

    No slowest stage is faster than the mean, and exchanges and optimizer come on top. A token that is decoded passes
    all layers, however many micro-batches there are. Broadcasts; raises nothing.
    """
    ends = (
        table.embedding_forward_s + table.embedding_backward_s + table.head_forward_s + table.head_backward_s
    )
    layers = (inputs.model.n_layers - inputs.model.first_dense) * (
        table.layer_forward_s + table.layer_backward_s
    )
    stages = inputs.plan.pipeline_parallel
    if decoding:
        rounds = np.maximum(micro_batches / stages, 1.0)
    else:
        # A schedule that puts gradients of weights off may have no bubble.
        waits = 1.0 - follows(inputs.plan, *SPLIT) if np.any(inputs.plan.schedule > 0) else 1.0
        if _short_ends(inputs.plan):
            # The first micro-batch waits for less than the mean chunk where those of the ends are light.
            waits = waits * (inputs.plan.virtual_pipeline == 1)
        rounds = (micro_batches + waits * (stages - 1.0) / inputs.plan.virtual_pipeline) / stages
    # A hair less: sums in another order may differ in their last digit.
    return rounds * (layers + ends) * (1.0 - ROUNDING)


def least_cost(objective: Objective, inputs: Inputs, least_s: FloatArray, kind: str) -> FloatArray:
    """What an objective is at least when the step takes ``least_s`` [s] or longer, more being worse.

    Minus infinity for objectives that do not follow from the time of a step. Broadcasts; raises nothing.
    """
    tokens = inputs.task.batch * inputs.task.query_length
    if objective.column == "step_time_s" or (objective.column, kind) == ("time_per_output_token_s", "decode"):
        return least_s
    # In generation tokens come from the steps after the first one.
    if objective.column == "tokens_per_s" and kind != "generation":
        return -tokens / least_s
    if objective.column == "tokens_per_s_per_device" and kind != "generation":
        return -tokens / least_s / inputs.plan.devices
    return np.full(1, -np.inf)

"""Named rules of batches and micro-batches; importing this module registers them."""

from __future__ import annotations

import numpy as np

from hardware_specs.errors import Problem
from simulator.legality.registry import BoolArray, Combination, legality_rule, one_of

__all__: list[str] = []


def _batch(c: Combination) -> Problem:
    p = c.plan
    step = float((p.data_parallel * p.micro_batch_size)[0])
    batch = float(c.task.batch[0])
    trains = bool(c.training[0] > 0)
    if not trains:
        step = float(p.data_parallel[0])
    below, above = batch // step * step, (batch // step + 1) * step
    replica = f" x micro_batch_size {one_of(p.micro_batch_size)} = {step:.10g}" if trains else ""
    return Problem(
        path="task.global_batch_size" if trains else "task.batch_size",
        value=f"{batch:.10g}",
        rule=f"must be a multiple of data_parallel {one_of(p.data_parallel)}{replica}",
        fix=f"use {f'{below:.10g} or ' if below else ''}{above:.10g}",
    )


@legality_rule("batch divides", _batch)
def _batch_broken(c: Combination) -> BoolArray:
    p = c.plan
    step = np.where(c.training > 0, p.data_parallel * p.micro_batch_size, p.data_parallel)
    # Where the replicas are no whole number, the degrees are the mistake.
    return (np.mod(c.task.batch, step) != 0) & (p.data_parallel == np.floor(p.data_parallel))


@legality_rule(
    "micro-batch within replica",
    lambda c: Problem(
        path="plan.micro_batch_size",
        value=one_of(c.plan.micro_batch_size),
        rule=f"is more than the {float(c.task.batch[0] / c.plan.data_parallel[0]):g} sequences of one replica",
        fix="use a smaller one",
    ),
)
def _micro_batch(c: Combination) -> BoolArray:
    whole = c.plan.data_parallel == np.floor(c.plan.data_parallel)
    return whole & (c.plan.micro_batch_size > c.task.batch / c.plan.data_parallel)

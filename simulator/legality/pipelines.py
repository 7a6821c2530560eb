"""Named rules of pipelines: schedules, chunks and micro-batches; importing this registers them."""

from __future__ import annotations

import numpy as np

from hardware_specs.errors import Problem
from simulator.arrays.columns import FloatArray
from simulator.legality.registry import BoolArray, Combination, legality_rule, nearest, one_of
from simulator.pipelines.schedules import CODE, SCHEDULES, follows, least_micro_batches

__all__: list[str] = []
CHUNKS = {"zb_v": 2.0, "gpipe": 1.0, "zb_h1": 1.0, "zb_h2": 1.0, "dualpipe": 1.0}


def _schedule(c: Combination) -> str:
    return SCHEDULES[int(c.plan.schedule[0])]


def _micro_batches(c: Combination) -> FloatArray:
    """Per replica [1]."""
    return c.task.batch / c.plan.data_parallel / c.plan.micro_batch_size


def _whole(numbers: FloatArray) -> BoolArray:
    """Where replicas or their micro-batches are whole; where not, another rule says so."""
    return numbers == np.floor(numbers)


def _interleave_problem(c: Combination) -> Problem:
    stages, batch = float(c.plan.pipeline_parallel[0]), float(c.task.batch[0])
    if not c.training[0] or stages < 2:
        rule = "model chunks take turns in a pipeline that trains"
        fix = "use 1" + ("" if not c.training[0] else ", or pipeline_parallel 2 or more")
        return Problem(
            path="plan.virtual_pipeline", value=one_of(c.plan.virtual_pipeline), rule=rule, fix=fix
        )
    group = stages * float((c.plan.data_parallel * c.plan.micro_batch_size)[0])
    near = nearest(batch, [group * np.floor(batch / group), group * np.ceil(batch / group)][batch < group :])
    return Problem(
        path="task.global_batch_size",
        value=f"{batch:.10g}",
        rule=f"interleaving takes micro-batches in groups of the {stages:g} stages, which is {group:.10g} sequences",
        fix=f"use {near} sequences, or virtual_pipeline 1",
    )


@legality_rule("interleaving needs stages and micro-batches", _interleave_problem)
def _interleave(c: Combination) -> BoolArray:
    p = c.plan
    possible = (
        (p.pipeline_parallel > 1) & (c.training > 0) & (np.mod(_micro_batches(c), p.pipeline_parallel) == 0)
    )
    # A V takes its chunks there and back, whatever the number of micro-batches.
    return (p.virtual_pipeline > 1) & ~possible & (p.schedule == CODE["1f1b"])


@legality_rule(
    "schedules are for pipelines that train",
    lambda c: Problem(
        path="plan.schedule",
        value=_schedule(c),
        rule="needs training and at least two stages",
        fix="use 1f1b" + (", or pipeline_parallel 2 or more" if c.training[0] else ""),
    ),
)
def _trains(c: Combination) -> BoolArray:
    return (c.plan.schedule > 0) & ((c.training == 0) | (c.plan.pipeline_parallel < 2))


@legality_rule(
    "schedule has its chunks",
    lambda c: Problem(
        path="plan.virtual_pipeline",
        value=one_of(c.plan.virtual_pipeline),
        rule=f"model chunks per stage; schedule {_schedule(c)} runs {CHUNKS[_schedule(c)]:g}",
        fix=f"set plan.virtual_pipeline to {CHUNKS[_schedule(c)]:g}, or use schedule 1f1b",
    ),
)
def _chunks(c: Combination) -> BoolArray:
    broken = np.zeros(1, dtype=bool)
    for name, chunks in CHUNKS.items():
        broken = broken | ((c.plan.schedule == CODE[name]) & (c.plan.virtual_pipeline != chunks))
    return broken


def _even_problem(c: Combination) -> Problem:
    p = c.plan
    stages, micro = float(p.pipeline_parallel[0]), float(_micro_batches(c)[0])
    if stages % 2:
        layers, inner = (
            float(c.model.n_layers[0]),
            float(p.devices[0] / p.tensor_parallel[0] / p.context_parallel[0]),
        )
        split = [d for d in range(2, int(layers) + 1, 2) if layers % d == 0 or c.uneven_stages[0]]
        legal = [d for d in split if inner % d == 0]
        near = nearest(stages, legal)
        return Problem(
            path="plan.pipeline_parallel",
            value=f"{stages:g}",
            rule="schedule dualpipe pairs stages from both ends, so their number is even",
            fix=(f"use {near} stages, or " if near else "use ") + "schedule zb_h1 or 1f1b",
        )
    per = float((p.data_parallel * p.micro_batch_size)[0])
    return Problem(
        path="task.global_batch_size",
        value=one_of(c.task.batch),
        rule=f"gives {micro:g} micro-batches per replica, and schedule dualpipe sends half of them in at either end",
        fix=f"use {nearest(micro * per, [(micro - 1) * per, (micro + 1) * per])} sequences, or schedule zb_h1 or 1f1b",
    )


@legality_rule("dualpipe pairs stages and micro-batches", _even_problem)
def _even(c: Combination) -> BoolArray:
    odd = (np.mod(c.plan.pipeline_parallel, 2) != 0) | (np.mod(_micro_batches(c), 2) == 1)
    return (
        (follows(c.plan, "dualpipe") > 0)
        & odd
        & _whole(c.plan.data_parallel)
        & (c.plan.pipeline_parallel > 1)
    )


def _least_problem(c: Combination) -> Problem:
    least = float(least_micro_batches(c.plan)[0])
    per, micro = float((c.plan.data_parallel * c.plan.micro_batch_size)[0]), float(_micro_batches(c)[0])
    others = " or ".join(
        name for name in ("zb_h1", "1f1b") if name == "1f1b" or (micro >= c.plan.pipeline_parallel[0])
    )
    return Problem(
        path="plan.schedule",
        value=_schedule(c),
        rule=f"needs {least:g} micro-batches per replica on {one_of(c.plan.pipeline_parallel)} stages, and there are "
        f"{micro:g}",
        fix=f"use task.global_batch_size {least * per:.10g} or more, or schedule {others}",
    )


@legality_rule("schedule has its micro-batches", _least_problem)
def _least(c: Combination) -> BoolArray:
    whole = _whole(c.plan.data_parallel) & _whole(_micro_batches(c))
    return (c.plan.schedule > 0) & (_micro_batches(c) < least_micro_batches(c.plan)) & whole

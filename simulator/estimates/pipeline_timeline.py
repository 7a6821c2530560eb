"""The passes of one training step through the stages of a pipeline, played out for the timeline plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from simulator.arrays.columns import first_value
from simulator.composition.evaluate import evaluate
from simulator.composition.stages import StageTimes
from simulator.estimates.estimate import single_partition
from simulator.pipelines.replay import PHASES, Replay, replay
from simulator.pipelines.schedules import SCHEDULES
from simulator.spaces.space import space_from

# More passes than a picture has room for.
MOST_PASSES = 200_000
PASSES_PER_MICRO_BATCH = 3


def _by_stage(stages: StageTimes) -> list[tuple[float, float, float]]:
    """Forward, backward and the weight gradients' part of it for every stage, front to back [s]."""
    whole = list(zip(stages.forward_s, stages.backward_s, stages.weight_gradients_s, strict=True))
    first, middle, last, lighter = (
        (first_value(f), first_value(b), first_value(w)) for f, b, w in (*whole, stages.lighter)
    )
    fullest, fewer, ends = (int(first_value(stages.number[kind])) for kind in (1, 3, 2))
    return [first, *[middle] * fullest, *[lighter] * fewer, *[last] * ends]


def pipeline_timeline(scenario: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Passes of one step, as the plan's schedule orders them; messages between stages take no time.

    Parameters
    ----------
    scenario : mapping
        A single scenario.

    Returns
    -------
    list of dict
        ``stage``, ``chunk``, ``micro_batch`` [1, from 0], ``pass`` (forward, backward, inputs, weights), ``start_s``
        and ``end_s`` [s], and ``held``, the micro-batches whose activations the stage keeps while the pass runs [1].
        Empty where there is one stage, no training, or more than 200,000 passes.

    Raises
    ------
    ScenarioError, SpecError
        If the scenario is wrong.
    """
    space = space_from(scenario)
    if space.axes:
        return []
    partition = single_partition(space)
    plan = partition.inputs.plan
    n_stages, n_chunks = int(first_value(plan.pipeline_parallel)), int(first_value(plan.virtual_pipeline))
    if partition.graphical.kind != "training" or n_stages == 1:
        return []
    step = evaluate(partition)[1][0].step
    micro_batches = int(first_value(step.micro_batches))
    if PASSES_PER_MICRO_BATCH * n_stages * n_chunks * micro_batches > MOST_PASSES:
        return []
    forward, backward, weights = zip(*_by_stage(step.stages), strict=True)
    done = replay(
        forward,
        backward,
        micro_batches,
        weights_s=weights,
        schedule=SCHEDULES[int(first_value(plan.schedule))],
        n_chunks=n_chunks,
    )
    return _rows(done)


def _rows(done: Replay) -> list[dict[str, Any]]:
    held = np.empty(len(done.start_s))
    for stage in range(int(done.stage.max()) + 1):
        mine = done.stage == stage
        moments, kept = done.held_over_time(stage)
        held[mine] = kept[np.searchsorted(moments, done.start_s[mine], side="right") - 1]
    columns = (done.stage, done.chunk, done.micro_batch, done.phase, done.start_s, done.end_s, held)
    return [
        {
            "stage": s,
            "chunk": c,
            "micro_batch": m,
            "pass": PHASES[p],
            "start_s": start,
            "end_s": end,
            "held": kept,
        }
        for s, c, m, p, start, end, kept in zip(*(column.tolist() for column in columns), strict=True)
    ]

"""The passes of one training step through the stages of a pipeline, played out for the timeline plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs, first_value
from simulator.composition.evaluate import Detail, evaluate
from simulator.composition.memory import in_flight, training_stage
from simulator.composition.offload import kept_by_micro_batch
from simulator.composition.stages import StageTimes
from simulator.estimates.estimate import single_partition
from simulator.pipelines.replay import PHASES, Replay, replay
from simulator.pipelines.schedules import SCHEDULES
from simulator.spaces.space import space_from

FloatArray = NDArray[np.float64]
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
        and ``end_s`` [s], ``held``, the micro-batches whose activations the stage keeps while the pass runs [1], and
        ``memory_bytes`` of one of its devices, with everything that does not change over the step [byte].
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
    detail = evaluate(partition)[1][0]
    step = detail.step
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
    constant, of_micro_batch = zip(*_bytes_by_stage(partition.inputs, detail), strict=True)
    return _rows(done, np.array(constant), np.array(of_micro_batch))


def _bytes_by_stage(inputs: Inputs, detail: Detail) -> list[tuple[float, float]]:
    """For every stage, front to back: what a device holds all step long, and what each held micro-batch adds [byte]."""
    step, found = detail.step, []
    kinds = (*step.kinds, step.kinds.lighter)
    away = bool(np.any(inputs.plan.offload["activations"] > 0))
    for kind in kinds:
        stage = training_stage(
            inputs, detail.table, kind, step.kinds.copies, step.micro_batches, tied=detail.tied
        )
        each = np.zeros(1) if away else kept_by_micro_batch(detail.table, kind)
        held = in_flight(inputs, kind, step.micro_batches)
        whole = sum(stage.owners.values(), inputs.device.reserved_bytes)
        # What an allocator holds beyond is a share of everything.
        each = each * (1.0 + inputs.plan.fragmentation)
        found.append((first_value(whole - held * each), first_value(each)))
    first, middle, last, lighter = found
    fullest, fewer, ends = (int(first_value(step.stages.number[kind])) for kind in (1, 3, 2))
    return [first, *[middle] * fullest, *[lighter] * fewer, *[last] * ends]


def _rows(done: Replay, constant: FloatArray, of_micro_batch: FloatArray) -> list[dict[str, Any]]:
    held = np.empty(len(done.start_s))
    for stage in range(int(done.stage.max()) + 1):
        mine = done.stage == stage
        moments, kept = done.held_over_time(stage)
        held[mine] = kept[np.searchsorted(moments, done.start_s[mine], side="right") - 1]
    memory = constant[done.stage] + of_micro_batch[done.stage] * held
    columns = (done.stage, done.chunk, done.micro_batch, done.phase, done.start_s, done.end_s, held, memory)
    return [
        {
            "stage": s,
            "chunk": c,
            "micro_batch": m,
            "pass": PHASES[p],
            "start_s": start,
            "end_s": end,
            "held": kept,
            "memory_bytes": size,
        }
        for s, c, m, p, start, end, kept, size in zip(*(column.tolist() for column in columns), strict=True)
    ]

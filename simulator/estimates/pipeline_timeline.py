"""The passes of one training step through the stages of a pipeline, played out for the timeline plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs, first_value
from simulator.composition.data_parallel import replica_group, unit_exchanges
from simulator.composition.evaluate import Detail, evaluate
from simulator.composition.memory import training_stage
from simulator.composition.offload import kept_by_micro_batch
from simulator.composition.stage_kinds import StageKind, StageKinds
from simulator.composition.step import layers_by_stage, times_of
from simulator.estimates.estimate import single_partition
from simulator.pipelines.replay import PHASES, Replay, replay, stage_of
from simulator.pipelines.schedules import SCHEDULES, SPLIT, follows
from simulator.spaces.partition import Partition
from simulator.spaces.space import space_from

FloatArray = NDArray[np.float64]
# More passes than a picture has room for.
MOST_PASSES = 200_000
PASSES_PER_MICRO_BATCH = 3


def layers_of_chunks(inputs: Inputs) -> list[float]:
    """Decoder layers of every chunk of the model of one plan, from the embedding to the head [1]; raises nothing."""
    plan, split = inputs.plan, layers_by_stage(inputs)
    by_hand = [first_value(n) for n in plan.stage_layers.values() if not np.isnan(first_value(n))]
    if by_hand:
        return [by_hand[0] - first_value(inputs.model.first_dense), *by_hand[1:]]
    fullest, fewer = int(first_value(split.n_fullest)), int(first_value(split.n_lighter))
    middle = [first_value(split.middle)] * fullest + [first_value(split.lighter)] * fewer
    n_chunks, dense = int(first_value(plan.virtual_pipeline)), first_value(inputs.model.first_dense)
    stages = [first_value(split.first) + dense, *middle, first_value(split.last)]
    schedule = SCHEDULES[int(first_value(plan.schedule))]
    places = [stage_of(k, len(stages), schedule) for k in range(len(stages) * n_chunks)]
    chunks = [float(np.ceil(stages[stage] / n_chunks)) for stage in places]
    # The outermost chunk of an end has what its others leave.
    for place in (0, -1):
        if n_chunks > 1:
            chunks[place] -= n_chunks * chunks[place] - stages[places[place]]
    return [chunks[0] - dense, *chunks[1:]]


def _passes_of_chunks(partition: Partition, detail: Detail) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Forward and backward pass of every chunk of the model, and the latter's part that may wait [s]."""
    inputs, structure = partition.inputs, partition.structure
    layers = np.array(layers_of_chunks(inputs))
    place = np.arange(len(layers), dtype=np.float64)
    # All chunks are one kind of stage, an array over the places.
    every = StageKind(
        number=np.ones_like(place),
        position=place,
        layers=layers,
        embedding=(place == 0).astype(np.float64),
        head=(place == place[-1]).astype(np.float64),
    )
    kinds = StageKinds(first=every, middle=every, last=every, lighter=every, copies=detail.step.kinds.copies)
    units = unit_exchanges(detail.table, inputs, replica_group(inputs), tied=structure.layer.tied)
    times = times_of(kinds, structure, inputs, detail.table, units)
    put_off = follows(inputs.plan, *SPLIT) * (times.backward_s[0] - times.input_gradients_s[0])
    forward, backward, late = np.broadcast_arrays(times.forward_s[0], times.backward_s[0], put_off)
    return forward, backward, late


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
    micro_batches = int(first_value(detail.step.micro_batches))
    if PASSES_PER_MICRO_BATCH * n_stages * n_chunks * micro_batches > MOST_PASSES:
        return []
    forward, backward, weights = (values.tolist() for values in _passes_of_chunks(partition, detail))
    done = replay(
        forward,
        backward,
        micro_batches,
        weights_s=weights,
        schedule=SCHEDULES[int(first_value(plan.schedule))],
        n_chunks=n_chunks,
        by_chunk=True,
    )
    return _rows(done, *_bytes_by_stage(partition.inputs, detail))


def _bytes_by_stage(inputs: Inputs, detail: Detail) -> tuple[FloatArray, FloatArray]:
    """For every stage, front to back: what a device holds at most, and what each held micro-batch adds [byte]."""
    step, plan = detail.step, inputs.plan
    n_stages, schedule = int(first_value(plan.pipeline_parallel)), SCHEDULES[int(first_value(plan.schedule))]
    layers, (embedding, head) = np.zeros(n_stages), np.zeros((2, n_stages))
    for place, n in enumerate(layers_of_chunks(inputs)):
        layers[stage_of(place, n_stages, schedule)] += n
    if schedule == "dualpipe":  # a device has a stage of each direction
        layers = (layers + layers[::-1]) / 2.0
    for stage, kind in ((0, step.kinds.first), (-1, step.kinds.last)):
        embedding[stage], head[stage] = first_value(kind.embedding), first_value(kind.head)
    every = StageKind(
        number=np.ones(n_stages),
        position=np.arange(n_stages, dtype=np.float64),
        layers=layers,
        embedding=embedding,
        head=head,
    )
    found = training_stage(
        inputs, detail.table, every, step.kinds.copies, step.micro_batches, tied=detail.tied
    )
    # What is offloaded leaves no trace on the device, and of what stays an allocator holds a share beyond.
    away = bool(np.any(plan.offload["activations"] > 0))
    each = np.zeros(1) if away else kept_by_micro_batch(detail.table, every) * (1.0 + plan.fragmentation)
    whole = sum(found.owners.values(), inputs.device.reserved_bytes)
    return np.broadcast_to(whole, (n_stages,)), np.broadcast_to(each, (n_stages,))


def _rows(done: Replay, whole: FloatArray, of_micro_batch: FloatArray) -> list[dict[str, Any]]:
    # Where another micro-batch computes while rows pass, one more than the schedule holds is there all the time.
    held, most = np.empty(len(done.start_s)), np.array(done.most_in_flight)
    for stage in range(int(done.stage.max()) + 1):
        mine = done.stage == stage
        moments, kept = done.held_over_time(stage)
        held[mine] = kept[np.searchsorted(moments, done.start_s[mine], side="right") - 1]
    memory = (whole - of_micro_batch * most)[done.stage] + of_micro_batch[done.stage] * held
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

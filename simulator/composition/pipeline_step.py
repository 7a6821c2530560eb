"""Time of a step's micro-batches through the pipeline, under the plan's schedule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import PlanColumns
from simulator.composition.pipeline import decode_period, pipeline_time
from simulator.composition.stages import StageTimes
from simulator.pipelines.schedules import PASSES, SPLIT, Passes, follows, gpipe_bubble, zero_bubble_wait

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineTime:
    """Seconds from the first to the last micro-batch, and the part in which the slowest stage waits [s]."""

    seconds: FloatArray
    bubble_s: FloatArray


def decoding_time(stages: StageTimes, micro_batches: FloatArray) -> PipelineTime:
    """Time between two tokens while decoding goes on [s]; counts [1]; raises nothing."""
    slowest = stages.slowest_s()
    seconds = decode_period(
        sum_of_stages_s=stages.sum_s, slowest_stage_s=slowest, micro_batches=micro_batches
    )
    return PipelineTime(seconds=seconds, bubble_s=np.maximum(stages.sum_s - micro_batches * slowest, 0.0))


def scheduled_time(stages: StageTimes, micro_batches: FloatArray, plan: PlanColumns) -> PipelineTime:
    """Time of prefill or of a training step through the pipeline under the plan's schedule.

    Parameters
    ----------
    stages : StageTimes
        One micro-batch on each kind of stage [s].
    micro_batches : ndarray
        Per replica [1].
    plan : PlanColumns
        Schedule, stages and chunks [1].

    Returns
    -------
    PipelineTime
        Seconds without point-to-point transfers.

    Raises
    ------
    ValueError
        If shapes do not broadcast.
    """
    slowest = stages.slowest_s()
    chunks, sum_of_chunks = stages.chunks_s(plan.virtual_pipeline)
    rest = [
        chunk + micro_batches * (slowest - total) for total, chunk in zip(stages.total_s, chunks, strict=True)
    ]
    least = reduce(np.minimum, rest)
    seconds = pipeline_time(
        slowest_stage_s=slowest,
        micro_batches=micro_batches,
        sum_of_chunks_s=sum_of_chunks,
        least_rest_s=least,
    )
    # Exactly zero for one stage.
    bubble = sum_of_chunks - least
    if not np.any(plan.schedule > 0):
        return PipelineTime(seconds=seconds, bubble_s=bubble)
    gpipe, split = follows(plan, "gpipe"), follows(plan, *SPLIT)
    if np.any(gpipe):
        there, back = stages.sums_s()
        wait = gpipe_bubble(
            sum_of_forward_s=there,
            sum_of_backward_s=back,
            slowest_forward_s=stages.most(stages.forward_s),
            slowest_backward_s=stages.most(stages.backward_s),
            slowest_stage_s=slowest,
            micro_batches=micro_batches,
        )
        bubble = np.where(gpipe > 0, wait, bubble)
    if np.any(split):
        bubble = np.where(split > 0, _put_off(stages, micro_batches, plan), bubble)
    seconds = np.where(gpipe + split > 0, micro_batches * slowest + bubble, seconds)
    return PipelineTime(seconds=seconds, bubble_s=bubble)


def _put_off(stages: StageTimes, micro_batches: FloatArray, plan: PlanColumns) -> FloatArray:
    """What schedules that put gradients of weights off add to the slowest stage's own work [s]: most of all stages."""
    kinds, slowest = stages.passes(), stages.slowest_s()
    behind = np.maximum(plan.pipeline_parallel - 1.0, 1.0)
    sums = {name: sum((k.number * getattr(k.long, name) for k in kinds), ZERO) for name in PASSES}
    found = ZERO
    # The last kind has fewer layers than another middle one, and is not the slowest.
    for kind, total in zip(kinds[:-1], stages.total_s, strict=True):
        others = Passes(
            **{name: np.maximum(sums[name] - getattr(kind.long, name), 0.0) / behind for name in PASSES}
        )
        wait = zero_bubble_wait(plan, others, kind.short) - micro_batches * (slowest - total)
        found = np.maximum(found, np.where(kind.number > 0, wait, 0.0))
    return found

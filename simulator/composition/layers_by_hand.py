"""Layers that a plan gives for every stage, or for every chunk of the model, as kinds of stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import PlanColumns
from simulator.pipelines.schedules import follows

FloatArray = NDArray[np.float64]
# How many stages, their layers, and the place of the first of them [1].
Middle = tuple[FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersByHand:
    """Layers of the first, the middle and the last stages where ``given`` is 1 [1].

    ``middle`` has stages of equal layers once, with their number; ``first_chunk`` and ``last_chunk`` are the ends of
    the model.
    """

    given: FloatArray
    first: FloatArray
    last: FloatArray
    middle: list[Middle]
    first_chunk: FloatArray
    last_chunk: FloatArray


def _on_stages(plan: PlanColumns) -> list[FloatArray]:
    """Layers on each stage [1], 0 beyond the last one; a chunk goes to its stage, a stage of two directions to both."""
    stages = plan.pipeline_parallel
    folded, both = follows(plan, "zb_v") > 0, follows(plan, "dualpipe") > 0
    held: list[FloatArray] = [np.zeros(1) for _ in range(int(np.max(stages)))]
    for place, text in enumerate(plan.stage_layers):
        layers = np.nan_to_num(plan.stage_layers[text])
        back = np.mod(np.floor(place / stages), 2.0) == 1
        turn = np.mod(place, stages)
        stage = np.where(folded & back, stages - 1.0 - turn, turn)
        mirrored = np.where(both, stages - 1.0 - stage, stage)
        for number, so_far in enumerate(held):
            share = (stage == number) * 0.5 + (mirrored == number) * 0.5
            if np.any(share):
                held[number] = so_far + share * layers
    return held


def layers_by_hand(plan: PlanColumns) -> LayersByHand | None:
    """Layers of the stages where a plan gives them, None where none does [1].

    Broadcasts over rows; stages that hold as many layers in every row are counted together. Raises nothing.
    """
    if not plan.stage_layers:
        return None
    places = list(plan.stage_layers.values())
    held, stages = _on_stages(plan), plan.pipeline_parallel
    groups: list[Middle] = []
    for number in range(1, len(held) - 1):
        here: FloatArray = (number < stages - 1).astype(np.float64)
        layers: FloatArray = held[number] * here
        for k, (count, seen, place) in enumerate(groups):
            if np.all((here == 0) | (layers == seen)):
                groups[k] = count + here, seen, place
                break
        else:
            position: FloatArray = np.full(1, float(number))
            groups.append((here, layers, position))
    last, last_chunk = np.zeros(1), np.zeros(1)
    for number, layers in enumerate(held):
        last = np.where(number == stages - 1, layers, last)
    for layers in places:
        last_chunk = np.where(np.isnan(layers), last_chunk, layers)
    return LayersByHand(
        given=(~np.isnan(places[0])) * 1.0,
        first=held[0],
        last=last,
        middle=groups,
        first_chunk=np.nan_to_num(places[0]),
        last_chunk=last_chunk,
    )

"""What the three kinds of stage hold: layers, and shares of the embedding and of the head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import PlanColumns
from simulator.composition.pipeline import StageLayers
from simulator.pipelines.schedules import FOLDED, follows

FloatArray = NDArray[np.float64]
ByStage = tuple[FloatArray, FloatArray, FloatArray]
ZERO: FloatArray = np.zeros(1)
ONE: FloatArray = np.ones(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageKind:
    """One kind of stage: how many there are, its place from the front, its layers, and its share of the ends [1].

    ``embedding`` and ``head`` are 1 where it holds them, 1/2 where it serves them for every other micro-batch.
    """

    number: FloatArray
    position: FloatArray
    layers: FloatArray
    embedding: FloatArray
    head: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StageKinds:
    """First, middle and last stage; the middle ones with a layer less; copies of the model [1].

    ``copies`` is 2 where each device holds two stages' parameters, one for each direction (DualPipe).
    """

    first: StageKind
    middle: StageKind
    last: StageKind
    lighter: StageKind
    copies: FloatArray

    def __iter__(self) -> Iterator[StageKind]:
        """The kinds that one may be the slowest or the heaviest of."""
        return iter((self.first, self.middle, self.last))

    def by_stage(self, name: str) -> ByStage:
        """A field of the three kinds."""
        first, middle, last = (getattr(kind, name) for kind in self)
        return first, middle, last


def ends_apart(plan: PlanColumns) -> FloatArray:
    """1 where embedding and head are on different stages, 0 where a schedule has both on one [1]; raises nothing."""
    return 1.0 - follows(plan, *FOLDED)


def stage_kinds(layers: StageLayers, plan: PlanColumns) -> StageKinds:
    """Kinds of stage under the plan's schedule.

    A V (ZB-V) has both ends on the first device; DualPipe's two directions give the first and the last device half of
    the micro-batches at either end. Raises nothing.
    """
    single = (plan.pipeline_parallel == 1).astype(np.float64)
    embedding, head = (ONE, ZERO, ZERO), (single, ZERO, ONE)
    folded = follows(plan, *FOLDED)
    copies = ONE
    first, last = layers.first, layers.last
    if np.any(folded):
        both = follows(plan, "dualpipe")
        copies = ONE + both
        embedding = (ONE - both / 2.0, ZERO, both / 2.0)
        head = (np.maximum(single, folded - both / 2.0), ZERO, ONE - folded + both / 2.0)
        mean = (layers.first + layers.last) / 2.0
        first = np.where(both > 0, mean, first)
        last = np.where(both > 0, mean, last)
    pipeline = plan.pipeline_parallel
    return StageKinds(
        first=StageKind(number=ONE, position=ZERO, layers=first, embedding=embedding[0], head=head[0]),
        # Of the middle stages the second of the pipeline holds most micro-batches.
        middle=StageKind(
            number=layers.n_fullest,
            position=np.minimum(ONE, pipeline - 1),
            layers=layers.middle,
            embedding=ZERO,
            head=ZERO,
        ),
        last=StageKind(
            number=1.0 - single,
            position=pipeline - 1,
            layers=last,
            # A single stage is the first one, and this kind stands for it too.
            embedding=np.maximum(single, embedding[2]),
            head=head[2],
        ),
        lighter=StageKind(
            number=layers.n_lighter, position=pipeline - 2, layers=layers.lighter, embedding=ZERO, head=ZERO
        ),
        copies=copies,
    )

"""What the kinds of stage hold: layers, and shares of the embedding and of the head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import PlanColumns
from simulator.composition.layers_by_hand import LayersByHand, layers_by_hand
from simulator.composition.pipeline import StageLayers
from simulator.pipelines.schedules import FOLDED, follows

FloatArray = NDArray[np.float64]
ByStage = tuple[FloatArray, ...]
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

    ``more`` are further middle stages where a plan gives them layers of their own. ``end_chunks`` are the first chunk
    of the first stage and the last chunk of the last one, which the first micro-batch waits for; None where no stage
    has chunks. ``copies`` is 2 where each device holds two stages' parameters, one for each direction (DualPipe).
    """

    first: StageKind
    middle: StageKind
    last: StageKind
    lighter: StageKind
    copies: FloatArray
    more: tuple[StageKind, ...] = ()
    end_chunks: tuple[StageKind, StageKind] | None = None

    def __iter__(self) -> Iterator[StageKind]:
        """The kinds that one may be the slowest or the heaviest of."""
        return iter((self.first, self.middle, self.last, *self.more))

    def by_stage(self, name: str) -> ByStage:
        """A field of the kinds that may be the slowest."""
        return tuple(getattr(kind, name) for kind in self)


def ends_apart(plan: PlanColumns) -> FloatArray:
    """1 where embedding and head are on different stages, 0 where a schedule has both on one [1]; raises nothing."""
    return 1.0 - follows(plan, *FOLDED)


def _paired(layers: StageLayers, both: FloatArray) -> StageLayers:
    """Mean layers of the two stages on each device where ``both`` directions run [1].

    Fuller stages come first, so as many lighter ones as there are of either meet a fuller one.
    """
    fuller = layers.n_fullest > layers.n_lighter
    mixed, fewest = (layers.middle + layers.lighter) / 2.0, np.minimum(layers.n_fullest, layers.n_lighter)
    apart = np.abs(layers.n_fullest - layers.n_lighter)
    ends = (layers.first + layers.last) / 2.0
    chosen = both > 0
    return StageLayers(
        first=np.where(chosen, ends, layers.first),
        middle=np.where(chosen & ~fuller & (fewest > 0), mixed, layers.middle),
        lighter=np.where(chosen & fuller, mixed, layers.lighter),
        last=np.where(chosen, ends, layers.last),
        n_fullest=np.where(chosen, np.where(fuller, apart, 2.0 * fewest), layers.n_fullest),
        n_lighter=np.where(chosen, np.where(fuller, 2.0 * fewest, apart), layers.n_lighter),
    )


def _end_chunk(layers: FloatArray, plan: PlanColumns) -> FloatArray:
    """Layers of an end stage's outermost chunk [1]: the others share evenly, and it has what is left."""
    return layers - (plan.virtual_pipeline - 1.0) * np.ceil(layers / plan.virtual_pipeline)


def _end_chunks(kinds: StageKinds, plan: PlanColumns, first_dense: FloatArray) -> StageKinds:
    """The kinds with their end chunks, where any stage has several."""
    if not np.any(plan.virtual_pipeline > 1):
        return kinds
    # Dense layers in front count with the embedding.
    first = np.maximum(_end_chunk(kinds.first.layers + first_dense, plan) - first_dense, 0.0)
    last = _end_chunk(kinds.last.layers, plan)
    return replace(kinds, end_chunks=(replace(kinds.first, layers=first), replace(kinds.last, layers=last)))


def _laid_by_hand(kinds: StageKinds, hand: LayersByHand, first_dense: FloatArray) -> StageKinds:
    """The kinds where a plan gives the layers of every stage."""
    given = hand.given > 0

    def changed(kind: StageKind, layers: FloatArray, **rest: FloatArray) -> StageKind:
        fields = {"layers": layers, **rest}
        return replace(kind, **{k: np.where(given, v, getattr(kind, k)) for k, v in fields.items()})

    middle, *more = hand.middle or [(ZERO, ZERO, ONE)]
    # Half of the micro-batches meet the dense layers on the last device too, as they do the embedding.
    dense = first_dense * kinds.first.embedding, first_dense * kinds.last.embedding
    laid = replace(
        kinds,
        first=changed(kinds.first, hand.first - dense[0]),
        middle=changed(kinds.middle, middle[1], number=middle[0], position=middle[2]),
        last=changed(kinds.last, hand.last - dense[1]),
        lighter=changed(kinds.lighter, ZERO, number=ZERO),
        more=tuple(
            StageKind(number=number, position=position, layers=layers, embedding=ZERO, head=ZERO)
            for number, layers, position in more
        ),
    )
    if kinds.end_chunks is None:
        return laid
    first, last = kinds.end_chunks
    own = np.maximum(hand.first_chunk - first_dense, 0.0)
    return replace(laid, end_chunks=(changed(first, own), changed(last, hand.last_chunk)))


def stage_kinds(layers: StageLayers, plan: PlanColumns, first_dense: FloatArray = ZERO) -> StageKinds:
    """Kinds of stage under the plan's schedule.

    A V (ZB-V) has both ends on the first device; DualPipe's two directions give each device two stages, and the first
    and the last device half of the micro-batches at either end: layers are the mean of the two. ``first_dense`` layers
    of the first stage count with the embedding [1]. Raises nothing.
    """
    single = (plan.pipeline_parallel == 1).astype(np.float64)
    embedding, head = (ONE, ZERO, ZERO), (single, ZERO, ONE)
    folded = follows(plan, *FOLDED)
    copies = ONE
    if np.any(folded):
        both = follows(plan, "dualpipe")
        copies = ONE + both
        embedding = (ONE - both / 2.0, ZERO, both / 2.0)
        head = (np.maximum(single, folded - both / 2.0), ZERO, ONE - folded + both / 2.0)
        if np.any(both):
            layers = _paired(layers, both)
    pipeline = plan.pipeline_parallel
    kinds = StageKinds(
        first=StageKind(number=ONE, position=ZERO, layers=layers.first, embedding=embedding[0], head=head[0]),
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
            layers=layers.last,
            # A single stage is the first one, and this kind stands for it too.
            embedding=np.maximum(single, embedding[2]),
            head=head[2],
        ),
        lighter=StageKind(
            number=layers.n_lighter, position=pipeline - 2, layers=layers.lighter, embedding=ZERO, head=ZERO
        ),
        copies=copies,
    )
    kinds = _end_chunks(kinds, plan, first_dense)
    hand = layers_by_hand(plan)
    return kinds if hand is None else _laid_by_hand(kinds, hand, first_dense)

"""A pipeline step played out event by event: it checks the closed forms and draws timelines, no more.

Nothing of an Estimate may depend on this module; a test holds that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.pipelines.orders import ORDERS, Order, Pass, Phase, problems_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PHASES: tuple[Phase, ...] = ("forward", "backward", "inputs", "weights")
# Passes that let go of what the forward pass kept.
FREEING = (PHASES.index("backward"), PHASES.index("weights"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One pass of one micro-batch through one model chunk of a stage, from ``start_s`` to ``end_s`` [s]."""

    stage: int
    phase: Phase
    chunk: int
    micro_batch: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A step that was played out; arrays have one entry per pass, by stage and in the order of execution.

    Attributes
    ----------
    makespan_s : float
        End of the last pass [s].
    longest_span_s : float
        Longest time from the first to the last pass of one stage [s]: a step where steps follow each other stage by
        stage.
    stage, phase, chunk, micro_batch : ndarray of int
        Which pass; ``phase`` is a code (:data:`PHASES`).
    start_s, end_s : ndarray
        When [s].
    n_chunks : int
        Model chunks per stage [1].
    """

    makespan_s: float
    longest_span_s: float
    stage: IntArray
    phase: IntArray
    chunk: IntArray
    micro_batch: IntArray
    start_s: FloatArray
    end_s: FloatArray
    n_chunks: int

    @property
    def events(self) -> tuple[Event, ...]:
        """The passes as objects."""
        rows = zip(
            self.stage.tolist(),
            self.phase.tolist(),
            self.chunk.tolist(),
            self.micro_batch.tolist(),
            self.start_s.tolist(),
            self.end_s.tolist(),
            strict=True,
        )
        return tuple(
            Event(stage=s, phase=PHASES[k], chunk=c, micro_batch=m, start_s=a, end_s=b)
            for s, k, c, m, a, b in rows
        )

    def held_over_time(self, stage: int) -> tuple[FloatArray, FloatArray]:
        """Micro-batches whose activations a stage holds from each of some moments on [s, 1]; a chunk counts 1/v.

        Of a micro-batch as soon as its forward pass begins, until its gradients of weights are done. Raises nothing.
        """
        mine = self.stage == stage
        forward, freed = mine & (self.phase == 0), mine & np.isin(self.phase, FREEING)
        moments = np.concatenate([self.end_s[freed], self.start_s[forward]])
        change = np.concatenate([-np.ones(freed.sum()), np.ones(forward.sum())])
        order = np.argsort(moments, kind="stable")
        return moments[order], np.cumsum(change[order]) / self.n_chunks

    @property
    def most_in_flight(self) -> tuple[float, ...]:
        """Per stage, most micro-batches whose activations it held at once [1]; a chunk counts 1/v."""
        n_stages = int(self.stage.max()) + 1
        return tuple(float(self.held_over_time(stage)[1].max()) for stage in range(n_stages))


def replay(
    forward_s: Sequence[float],
    backward_s: Sequence[float],
    micro_batches: int,
    *,
    weights_s: Sequence[float] | None = None,
    schedule: str = "1f1b",
    n_chunks: int = 1,
    message_s: float = 0.0,
    by_chunk: bool = False,
) -> Replay:
    """Play out one step.

    Parameters
    ----------
    forward_s, backward_s : sequence of float, one per stage
        Time of one micro-batch on the whole stage; a chunk takes 1/v of it [s]. With ``by_chunk`` one per chunk of the
        model, from the embedding to the head.
    micro_batches : int
        Per replica [1].
    weights_s : sequence of float, optional
        Part of ``backward_s`` that computes gradients of weights, which some schedules put off [s].
    schedule : str
        A key of :data:`simulator.pipelines.orders.ORDERS`.
    n_chunks : int
        Model chunks per stage, v [1].
    message_s : float
        Delay of a message to another stage, beside which the sender goes on [s].
    by_chunk : bool
        Whether times are those of chunks, in the order of the model.

    Returns
    -------
    Replay
        Makespan, passes and activations held.

    Raises
    ------
    ValueError
        If the lists differ in length or the schedule is not possible.
    """
    late_s = [0.0] * len(forward_s) if weights_s is None else weights_s
    if not len(forward_s) == len(backward_s) == len(late_s):
        raise ValueError(
            f"{len(forward_s)} forward, {len(backward_s)} backward and {len(late_s)} weight-gradient times"
        )
    n_stages, left = divmod(len(forward_s), n_chunks if by_chunk else 1)
    if left:
        raise ValueError(f"{len(forward_s)} chunks are no multiple of the {n_chunks} of a stage")
    wrong = list(problems_of(schedule, n_stages, n_chunks, micro_batches))
    if wrong:
        raise ValueError("; ".join(wrong))
    orders = ORDERS[schedule](n_stages, n_chunks, micro_batches)
    places = n_stages * n_chunks
    # Where each chunk of the model sits, by its place from the embedding: in turn, or there and back.
    seconds = {}
    for phase, by_stage in (
        ("forward", forward_s),
        ("backward", backward_s),
        ("inputs", [b - w for b, w in zip(backward_s, late_s, strict=True)]),
        ("weights", late_s),
    ):
        seconds[phase] = (
            list(by_stage)
            if by_chunk
            else [by_stage[stage_of(k, n_stages, schedule)] / n_chunks for k in range(places)]
        )
    return _played(orders, seconds, micro_batches, n_chunks, message_s)


def stage_of(place: int, n_stages: int, schedule: str) -> int:
    """Stage of a chunk, by its place from the embedding [1]: in turn, or there and back; raises nothing."""
    turn, stage = divmod(place, n_stages)
    return n_stages - 1 - stage if turn % 2 and schedule == "zb_v" else stage


def _played(
    orders: Sequence[Order],
    seconds: Mapping[str, Sequence[float]],
    micro_batches: int,
    n_chunks: int,
    message_s: float,
) -> Replay:
    """Every stage runs its passes in order, each as soon as what it needs has come."""
    n_stages, places = len(orders), len(seconds["forward"])
    arrived: dict[tuple[int, int, int], float] = {}
    waiting: dict[tuple[int, int, int], int] = {}
    clock, position, began = [0.0] * n_stages, [0] * n_stages, [0.0] * n_stages
    starts: list[list[float]] = [[] for _ in orders]
    ends: list[list[float]] = [[] for _ in orders]
    runnable, last = list(range(n_stages)), places - 1
    while runnable:
        stage = runnable.pop()
        order, now, at = orders[stage], clock[stage], position[stage]
        while at < len(order):
            start, spent, missing = now, 0.0, None
            for phase, place, micro in order[at]:
                spent += seconds[phase][place]
                if phase == "forward":
                    if not place:
                        continue
                    needs = (0, place - 1, micro)
                elif phase == "weights":
                    needs = (1, place, micro)
                else:
                    needs = (1, place + 1, micro) if place < last else (0, place, micro)
                moment = arrived.get(needs)
                if moment is None:
                    missing = needs
                    break
                if needs[1] != place:
                    moment += message_s
                if moment > start:
                    start = moment
            if missing is not None:
                waiting[missing] = stage
                break
            if not at:
                began[stage] = start
            now = start + spent
            for phase, place, micro in order[at]:
                starts[stage].append(start)
                ends[stage].append(now)
                key = (0 if phase == "forward" else 2 if phase == "weights" else 1, place, micro)
                arrived[key] = now
                if key in waiting:
                    runnable.append(waiting.pop(key))
            at += 1
        clock[stage], position[stage] = now, at
    if any(at < len(order) for at, order in zip(position, orders, strict=True)):
        raise ValueError("the schedule waits for itself")
    return _recorded(orders, starts, ends, clock, began, n_chunks)


def _recorded(
    orders: Sequence[Order],
    starts: Sequence[Sequence[float]],
    ends: Sequence[Sequence[float]],
    clock: Sequence[float],
    began: Sequence[float],
    n_chunks: int,
) -> Replay:
    n_stages = len(orders)
    code = {phase: number for number, phase in enumerate(PHASES)}
    passes: list[list[Pass]] = [[one for group in order for one in group] for order in orders]
    flat = np.array([(code[phase], place, micro) for row in passes for phase, place, micro in row])
    stage = np.repeat(np.arange(n_stages), [len(row) for row in passes])
    return Replay(
        makespan_s=max(clock),
        longest_span_s=max(end - begin for end, begin in zip(clock, began, strict=True)),
        stage=stage,
        phase=flat[:, 0],
        chunk=flat[:, 1] // n_stages,
        micro_batch=flat[:, 2],
        start_s=np.array([s for row in starts for s in row]),
        end_s=np.array([s for row in ends for s in row]),
        n_chunks=n_chunks,
    )

"""A pipeline step played out event by event: it checks the closed form and draws the timeline, no more.

Nothing of an Estimate may depend on this module; a test holds that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Pass = Literal["forward", "backward"]
Task = tuple[Pass, int, int]  # pass, model chunk of the stage, micro-batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One pass of one micro-batch through one model chunk of a stage, from ``start_s`` to ``end_s`` [s]."""

    stage: int
    phase: Pass
    chunk: int
    micro_batch: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A step that was played out.

    Attributes
    ----------
    makespan_s : float
        End of the last pass [s].
    events : tuple of Event
        By stage, in the order of execution.
    most_in_flight : tuple of float
        Per stage, most micro-batches whose activations it held at once [1]; a chunk counts 1/v.
    """

    makespan_s: float
    events: tuple[Event, ...]
    most_in_flight: tuple[float, ...]


def stage_order(stage: int, n_stages: int, n_chunks: int, micro_batches: int) -> list[Task]:
    """Passes of one stage in the order of (interleaved) 1F1B: warm-up, steady state, cool-down.

    Parameters
    ----------
    stage, n_stages : int
        Number of the stage from 0, and stages [1].
    n_chunks : int
        Model chunks per stage; above 1, micro-batches must be a multiple of the stages [1].
    micro_batches : int
        Per replica and step [1].

    Returns
    -------
    list of tuple
        ("forward" or "backward", chunk, micro-batch).

    Raises
    ------
    ValueError
        If chunks are interleaved and micro-batches do not divide by the stages.

    References
    ----------
    .. [1] D. Narayanan et al., arXiv:2104.04473, section 2.2, figures 3 and 4.
    """
    if n_chunks > 1 and micro_batches % n_stages:
        raise ValueError(f"{micro_batches} micro-batches are no multiple of the {n_stages} stages")
    total = n_chunks * micro_batches
    # Chunks take turns with groups of as many micro-batches as there are stages.
    group = n_stages if n_chunks > 1 else 1

    def task(phase: Pass, k: int) -> Task:
        turn, within = divmod(k, group * n_chunks)
        chunk = within // group
        if phase == "backward":
            chunk = n_chunks - 1 - chunk
        return phase, chunk, turn * group + within % group

    behind = n_stages - stage - 1
    warm_up = min(behind if n_chunks == 1 else 2 * behind + (n_chunks - 1) * n_stages, total)
    order = [task("forward", k) for k in range(warm_up)]
    for k in range(total - warm_up):
        order += [task("forward", warm_up + k), task("backward", k)]
    return order + [task("backward", k) for k in range(total - warm_up, total)]


def _waits_for(task: Task, stage: int, n_stages: int, n_chunks: int) -> tuple[int, Task] | None:
    """Stage and pass whose result a pass needs; None for the first forward of a micro-batch."""
    phase, chunk, micro = task
    if phase == "forward":
        if stage > 0:
            return stage - 1, task
        return (n_stages - 1, ("forward", chunk - 1, micro)) if chunk > 0 else None
    if stage < n_stages - 1:
        return stage + 1, task
    return (0, ("backward", chunk + 1, micro)) if chunk < n_chunks - 1 else (stage, ("forward", chunk, micro))


def _most_held(order: Sequence[Task], n_chunks: int) -> float:
    held = most = 0
    for phase, _, _ in order:
        held += 1 if phase == "forward" else -1
        most = max(most, held)
    return most / n_chunks


def replay(
    forward_s: Sequence[float],
    backward_s: Sequence[float],
    micro_batches: int,
    *,
    n_chunks: int = 1,
    message_s: float = 0.0,
) -> Replay:
    """Play out one step.

    Parameters
    ----------
    forward_s, backward_s : sequence of float, one per stage
        Time of one micro-batch on the whole stage; a chunk takes 1/v of it [s].
    micro_batches : int
        Per replica [1].
    n_chunks : int
        Model chunks per stage, v [1].
    message_s : float
        Delay of a message to another stage, beside which the sender goes on [s].

    Returns
    -------
    Replay
        Makespan, events and activations held.

    Raises
    ------
    ValueError
        If the lists differ in length or the schedule is not possible.
    """
    n_stages = len(forward_s)
    if len(backward_s) != n_stages:
        raise ValueError(f"{n_stages} forward and {len(backward_s)} backward times")
    orders = [stage_order(i, n_stages, n_chunks, micro_batches) for i in range(n_stages)]
    end: dict[tuple[int, Task], float] = {}
    clock, position = [0.0] * n_stages, [0] * n_stages
    events: list[list[Event]] = [[] for _ in range(n_stages)]
    n_left = sum(len(order) for order in orders)
    while n_left:
        before = n_left
        for stage, order in enumerate(orders):
            while position[stage] < len(order):
                task = order[position[stage]]
                needs = _waits_for(task, stage, n_stages, n_chunks)
                if needs is not None and needs not in end:
                    break
                arrives = end[needs] + message_s * (needs[0] != stage) if needs is not None else 0.0
                start = max(clock[stage], arrives)
                spent = forward_s[stage] if task[0] == "forward" else backward_s[stage]
                clock[stage] = end[stage, task] = start + spent / n_chunks
                events[stage].append(
                    Event(
                        stage=stage,
                        phase=task[0],
                        chunk=task[1],
                        micro_batch=task[2],
                        start_s=start,
                        end_s=clock[stage],
                    )
                )
                position[stage] += 1
                n_left -= 1
        if n_left == before:
            raise ValueError("the schedule waits for itself")
    return Replay(
        makespan_s=max(clock),
        events=tuple(event for row in events for event in row),
        most_in_flight=tuple(_most_held(order, n_chunks) for order in orders),
    )

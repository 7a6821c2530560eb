"""Event-driven replay of flows that share links max-min fairly: a slower second opinion, which feeds no estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from simulator.network.max_min_flows import Flow, Routes, max_min_rates
from simulator.network.played_rounds import Branches, Round

__all__ = ["Replayed", "replay"]

DONE_FRACTION = 1e-9  # of a flow's bytes that may be left by rounding


@dataclass(slots=True, kw_only=True)
class Replayed:
    """Finish of each process [s], and what each link carried [byte]."""

    finish_s: list[float]
    link_bytes: list[float]


@dataclass(slots=True)
class _Process:
    """Rounds of one group; a round starts when the last one has arrived, or all branches of the last phase have."""

    rounds: Sequence[Round | Branches]
    parent: int | None = None
    next_round: int = 0
    waiting: list[tuple[float, Flow]] = field(default_factory=list)
    active: int = 0
    finish_s: float = 0.0


def replay(processes: Sequence[Sequence[Round | Branches]], routes: Routes) -> Replayed:
    """Run groups side by side, each through its rounds; flows under way share links max-min fairly.

    Parameters
    ----------
    processes : sequence of sequence of Round or Branches
        Rounds of each group; a tuple stands for parts that run side by side.
    routes : Routes
        The graph.

    Returns
    -------
    Replayed
        A process without rounds finishes at 0.

    Raises
    ------
    networkx.NetworkXNoPath
        If a message has no way.

    Notes
    -----
    Events are the starts of flows, one latency after their round, and their ends. Between two events all rates are
    constant. Flows that end at the same moment end together.
    """
    running = [_Process(rounds) for rounds in processes]
    flows: list[Flow] = []
    owner: list[int] = []
    left: list[float] = []
    carried = np.zeros(len(routes.bytes_per_s))
    now = 0.0

    def start_round(k: int) -> None:
        process = running[k]
        while not process.waiting and not process.active and process.next_round < len(process.rounds):
            messages = process.rounds[process.next_round]
            process.next_round += 1
            if isinstance(messages, tuple):
                first = len(running)
                running.extend(_Process(branch, parent=k) for branch in messages)
                process.active = len(messages)
                for child in range(first, first + len(messages)):
                    start_round(child)
                continue
            for source, target, size in messages:
                flow = routes.flow(source, target, size)
                process.waiting.append((now + flow.latency_s, flow))
        process.finish_s = now
        over = not process.waiting and not process.active
        if over and process.parent is not None:
            parent, process.parent = process.parent, None
            running[parent].active -= 1
            start_round(parent)

    for k in range(len(processes)):
        start_round(k)
    while True:
        for k, process in enumerate(running):
            due = [w for w in process.waiting if w[0] <= now * (1 + 1e-12)]
            for w in due:
                process.waiting.remove(w)
                flows.append(w[1])
                owner.append(k)
                left.append(w[1].size_bytes)
                process.active += 1
        starts = [w[0] for p in running for w in p.waiting]
        if not flows and not starts:
            return Replayed(
                finish_s=[p.finish_s for p in running[: len(processes)]], link_bytes=carried.tolist()
            )
        rates = max_min_rates(flows, routes.bytes_per_s) if flows else np.zeros(0)
        ends = np.array(left) / rates if flows else np.zeros(0)
        step = min([*ends.tolist(), *(s - now for s in starts)])
        now += step
        for i, flow in enumerate(flows):
            moved = rates[i] * step
            left[i] -= moved
            for link, share in flow.links:
                carried[link] += moved * share
        gone = [i for i in range(len(flows)) if left[i] <= flows[i].size_bytes * DONE_FRACTION]
        touched = {owner[i] for i in gone}
        for i in reversed(gone):
            running[owner[i]].active -= 1
            del flows[i], owner[i], left[i]
        for k in sorted(touched):
            start_round(k)

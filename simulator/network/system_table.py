"""Collective time and bus bandwidth of a system by message size, group size and algorithm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs import Problem, ScenarioError, SystemSpec, near_names
from hardware_specs.fabric_rules import GRIDS
from simulator.arrays.columns import FabricColumns, column
from simulator.communication.collective_algorithms import ALGORITHMS, COLLECTIVES, RING_PASSES, TRAFFIC
from simulator.communication.collectives import exchange, rooted_exchange
from simulator.communication.direct_messages import all_to_all, stage_message
from simulator.communication.exchanges import Exchange, with_bytes
from simulator.communication.placement import place
from simulator.machines.device import Fidelity, Machines, TaskClass
from simulator.machines.fabric import fabric_columns
from simulator.machines.hardware_leaves import HardwareLeaves
from simulator.scenarios.precision import RECIPES

__all__ = ["DEFAULT_SIZES", "collective_table", "default_ranks", "system_fabric"]

FloatArray = NDArray[np.float64]
DEFAULT_SIZES: tuple[float, ...] = tuple(2.0**k for k in range(12, 34, 3))
MOST_DEFAULT_NODES = 4


def system_fabric(
    system: SystemSpec, devices: int, *, fidelity: Fidelity = "calibrated", task: TaskClass = "training"
) -> FabricColumns:
    """Columns of a system's fabric with ``devices`` in use [1]; SpecError if a calibration is unknown."""
    one = np.zeros(1, dtype=np.intp)
    machines = Machines(
        leaves=HardwareLeaves(systems=[system], index=one),
        precisions=[RECIPES["bf16"]],
        precision_index=one,
        fidelity=fidelity,
        task=task,
    )
    return fabric_columns(machines, column(devices))


def default_ranks(system: SystemSpec) -> list[int]:
    """Group sizes worth showing: powers of two up to a node, and some nodes; of a torus the listed slices [1]."""
    node, most = int(system.accelerators_per_node.value), int(system.max_devices.value)
    if system.scale_up.topology in GRIDS:
        shape = system.scale_up.shape
        return (
            [math.prod(shape)] if shape else [part.devices for part in system.slices if part.devices <= most]
        )
    inside = [2**k for k in range(1, 12) if 2**k < node]
    nodes = [node * 2**k for k in range(MOST_DEFAULT_NODES) if node * 2**k <= most]
    return [n for n in (*inside, *nodes) if n > 1]


def _unknown(option: str, value: str, known: Sequence[str]) -> Problem:
    near = near_names(value, known)
    meant = f"did you mean {near[0]}? " if near else ""
    return Problem(path=option, value=value, rule="is unknown", fix=f"{meant}known are {', '.join(known)}")


def _problems(
    system: SystemSpec, collective: str, ranks: Sequence[int], algorithms: Sequence[str]
) -> list[Problem]:
    node, most = int(system.accelerators_per_node.value), int(system.max_devices.value)
    found = []
    if collective not in COLLECTIVES:
        found.append(_unknown("--collective", collective, COLLECTIVES))
    for name in algorithms:
        if name not in ALGORITHMS:
            found.append(_unknown("--algorithm", name, ALGORITHMS))
        if name == "in_switch" and not system.scale_up.in_switch_reduction:
            rule = f"the {system.scale_up.topology} of {system.name} adds up nothing"
            found.append(Problem(path="--algorithm", value=name, rule=rule, fix="use another algorithm"))
    grid = system.scale_up.topology in GRIDS
    known = default_ranks(system) if grid else []
    if most < 2:
        rule, fix = "has one accelerator: nothing is exchanged", "use a system with more"
        return [*found, Problem(path="SYSTEM", value=system.name, rule=rule, fix=fix)]
    for n in ranks:
        rule = fix = ""
        if n > most:
            rule, fix = f"is more than the {most} accelerators of {system.name}", f"use at most {most}"
        elif n < 2:
            rule, fix = "is no group", "use 2 or more"
        elif grid and n not in known:
            rule, fix = f"is no slice of {system.name}", f"use {', '.join(map(str, known))}"
        elif not grid and n > node and n % node:
            rule, fix = f"must be part of one node or whole nodes of {node}", f"use a multiple of {node}"
        if rule:
            found.append(Problem(path="--ranks", value=str(n), rule=rule, fix=fix))
    return found


def _able(collective: str, algorithm: str, spans: bool) -> bool:
    """Whether an algorithm can do a collective on a group of that kind."""
    if algorithm == "auto":
        return True
    if algorithm == "hierarchical":
        return spans and collective in RING_PASSES
    if collective not in TRAFFIC[algorithm][0]:
        return False
    return not spans or algorithm == "ring" or (algorithm == "tree" and collective == "all_reduce")


def _run(collective: str, message: FloatArray, ranks: int, fabric: FabricColumns, algorithm: str) -> Exchange:
    n = column(ranks)
    group = place(n, np.ones(1), n, fabric)
    forced = column(ALGORITHMS.index(algorithm))
    if collective == "all_to_all":
        return all_to_all(message, group, fabric)
    if collective in ("broadcast", "reduce"):
        return rooted_exchange(collective, message, group, fabric, forced)
    if collective == "send_recv":
        # The first and the last rank of the group.
        sent = stage_message(message, n - 1.0, column(2), fabric)
        inner, *across = (np.where(count > 0, message, 0.0) for _, count in sent.by_tier)
        return with_bytes(sent.slowest_s(), inner, across)
    return exchange(collective, message, group, fabric, forced)


def _bus_factor(collective: str, ranks: int) -> float:
    """Bus bandwidth over message per time, as nccl-tests defines it [1]."""
    if collective in RING_PASSES:
        return RING_PASSES[collective] * (ranks - 1) / ranks
    return (ranks - 1) / ranks if collective == "all_to_all" else 1.0


def collective_table(
    system: SystemSpec,
    *,
    collective: str = "all_reduce",
    ranks: Iterable[int] | None = None,
    message_bytes: Iterable[float] = DEFAULT_SIZES,
    algorithms: Iterable[str] = ("auto",),
    fidelity: Fidelity = "calibrated",
    task: TaskClass = "training",
) -> list[dict[str, Any]]:
    """Time and bus bandwidth of one collective on a system.

    Parameters
    ----------
    system : SystemSpec
        The machine.
    collective : str
        One of ``COLLECTIVES``.
    ranks : iterable of int, optional
        Group sizes, neighbours side by side [1]; absent: :func:`default_ranks`.
    message_bytes : iterable of float
        Whole buffers [byte].
    algorithms : iterable of str
        Of ``ALGORITHMS``; "auto" is the fastest that the software offers. One that cannot do the collective on a group
        is left out.
    fidelity, task : str
        As in a scenario.

    Returns
    -------
    list of dict
        ``collective``, ``algorithm``, ``ranks``, ``message_bytes``, ``seconds`` and ``bus_bytes_per_s`` (as nccl-tests
        counts it), ``sent_inside_bytes`` and ``sent_across_bytes`` per rank.

    Raises
    ------
    ScenarioError
        With every mistake: unknown names, a group that the system does not have, in-switch reduction without such a
        switch.
    """
    sizes = np.array(sorted(message_bytes), dtype=np.float64)
    counts = sorted(set(default_ranks(system) if ranks is None else ranks))
    names = list(dict.fromkeys(algorithms))
    problems = _problems(system, collective, counts, names)
    problems += [
        Problem(path="--size", value=f"{s:g}", rule="must be above 0", fix="write such as 64MiB")
        for s in sizes
        if not s > 0
    ]
    if problems:
        raise ScenarioError(problems)
    rows = []
    for n in counts:
        fabric = system_fabric(system, n, fidelity=fidelity, task=task)
        spans = n > float(fabric.accelerators_per_node[0])
        for name in names:
            if not _able(collective, name, spans):
                continue
            done = _run(collective, sizes, n, fabric, name)
            sent_across = sum(done.across_bytes, np.zeros(1))
            seconds, inside, across = (
                np.broadcast_to(x, sizes.shape) for x in (done.seconds, done.inner_bytes, sent_across)
            )
            rows += [
                {
                    "collective": collective,
                    "algorithm": name,
                    "ranks": n,
                    "message_bytes": float(size),
                    "seconds": float(seconds[i]),
                    "bus_bytes_per_s": float(_bus_factor(collective, n) * size / seconds[i]),
                    "sent_inside_bytes": float(inside[i]),
                    "sent_across_bytes": float(across[i]),
                }
                for i, size in enumerate(sizes)
            ]
    if not rows:
        rule = f"cannot do {collective} on groups of {', '.join(map(str, counts))}"
        raise ScenarioError(
            [Problem(path="--algorithm", value=", ".join(names), rule=rule, fix="use auto or another one")]
        )
    return rows

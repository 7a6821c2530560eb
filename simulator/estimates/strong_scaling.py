"""The same work on more and fewer devices, for the scaling plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from simulator.composition.evaluate import evaluate, result_columns
from simulator.spaces.partition import Splitter
from simulator.spaces.space import space_from

DOUBLINGS = (-3, -2, -1, 0, 1, 2, 3)


def strong_scaling(scenario: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Points of a strong-scaling curve: data parallelism grows with the devices, all else stays.

    Parameters
    ----------
    scenario : mapping
        A single scenario.

    Returns
    -------
    list of dict
        ``devices`` [1], ``step_time_s`` [s], ``tokens_per_s`` [token/s], ``feasible``; legal device counts only, and
        none where fewer than two are legal.

    Raises
    ------
    ScenarioError, SpecError
        If the scenario itself is wrong.
    """
    base = space_from(scenario)
    if base.axes:
        return []
    n = int(base.base["devices"])
    counts = [int(n * 2.0**k) for k in DOUBLINGS if n * 2.0**k >= 1 and n * 2.0**k == int(n * 2.0**k)]
    plan = {k: v for k, v in dict(base.base.get("plan", {})).items() if k != "data_parallel"}
    space = space_from({**base.base, **base.fixed, "plan": plan, "devices": counts})
    points = []
    for partition in Splitter(space).split(np.arange(space.n_rows)).partitions:
        columns = result_columns(evaluate(partition)[0], partition)
        for i, row in enumerate(partition.numbers):
            points.append(
                {
                    "devices": counts[int(row)],
                    "step_time_s": float(columns["step_time_s"][i]),
                    "tokens_per_s": float(columns["tokens_per_s"][i]),
                    "feasible": bool(columns["feasible"][i] > 0),
                }
            )
    return points if len(points) > 1 else []

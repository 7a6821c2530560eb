"""Search: a sweep over a generated space of plans, and the best rows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import InfeasibleError, Problem, ScenarioError
from simulator.scenario import Scenario, mapping_from
from simulator.space import Space, space_from
from simulator.sweeping import SweepResult, explain_empty, run_space

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
Objective = Literal["step_time", "energy"]
OBJECTIVES: Mapping[str, str] = {"step_time": "step_time_s", "energy": "energy_j"}
MICRO_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
VIRTUAL = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Result of a search: the best rows (a frame), their scenarios, and the sweep behind them."""

    best: pd.DataFrame
    scenarios: list[dict[str, Any]]
    result: SweepResult


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def generated_space(scenario: Mapping[str, Any], devices: int | None = None) -> Space:
    """The space of plans of a scenario: what the plan fixes stays, lists restrict, absent keys are enumerated.

    Parameters
    ----------
    scenario : mapping
        As for ``simulate`` or ``sweep``.
    devices : int, optional
        Replaces the scenario's [1].

    Returns
    -------
    Space
        Degrees, micro-batch, and in training recompute, ZeRO, sequence parallelism and interleaving as axes.

    Raises
    ------
    ScenarioError, SpecError
        As :func:`simulator.space.space_from`.
    """
    data = {**scenario, **({"devices": devices} if devices is not None else {})}
    first = space_from({k: v for k, v in data.items() if k not in ("zip", "where")})
    plan = dict(data.get("plan", {}))
    n = int(first.base["devices"])
    training = first.base["task"]["kind"] == "training"
    given = {*plan, *(k.removeprefix("plan.") for k in data if str(k).startswith("plan."))}

    def absent(key: str, values: list[Any]) -> None:
        if key not in given:
            plan[key] = {"sweep": values}

    absent("tensor_parallel", [d for d in _divisors(n) if d <= 64])
    absent("pipeline_parallel", [d for d in _divisors(n) if d <= 256])
    if training:
        absent("virtual_pipeline", list(VIRTUAL))
        absent("micro_batch_size", list(MICRO_BATCHES))
        absent("recompute", ["none", "selective", "full"])
        absent("zero_stage", [0, 1, 2, 3])
        absent("sequence_parallel", [False, True])
    return space_from({**data, "plan": plan})


def _nearest(space: Space, result: SweepResult) -> str:
    over = result.columns["peak_bytes"] / result.columns["capacity_bytes"]
    row = int(np.argmin(over))
    plan = space.scenario_mapping(int(result.rows[row]))["plan"]
    return f"the nearest plan needs {over[row]:.2f} times the memory of a device: {plan}"


def search(
    scenario: Mapping[str, Any] | str | Path | Scenario,
    *,
    objective: Objective = "step_time",
    devices: int | None = None,
    top: int = 10,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Find the best plans that fit.

    Parameters
    ----------
    scenario : mapping, path or Scenario
        Keys set in its plan are fixed, lists restrict, absent degrees and switches are enumerated.
    objective : str
        "step_time" [s] or "energy" [J], smaller is better.
    devices : int, optional
        Replaces the scenario's [1].
    top : int
        Plans to return [1].
    progress : callable, optional
        Called with the rows done so far.

    Returns
    -------
    Found
        The best rows, best first (ties in row order), with their scenarios.

    Raises
    ------
    InfeasibleError
        If no legal plan fits; the message holds the nearest one.
    ScenarioError, SpecError
        As ``simulate``; also when no plan is legal, or an objective is unknown.
    """
    # Of a Scenario only what was set by hand is fixed; its defaults are free.
    if isinstance(scenario, Scenario):
        data = scenario.model_dump(exclude_unset=True)
    else:
        data = mapping_from(scenario)
    return search_space(generated_space(data, devices), objective=objective, top=top, progress=progress)


def search_space(
    space: Space,
    *,
    objective: str = "step_time",
    top: int = 10,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """As :func:`search`, on a space from :func:`generated_space`; raises the same errors."""
    if objective not in OBJECTIVES:
        raise ScenarioError(
            [
                Problem(
                    path="--objective",
                    value=str(objective),
                    rule="is not known",
                    fix=f"use {' or '.join(OBJECTIVES)}",
                )
            ]
        )
    if top < 1:
        raise ScenarioError([Problem(path="--top", value=str(top), rule="must be at least 1")])
    result = run_space(space, progress=progress, redundant=False)
    if result.rows.size == 0:
        raise explain_empty(space, result.excluded)
    feasible = np.flatnonzero(result.columns["feasible"] > 0)
    if feasible.size == 0:
        raise InfeasibleError(f"none of the {result.rows.size:,} legal plans fits; {_nearest(space, result)}")
    values = result.columns[OBJECTIVES[objective]][feasible]
    chosen = feasible[np.argsort(values, kind="stable")[:top]]
    best = SweepResult(
        space=space,
        rows=result.rows[chosen],
        columns={name: column[chosen] for name, column in result.columns.items()},
        excluded=result.excluded,
        n_layers_evaluated=result.n_layers_evaluated,
    )
    return Found(
        best=best.frame(), scenarios=[space.scenario_mapping(int(r)) for r in best.rows], result=result
    )

"""Search: a sweep over a generated space of plans, and the best rows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import InfeasibleError, Problem, ScenarioError, shorten
from simulator.axes import is_sweep
from simulator.feasibility import GB
from simulator.scenario import Scenario
from simulator.scenario_reading import mapping_from
from simulator.space import Space, space_from
from simulator.sweeping import SweepResult, explain_empty, run_space

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
Objective = Literal["step_time", "energy", "micro_batch"]
# Column and sign: what is minimised. The largest micro-batch that fits is one of the things people ask for.
OBJECTIVES: Mapping[str, tuple[str, float]] = {
    "step_time": ("step_time_s", 1.0),
    "energy": ("energy_j", 1.0),
    "micro_batch": ("micro_batch_size", -1.0),
}
MAX_MICRO_BATCH = 256
LARGEST_TENSOR, LARGEST_PIPELINE = 64, 256
VIRTUAL = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Result of a search: the best rows (a frame), their scenarios, and the sweep behind them."""

    best: pd.DataFrame
    scenarios: list[dict[str, Any]]
    result: SweepResult


def _divisors(numbers: Sequence[int], largest: int) -> list[int]:
    """Numbers up to ``largest`` that divide one of some others."""
    return [d for d in range(1, largest + 1) if any(n % d == 0 for n in numbers)]


def known_objective(objective: str) -> None:
    """Refuse an objective that is not known; ScenarioError."""
    if objective not in OBJECTIVES:
        fix = f"use {' or '.join(OBJECTIVES)}"
        raise ScenarioError(
            [Problem(path="--objective", value=shorten(objective), rule="is not known", fix=fix)]
        )


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
    first = space_from(data)
    if is_sweep(data.get("plan")) or isinstance(data.get("plan"), list):
        rule, fix = (
            "is a list of whole plans, and search makes its own",
            "list values key by key, or use sweep",
        )
        raise ScenarioError([Problem(path="plan", value="", rule=rule, fix=fix)])
    plan = dict(data.get("plan", {}))
    training = first.base["task"]["kind"] == "training"
    given = {*plan, *(k.removeprefix("plan.") for k in [*data, *first.keys()] if str(k).startswith("plan."))}
    generated: set[str] = set()

    def counts(key: str, missing: int) -> list[int]:
        """Every value of a key of the scenario."""
        for axis in first.axes:
            if key in axis.keys:
                return [int(v) for v in axis.values[axis.keys.index(key)]]
        *sections, last = key.split(".")
        return [int((first.base[sections[0]] if sections else first.base).get(last, missing))]

    def absent(key: str, values: list[Any]) -> None:
        if key not in given:
            plan[key] = {"sweep": values}
            generated.add(key)

    absent("tensor_parallel", _divisors(counts("devices", 1), LARGEST_TENSOR))
    absent("pipeline_parallel", _divisors(counts("devices", 1), LARGEST_PIPELINE))
    if training:
        absent("virtual_pipeline", list(VIRTUAL))
        absent("micro_batch_size", _divisors(counts("task.global_batch_size", 1), MAX_MICRO_BATCH))
        absent("recompute", ["none", "selective", "full"])
        absent("zero_stage", [0, 1, 2, 3])
        absent("sequence_parallel", [False, True])
    return replace(space_from({**data, "plan": plan}), generated=frozenset(generated))


def _nearest(space: Space, result: SweepResult) -> str:
    peak, capacity = result.columns["peak_bytes"], result.columns["capacity_bytes"]
    row = int(np.argmin(peak / capacity))
    plan = space.scenario_mapping(int(result.rows[row]))["plan"]
    written = ", ".join(f"{k}: {str(v).lower() if isinstance(v, bool) else v}" for k, v in plan.items())
    return (
        f"the nearest needs {peak[row] / GB:.1f} GB per device but there are {capacity[row] / GB:.1f} GB: "
        f"{written}; use more devices, a system with more memory, or fewer bits"
    )


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
        "step_time" [s] or "energy" [J], smaller is better, or "micro_batch": the largest that fits [1].
    devices : int, optional
        Replaces the scenario's [1].
    top : int
        Plans to return [1].
    progress : callable, optional
        Called with the rows done so far.

    Returns
    -------
    Found
        The best rows, best first (ties by step time, then row order), with their scenarios.

    Raises
    ------
    InfeasibleError
        If no legal plan fits; the message holds the nearest one.
    ScenarioError, SpecError
        As ``simulate``; also when no plan is legal, or an objective is unknown.
    """
    # Of a Scenario only what was set by hand is fixed; its defaults are free.
    if isinstance(scenario, Scenario):
        data = {**scenario.model_dump(exclude_unset=True), "task": scenario.task.model_dump()}
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
    known_objective(objective)
    if top < 1:
        raise ScenarioError(
            [Problem(path="top", value=str(top), rule="must be at least 1", fix="use 1 or more")]
        )
    result = run_space(space, progress=progress)
    if result.rows.size == 0:
        raise explain_empty(space, result.excluded)
    feasible = np.flatnonzero(result.columns["feasible"] > 0)
    if feasible.size == 0:
        raise InfeasibleError(f"none of the {result.rows.size:,} legal plans fits; {_nearest(space, result)}")
    column, sign = OBJECTIVES[objective]
    # Ties go to the faster plan, then to row order.
    order = np.lexsort((result.columns["step_time_s"][feasible], sign * result.columns[column][feasible]))
    chosen = feasible[order[:top]]
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

"""Search: a sweep over a generated space of plans, and the best rows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import InfeasibleError, Problem, ScenarioError, near_names, shorten
from simulator.arrays.freed_memory import keep_freed_memory
from simulator.arrays.shared_columns import dense
from simulator.composition.evaluate import RESULT_COLUMNS, evaluate_totals, totals_columns
from simulator.composition.layer_cache import LayerCache
from simulator.estimates.feasibility import GB
from simulator.scenarios.scenario import Scenario
from simulator.scenarios.scenario_reading import mapping_from
from simulator.searching.best_rows import BestRows, Objective
from simulator.searching.named_spaces import COUNTED, named_space
from simulator.searching.plan_reasons import reasons_by_rank
from simulator.searching.pruning import promising
from simulator.spaces.axes import is_sweep
from simulator.spaces.conditions import Condition, holds, parse_condition
from simulator.spaces.legal_rows import LegalRows
from simulator.spaces.partition import Partition, Splitter
from simulator.spaces.space import Space, space_from
from simulator.sweeps.querying import HEADROOM
from simulator.sweeps.sweeping import CHUNK_ROWS, SweepResult, explain_empty, run_space

if TYPE_CHECKING:
    import pandas as pd

# Column and sign: what is minimised. The largest micro-batch that fits is one of the things people ask for.
OBJECTIVES: Mapping[str, tuple[str, float]] = {
    "step_time": ("step_time_s", 1.0),
    "throughput": ("tokens_per_s", -1.0),
    "throughput_per_device": ("tokens_per_s_per_device", -1.0),
    "latency": ("time_per_output_token_s", 1.0),
    "energy": ("energy_j", 1.0),
    "power": ("average_power_w_per_device", 1.0),
    "memory": ("peak_bytes", 1.0),
    "memory_headroom": (HEADROOM, -1.0),
    "micro_batch": ("micro_batch_size", -1.0),
}
SEED_ROWS = 4096
# What people ask for and the catalog has no figures for.
WITHOUT_FIGURES = {
    "cost": "a price per device and hour",
    "carbon": "a carbon intensity of electricity",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Result of a search.

    Attributes
    ----------
    best : pandas.DataFrame
        The best rows, best first; with several objectives the rows that no other equals or beats in all of them.
    scenarios : list of dict
        Their scenarios.
    reasons : list of str
        Why each stands before the next one; empty with several objectives.
    n_legal, n_fit, n_timed : int
        Legal plans; those that fit in memory; those that were timed, the others being slower for sure [1].
    n_layers_evaluated : int
        Distinct combinations that blocks were evaluated for [1].
    excluded : mapping of str to int
        Rows of the space that were left out, by rule.
    """

    best: pd.DataFrame
    scenarios: list[dict[str, Any]]
    reasons: list[str]
    n_legal: int
    n_fit: int
    n_timed: int
    n_layers_evaluated: int
    excluded: Mapping[str, int]


def known_objectives(text: str) -> list[Objective]:
    """Objectives by name, several with commas between them; ScenarioError for one that is not known."""
    found, problems = [], []
    for name in (part.strip() for part in text.split(",")):
        if name in OBJECTIVES:
            column, sign = OBJECTIVES[name]
            found.append(Objective(column=column, sign=sign))
        elif name in WITHOUT_FIGURES:
            rule = f"needs {WITHOUT_FIGURES[name]}, and the catalog has none"
            fix = 'use energy, or sweep and weigh the columns yourself: llmsim query FILE "SELECT ..."'
            problems.append(Problem(path="--objective", value=name, rule=rule, fix=fix))
        else:
            fix = f"use {' or '.join(OBJECTIVES)}"
            problems.append(Problem(path="--objective", value=shorten(name), rule="is not known", fix=fix))
    if problems:
        raise ScenarioError(problems)
    return found


def known_constraints(texts: Sequence[str]) -> list[Condition]:
    """Conditions over results, such as ``peak_bytes <= 60e9``; ScenarioError with every mistake."""
    found, problems = [], []
    for text in texts:
        try:
            condition = parse_condition(text)
        except ScenarioError as error:
            problems += [replace(p, path="--constraint") for p in error.problems]
            continue
        for name in sorted(condition.names - {*RESULT_COLUMNS, HEADROOM}):
            near = near_names(name, [*RESULT_COLUMNS, HEADROOM], n=3)
            fix = f"did you mean {', '.join(near)}?" if near else "constrain inputs with where, in the file"
            problems.append(
                Problem(path="--constraint", value=shorten(text), rule=f"{name} is not a result", fix=fix)
            )
        found.append(condition)
    if problems:
        raise ScenarioError(problems)
    return found


def known_wishes(objective: str, constraints: Sequence[str]) -> tuple[list[Objective], list[Condition]]:
    """Objectives and constraints of a search; ScenarioError with the mistakes of both."""
    problems: list[Problem] = []
    wanted: list[Objective] = []
    conditions: list[Condition] = []
    try:
        wanted = known_objectives(objective)
    except ScenarioError as error:
        problems += error.problems
    try:
        conditions = known_constraints(constraints)
    except ScenarioError as error:
        problems += error.problems
    if problems:
        raise ScenarioError(problems)
    return wanted, conditions


def generated_space(scenario: Mapping[str, Any], devices: int | None = None, name: str = "plans") -> Space:
    """The space of plans of a scenario: what the plan fixes stays, lists restrict, absent keys are enumerated.

    Parameters
    ----------
    scenario : mapping
        As for ``simulate`` or ``sweep``.
    devices : int, optional
        Replaces the scenario's [1].
    name : str
        Of :data:`simulator.searching.named_spaces.NAMED_SPACES`: what is enumerated.

    Returns
    -------
    Space
        By default degrees, micro-batch, and in training recompute, ZeRO, sequence parallelism and interleaving as axes.

    Raises
    ------
    ScenarioError, SpecError
        As :func:`simulator.spaces.space.space_from`.
    """
    chosen = named_space(name)
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

    found = {key: counts(key, missing) for key, missing in COUNTED.items()}
    for key, values in {**chosen.always, **(chosen.training if training else {})}.items():
        if key not in given:
            plan[key] = {"sweep": values(found)}
            generated.add(key)
    return replace(space_from({**data, "plan": plan}), generated=frozenset(generated))


def _nearest(space: Space) -> str:
    result = run_space(space)
    peak, capacity = result.columns["peak_bytes"], result.columns["capacity_bytes"]
    row = int(np.argmin(peak / capacity))
    plan = space.scenario_mapping(int(result.rows[row]))["plan"]
    written = ", ".join(f"{k}: {str(v).lower() if isinstance(v, bool) else v}" for k, v in plan.items())
    return (
        f"none of the {result.rows.size:,} legal plans fits; "
        f"the nearest needs {peak[row] / GB:.1f} GB per device but there are {capacity[row] / GB:.1f} GB: "
        f"{written}; use more devices, a system with more memory, or fewer bits"
    )


def search(
    scenario: Mapping[str, Any] | str | Path | Scenario,
    *,
    objective: str = "step_time",
    constraints: Sequence[str] = (),
    devices: int | None = None,
    space: str = "plans",
    top: int = 10,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Find the best plans that fit.

    Parameters
    ----------
    scenario : mapping, path or Scenario
        Keys set in its plan are fixed, lists restrict, absent degrees and switches are enumerated.
    objective : str
        One of "step_time" [s], "throughput", "throughput_per_device" [1/s], "latency" (per output token) [s],
        "energy" [J], "power" (per device) [W], "memory", "memory_headroom" [byte], "micro_batch": the largest [1].
        Several with commas give the front of plans that no other equals or beats in all.
    constraints : sequence of str
        Conditions over results, such as "average_power_w_per_device <= 500".
    devices : int, optional
        Replaces the scenario's [1].
    space : str
        Named space: "plans", "overlaps", "megatron" or "fsdp".
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
        If no legal plan fits, the message holding the nearest one, or none keeps the constraints.
    ScenarioError, SpecError
        As ``simulate``; also when no plan is legal, or an objective is unknown.
    """
    # Of a Scenario only what was set by hand is fixed; its defaults are free.
    if isinstance(scenario, Scenario):
        data = {**scenario.model_dump(exclude_unset=True), "task": scenario.task.model_dump()}
    else:
        data = mapping_from(scenario)
    generated = generated_space(data, devices, space)
    return search_space(generated, objective=objective, constraints=constraints, top=top, progress=progress)


def search_space(
    space: Space,
    *,
    objective: str = "step_time",
    constraints: Sequence[str] = (),
    top: int = 10,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """As :func:`search`, on a space from :func:`generated_space`; raises the same errors.

    Notes
    -----
    Exhaustive, by branch and bound: plans that do not fit are not timed, nor those whose least time is more than what
    the best have already. What is kept does not grow with the space.
    """
    wanted, conditions = known_wishes(objective, constraints)
    if top < 1:
        raise ScenarioError(
            [Problem(path="top", value=str(top), rule="must be at least 1", fix="use 1 or more")]
        )
    keep_freed_memory()
    splitter, cache, best = Splitter(space), LayerCache(), BestRows(wanted, top)
    legal, n_legal, n_fit, n_timed = LegalRows(splitter), 0, 0, 0

    def time(partition: Partition, rows: NDArray[np.int64]) -> int:
        """Look at some rows of a chunk; how many these are."""
        if len(rows):
            some = partition if len(rows) == partition.rows.n else splitter.restricted(partition, rows)
            columns = totals_columns(evaluate_totals(some, cache, splitter), some)
            columns[HEADROOM] = columns["capacity_bytes"] - columns["peak_bytes"]
            best.add(some.numbers, columns, _allowed(columns, conditions, some.rows.n))
        return len(rows)

    for partition in legal.partitions(0, space.n_rows, CHUNK_ROWS):
        n_legal += partition.rows.n
        chunk = promising(partition, cache, splitter, wanted[0] if len(wanted) == 1 else None)
        n_fit += int(chunk.fits.sum())
        seed = np.zeros(0, dtype=np.int64)
        if len(wanted) == 1 and not np.isfinite(best.limit()):
            # The most promising rows first: what the best of them cost leaves out most of the others.
            seed = chunk.first(SEED_ROWS)
            n_timed += time(partition, seed)
        n_timed += time(partition, np.setdiff1d(chunk.rows(best.limit()), seed, assume_unique=True))
        if progress is not None:
            progress(int(partition.numbers[-1]) + 1)
    if n_legal == 0:
        raise explain_empty(space, legal.excluded)
    if n_fit == 0:
        raise InfeasibleError(_nearest(space))
    if best.numbers.size == 0:
        kept = " and ".join(c.text for c in conditions) or "a finite objective"
        raise InfeasibleError(f"none of the {n_fit:,} plans that fit keeps {kept}; loosen a constraint")
    result = SweepResult(space=space, rows=best.numbers, columns=best.columns, excluded=legal.excluded)
    frame = result.frame()
    frame = frame.head(top) if len(wanted) > 1 else frame
    records = [{str(k): v for k, v in record.items()} for record in frame.to_dict("records")]
    why = []
    if len(wanted) == 1:
        why = reasons_by_rank(records, space.keys(), wanted[0].column, wanted[0].sign)
    frame = frame.drop(columns=HEADROOM)
    return Found(
        best=frame,
        scenarios=[space.scenario_mapping(int(r)) for r in best.numbers[: len(frame)]],
        reasons=why,
        n_legal=n_legal,
        n_fit=n_fit,
        n_timed=n_timed,
        n_layers_evaluated=cache.n_evaluated,
        excluded=legal.excluded,
    )


def _allowed(columns: Mapping[str, Any], conditions: Sequence[Condition], n: int) -> NDArray[np.bool_]:
    """Rows that fit and keep every constraint."""
    allowed = columns["feasible"] > 0
    for condition in conditions:
        allowed = allowed & holds(condition, columns)
    return np.broadcast_to(dense(allowed), (n,))

"""Commands on many plans: sweep and search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from simulator.commands.options import FidelityOption, ScenarioArgument, SetOption, overridden
from simulator.commands.output import display, emit, progress_bar


def _counts(n_rows: int, n_legal: int, n_fit: int, n_layers: int, excluded: Mapping[str, int]) -> None:
    emit(f"{n_rows:,} combinations: {n_legal:,} legal, {n_fit:,} fit; {n_layers:,} distinct layers")
    for name, count in sorted(excluded.items(), key=lambda item: -item[1]):
        emit(f"  left out: {name} ({count:,})")


def sweep(
    space: Annotated[str, typer.Argument(help="Scenario YAML in which lists are axes", metavar="SWEEP.yaml")],
    set_: SetOption = [],  # noqa: B006 (typer reads the default, nothing mutates it)
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write every row to FILE.parquet or FILE.csv."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="K", help="How many of the best rows to show.")] = 10,
    fidelity: FidelityOption = None,
) -> None:
    """Estimate every combination of a scenario with axes.

    A list is an axis, the last one runs fastest; zip groups keys that change together, where keeps what holds.
    Combinations that make no sense are left out and counted; plans that do not fit stay.
    """
    from reports.pareto_front import pareto_table
    from reports.plan_tables import plan_table
    from reports.sweep_tables import best_table
    from simulator.saved_sweep import check_writable, write_result
    from simulator.space import space_from
    from simulator.sweeping import explain_empty, run_space

    if out is not None:
        check_writable(out)
    parsed = space_from(overridden(space, set_, fidelity))
    with progress_bar(parsed.n_rows, "rows") as progress:
        result = run_space(parsed, progress=progress)
    if result.rows.size == 0:
        raise explain_empty(parsed, result.excluded)
    if out is not None:
        write_result(result, out)
    frame = result.frame()
    fits = int(frame["feasible"].sum())
    _counts(parsed.n_rows, len(frame), fits, result.n_layers_evaluated, result.excluded)
    if fits == 0:
        tightest = frame.assign(over=frame["peak_bytes"] / frame["capacity_bytes"]).sort_values("over")
        keys = parsed.keys()
        display(plan_table(tightest.head(top), keys, "Nothing fits; the nearest first"))
        return
    best = best_table(frame, top=top)
    display(plan_table(best, parsed.keys(), f"Fastest {len(best)} of {fits:,} that fit"))
    front = pareto_table(frame).head(top)
    display(plan_table(front, parsed.keys(), "Pareto front: step time against peak memory"))


def search(
    scenario: ScenarioArgument,
    set_: SetOption = [],  # noqa: B006
    objective: Annotated[
        str,
        typer.Option(
            metavar="GOAL", help="step_time, energy (least of it), or micro_batch (largest that fits)."
        ),
    ] = "step_time",
    devices: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Accelerators to use instead of the file's.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="K", help="Plans to show.")] = 10,
    fidelity: FidelityOption = None,
) -> None:
    """Find the best plans for a model on a system.

    What the file's plan fixes stays, lists restrict, absent degrees and switches are enumerated. If nothing
    fits, the nearest plan is shown and the exit status is 1.
    """
    from reports.plan_tables import plan_table
    from simulator.plan_search import generated_space, known_objective, search_space

    known_objective(objective)
    space = generated_space(overridden(scenario, set_, fidelity), devices)
    with progress_bar(space.n_rows, "plans") as progress:
        found = search_space(space, objective=objective, top=top, progress=progress)
    fits = int((found.result.columns["feasible"] > 0).sum())
    n_layers = found.result.n_layers_evaluated
    _counts(space.n_rows, found.result.rows.size, fits, n_layers, found.result.excluded)
    title = f"Best {len(found.best)} by {objective.replace('_', ' ')}"
    display(plan_table(found.best, space.keys(), title))

"""Commands on many plans: sweep and search."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from simulator.commands.options import FidelityOption, ScenarioArgument, SetOption, overridden
from simulator.commands.output import display, emit, emit_wrapped, progress_bar


def _counts(n_rows: int, n_legal: int, n_fit: int, n_layers: int | None, excluded: Mapping[str, int]) -> None:
    layers = "" if n_layers is None else f"; {n_layers:,} distinct layers"
    emit(f"{n_rows:,} combinations: {n_legal:,} legal, {n_fit:,} fit{layers}")
    for name, count in sorted(excluded.items(), key=lambda item: -item[1]):
        emit(f"  left out: {name} ({count:,})")


SHOWN_ROWS = 60
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, metavar="N", help="Processes that share the rows, on this machine.")
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Let the workers of a dask scheduler share the rows; local starts one with --workers processes.",
    ),
]


def sweep(
    space: Annotated[str, typer.Argument(help="Scenario YAML in which lists are axes", metavar="SWEEP.yaml")],
    set_: SetOption = [],  # noqa: B006 (typer reads the default, nothing mutates it)
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="Write every row to FILE.parquet, FILE.csv, or a folder of Parquet parts. Started again after it "
            "was killed, a sweep goes on where it was.",
        ),
    ] = None,
    workers: WorkersOption = 1,
    scheduler: SchedulerOption = None,
    top: Annotated[int, typer.Option(min=1, metavar="K", help="How many of the best rows to show.")] = 10,
    fidelity: FidelityOption = None,
) -> None:
    """Estimate every combination of a scenario with axes.

    A list is an axis, the last one runs fastest; zip groups keys that change together, where keeps what holds.
    Combinations that make no sense are left out and counted; plans that do not fit stay.
    """
    from simulator.spaces.space import space_from
    from simulator.sweeps.saved_sweep import check_writable, write_result
    from simulator.sweeps.sweep_parts import PART_ROWS
    from simulator.sweeps.sweeping import explain_empty, run_space

    if out is not None:
        check_writable(out)
    parsed = space_from(overridden(space, set_, fidelity))
    one_file = out is not None and out.suffix == ".csv"
    in_parts = workers > 1 or scheduler is not None or (out is not None and out.suffix == "")
    if in_parts or (out is not None and parsed.n_rows > PART_ROWS and not one_file):
        _sweep_in_parts(parsed, out, workers, scheduler, top)
        return
    with progress_bar(parsed.n_rows, "rows") as progress:
        result = run_space(parsed, progress=progress)
    if result.rows.size == 0:
        raise explain_empty(parsed, result.excluded)
    if out is not None:
        write_result(result, out)
    frame = result.frame()
    fits = int(frame["feasible"].sum())
    _counts(parsed.n_rows, len(frame), fits, result.n_layers_evaluated, result.excluded)
    _show_best(frame, parsed.keys(), fits, top)


def _show_best(frame: Any, keys: list[str], fits: int, top: int) -> None:
    """Print the best rows of a frame, or where nothing fits the nearest."""
    from reports.pareto_front import pareto_table
    from reports.plan_tables import plan_table
    from reports.sweep_tables import best_table

    if fits == 0:
        tightest = frame.assign(over=frame["peak_bytes"] / frame["capacity_bytes"]).sort_values("over")
        display(plan_table(tightest.head(top), keys, "Nothing fits; the nearest first"))
        return
    best = best_table(frame, top=top)
    display(plan_table(best, keys, f"Fastest {len(best)} of {fits:,} that fit"))
    front = pareto_table(frame).head(top)
    display(plan_table(front, keys, "Pareto front: step time against peak memory"))


def _sweep_in_parts(space: Any, out: Path | None, workers: int, scheduler: str | None, top: int) -> None:
    from simulator.sweeps.saved_parts import candidate_rows, part_files
    from simulator.sweeps.sweeping import explain_empty
    from simulator.sweeps.sweeping_parts import swept_parts

    with (
        progress_bar(space.n_rows, "rows") as progress,
        swept_parts(space, out, workers=workers, scheduler=scheduler, progress=progress) as (folder, about),
    ):
        if about["rows_kept"] == 0:
            raise explain_empty(space, about["excluded"])
        frame, fits = candidate_rows(part_files(folder.path), top)
    _counts(space.n_rows, about["rows_kept"], fits, None, about["excluded"])
    _show_best(frame, space.keys(), fits, top)


def search(
    scenario: ScenarioArgument,
    set_: SetOption = [],  # noqa: B006
    objective: Annotated[
        str,
        typer.Option(
            metavar="GOAL",
            help="step_time, throughput, throughput_per_device, latency, energy, power, memory, memory_headroom, or "
            "micro_batch (largest that fits); several with commas give their Pareto front.",
        ),
    ] = "step_time",
    constraint: Annotated[
        list[str],
        typer.Option(
            "--constraint",
            metavar="CONDITION",
            help="What a plan must keep, e.g. 'peak_bytes <= 60e9'. May be repeated.",
        ),
    ] = [],  # noqa: B006
    devices: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Accelerators to use instead of the file's.")
    ] = None,
    named: Annotated[
        str,
        typer.Option(
            "--space", metavar="NAME", help="What is enumerated: plans, overlaps, megatron or fsdp."
        ),
    ] = "plans",
    range_: Annotated[
        list[str],
        typer.Option(
            "--range",
            metavar="KEY=LOW..HIGH",
            help="Search machines instead: a figure may take any value in a range. May be repeated.",
        ),
    ] = [],  # noqa: B006
    small: Annotated[
        list[str],
        typer.Option("--small", metavar="KEY", help="A --range that is to be small, too. May be repeated."),
    ] = [],  # noqa: B006
    top: Annotated[int, typer.Option(min=1, metavar="K", help="Plans to show.")] = 10,
    fidelity: FidelityOption = None,
) -> None:
    """Find the best plans for a model on a system.

    What the file's plan fixes stays, lists restrict, absent degrees and switches are enumerated. If nothing
    fits, the nearest plan is shown and the exit status is 1.
    """
    from reports.plan_tables import plan_table
    from simulator.searching.plan_search import generated_space, known_wishes, search_space

    wanted, _ = known_wishes(objective, constraint)
    if range_:
        _search_machines(overridden(scenario, set_, fidelity), objective, range_, small, top)
        return
    space = generated_space(overridden(scenario, set_, fidelity), devices, named)
    with progress_bar(space.n_rows, "plans") as progress:
        found = search_space(space, objective=objective, constraints=constraint, top=top, progress=progress)
    _counts(space.n_rows, found.n_legal, found.n_fit, found.n_layers_evaluated, found.excluded)
    words = objective.replace("_", " ").replace(",", ", ")
    title = f"Best {len(found.best)} by {words}" if len(wanted) == 1 else f"Pareto front of {words}"
    display(plan_table(found.best, space.keys(), title))
    for rank, reason in enumerate(found.reasons[:-1], start=1):
        emit_wrapped(f"{rank} before {rank + 1}: {reason}")


def _search_machines(
    scenario: dict[str, Any], objective: str, written: list[str], small: list[str], top: int
) -> None:
    """Search figures in ranges, and print the machines that no other beats."""
    from reports.plan_tables import plan_table
    from simulator.searching.hardware_search import search_hardware

    pairs = [text.partition("=") for text in written]
    ranges = {key.strip(): tuple(end.strip() for end in ends.split("..")) for key, _, ends in pairs}
    found = search_hardware(scenario, ranges, objective=objective, smallest=small)
    keys = [name for name in found.columns if "." in name or name == "devices"]
    title = f"{min(top, len(found))} of {len(found)} machines that no other found beats"
    display(plan_table(found.head(top), keys, title))


class Shape(StrEnum):
    """How an answer is printed."""

    table = "table"
    csv = "csv"
    json = "json"


def query(
    file: Annotated[
        Path, typer.Argument(help="What llmsim sweep --out wrote: a file or a folder", metavar="FILE")
    ],
    sql: Annotated[str | None, typer.Argument(help="A question about the table rows", metavar="SQL")] = None,
    top: Annotated[int | None, typer.Option(min=1, metavar="K", help="The best K rows by --by.")] = None,
    by: Annotated[str, typer.Option(metavar="COLUMN", help="What --top orders by.")] = "step_time_s",
    pareto: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="Rows that no other beats in all of these columns.")
    ] = None,
    pivot: Annotated[
        str | None,
        typer.Option(metavar="DOWN,ACROSS,VALUE", help="The best VALUE for each pair of the others."),
    ] = None,
    where: Annotated[
        str, typer.Option(metavar="SQL", help="Rows that --top, --pareto and --pivot look at.")
    ] = "feasible",
    format_: Annotated[Shape, typer.Option("--format", help="How to print the answer.")] = Shape.table,
) -> None:
    """Ask a saved sweep: SQL, best rows, Pareto front, pivot table.

    SQL is about the table rows.

    Names with dots stand in double quotes: SELECT "plan.tensor_parallel", min(step_time_s) FROM rows GROUP BY 1.
    """
    from hardware_specs.errors import Problem, ScenarioError
    from simulator.sweeps import querying

    asked = [
        name
        for name, value in (("SQL", sql), ("--top", top), ("--pareto", pareto), ("--pivot", pivot))
        if value
    ]
    if len(asked) != 1:
        rule, fix = "takes one question", "give SQL, or --top, or --pareto, or --pivot"
        raise ScenarioError([Problem(path="query", value=" and ".join(asked) or "none", rule=rule, fix=fix)])
    if sql is not None:
        answer = querying.query(file, sql)
    elif top is not None:
        answer = querying.top(file, by, top, where)
    elif pareto is not None:
        answer = querying.pareto(file, [name.strip() for name in pareto.split(",")], where)
    else:
        names = [name.strip() for name in str(pivot).split(",")]
        if len(names) != 3:
            fix = "write such as --pivot tensor_parallel,pipeline_parallel,step_time_s"
            raise ScenarioError(
                [Problem(path="--pivot", value=str(pivot), rule="takes three columns", fix=fix)]
            )
        answer = querying.pivot(file, names[0], names[1], names[2], where).reset_index()
    if format_ is Shape.json:
        emit(answer.to_json(orient="records", indent=1))
    elif format_ is Shape.csv:
        emit(answer.to_csv(index=False))
    else:
        emit(answer.to_string(index=False, max_rows=SHOWN_ROWS) if len(answer) else "no rows")

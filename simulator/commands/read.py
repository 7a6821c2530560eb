"""The command on what people already have: profiler traces, FLOP counts and nccl-tests logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardware_specs.errors import Problem, ScenarioError
from simulator.commands.output import check_folder, csv_text, display, emit, write_files

if TYPE_CHECKING:
    from simulator.measuring.alignment import Aligned

SHOWN = 15
LOGS = "a trace of torch.profiler (JSON), output of FlopCounterMode, or a log of nccl-tests"


def _kind(path: Path) -> str:
    """Which of the three a file is, by its beginning; ScenarioError if it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        problem = Problem(
            path="FILE", value=str(path), rule=f"cannot be read ({error.strerror})", fix=f"give {LOGS}"
        )
        raise ScenarioError([problem]) from None
    text = start.decode("utf-8", errors="replace")
    if start[:2] == b"\x1f\x8b" or "traceEvents" in text or text.lstrip().startswith("["):
        return "trace"
    if "aten" in text:
        return "flop"
    if text.lstrip().startswith("{"):
        return "trace"
    if "#" in text and ("busbw" in text or "nThread" in text or "Rank" in text):
        return "nccl"
    raise ScenarioError(
        [Problem(path="FILE", value=str(path), rule="is of another format", fix=f"give {LOGS}")]
    )


def _operators(scenario: Path | None) -> list[Mapping[str, Any]]:
    if scenario is None:
        return []
    from simulator import simulate

    frame = simulate(scenario).operators
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _show(rows: Sequence[Aligned], title: str, unit: str, per: float) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("phase", "class"):
        table.add_column(name)
    for name in ("measured", "predicted", "difference"):
        table.add_column(f"{name} [{unit}]", justify="right")
    for row in rows[:SHOWN]:
        values = (row.measured, row.predicted, row.difference)
        table.add_row(row.phase, row.group, *(f"{value / per:,.4g}" for value in values))
    measured, predicted = sum(r.measured for r in rows), sum(r.predicted for r in rows)
    total = (measured, predicted, predicted - measured)
    table.add_row("all", "", *(f"{value / per:,.4g}" for value in total), style="bold")
    display(table)


def _trace(path: Path, scenario: Path | None, steps: int | None) -> dict[str, str]:
    from dataclasses import asdict

    from simulator.measuring.alignment import aligned_times
    from simulator.measuring.kineto_trace import read_trace, trace_operators

    found, marked = trace_operators(read_trace(path))
    count = steps or marked
    rows = aligned_times(found, count, _operators(scenario))
    _show(rows, f"{path.name}: one step of {count}, largest difference first", "ms", 1e-3)
    operators = [{**asdict(op), "seconds_per_step": op.seconds / count} for op in found]
    aligned = [{**asdict(row), "difference": row.difference, "unit": "s"} for row in rows]
    return {"trace_operators.csv": csv_text(operators), "aligned.csv": csv_text(aligned)}


def _flop(path: Path, scenario: Path | None) -> dict[str, str]:
    from dataclasses import asdict

    from simulator.measuring.alignment import aligned_flop
    from simulator.measuring.flop_counter_file import flop_by_operator

    rows = aligned_flop(flop_by_operator(path), _operators(scenario))
    _show(rows, f"{path.name}: FLOP, largest difference first", "GFLOP", 1e9)
    return {
        "aligned_flop.csv": csv_text(
            [{**asdict(row), "difference": row.difference, "unit": "FLOP"} for row in rows]
        )
    }


def _nccl(path: Path, device: str, operation: str | None) -> dict[str, str]:
    from simulator.measuring.nccl_tests_log import collectives_of_log

    rows = collectives_of_log(path, device, operation)
    best = max(float(row["busbw_GBps"]) for row in rows)
    what = f"{len(rows)} sizes of {rows[0]['op']} on {rows[0]['n_gpus']} ranks"
    emit(f"{path.name}: {what}, bus bandwidth up to {best:g} GB/s")
    return {"collectives.csv": csv_text(rows)}


def read(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=f"{LOGS[0].upper()}{LOGS[1:]}.")],
    scenario: Annotated[
        Path | None,
        typer.Option(metavar="SCENARIO.yaml", help="What ran: its simulated graph stands beside it."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Steps in a trace; else those that the profiler marked."),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="Device of a log; else as the log names it.")
    ] = "",
    operation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Collective of a log that does not say it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the tables as CSV.")
    ] = None,
) -> None:
    """Read a trace, FLOP counts or an nccl-tests log.

    A profiler's trace becomes a table by operator, aligned with the simulated graph, biggest disagreement first.
    """
    if out is not None:
        check_folder(out)
    kind = _kind(file)
    if kind == "trace":
        files = _trace(file, scenario, steps)
    elif kind == "flop":
        files = _flop(file, scenario)
    else:
        files = _nccl(file, device, operation)
    if out is not None:
        write_files(out, files)
        emit(f"Wrote {', '.join(str(out / name) for name in files)}")

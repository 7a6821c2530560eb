"""The command line: reads what the user wrote, calls the engine, hands the result to ``reports``.

The one place that joins ``simulator`` and ``reports``. Imports that cost time stay inside the commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardware_specs.errors import InfeasibleError, LlmsimError, Problem, ScenarioError

if TYPE_CHECKING:
    from rich.progress import Progress

app = typer.Typer(
    name="llmsim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Step time, memory and energy of LLM workloads on hardware.",
)
BAD_INPUT, UNMET = 2, 1
PROGRESS_ROWS = 100_000


class Format(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"
    csv = "csv"


class Fidelity(StrEnum):
    """Which coefficients are used."""

    bound = "bound"
    datasheet = "datasheet"
    calibrated = "calibrated"


class Kind(StrEnum):
    """What ``list`` lists."""

    models = "models"
    accelerators = "accelerators"
    systems = "systems"
    precisions = "precisions"
    calibrations = "calibrations"


ScenarioArgument = Annotated[str, typer.Argument(help="scenario YAML file", metavar="SCENARIO.yaml")]
SetOption = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="override a key, e.g. plan.tensor_parallel=4; repeatable"
    ),
]
FidelityOption = Annotated[
    Fidelity | None, typer.Option(help="coefficients: fitted, none, or none and no latencies")
]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="PATH", help="write results here")]


def _print(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def _show(renderable: Any) -> None:
    from rich.console import Console

    Console().print(renderable)


def _overridden(source: str, settings: list[str], fidelity: Fidelity | None) -> dict[str, Any]:
    """The scenario file as a mapping, ``--set`` and ``--fidelity`` applied."""
    from hardware_specs.strict_yaml import load_yaml, parse_yaml
    from simulator.scenario import anchored

    data = anchored(load_yaml(Path(source)), Path(source).parent)
    problems: list[Problem] = []
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            problems.append(Problem(path="--set", value=setting, rule="must be KEY=VALUE"))
            continue
        try:
            value = parse_yaml(f"value: {text}", name=f"--set {key}")["value"]
        except LlmsimError as error:
            problems += error.problems
            continue
        data = _assigned(data, key, value)
    if problems:
        raise ScenarioError(problems)
    if fidelity is not None:
        data["fidelity"] = fidelity.value
    return data


def _assigned(data: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """``data`` with a dotted key set: inside the mapping it belongs to, at file level for catalog overrides."""
    from simulator.scenario import merged

    section = key.split(".")[0]
    if "." in key and isinstance(data.get(section), str):
        return {**data, key: value}
    return merged({k: v for k, v in data.items() if k != key}, {key: value})


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write all files or none: to temporary names first, then renamed; ScenarioError if it cannot be done."""
    import os

    temporary: list[tuple[Path, Path]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            part = folder / f".{name}.part"
            temporary.append((part, folder / name))
            part.write_text(text, encoding="utf-8")
        for part, final in temporary:
            os.replace(part, final)
    except OSError as error:
        for part, _ in temporary:
            if folder.is_dir():
                part.unlink(missing_ok=True)
        raise ScenarioError(
            [Problem(path="--out", value=str(folder), rule=f"cannot be written ({error.strerror})")]
        ) from None


@app.command()
def run(
    scenario: ScenarioArgument,
    set_: SetOption = [],  # noqa: B006 (typer reads the default, nothing mutates it)
    format_: Annotated[Format, typer.Option("--format", help="how to print the result")] = Format.table,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="folder for scenario.yaml, estimate.json, operators.csv, memory.csv"
        ),
    ] = None,
    fidelity: FidelityOption = None,
) -> None:
    """Estimate one scenario."""
    import yaml

    from simulator.estimate import simulate
    from simulator.resolved import fingerprints

    estimate = simulate(_overridden(scenario, set_, fidelity))
    data = estimate.to_dict()
    if out is not None:
        memory = [{"owner": k, "bytes": v} for k, v in data["memory"].items() if k.endswith("_bytes")]
        resolved = {**data["scenario"]}
        header = f"# llmsim {data['llmsim_version']}; catalog {fingerprints(data['scenario'])}\n"
        _write_files(
            out,
            {
                "scenario.yaml": header + yaml.safe_dump(resolved, sort_keys=False),
                "estimate.json": json.dumps(data, indent=2) + "\n",
                "operators.csv": _csv(data["operators"]),
                "memory.csv": _csv(memory),
            },
        )
    if format_ is Format.json:
        _print(json.dumps(data, indent=2))
    elif format_ is Format.csv:
        _print(_csv(data["operators"]))
    else:
        from reports.terminal import estimate_table

        _show(estimate_table(data))


@contextmanager
def _progress(total: int, what: str) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on standard error where there is enough to do; None otherwise."""
    if total < PROGRESS_ROWS:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar: Progress = Bar(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@app.command()
def sweep(
    space: Annotated[str, typer.Argument(help="scenario with lists as axes", metavar="SWEEP.yaml")],
    set_: SetOption = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="write rows to FILE.parquet or FILE.csv")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="how many of the best rows to show")] = 10,
    fidelity: FidelityOption = None,
) -> None:
    """Estimate every combination of a scenario with axes."""
    from reports.pareto_front import pareto_table
    from reports.sweep_tables import best_table
    from simulator.space import space_from
    from simulator.sweeping import check_writable, explain_empty, run_space, write_result

    parsed = space_from(_overridden(space, set_, fidelity))
    if out is not None:
        check_writable(out)
    with _progress(parsed.n_rows, "rows") as progress:
        result = run_space(parsed, progress=progress)
    if result.rows.size == 0:
        raise explain_empty(parsed, result.excluded)
    if out is not None:
        write_result(result, out)
    frame = result.frame()
    _print(
        f"{parsed.n_rows:,} combinations: {len(frame):,} legal, {int(frame['feasible'].sum()):,} fit; "
        f"{result.n_layers_evaluated:,} distinct layers"
    )
    for name, count in sorted(result.excluded.items(), key=lambda item: -item[1]):
        _print(f"  left out, {name}: {count:,}")
    _show(_frame_table(best_table(frame, top=top), f"fastest {min(top, len(frame))} that fit"))
    front = pareto_table(frame)
    if "on_front" in front.columns:
        front = front[front["on_front"]]
    _show(_frame_table(front.head(top), "Pareto front: step time against peak memory"))


def _frame_table(frame: Any, title: str) -> Any:
    """A rich table of the swept keys and the main totals of a frame."""
    from rich.table import Table

    shown = [c for c in frame.columns if c not in _HIDDEN_COLUMNS]
    table = Table(title=title, title_justify="left")
    for name in shown:
        table.add_column(name, justify="right")
    for row in frame[shown].itertuples(index=False):
        table.add_row(*[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row])
    return table


_HIDDEN_COLUMNS = frozenset(
    [
        "tokens_per_s_per_device",
        "time_to_first_token_s",
        "time_per_output_token_s",
        "hfu",
        "compute_s",
        "tensor_parallel_s",
        "data_parallel_s",
        "pipeline_p2p_s",
        "bubble_s",
        "optimizer_s",
        "capacity_bytes",
        "weights_bytes",
        "gradients_bytes",
        "optimizer_bytes",
        "activations_bytes",
        "kv_cache_bytes",
        "buffers_bytes",
        "reserved_bytes",
        "average_power_w_per_device",
        "on_front",
    ]
)


@app.command()
def search(
    scenario: ScenarioArgument,
    set_: SetOption = [],  # noqa: B006
    objective: Annotated[str, typer.Option(help="step_time or energy")] = "step_time",
    devices: Annotated[
        int | None, typer.Option(min=1, help="accelerators to use instead of the file's")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="plans to show")] = 10,
    fidelity: FidelityOption = None,
) -> None:
    """Find the best plans: what the plan fixes stays, absent degrees and switches are enumerated."""
    from simulator.plan_search import generated_space, search_space

    data = _overridden(scenario, set_, fidelity)
    space = generated_space(data, devices)
    with _progress(space.n_rows, "plans") as progress:
        found = search_space(space, objective=objective, top=top, progress=progress)
    fits = int((found.result.columns["feasible"] > 0).sum())
    _print(
        f"{space.n_rows:,} combinations: {found.result.rows.size:,} legal plans, {fits:,} fit; "
        f"{found.result.n_layers_evaluated:,} distinct layers"
    )
    _show(_frame_table(found.best, f"best by {objective}"))


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="A.yaml")],
    after: Annotated[str, typer.Argument(metavar="B.yaml")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.png", help="draw the waterfall")] = None,
) -> None:
    """Show why B is not A: differences by cause that sum exactly."""
    from rich.table import Table

    from simulator.compare import differences
    from simulator.estimate import simulate

    a, b = simulate(before), simulate(after)
    table = Table(title=f"step time {a.step_time_s:.6g} s to {b.step_time_s:.6g} s", title_justify="left")
    for name in ("cause", "A [s]", "B [s]", "change [s]"):
        table.add_column(name, justify="left" if name == "cause" else "right")
    for d in differences(a, b):
        if d.before_s or d.after_s:
            table.add_row(
                d.cause.removesuffix("_s"), f"{d.before_s:.6g}", f"{d.after_s:.6g}", f"{d.change_s:+.6g}"
            )
    table.add_row(
        "total", f"{a.step_time_s:.6g}", f"{b.step_time_s:.6g}", f"{b.step_time_s - a.step_time_s:+.6g}"
    )
    _show(table)
    if out is not None:
        from reports.waterfall import plot_compare

        plot_compare(a.to_dict(), b.to_dict(), out)


@app.command()
def explain(
    scenario: ScenarioArgument,
    path: Annotated[
        str, typer.Argument(help="as in the JSON result, e.g. step_time_s or operators.layer.qkv")
    ],
    set_: SetOption = [],  # noqa: B006
    fidelity: FidelityOption = None,
) -> None:
    """Show the formula, inputs and sources behind one number."""
    from simulator.explanation import explain as explained

    found = explained(_overridden(scenario, set_, fidelity), path)
    value = found.value
    _print(f"{found.path} = {json.dumps(value) if isinstance(value, Mapping) else value}")
    for step in found.steps:
        _print(f"\n{step.path}: {step.rule}")
        _print(f"  {step.symbol} = {step.formula} = {step.value:.6g} {step.unit}")
        for item in step.inputs:
            _print(f"    {item.name} = {item.value:.6g}" + (f"   from {item.origin}" if item.origin else ""))
        _print(f"  source: {step.source}")
    if found.n_more:
        _print(f"\n... and {found.n_more} more calls; name a longer path")


@app.command()
def report(
    source: Annotated[str, typer.Argument(help="scenario YAML, or a sweep's Parquet or CSV file")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="folder for plots, tables and report.html")
    ],
    set_: SetOption = [],  # noqa: B006
    fidelity: FidelityOption = None,
) -> None:
    """Draw plots and one self-contained HTML page."""
    from rich.console import Console

    suffix = Path(source).suffix
    with Console(stderr=True).status("drawing"):
        if suffix in (".parquet", ".csv"):
            from reports.sweep_report import write_sweep_report
            from simulator.saved_sweep import read_result

            written = write_sweep_report(read_result(Path(source)), out)
        else:
            from reports.estimate_report import write_report
            from simulator.estimate import simulate
            from simulator.strong_scaling import strong_scaling

            data = _overridden(source, set_, fidelity)
            written = write_report(simulate(data).to_dict(), strong_scaling(data), out)
    for path in written:
        _print(str(path))


@app.command(name="list")
def list_(kind: Annotated[Kind, typer.Argument(help="what to list")]) -> None:
    """List the names of the catalog."""
    from simulator.catalog_listing import listing

    _show(listing(kind.value))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="model, accelerator, system, precision or calibration")],
) -> None:
    """Show one entry of the catalog with its sources."""
    from simulator.catalog_listing import entry

    _print(entry(name))


@app.command()
def lint(file: Annotated[Path, typer.Argument(help="hardware or model YAML", metavar="FILE.yaml")]) -> None:
    """Check a hardware or model file."""
    from simulator.catalog_listing import lint_file

    errors, warnings = lint_file(file)
    for problem in warnings:
        _print(f"warning: {problem}")
    if errors:
        raise ScenarioError(errors)
    _print(f"{file}: no errors" + (f", {len(warnings)} warnings" if warnings else ""))


@app.command()
def validate(
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="measured table")],
    table: Annotated[str | None, typer.Option(help="kind of table where its columns are ambiguous")] = None,
    assume: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="score rows whose KEY is blank with VALUE")
    ] = [],  # noqa: B006
    max_mape: Annotated[
        float | None, typer.Option(min=0.0, help="exit 1 if a group's error is above this fraction")
    ] = None,
    source: Annotated[
        list[str], typer.Option(metavar="PREFIX", help="only rows whose id starts so; repeatable")
    ] = [],  # noqa: B006
    format_: Annotated[Format, typer.Option("--format", help="how to print the result")] = Format.table,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="folder for validation.json and parity.png")
    ] = None,
    fidelity: FidelityOption = None,
) -> None:
    """Compare predictions with a table of measured runs."""
    from simulator.validation import validate as scored

    assumed: dict[str, str] = {}
    for text in assume:
        key, separator, value = text.partition("=")
        if not separator:
            raise ScenarioError([Problem(path="--assume", value=text, rule="must be KEY=VALUE")])
        assumed[key] = value
    result = scored(
        data,
        table=table,
        assume=assumed,
        sources=source or None,
        fidelity=fidelity.value if fidelity else "calibrated",
    )
    if out is not None:
        from reports.parity import plot_parity

        _write_files(out, {"validation.json": json.dumps(result.to_dict(), indent=2) + "\n"})
        plot_parity(result.parity_rows(), out / "parity.png")
    if format_ is Format.json:
        _print(json.dumps(result.to_dict(), indent=2))
    elif format_ is Format.csv:
        _print(_csv(result.to_dict()["rows"]))
    else:
        for part in result.tables():
            _show(part)
    if max_mape is not None:
        above = [g for g in result.to_dict()["groups"] if g["mape"] is not None and g["mape"] > max_mape]
        if above:
            worst = max(above, key=lambda g: g["mape"])
            sys.stderr.write(
                f"{len(above)} groups above --max-mape {max_mape:g}; the worst is {worst['source']} "
                f"{worst['device']} {worst['quantity']} with {worst['mape']:.3f}\n"
            )
            raise typer.Exit(UNMET)


def main() -> None:
    """Entry point: exit status 2 for bad input, 1 for an unmet limit, one message per mistake, no traceback."""
    from reports.errors import ReportError

    try:
        app()
    except InfeasibleError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(UNMET) from None
    except (LlmsimError, ReportError) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(BAD_INPUT) from None
    except BrokenPipeError:
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()

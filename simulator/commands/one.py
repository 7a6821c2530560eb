"""Commands on one scenario, or two: run, explain, compare, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hardware_specs.errors import Problem, ScenarioError
from simulator.commands.options import (
    FidelityOption,
    Format,
    FormatOption,
    ScenarioArgument,
    SetOption,
    overridden,
)
from simulator.commands.output import check_folder, csv_text, display, emit, write_files

PICTURES = (".png", ".svg", ".pdf")
RUN_FILES = ("scenario.yaml", "estimate.json", "operators.csv", "memory.csv")


def run(
    scenario: ScenarioArgument,
    set_: SetOption = [],  # noqa: B006 (typer reads the default, nothing mutates it)
    format_: FormatOption = Format.table,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help=f"Folder for {', '.join(RUN_FILES)}.")
    ] = None,
    fidelity: FidelityOption = None,
) -> None:
    """Estimate step time, memory and energy of one scenario.

    A plan that does not fit in memory still has its times; the result says by how much and what would fit.
    """
    import yaml

    from simulator.estimates.estimate import simulate
    from simulator.estimates.resolved import fingerprints

    scenario_data = overridden(scenario, set_, fidelity)
    if out is not None:
        check_folder(out, RUN_FILES)
    data = simulate(scenario_data).to_dict()
    text = json.dumps(data, indent=2)
    if out is not None:
        memory = [{"owner": k, "bytes": v} for k, v in data["memory"].items() if k.endswith("_bytes")]
        hashes = "".join(f"# catalog {k}: {v}\n" for k, v in fingerprints(data["scenario"]).items())
        header = f"# llmsim {data['llmsim_version']}\n{hashes}"
        contents = (
            header + yaml.safe_dump(data["scenario"], sort_keys=False),
            text + "\n",
            csv_text(data["operators"]),
            csv_text(memory),
        )
        write_files(out, dict(zip(RUN_FILES, contents, strict=True)))
    if format_ is Format.json:
        emit(text)
    elif format_ is Format.csv:
        emit(csv_text(data["operators"]))
    else:
        from reports.terminal import estimate_table

        display(estimate_table(data))


def explain(
    scenario: ScenarioArgument,
    path: Annotated[
        str,
        typer.Argument(
            help="A path in the JSON result: step_time_s, memory.peak_bytes, time.bubble_s, operators.layer.qkv",
            metavar="PATH",
        ),
    ],
    set_: SetOption = [],  # noqa: B006
    depth: Annotated[
        int, typer.Option(min=0, help="How many rules to show, the nearest to the number first; 0: all.")
    ] = 4,
    fidelity: FidelityOption = None,
) -> None:
    """Show the formula, inputs and sources of one number."""
    from reports.explanation_text import explanation_text
    from simulator.estimates.explanation import explain as explained

    found = explained(overridden(scenario, set_, fidelity), path)
    display(explanation_text(found.to_dict(), most=depth or None))


def compare(
    before: Annotated[str, typer.Argument(metavar="A.yaml", help="The scenario to start from")],
    after: Annotated[str, typer.Argument(metavar="B.yaml", help="The scenario to explain")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.png", help="Draw the waterfall (.png, .svg, .pdf).")
    ] = None,
) -> None:
    """Show why B is not A, by causes that sum exactly."""
    from reports.plan_tables import difference_table
    from simulator.estimates.compare import differences
    from simulator.estimates.estimate import simulate

    if out is not None and out.suffix not in PICTURES:
        rule, fix = f"must end in {', '.join(PICTURES)}", "write such as --out waterfall.png"
        raise ScenarioError([Problem(path="--out", value=str(out), rule=rule, fix=fix)])
    a, b = simulate(before), simulate(after)
    parts = [(d.cause, d.before_s, d.after_s) for d in differences(a, b)]
    display(difference_table(parts, a.step_time_s, b.step_time_s))
    if out is not None:
        from reports.waterfall import plot_compare

        plot_compare(a.to_dict(), b.to_dict(), out)


def report(
    source: Annotated[
        str,
        typer.Argument(
            help="A scenario's YAML, or the Parquet or CSV file of a sweep",
            metavar="SCENARIO.yaml|SWEEP.parquet",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for plots, tables and report.html.")
    ],
    set_: SetOption = [],  # noqa: B006
    fidelity: FidelityOption = None,
) -> None:
    """Draw plots and one self-contained HTML page."""
    from rich.console import Console

    check_folder(out, ("report.html",))
    with Console(stderr=True).status("drawing"):
        if Path(source).suffix in (".parquet", ".csv"):
            from reports.sweep_report import write_sweep_report
            from simulator.sweeps.saved_sweep import read_result

            written = write_sweep_report(read_result(Path(source)), out)
        else:
            from reports.estimate_report import write_report
            from simulator.estimates.estimate import simulate
            from simulator.estimates.pipeline_timeline import pipeline_timeline
            from simulator.estimates.strong_scaling import strong_scaling

            data = overridden(source, set_, fidelity)
            scaling, passes = strong_scaling(data), pipeline_timeline(data)
            written = write_report(simulate(data).to_dict(), scaling, out, passes)
    for path in written:
        emit(str(path))

"""The command on fabrics: collectives by size, the topology drawn, a step's traffic replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hardware_specs.errors import LlmsimError, Problem, ScenarioError
from simulator.commands.options import Fidelity, Format, FormatOption, SetOption, overridden
from simulator.commands.output import check_folder, csv_text, display, emit, write_files

TABLE_FILE, PLOT_FILE, DRAWING_FILE, REPLAY_FILE = (
    "collectives.csv",
    "bus-bandwidth.png",
    "topology.png",
    "replay.csv",
)
MOST_DRAWN = 128


def network(
    system: Annotated[
        str | None, typer.Argument(help="A catalog name, or a system YAML file", metavar="SYSTEM")
    ] = None,
    collective: Annotated[
        str,
        typer.Option(
            help="all_reduce, all_gather, reduce_scatter, broadcast, reduce, all_to_all or send_recv."
        ),
    ] = "all_reduce",
    ranks: Annotated[
        list[int],
        typer.Option("--ranks", help="Size of a group, neighbours side by side; may be repeated."),
    ] = [],  # noqa: B006 (typer reads the default, nothing mutates it)
    size: Annotated[
        list[str], typer.Option("--size", help="Message such as 64MiB; may be repeated.", metavar="BYTES")
    ] = [],  # noqa: B006
    algorithm: Annotated[
        list[str],
        typer.Option(
            help="auto (the fastest on offer), ring, tree, halving_doubling, direct, one_shot, two_shot, hierarchical "
            "or in_switch; may be repeated."
        ),
    ] = ["auto"],  # noqa: B006
    task: Annotated[
        str, typer.Option(help="training or inference: they run on different software.")
    ] = "training",
    fidelity: Annotated[
        Fidelity,
        typer.Option(
            metavar="LEVEL", help="calibrated: fitted coefficients; datasheet: none; bound: no latencies."
        ),
    ] = Fidelity.calibrated,
    replay: Annotated[
        str | None,
        typer.Option(
            "--replay",
            metavar="SCENARIO.yaml",
            help="Replay the exchanges of one step of a scenario, flow by flow, beside their closed forms.",
        ),
    ] = None,
    set_: SetOption = [],  # noqa: B006
    format_: FormatOption = Format.table,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help=f"Folder for {TABLE_FILE}, {PLOT_FILE}, {DRAWING_FILE} or {REPLAY_FILE}.",
        ),
    ] = None,
) -> None:
    """Time collectives on a system, or replay a step's traffic.

    Shows how long collectives take by size of message and group, or replays the exchanges of one step on the links.
    """
    if replay is not None and system is not None:
        rule, fix = "goes not with --replay: the scenario names its system", "leave one of them out"
        raise ScenarioError([Problem(path="SYSTEM", value=system, rule=rule, fix=fix)])
    if replay is not None:
        _replay(replay, set_, format_, out)
        return
    if system is None or set_:
        rule = "is needed" if system is None else "is for --replay"
        path = "SYSTEM" if system is None else "--set"
        raise ScenarioError(
            [Problem(path=path, value="", rule=rule, fix="write such as llmsim network dgx-h100")]
        )
    _collectives(
        system,
        {"collective": collective, "algorithms": algorithm, "task": _task(task), "fidelity": fidelity.value},
        ranks,
        size,
        format_,
        out,
    )


def _task(name: str) -> str:
    if name not in ("training", "inference"):
        rule, fix = "is unknown", "use training or inference"
        raise ScenarioError([Problem(path="--task", value=name, rule=rule, fix=fix)])
    return name


def _sizes(texts: list[str]) -> tuple[list[float], list[Problem]]:
    """Sizes in bytes, and a problem for every text that is none."""
    from hardware_specs import parse_quantity

    sizes, problems = [], []
    for text in texts:
        try:
            sizes.append(float(parse_quantity(text, "bytes")))
        except (LlmsimError, ValueError):
            fix = "write such as --size 64MiB"
            rule = "is no amount of bytes"
            problems.append(Problem(path="--size", value=text, rule=rule, fix=fix))
    return sizes, problems


def _collectives(
    name: str,
    options: dict[str, Any],
    ranks: list[int],
    size: list[str],
    format_: Format,
    out: Path | None,
) -> None:
    from hardware_specs import load_system
    from simulator.network.drawing import picture_rows
    from simulator.network.system_table import DEFAULT_SIZES, collective_table
    from simulator.network.topology_graph import topology_graph

    system = load_system(name)
    sizes, problems = _sizes(size)
    try:
        rows = collective_table(system, ranks=ranks or None, message_bytes=sizes or DEFAULT_SIZES, **options)
    except ScenarioError as error:
        problems += error.problems
    if problems:
        raise ScenarioError(problems)
    if out is not None:
        from reports.network_plots import plot_bus_bandwidth, plot_topology

        check_folder(out, (TABLE_FILE, PLOT_FILE, DRAWING_FILE))
        write_files(out, {TABLE_FILE: csv_text(rows)})
        plot_bus_bandwidth(rows, out / PLOT_FILE, title=f"{options['collective']} on {system.name}")
        drawn = max((r["ranks"] for r in rows if r["ranks"] <= MOST_DRAWN), default=None)
        if drawn is not None:
            nodes, links = picture_rows(topology_graph(system, drawn), system)
            plot_topology(nodes, links, out / DRAWING_FILE, title=f"{drawn} accelerators of {system.name}")
    if format_ is Format.table:
        from reports.network_plots import network_table

        emit(f"{options['collective']} on {system.name}, {options['task']}, {options['fidelity']}")
        display(network_table(rows))
    else:
        emit(json.dumps(rows, indent=2) if format_ is Format.json else csv_text(rows))


def _replay(scenario: str, settings: list[str], format_: Format, out: Path | None) -> None:
    from reports.network_plots import replay_table
    from simulator.network.scenario_traffic import replay_scenario

    if out is not None:
        check_folder(out, (REPLAY_FILE,))
    rows = replay_scenario(overridden(scenario, settings, None))
    if out is not None:
        write_files(out, {REPLAY_FILE: csv_text(rows)})
    if format_ is Format.table:
        emit("One step's exchanges without calibration: closed form, and flows that share links fairly\n")
        display(replay_table([row for row in rows if not row["together"]]))
        if rows[-1]["together"]:
            emit(
                "\nThe longest of each axis, all started at once: the closed form has what they wait for each other\n"
            )
            display(replay_table([row for row in rows if row["together"]]))
    else:
        emit(json.dumps(rows, indent=2) if format_ is Format.json else csv_text(rows))

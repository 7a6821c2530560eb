"""The command on measured runs: validate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hardware_specs.errors import Problem, ScenarioError
from simulator.commands.options import FidelityOption, Format, FormatOption
from simulator.commands.output import check_folder, csv_text, display, emit, write_files

UNMET = 1


def validate(
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Table of measured runs.")],
    table: Annotated[str | None, typer.Option(help="Kind of table where its columns are ambiguous.")] = None,
    assume: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="Score rows whose KEY is blank with VALUE.")
    ] = [],  # noqa: B006
    max_mape: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="F", help="Exit status 1 if a group's error is above this fraction."),
    ] = None,
    source: Annotated[
        list[str], typer.Option(metavar="PREFIX", help="Only rows whose id starts so; may be repeated.")
    ] = [],  # noqa: B006
    system: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="System that rows of llmsim measure ran on; else the file beside the table.",
        ),
    ] = None,
    format_: FormatOption = Format.table,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for validation.json and parity.png.")
    ] = None,
    fidelity: FidelityOption = None,
) -> None:
    """Compare predictions with a table of measured runs."""
    from simulator.validation import validate as scored

    if out is not None:
        check_folder(out, ("validation.json", "parity.png"))
    assumed: dict[str, str] = {}
    for text in assume:
        key, separator, value = text.partition("=")
        if not separator:
            fix = "write such as --assume recompute=none"
            raise ScenarioError([Problem(path="--assume", value=text, rule="must be KEY=VALUE", fix=fix)])
        assumed[key] = value
    result = scored(
        data,
        table=table,
        assume=assumed,
        sources=source or None,
        fidelity=fidelity.value if fidelity else "calibrated",
        system=system,
    )
    if out is not None:
        from reports.parity import plot_parity

        write_files(out, {"validation.json": json.dumps(result.to_dict(), indent=2) + "\n"})
        plot_parity(result.parity_rows(), out / "parity.png")
    if format_ is Format.json:
        emit(json.dumps(result.to_dict(), indent=2))
    elif format_ is Format.csv:
        emit(csv_text(result.to_dict()["rows"]))
    else:
        for part in result.tables():
            display(part)
    if max_mape is not None:
        with_error = [g for g in result.to_dict()["groups"] if g["mape"] is not None]
        if not with_error:
            sys.stderr.write(f"no row was scored, so --max-mape {max_mape:g} does not hold\n")
            raise typer.Exit(UNMET)
        above = [g for g in with_error if g["mape"] > max_mape]
        if above:
            worst = max(above, key=lambda g: g["mape"])
            sys.stderr.write(
                f"{len(above)} groups above --max-mape {max_mape:g}; the worst is {worst['source']} "
                f"{worst['device']} {worst['quantity']} with {worst['mape']:.3f}\n"
            )
            raise typer.Exit(UNMET)

"""Commands on the catalogs: list, show, lint."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hardware_specs.errors import SpecError
from simulator.commands.output import display, emit


class Kind(StrEnum):
    """What ``list`` lists."""

    models = "models"
    accelerators = "accelerators"
    systems = "systems"
    precisions = "precisions"
    calibrations = "calibrations"


def list_(kind: Annotated[Kind, typer.Argument(help="What to list", show_default=False)]) -> None:
    """List what a catalog holds."""
    from simulator.commands.catalog_listing import listing

    display(listing(kind.value))


def show(
    name: Annotated[
        str, typer.Argument(help="A model, system, accelerator, precision or calibration", metavar="NAME")
    ],
) -> None:
    """Show one entry of a catalog, with sources."""
    from simulator.commands.catalog_listing import entry

    emit(entry(name))


def lint(
    file: Annotated[
        Path, typer.Argument(help="A system, accelerator, calibration or model file", metavar="FILE.yaml")
    ],
) -> None:
    """Check a hardware or model file.

    Exit status 2 if it has errors; warnings alone are status 0.
    """
    from simulator.commands.catalog_listing import lint_file

    errors, warnings = lint_file(file)
    for problem in warnings:
        emit(f"warning: {problem}")
    if errors:
        raise SpecError(errors)
    emit(f"{file}: no errors" + (f", {len(warnings)} warnings" if warnings else ""))

"""The command that fits a calibration to measured kernels."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hardware_specs.errors import LlmsimError, Problem, ScenarioError, SpecError
from simulator.commands.output import check_folder, display, emit, write_files

if TYPE_CHECKING:
    from hardware_specs import CalibrationSpec
    from simulator.fitting.user_calibration import FittedFamily
    from simulator.fitting.user_families import UserFamilies

T = TypeVar("T")


class TaskKind(StrEnum):
    """What the software of a calibration is used for."""

    training = "training"
    inference = "inference"


def _check_out(out: Path) -> None:
    if out.suffix not in (".yaml", ".yml"):
        problem = Problem(
            path="--out", value=str(out), rule="must end in .yaml", fix="write such as --out my-h100.yaml"
        )
        raise ScenarioError([problem])
    check_folder(out.absolute().parent, (out.name,))
    if out.is_file() and "kernels:" not in out.read_text(encoding="utf-8", errors="replace"):
        rule = "exists and is no calibration"
        raise ScenarioError([Problem(path="--out", value=str(out), rule=rule, fix="choose another name")])


def _named(option: str, action: Callable[[], T]) -> T:
    """The result; mistakes of a name that was not found are told under the option that gave it."""
    try:
        return action()
    except SpecError as error:
        told = [replace(p, path=option) if p.path == "calibration" else p for p in error.problems]
        raise SpecError(told) from None


def _check_packages() -> None:
    from importlib.util import find_spec

    if find_spec("scipy") is None:
        rule, fix = "needs scipy, which is not installed", "pip install 'llmsim[calibrate]'"
        raise ScenarioError([Problem(path="llmsim calibrate", value="", rule=rule, fix=fix)])


def _figures(texts: list[str], device: str | None) -> dict[str, str]:
    """Figures of the data sheet by key; every text that is none is told at once."""
    problems, out = [], {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key or not value:
            fix = "write such as --figure memory_bandwidth='204.8 GB/s'"
            problems.append(Problem(path="--figure", value=text, rule="must be KEY=VALUE", fix=fix))
        out[key] = value
    if texts and device is not None:
        rule, fix = "is for a device that is made of the rows", "leave --device out, or edit its YAML file"
        problems.append(Problem(path="--figure", value=texts[0], rule=rule, fix=fix))
    if problems:
        raise SpecError(problems)
    return out


def calibrate(
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            metavar="FILE|DIR",
            help="CSV or Parquet table of kernels, or the folder of llmsim measure; may be repeated.",
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Accelerator: catalog name, table's spelling or YAML file; without it a device and a system "
            "are made of what llmsim measure wrote.",
        ),
    ] = None,
    figure: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE",
            help="Figure of the data sheet for the device that is made, such as "
            "memory_bandwidth='204.8 GB/s'; the others are ceilings of the rows. May be repeated.",
        ),
    ] = [],  # noqa: B006
    stack: Annotated[
        str, typer.Option(metavar="TEXT", help="Software; only rows of the frameworks it names are kept.")
    ] = "",
    like: Annotated[
        str | None,
        typer.Option(metavar="CALIBRATION", help="Measured sibling that gives what few rows cannot tell."),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the calibration.")] = None,
    task: Annotated[
        TaskKind | None, typer.Option(help="What the software is used for; without it both.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.yaml", help="Where to write it; else NAME.yaml.")
    ] = None,
) -> None:
    """Fit a device's coefficients to measured kernels.

    100 rows of a family and type give all coefficients; 12 give a few, and --like the rest. Use the file with
    system.calibration: FILE.yaml in a scenario.
    """
    from hardware_specs import calibration_for, load_calibration
    from simulator.fitting.completed_calibration import calibration_name, calibration_text, completed
    from simulator.fitting.measured_folder import (
        expanded,
        host_fit,
        link_ceiling,
        machine_files,
        measured_folder,
    )
    from simulator.fitting.user_calibration import fit_families
    from simulator.fitting.user_families import families_of
    from simulator.fitting.user_tables import accelerator_named, read_user_tables

    problems: list[Problem] = []

    def attempt(action: Callable[[], T]) -> T | None:
        """The result, or None after noting what is wrong, so that every mistake is told at once."""
        try:
            return action()
        except LlmsimError as error:
            problems.extend(error.problems)
            return None

    attempt(_check_packages)
    known_figures = attempt(lambda: _figures(figure, device)) or {}
    own = attempt(lambda: measured_folder(data, known_figures)) if device is None else None
    accelerator = own.accelerator if own else None
    if device is not None:
        accelerator = attempt(lambda: accelerator_named(device))
    sibling = attempt(lambda: _named("--like", lambda: load_calibration(like))) if like is not None else None
    files = attempt(lambda: expanded(data)) or []
    tables = (
        attempt(lambda: read_user_tables(files, accelerator, stack)) if own or device is not None else None
    )
    software = stack or (", ".join(tables.stacks) if tables and tables.stacks else "unstated software")
    known = accelerator.name if accelerator else "device"
    named = attempt(lambda: calibration_name(name, known, software))
    target = out or Path(f"{named}.yaml")
    attempt(lambda: _check_out(target))
    if problems or accelerator is None or tables is None or named is None:
        raise SpecError(list(dict.fromkeys(problems)))
    base = sibling or calibration_for(accelerator, task.value if task else "training")
    found = families_of(tables)
    source = f"{', '.join(tables.files)}, {accelerator.name}"
    fitted = _fitted(lambda: fit_families(found, source=source, like=sibling, base=base))
    calibration = completed(
        fitted,
        accelerator=accelerator,
        name=named,
        stack=software,
        tasks=[task.value] if task else ["training", "inference"],
        base=base,
        host=host_fit(data) if own else None,
    )
    written = {target.name: calibration_text(calibration, tables.files)}
    if own:
        written |= machine_files(own, target.name, link_ceiling(own.collectives), source)
    write_files(target.absolute().parent, written)
    _show(calibration, fitted, found, target, base.name)
    if own:
        emit(
            f"Made {accelerator.name}.yaml and {accelerator.name}-system.yaml beside it; in a scenario\n\n"
            f"system: {target.parent / f'{accelerator.name}-system.yaml'}\n\nis this machine with its calibration."
        )


def _fitted(action: Callable[[], list[FittedFamily]]) -> list[FittedFamily]:
    from rich.console import Console

    with Console(stderr=True).status("fitting"):
        found = action()
    if not found:
        rule = "no row is of a family and type that a calibration has coefficients for"
        raise SpecError(
            [Problem(path="--data", value="", rule=rule, fix="see the table of types in README.md")]
        )
    return found


def _show(
    calibration: CalibrationSpec, fitted: list[FittedFamily], found: UserFamilies, target: Path, base: str
) -> None:
    from reports.calibration_table import calibration_table, left_aside_text

    rows: list[dict[str, Any]] = [
        {
            "family": item.family,
            "dtype": item.dtype,
            "rows": item.rows,
            "left_out": item.left_out,
            "error": item.fit.error,
            "spread": item.fit.spread,
            "like": item.like,
        }
        for item in fitted
    ]
    display(calibration_table(rows, f"{calibration.name}: {calibration.stack}"))
    if text := left_aside_text([{"what": a.what, "rows": a.rows, "why": a.why} for a in found.aside]):
        emit(text)
    if apart := [off for item in fitted for off in item.apart]:
        emit(
            f"{len(apart)} rows of shapes that no fit saw: median error {statistics.median(apart):.1%}, "
            f"mean {statistics.fmean(apart):.1%}."
        )
    emit("MAPE: mean error of fitted and of left-out rows; spread: 90 % of left-out rows lie within it.")
    if calibration.host is not None:
        emit(f"Between operators of eager code: {calibration.host.between_s * 1e6:.3g} us of the host.")
    emit(f"Families without rows are those of {base}; results name them assumed, with a wider interval.")
    emit(f"Wrote {target}. In a scenario:\n\nsystem.calibration: {target}")

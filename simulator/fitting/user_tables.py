"""Measured tables that a user brings: read, checked row by row, and put under the names that the fits look for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hardware_specs import device_named, find_device, list_accelerators, load_accelerator
from hardware_specs.errors import LlmsimError, Problem, SpecError, near_names, shorten
from hardware_specs.schema import AcceleratorSpec
from simulator.fitting.kernel_tables import DEFAULTS, with_defaults
from simulator.fitting.noise import at_one_pace, machine_problems, noise_problems, without_noise
from simulator.fitting.user_units import BYTES, unit_problems
from simulator.measured_tables.kernel_kinds import KERNEL_KINDS
from simulator.measured_tables.measured_table import MeasuredTable, Row, read_cells

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UserTables", "accelerator_named", "read_user_tables"]

SHOWN = 10
PHASES, KINDS = ("prefill", "decode"), ("gqa", "mla")
UNSTATED = str(DEFAULTS["framework"])
SAME_STACK = {"tensorrtllm": "trtllm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class UserTables:
    """Tables of one device.

    Attributes
    ----------
    accelerator : AcceleratorSpec
        The device, from the catalog or a file.
    frames : mapping of str to DataFrame
        Rows by kind of table; the column ``device`` holds the accelerator's name.
    files, stacks : tuple of str
        Names of the files, and software that the rows state, for the calibration's source.
    noisy : int
        Rows that were left away because they are marked noisy [1].
    pace : float
        Standard deviation of the logarithm of the reference beside the rows, 0 where none is stated [1].
    """

    accelerator: AcceleratorSpec
    frames: Mapping[str, pd.DataFrame]
    files: tuple[str, ...]
    stacks: tuple[str, ...]
    noisy: int = 0
    pace: float = 0.0


def accelerator_named(text: str) -> AcceleratorSpec:
    """The accelerator of a catalog name, a spelling of the tables or a file; SpecError with near names."""
    if text in list_accelerators() or Path(text).suffix in (".yaml", ".yml"):
        return load_accelerator(text)
    try:
        return load_accelerator(device_named(text).accelerator)
    except SpecError as error:
        raise SpecError([_under(problem, "--device") for problem in error.problems]) from None


def _under(problem: Problem, path: str) -> Problem:
    return Problem(path=path, value=problem.value, rule=problem.rule, fix=problem.fix)


def read_user_tables(
    paths: Sequence[Path], accelerator: AcceleratorSpec | None, stack: str = ""
) -> UserTables | None:
    """Read, check and keep the rows of one device.

    Parameters
    ----------
    paths : sequence of Path
        CSV or Parquet files in the schemas of the kernel tables.
    accelerator : AcceleratorSpec, optional
        The device to keep; rows of other known devices are left aside. None: only check.
    stack : str
        Keep the rows of the frameworks that this text names; empty: all.

    Returns
    -------
    UserTables
        Frames by kind; None without an accelerator.

    Raises
    ------
    SpecError
        With every mistake: a missing column, a time that is zero or negative, an unknown device or type, times
        in another unit, no row of the device, or a stack that no row ran. Messages name file, row and column.
    """
    import pandas as pd

    parts: dict[str, list[pd.DataFrame]] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            read, cells = read_cells(path)
        except LlmsimError as error:
            problems += error.problems
            continue
        if read.kind.name not in KERNEL_KINDS:
            rule, known = "is a table that a fit cannot use", ", ".join(KERNEL_KINDS)
            problems.append(
                Problem(path=str(path), value=read.kind.name, rule=rule, fix=f"fitted are {known}")
            )
            continue
        wrong = [_under(p, f"{path.name}, {p.path}") for p in cells]
        wrong += _row_problems(path, read, accelerator, {p.path for p in wrong})
        problems += _shown(wrong, path)
        frame = pd.DataFrame([dict(row.cells) for row in read.rows], columns=list(read.rows[0].cells))
        frame["row"] = [row.number for row in read.rows]
        frame["file"] = path.name
        parts.setdefault(read.kind.name, []).append(frame)
    if accelerator is None or problems:
        if problems:
            raise SpecError(problems)
        return None
    frames = {kind: _own(pd.concat(tables, ignore_index=True), accelerator) for kind, tables in parts.items()}
    frames = {kind: with_defaults(frame) for kind, frame in frames.items() if len(frame)}
    if not frames:
        found = sorted({str(text) for tables in parts.values() for t in tables for text in t["device"]})
        fix = f"the tables hold {', '.join(found[:SHOWN])}"
        raise SpecError(
            [Problem(path="--device", value=accelerator.name, rule="has no row in the data", fix=fix)]
        )
    frames = _of_stack(frames, stack) if stack else frames
    frames, pace = at_one_pace(frames)
    problems += [*machine_problems(frames), *noise_problems(frames)]
    frames, noisy = without_noise(frames)
    for kind, frame in frames.items():
        for (file, _), rows in frame.groupby(["file", "framework"], sort=False):
            problems += _shown(unit_problems(str(file), kind, rows, accelerator), Path(str(file)))
    if problems:
        raise SpecError(problems)
    names = {f"{f}-{v}" if v else f for frame in frames.values() for f, v in _pairs(frame)}
    return UserTables(
        accelerator=accelerator,
        frames=frames,
        files=tuple(path.name for path in paths),
        stacks=tuple(sorted(names - {UNSTATED})),
        noisy=noisy,
        pace=pace,
    )


def _pairs(frame: pd.DataFrame) -> Iterable[tuple[str, str]]:
    pairs = frame[["framework", "version"]].drop_duplicates().itertuples(index=False)
    return ((str(f), str(v)) for f, v in pairs)


def _own(frame: pd.DataFrame, accelerator: AcceleratorSpec) -> pd.DataFrame:
    own = {text: _is(text, accelerator) for text in frame["device"].unique()}
    return frame[frame["device"].map(own)].assign(device=accelerator.name)


def _is(text: str, accelerator: AcceleratorSpec) -> bool:
    found = find_device(text)
    return text == accelerator.name or (found is not None and found.accelerator == accelerator.name)


def _row_problems(
    path: Path, read: MeasuredTable, accelerator: AcceleratorSpec | None, known: set[str]
) -> list[Problem]:
    """Blank cells that a fit needs, unknown devices, types and words; none of cells that are known to be wrong."""
    problems = []

    def add(row: Row, column: str, rule: str, fix: str = "") -> None:
        label = f"{path.name}, row {row.number}, column {column}"
        if label not in known:
            value = shorten(row.text(column))
            problems.append(Problem(path=label, value=value, rule=rule, fix=fix))

    for row in read.rows:
        for column in read.kind.needed:
            if row.cells.get(column) is None:
                add(row, column, "is blank")
        for column in ("dtype", "kv_dtype"):
            if (dtype := row.text(column)) and dtype not in BYTES:
                add(row, column, *_type_rule(dtype))
        for column, words in (("phase", PHASES), ("kind", KINDS)):
            if row.text(column) and row.text(column) not in words:
                add(row, column, "is not known", f"use {' or '.join(words)}")
    first = {row.text("device"): row for row in reversed(read.rows) if row.text("device")}
    for text, row in first.items():
        if accelerator is not None and text == accelerator.name:
            continue
        try:
            device_named(text)
        except SpecError as error:
            add(row, "device", error.problems[0].rule, error.problems[0].fix)
    return problems


def _type_rule(dtype: str) -> tuple[str, str]:
    """Rule and way out for a type that no table has."""
    parts = [part for part in re.split(r"[\s,;/+|&]+", dtype) if part]
    if len(parts) > 1:
        return "mixes types", "a row has one type; give each type rows of its own"
    plain = dtype.lower().removeprefix("torch.").replace("bfloat", "bf").replace("float", "fp")
    near = [plain] if plain in BYTES else near_names(plain, BYTES, n=2)
    return (
        "is no known type",
        f"did you mean {', '.join(near)}?" if near else f"use one of {', '.join(BYTES)}",
    )


def _shown(problems: Sequence[Problem], path: Path) -> list[Problem]:
    more = len(problems) - SHOWN
    rest = [Problem(path=path.name, value="", rule=f"and {more} more cells are wrong")] if more > 0 else []
    return [*problems[:SHOWN], *rest]


def _letters(text: str) -> str:
    letters = re.sub(r"[^a-z]+", "", text.lower())
    for spelling, name in SAME_STACK.items():
        letters = letters.replace(spelling, name)
    return letters


def _of_stack(frames: Mapping[str, pd.DataFrame], stack: str) -> dict[str, pd.DataFrame]:
    """Rows of the frameworks that a text names; rows that state none may be of any."""
    stated = sorted({str(f) for frame in frames.values() for f in frame["framework"]} - {UNSTATED})
    named = [f for f in stated if _letters(f) and _letters(f) in _letters(stack)]
    if stated and not named:
        rule = "names none of the frameworks that ran the rows"
        fix = f"the rows state {', '.join(stated[:SHOWN])}; without --stack all are fitted together"
        raise SpecError([Problem(path="--stack", value=shorten(stack), rule=rule, fix=fix)])
    keep = {*named, UNSTATED}
    kept = {kind: frame[frame["framework"].isin(keep)] for kind, frame in frames.items()}
    return {kind: frame for kind, frame in kept.items() if len(frame)}

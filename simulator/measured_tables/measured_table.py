"""Reading a measured table: which kind it is, its typed cells, and every mistake in it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware_specs.errors import Problem, SpecError, shorten
from simulator.measured_tables.table_kinds import CellType, TableKind, kind_of, refuse

__all__ = ["Cell", "MeasuredTable", "Row", "parse_cell", "read_cells", "read_table"]

Cell = str | int | float | bool | None

MAX_BYTES = 200_000_000
SHOWN_PROBLEMS = 5
BLANKS = ("", "nan", "na", "n/a", "null")
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Typed cells of one row by column, None where blank, and its number in the file from 1."""

    number: int
    cells: Mapping[str, Cell]

    @property
    def name(self) -> str:
        """Its id, or its number where the table has none."""
        found = self.cells.get("id")
        return str(found) if found else f"row-{self.number}"

    def text(self, column: str) -> str:
        """A text cell, empty where blank or absent."""
        found = self.cells.get(column)
        return "" if found is None else str(found)

    def count(self, column: str) -> int | None:
        """A whole number, None where blank or absent [1]."""
        found = self.cells.get(column)
        return None if found is None else int(found)

    def number_of(self, column: str) -> float | None:
        """A number in the column's unit, None where blank or absent."""
        found = self.cells.get(column)
        return None if found is None else float(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTable:
    """Kind and rows of a file."""

    kind: TableKind
    rows: Sequence[Row]


def parse_cell(value: object, cell_type: CellType) -> Cell:
    """One cell by type; blanks are None; ValueError says what was wrong."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    if text.lower() in BLANKS:
        return None
    if cell_type == "text":
        return text
    if cell_type == "flag":
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ValueError("must be True or False")
    try:
        number = float(text)
    except ValueError:
        raise ValueError("must be a number") from None
    if not math.isfinite(number):
        raise ValueError("must be finite")
    if cell_type == "number":
        return number
    if number <= 0:
        raise ValueError("must be above 0")
    if cell_type == "count":
        if number != int(number):
            raise ValueError("must be a whole number")
        return int(number)
    return number


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise refuse(path, "is a directory", "name a CSV or Parquet file")
    if not path.is_file():
        raise refuse(path, "does not exist")
    size = path.stat().st_size
    if size == 0:
        raise refuse(path, "is empty")
    if size > MAX_BYTES:
        raise refuse(path, f"has {size / 1e6:.0f} MB, more than the limit of {MAX_BYTES / 1e6:.0f} MB")


def _parquet_rows(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise refuse(
            path, "Parquet needs pyarrow", "pip install 'llmsim[sweep]', or give a CSV file"
        ) from None
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        raise refuse(path, "is not a readable Parquet file") from None
    return list(table.column_names), table.to_pylist()


def _csv_rows(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = [name or "" for name in (reader.fieldnames or [])]
            rows: list[dict[str, Any]] = []
            for number, record in enumerate(reader, 1):
                if None in record or None in record.values():
                    raise refuse(path, f"row {number} does not have the {len(header)} cells of the header")
                rows.append(record)
    except UnicodeDecodeError:
        raise refuse(path, "is neither UTF-8 text nor Parquet") from None
    except csv.Error as error:
        raise refuse(path, f"is not CSV ({error})") from None
    return header, rows


def _typed(
    records: Sequence[Mapping[str, Any]], header: Sequence[str], kind: TableKind
) -> tuple[list[Row], list[Problem]]:
    """Rows, blank where a cell is wrong, and what is wrong."""
    types = {name: cell_type for name, cell_type in kind.columns.items() if name in header}
    problems: list[Problem] = []
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for number, record in enumerate(records, 1):
        cells: dict[str, Cell] = {}
        label = f"row {number} ({record['id']})" if record.get("id") else f"row {number}"
        for name, cell_type in types.items():
            try:
                cells[name] = parse_cell(record[name], cell_type)
            except ValueError as error:
                cells[name] = None
                problems.append(
                    Problem(path=f"{label}, column {name}", value=shorten(str(record[name])), rule=str(error))
                )
        row = Row(number=number, cells=cells)
        if "id" in types and row.name in seen:
            problems.append(
                Problem(path=f"{label}, column id", value=row.name, rule=f"repeats row {seen[row.name]}")
            )
        seen.setdefault(row.name, number)
        rows.append(row)
    return rows, problems


def read_cells(path: Path, table: str | None = None) -> tuple[MeasuredTable, list[Problem]]:
    """Read a measured table as far as it can be read.

    Parameters
    ----------
    path, table
        As for :func:`read_table`.

    Returns
    -------
    tuple of MeasuredTable and list of Problem
        Rows, in which a wrong cell is None, and every wrong cell.

    Raises
    ------
    SpecError, ScenarioError
        As :func:`read_table`, but not for cells.
    """
    _check_file(path)
    with path.open("rb") as file:
        magic = file.read(len(_PARQUET_MAGIC))
    header, records = _parquet_rows(path) if magic == _PARQUET_MAGIC else _csv_rows(path)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise refuse(path, f"has columns twice: {', '.join(repeated)}")
    kind = kind_of(path, header, table)
    if not records:
        raise refuse(path, "has a header and no rows")
    rows, problems = _typed(records, header, kind)
    return MeasuredTable(kind=kind, rows=rows), problems


def read_table(path: Path, table: str | None = None) -> MeasuredTable:
    """Read a measured table.

    Parameters
    ----------
    path : Path
        A CSV or Parquet file.
    table : str, optional
        Its kind where the columns do not tell.

    Returns
    -------
    MeasuredTable
        Kind and typed rows, blanks as None.

    Raises
    ------
    SpecError
        If the file cannot be read, lacks columns, or has cells of the wrong type; names row and column.
    ScenarioError
        If the kind is unknown, ambiguous or not scored in this version.
    """
    found, problems = read_cells(path, table)
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        shown = problems[:SHOWN_PROBLEMS]
        if more > 0:
            shown.append(Problem(path="", value="", rule=f"and {more} more cells are wrong"))
        raise SpecError(shown)
    return found

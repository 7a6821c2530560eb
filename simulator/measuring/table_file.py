"""Measured tables that grow row by row: each row is written whole, and a half-written last one is dropped."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware_specs.errors import Problem, SpecError

__all__ = ["GrowingTable"]


def _line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(["" if cell is None else cell for cell in cells])
    return buffer.getvalue()


@dataclass(slots=True)
class GrowingTable:
    """A CSV file that rows are added to.

    Attributes
    ----------
    path : Path
        The file.
    columns : tuple of str
        Its header.
    keys : tuple of str
        Columns that say which row it is; a row is measured once.
    """

    path: Path
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    rows: list[dict[str, str]] = field(default_factory=list)
    dropped: int = 0

    def open(self) -> None:
        """Read what is there, and cut off a last line that was not finished.

        Raises
        ------
        SpecError
            If the file has other columns, or a line in its middle is broken.
        """
        self.rows, self.dropped = [], 0
        if not self.path.exists() or self.path.stat().st_size == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole, _, rest = text.rpartition("\n")
        records = list(csv.reader(io.StringIO(whole)))
        if not records or tuple(records[0]) != self.columns:
            rule = "has other columns than this version measures, so its rows cannot be continued"
            raise SpecError(
                [Problem(path=str(self.path), value="", rule=rule, fix="choose another --out folder")]
            )
        if len(records) > 1 and len(records[-1]) != len(self.columns):
            records.pop()
            rest = rest or " "
        for number, record in enumerate(records[1:], 1):
            if len(record) != len(self.columns):
                rule = f"does not have the {len(self.columns)} cells of the header"
                fix = "remove the line, its shape is then measured again"
                raise SpecError([Problem(path=str(self.path), value=f"row {number}", rule=rule, fix=fix)])
            self.rows.append(dict(zip(self.columns, record, strict=True)))
        if rest:
            self.dropped = 1
            self._replace("".join(_line(record) for record in records))

    def _replace(self, text: str) -> None:
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, self.path)

    def key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Which row it is, as text; KeyError if a key is missing."""
        return tuple(str(row[name]) for name in self.keys)

    def known(self) -> set[tuple[str, ...]]:
        """Keys of the rows that are there; raises nothing."""
        return {self.key(row) for row in self.rows}

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row in one write, behind a header where it is the first; KeyError for a column that it lacks."""
        line = _line([row[name] for name in self.columns])
        if not self.path.exists() or self.path.stat().st_size == 0:
            line = _line(self.columns) + line
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(line)
            file.flush()
        self.rows.append({name: "" if row[name] is None else str(row[name]) for name in self.columns})

    def put(self, row: Mapping[str, Any]) -> None:
        """Write a row in the place of the one with its keys, or behind the others; KeyError as `add`."""
        wanted = self.key(row)
        kept = [old for old in self.rows if self.key(old) != wanted]
        if len(kept) == len(self.rows):
            self.add(row)
            return
        self.rows = [*kept, {name: "" if row[name] is None else str(row[name]) for name in self.columns}]
        lines = [self.columns, *([entry[name] for name in self.columns] for entry in self.rows)]
        self._replace("".join(_line(list(line)) for line in lines))

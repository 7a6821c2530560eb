"""Result columns that grow chunk by chunk, each value written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.shared_columns import SharedColumn

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]


class ResultTable:
    """Columns of results, filled in the order in which chunks come.

    Parameters
    ----------
    rows : int
        Rows to make room for at first [1]; room that is never written takes no memory.

    Notes
    -----
    A column that has had one value in all chunks is kept as that value.
    """

    def __init__(self, rows: int) -> None:
        self._room = max(rows, 1)
        self._n = 0
        self._numbers = np.empty(self._room, dtype=np.int64)
        self._columns: dict[str, FloatArray] = {}
        self._same: dict[str, float] = {}
        self._ordered = True
        self._names: list[str] = []

    def add(self, numbers: IndexArray, columns: Mapping[str, Any]) -> None:
        """Append the rows of a chunk: row numbers, and columns of as many values or of one."""
        first, stop = self._n, self._n + len(numbers)
        if not len(numbers):
            return
        self._grow(stop)
        self._names = self._names or list(columns)
        self._ordered = self._ordered and (first == 0 or bool(numbers[0] > self._numbers[first - 1]))
        self._numbers[first:stop] = numbers
        for name, values in columns.items():
            if len(values) == 1 and self._stays(name, float(values[0]), first):
                continue
            out = self._column(name, first)[first:stop]
            if isinstance(values, SharedColumn):
                values.write(out)
            else:
                out[:] = values
        self._n = stop

    def _stays(self, name: str, value: float, first: int) -> bool:
        """Whether a column has had this one value so far."""
        if name in self._columns:
            return False
        if first == 0:
            self._same[name] = value
        same = self._same.get(name, np.nan)
        return same == value or bool(np.isnan(same) and np.isnan(value))

    def _column(self, name: str, first: int) -> FloatArray:
        if name not in self._columns:
            self._columns[name] = np.empty(self._room)
            self._columns[name][:first] = self._same.pop(name, np.nan)
        return self._columns[name]

    def _grow(self, rows: int) -> None:
        if rows <= self._room:
            return
        self._room = max(rows, 2 * self._room)
        self._numbers = _longer(self._numbers, self._n, self._room)
        for name, values in self._columns.items():
            self._columns[name] = _longer(values, self._n, self._room)

    def finished(self) -> tuple[IndexArray, dict[str, FloatArray]]:
        """Row numbers in order, and the columns in that order."""
        n = self._n
        numbers = self._numbers[:n]
        columns = {
            name: self._columns[name][:n]
            if name in self._columns
            else np.broadcast_to(self._same[name], (n,))
            for name in self._names
        }
        # Rows of one structure are in order; several structures take turns.
        if not self._ordered:
            order = np.argsort(numbers, kind="stable")
            numbers = numbers[order]
            columns = {name: v if v.strides == (0,) else v[order] for name, v in columns.items()}
        return numbers, columns


def _longer(values: NDArray[Any], n: int, room: int) -> NDArray[Any]:
    made = np.empty(room, dtype=values.dtype)
    made[:n] = values[:n]
    return made

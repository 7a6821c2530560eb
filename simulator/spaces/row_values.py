"""Keys of a space by row: which value of which axis a row has, as numbers where they are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.axis_tables import Rows
from simulator.arrays.columns import column
from simulator.arrays.shared_columns import column_of, unknown_column
from simulator.spaces.space import Space

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]


@dataclass(slots=True)
class RowValues:
    """Rows of a chunk and how to read a key of them.

    Attributes
    ----------
    space : Space
        Where the rows come from.
    rows : Rows
        Positions on the axes.
    tables : dict
        Numeric values of axes read before, shared by the chunks of a space.
    """

    space: Space
    rows: Rows
    tables: dict[str, FloatArray]
    _where: dict[str, tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._where = {
            key: (i, k) for i, axis in enumerate(self.space.axes) for k, key in enumerate(axis.keys)
        }

    def raw(self, key: str, default: Any = None) -> tuple[list[Any], int | None]:
        """Distinct values of a key and the axis that they lie on (None: one value for all)."""
        if key in self._where:
            i, k = self._where[key]
            return list(self.space.axes[i].values[k]), i
        here: Any = self.space.base
        for part in key.split("."):
            here = here.get(part) if isinstance(here, Mapping) else None
        return [default if here is None else here], None

    def spread(self, table: FloatArray, axis: int | None) -> FloatArray:
        """A table over the values of an axis as a column; without an axis as it is."""
        if axis is None:
            return table
        if self.rows.unknown >> axis & 1:
            unknown: FloatArray = unknown_column(self.rows, 1 << axis)
            return unknown
        found: FloatArray = column_of(self.rows, 1 << axis, table[self.rows.occurring[axis]])
        return found

    def number(self, key: str, default: float = np.nan) -> FloatArray:
        """A numeric key by row; booleans are 0 and 1, absent ones the default. ValueError for text."""
        if key not in self.tables:
            values, _ = self.raw(key, default)
            self.tables[key] = column([default if v is None else float(v) for v in values])
        return self.spread(self.tables[key], self._where[key][0] if key in self._where else None)


def renumbered(codes: IndexArray) -> tuple[list[int], IndexArray]:
    """Distinct codes and each row's index into them."""
    if codes.shape[0] == 1:
        return [int(codes[0])], np.zeros(1, dtype=np.int64)
    distinct, inverse = np.unique(codes, return_inverse=True)
    return [int(c) for c in distinct], inverse.astype(np.int64)

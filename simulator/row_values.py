"""Keys of a space by row: which value of which axis a row has, as numbers where they are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.columns import column
from simulator.space import Space

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]


@dataclass(slots=True)
class RowValues:
    """Rows of a chunk and how to read a key of them.

    Attributes
    ----------
    space : Space
        Where the rows come from.
    rows : ndarray of int
        Row numbers.
    positions : list of ndarray of int
        Position of each row on each axis.
    tables : dict
        Numeric values of axes read before, shared by the chunks of a space.
    """

    space: Space
    rows: IndexArray
    positions: list[IndexArray]
    tables: dict[str, FloatArray]
    _where: dict[str, tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._where = {
            key: (i, k) for i, axis in enumerate(self.space.axes) for k, key in enumerate(axis.keys)
        }

    def raw(self, key: str, default: Any = None) -> tuple[list[Any], IndexArray | None]:
        """Distinct values of a key and the index of each row into them (None: one value for all)."""
        if key in self._where:
            i, k = self._where[key]
            return list(self.space.axes[i].values[k]), self.positions[i]
        here: Any = self.space.base
        for part in key.split("."):
            here = here.get(part) if isinstance(here, Mapping) else None
        return [default if here is None else here], None

    def number(self, key: str, default: float = np.nan) -> FloatArray:
        """A numeric key by row; booleans are 0 and 1, absent ones the default. ValueError for text."""
        if key not in self.tables:
            values, _ = self.raw(key, default)
            self.tables[key] = column([default if v is None else float(v) for v in values])
        table = self.tables[key]
        return table[self.positions[self._where[key][0]]] if key in self._where else table


def combined_code(parts: Sequence[FloatArray | IndexArray], n: int) -> IndexArray:
    """One whole number per row that is equal exactly where all parts are equal.

    Parts of length one do not vary and are left out. Raises nothing: codes that outgrow 64 bits are renumbered.
    """
    code, size = np.zeros(n, dtype=np.int64), 1
    for part in parts:
        if part.shape[0] == 1:
            continue
        values = part
        small = np.issubdtype(values.dtype, np.integer) or bool(np.all(values == np.floor(values)))
        top = int(np.max(values)) + 1 if values.size and small else 0
        if not small or np.min(values) < 0 or top > 2**20:
            _, inverse = np.unique(values, return_inverse=True)
            values, top = inverse, int(inverse.max()) + 1
        if size * top >= 2**62:
            _, code = np.unique(code, return_inverse=True)
            size = int(code.max()) + 1
        code, size = code * top + values.astype(np.int64), size * top
    return code


def renumbered(codes: IndexArray) -> tuple[list[int], IndexArray]:
    """Distinct codes and each row's index into them."""
    if codes.shape[0] == 1:
        return [int(codes[0])], np.zeros(1, dtype=np.int64)
    distinct, inverse = np.unique(codes, return_inverse=True)
    return [int(c) for c in distinct], inverse.astype(np.int64)

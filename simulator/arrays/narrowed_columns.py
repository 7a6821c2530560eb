"""Columns on no more axes than they depend on: most coefficients of a machine are the same for every precision."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.axis_dependence import Dependence
from simulator.arrays.axis_tables import Level, Rows
from simulator.arrays.shared_columns import column_of, mapped

IndexArray = NDArray[np.int64]
T = TypeVar("T")


def needed_axes(made: Any, positions: dict[int, IndexArray]) -> dict[int, int]:
    """Axes as bits that each array of a dataclass needs, by its id; raises nothing."""
    dependence = Dependence({axis: where for axis, where in positions.items() if len(where) > 1})
    found: dict[int, int] = {}

    def note(values: NDArray[Any]) -> NDArray[Any]:
        if len(values) > 1:
            found[id(values)] = dependence.mask(values)
        return values

    mapped(made, note)
    return found


def narrowed(rows: Rows, level: Level, made: T, needed: dict[int, int]) -> T:
    """Columns of arrays over a level, each on the axes that it needs, from :func:`needed_axes`; raises nothing."""
    places: dict[int, IndexArray | None] = {}

    def one(values: NDArray[Any]) -> Any:
        if len(values) == 1:
            return values
        own = needed[id(values)]
        if own == 0:
            return values[:1]
        if own not in places:
            narrow = rows.level(own)
            places[own] = None
            index = rows.index(level, narrow.mask) if narrow.mask & ~level.mask == 0 else None
            if index is not None:
                place = np.zeros(narrow.n, dtype=np.int64)
                place[index] = np.arange(level.n)
                places[own] = place
        at = places[own]
        return column_of(rows, level.mask, values) if at is None else column_of(rows, own, values[at])

    return mapped(made, one)

"""Which rows of a space have one structure, and how many rows with that structure begin in a given way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]


@dataclass(slots=True)
class StructureRows:
    """Rows of a space whose positions on some axes are among the allowed ones.

    Attributes
    ----------
    lengths : sequence of int
        Values of every axis of the space [1].
    axes : sequence of int
        Axes that decide, in order.
    allowed : ndarray of bool, one dimension per axis of ``axes``
        Which combinations of positions on them belong.
    """

    lengths: Sequence[int]
    axes: Sequence[int]
    allowed: NDArray[np.bool_]
    _completions: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def _table(self, chosen: int) -> NDArray[np.int64]:
        """Allowed rows by position on those of the deciding axes that are among the first ``chosen`` axes."""
        if chosen not in self._completions:
            free = tuple(i for i, axis in enumerate(self.axes) if axis >= chosen)
            others = math.prod(
                n for axis, n in enumerate(self.lengths) if axis >= chosen and axis not in self.axes
            )
            self._completions[chosen] = self.allowed.sum(axis=free, dtype=np.int64) * others
        return self._completions[chosen]

    def deciding(self, chosen: int) -> list[int]:
        """Those of the deciding axes that are among the first ``chosen`` axes."""
        return [axis for axis in self.axes if axis < chosen]

    def completions(self, chosen: int, positions: Mapping[int, IndexArray]) -> NDArray[np.int64]:
        """Allowed rows that begin with some positions on the first ``chosen`` axes [1]; of length one if all alike."""
        return np.atleast_1d(self._table(chosen)[tuple(positions[axis] for axis in self.deciding(chosen))])

    def below(self, number: int) -> int:
        """Allowed rows whose number is less than ``number`` [1]."""
        total, digits = 0, {}
        if number >= math.prod(self.lengths):
            return int(self._table(0))
        rest = number
        for axis in reversed(range(len(self.lengths))):
            rest, digits[axis] = divmod(rest, self.lengths[axis])
        for axis in range(len(self.lengths)):
            before = tuple(digits[a] for a in self.axes if a < axis)
            table = self._table(axis + 1)[before]
            if axis in self.axes:
                total += int(table[: digits[axis]].sum())
            else:
                total += digits[axis] * int(table)
        return total

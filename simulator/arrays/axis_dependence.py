"""Which axes values depend on, found from the values: those on which they differ where all other axes agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]


@dataclass(slots=True)
class Dependence:
    """Finds the axes that columns over some combinations need.

    Attributes
    ----------
    positions : mapping of int to ndarray
        Position of each combination on each axis.
    """

    positions: Mapping[int, IndexArray]
    _groups: dict[int, tuple[IndexArray, IndexArray]] = field(default_factory=dict)

    @property
    def everything(self) -> int:
        """All axes as bits."""
        return sum(1 << axis for axis in self.positions)

    def follows(self, values: NDArray[Any], mask: int) -> bool:
        """Whether combinations that agree on the axes of ``mask`` have equal values; NaN equals nothing."""
        if mask not in self._groups:
            self._groups[mask] = self._grouped(mask, len(values))
        first, group = self._groups[mask]
        return bool(np.array_equal(values, values[first][group]))

    def _grouped(self, mask: int, n: int) -> tuple[IndexArray, IndexArray]:
        """First combination of each group that agrees on some axes, and the group of each."""
        code = np.zeros(n, dtype=np.int64)
        for axis, where in self.positions.items():
            if mask >> axis & 1:
                # Codes stay below the number of combinations, however many axes there are.
                _, code = np.unique(code * (int(where.max()) + 1) + where, return_inverse=True)
        _, first, group = np.unique(code, return_index=True, return_inverse=True)
        return first, group

    def mask(self, values: NDArray[Any]) -> int:
        """Axes that values need, as bits; each is left out that is not needed, the last one first."""
        mask = self.everything
        if len(values) > 1 and np.all(values == values[0]):
            return 0
        for axis in sorted(self.positions, reverse=True):
            fewer = mask & ~(1 << axis)
            if self.follows(values, fewer):
                mask = fewer
        return mask

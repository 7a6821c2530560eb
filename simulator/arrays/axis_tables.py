"""Tables of the combinations of axes that rows have: how many distinct ones there are, and where each row's stands.

A sweep's row is a position on every axis. Here rows are held as a few factors (a table of combinations and an index
per row), and the distinct combinations of any set of axes are found from those, by counting codes instead of sorting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]

# A table of codes may be this much longer than the rows that it is for; above, codes are sorted instead.
SPARSE_TABLE = 4
SMALL_TABLE = 65_536
# A combination of axes gets a table of its own if it is at least this much shorter than the one that contains it.
WORTH_A_TABLE = 1.5


class UndecidedError(Exception):
    """A value was asked of a column whose axes are not known yet."""


class Factor:
    """Some axes of rows: a table of combinations of their positions, and which of them each row has.

    Parameters
    ----------
    axes : sequence of int
        Axes of the space.
    positions : sequence of ndarray, shape (k,)
        Position on each of these axes by combination.
    index : ndarray of int, shape (n,), or None
        Combination of each row; None where row i has combination i.
    """

    __slots__ = ("axes", "index", "positions")

    def __init__(
        self, axes: Sequence[int], positions: Sequence[IndexArray], index: IndexArray | None = None
    ) -> None:
        self.axes = tuple(axes)
        self.positions = tuple(positions)
        self.index = index

    def trimmed(self, index: IndexArray) -> Factor:
        """The same axes for other rows, given by their combinations; those that no row has are dropped."""
        k = len(self.positions[0])
        seen = np.zeros(k, dtype=bool)
        seen[index] = True
        if seen.all():
            return Factor(self.axes, self.positions, index)
        used = np.flatnonzero(seen)
        return Factor(self.axes, [p[used] for p in self.positions], (np.cumsum(seen) - 1)[index])

    def restricted(self, rows: IndexArray) -> Factor:
        """The same axes for some of the rows."""
        if self.index is None:
            return Factor(self.axes, [p[rows] for p in self.positions])
        return self.trimmed(self.index[rows])

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values by combination as values by row."""
        return values if self.index is None else values.take(self.index)


class Level:
    """Distinct combinations of some axes: how many, and the local position of each on each of those axes."""

    __slots__ = ("mask", "n", "positions")

    def __init__(self, mask: int, n: int, positions: Mapping[int, IndexArray]) -> None:
        self.mask = mask
        self.n = n
        self.positions = positions


class Rows:
    """Rows of a sweep by their positions on the axes.

    Parameters
    ----------
    lengths : sequence of int
        Values of each axis [1].
    factors : sequence of Factor
        Together they hold the axes that are chosen; an axis in none of them is not chosen yet.
    n : int
        Rows [1].

    Notes
    -----
    Masks are sets of axes as bits. Axes on which all rows agree are in none. Local positions count the values of an
    axis that occur.
    """

    def __init__(self, lengths: Sequence[int], factors: Sequence[Factor], n: int) -> None:
        self.n = n
        self.lengths = list(lengths)
        self.occurring: list[IndexArray] = [np.zeros(0, dtype=np.int64)] * len(lengths)
        self.unknown = (1 << len(lengths)) - 1
        self.factors: list[Factor] = []
        self._local: dict[int, tuple[Factor, IndexArray]] = {}
        for factor in factors:
            self._add(factor)
        self._finish()

    def _add(self, factor: Factor) -> None:
        self.factors.append(factor)
        for axis, where in zip(factor.axes, factor.positions, strict=True):
            self.unknown &= ~(1 << axis)
            length = self.lengths[axis]
            if length <= SPARSE_TABLE * len(where) + SMALL_TABLE:
                seen = np.zeros(length, dtype=bool)
                seen[where] = True
                found = np.flatnonzero(seen)
                if 1 < len(found) < length:
                    where = (np.cumsum(seen) - 1)[where]
            else:
                found, where = np.unique(where, return_inverse=True)
            self.occurring[axis] = found
            if len(found) > 1:
                self._local[axis] = (factor, where)

    def _finish(self) -> None:
        mask = sum(1 << axis for axis in self._local)
        self.all = Level(mask, self.n, {})
        self._levels: dict[int, Level] = {mask: self.all} if len(self._local) > 1 else {}
        self._built: list[Level] = [self.all]
        self._maps: dict[tuple[int, int], IndexArray | None] = {}
        self._looked_up: dict[tuple[int, int], Any] = {}

    def add_axis(self, length: int, where: IndexArray) -> int:
        """Add an axis that follows from the others, before any column was made; its number."""
        self.lengths.append(length)
        self.occurring.append(where[:0])
        self._add(Factor([len(self.lengths) - 1], [where]))
        self._finish()
        return len(self.lengths) - 1

    def mask(self, axes: Iterable[int]) -> int:
        """Bits of those of some axes on which the rows differ, or that are not known."""
        found = 0
        for axis in axes:
            if self.unknown >> axis & 1 or axis in self._local:
                found |= 1 << axis
        return found

    def level(self, mask: int) -> Level:
        """The table for a set of axes: its own, or that of a larger set where it would be hardly shorter."""
        found = self._levels.get(mask)
        if found is None:
            found = self._levels[mask] = self._new_level(mask)
        return found

    def _axes(self, mask: int) -> list[int]:
        return [axis for axis in range(len(self.lengths)) if mask >> axis & 1]

    def _sizes(self, axes: Sequence[int]) -> int:
        size = 1
        for axis in axes:
            size *= len(self.occurring[axis])
        return size

    def _new_level(self, mask: int) -> Level:
        axes = self._axes(mask)
        bound = self._sizes(axes)
        if len(axes) == 1:
            # One axis: its own values in order, whatever else there is.
            single = Level(mask, bound, {axes[0]: np.arange(bound)})
            self._built.append(single)
            return single
        within = min((v for v in self._built if v.mask & mask == mask), key=lambda v: v.n)
        if bound * WORTH_A_TABLE > within.n:
            return within
        seen = np.zeros(bound, dtype=bool)
        codes, spread = self._code(axes, within)
        seen[codes] = True
        distinct = np.flatnonzero(seen)
        table = np.cumsum(seen) - 1
        positions, rest = {}, distinct
        for axis in reversed(axes):
            rest, positions[axis] = np.divmod(rest, len(self.occurring[axis]))
        made = Level(mask, len(distinct), positions)
        self._looked_up[(made.mask, mask)] = table
        self._maps[(within.mask, mask)] = spread(table[codes])
        self._built.append(made)
        return made

    def _code(
        self, axes: Sequence[int], level: Level
    ) -> tuple[IndexArray, Callable[[IndexArray], IndexArray]]:
        """Mixed-radix number of local positions on some axes, and how to spread what is made of it over a level.

        Where one factor of the rows has all the axes the number is one per combination of that.
        """
        if level is not self.all:
            code = level.positions[axes[0]]
            for axis in axes[1:]:
                code = code * len(self.occurring[axis]) + level.positions[axis]
            return code, lambda values: values
        parts: dict[Factor, IndexArray] = {}
        radix = 1
        for axis in reversed(axes):
            factor, where = self._local[axis]
            scaled = where * radix
            parts[factor] = parts[factor] + scaled if factor in parts else scaled
            radix *= len(self.occurring[axis])
        if len(parts) == 1:
            ((factor, code),) = parts.items()
            return code, factor.spread
        whole: IndexArray | None = None
        for factor, code in parts.items():
            spread = factor.spread(code)
            if whole is None:
                whole = spread if spread is not code else code.copy()
            else:
                whole += spread
        return whole, lambda values: values  # type: ignore[return-value]

    def index(self, level: Level, mask: int) -> IndexArray | None:
        """For each combination of ``level``, where its value stands in a column of ``mask``; None if at its place."""
        key = (level.mask, mask)
        if key not in self._maps:
            self._maps[key] = self._new_index(level, mask)
        return self._maps[key]

    def _local_on(self, axis: int, level: Level) -> IndexArray:
        if level is not self.all:
            return level.positions[axis]
        factor, where = self._local[axis]
        return factor.spread(where)

    def _new_index(self, level: Level, mask: int) -> IndexArray | None:
        source = self.level(mask)
        if source is level:
            return None
        axes = self._axes(mask)
        if len(axes) == 1:
            return self._local_on(axes[0], level)
        code, spread = self._code(axes, level)
        key, size = (source.mask, mask), self._sizes(axes)
        if size <= SPARSE_TABLE * max(level.n, source.n) + SMALL_TABLE:
            if key not in self._looked_up:
                # Where the table is that of a larger set, any of the rows that agree on these axes will do.
                table = np.zeros(size, dtype=np.int64)
                known, over = self._code(axes, source)
                table[over(known)] = np.arange(source.n)
                self._looked_up[key] = table
            return spread(self._looked_up[key][code])
        if key not in self._looked_up:
            known, over = self._code(axes, source)
            self._looked_up[key] = np.unique(over(known), return_index=True)
        distinct, first = self._looked_up[key]
        return spread(first[np.searchsorted(distinct, code)])

    def codes(self, axes: Iterable[int], within: int | None = None) -> tuple[int, IndexArray]:
        """A mask, and one number per combination: the mixed-radix number of positions on the whole of some axes.

        Combinations are those of the axes of ``within``, which contains the others; of the axes themselves without
        it. Of length one where the rows agree. UndecidedError if one of the axes is not known.
        """
        axes = list(axes)
        mask = self.mask(axes) if within is None else within
        if mask & self.unknown:
            raise UndecidedError
        level = self.level(mask) if mask else None
        code = np.zeros(1, dtype=np.int64)
        for axis in axes:
            code = code * self.lengths[axis] + self.on_axis(axis, level)
        return mask, code

    def on_axis(self, axis: int, level: Level | None) -> IndexArray:
        """Position on the whole axis of each combination of a level; of length one where the rows agree."""
        if axis not in self._local or level is None:
            return self.occurring[axis][:1]
        return self.occurring[axis][self._local_on(axis, level)]

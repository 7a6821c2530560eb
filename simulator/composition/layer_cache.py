"""Blocks that were evaluated for earlier chunks of a sweep, by code, so that each is evaluated once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.axis_dependence import Dependence
from simulator.arrays.axis_tables import Level, Rows
from simulator.arrays.shared_columns import SharedColumn, column_of, dense
from simulator.composition.layer_table import LayerTable

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
NAMES = tuple(f.name for f in fields(LayerTable))

# Up to this many blocks are evaluated as plain arrays: where each is short, asking which axes it needs costs more.
FEW_BLOCKS = 4096
# Beyond this many blocks per structure nothing is kept any more (a sweep over hardware figures, say).
MAX_KEPT = 200_000


@dataclass(slots=True)
class _Kept:
    """Blocks of one structure: sorted codes, a column of values each by name, and the axes each depends on.

    ``positions`` are those of the blocks on each axis.
    """

    codes: IndexArray
    values: dict[str, FloatArray]
    masks: dict[str, int]
    positions: dict[int, IndexArray]


@dataclass(slots=True)
class LayerCache:
    """Layer tables of the structures of one sweep.

    Attributes
    ----------
    n_evaluated : int
        Distinct blocks evaluated so far [1].
    """

    n_evaluated: int = 0
    _kept: dict[Hashable, _Kept] = field(default_factory=dict)

    def table(
        self,
        key: Hashable | None,
        rows: Rows,
        axes: Sequence[int],
        evaluate: Callable[[list[IndexArray], int], LayerTable],
    ) -> LayerTable:
        """Table of every row.

        Parameters
        ----------
        key : hashable or None
            Structure; blocks of different structures do not mix. None: nothing is kept for later rows.
        rows : Rows
            Of the chunk.
        axes : sequence of int
            What blocks depend on.
        evaluate : callable
            From positions on all axes, and how many rows these are, to their table.

        Returns
        -------
        LayerTable
            Columns, each on the axes that it depends on, or arrays of length one.

        Raises
        ------
        Exception
            What ``evaluate`` raises.
        """
        mask = rows.mask(axes)
        level = rows.level(mask) if mask else None
        if key is None:
            codes = np.arange(level.n if level else 1)
        else:
            _, codes = rows.codes(axes)
        distinct, first = np.unique(codes, return_index=True)
        kept = self._kept.get(key)
        missing = np.ones(len(distinct), dtype=bool)
        if kept is not None:
            at = np.minimum(np.searchsorted(kept.codes, distinct), len(kept.codes) - 1)
            missing = kept.codes[at] != distinct
        if missing.any():
            chosen = _representatives(rows, level)[first[missing]]
            positions = [rows.on_axis(i, rows.all) for i in range(len(rows.lengths))]
            few = [p if p.shape[0] == 1 else p[chosen] for p in positions]
            few = [np.broadcast_to(p, chosen.shape) for p in few]
            fresh = _made(distinct[missing], axes, few, evaluate(few, len(chosen)))
            self.n_evaluated += len(chosen)
            kept = fresh if kept is None else _joined(kept, fresh)
        if kept is None:  # there was nothing to evaluate and nothing kept: no rows
            raise IndexError("no rows")
        self._kept.pop(key, None)
        if key is not None and len(kept.codes) <= MAX_KEPT:
            self._kept[key] = kept
        return _spread(kept, rows, mask, level, np.searchsorted(kept.codes, codes))


def _representatives(rows: Rows, level: Level | None) -> IndexArray:
    """One row for each combination of a level."""
    if level is None:
        return np.zeros(1, dtype=np.int64)
    index = rows.index(rows.all, level.mask)
    if index is None:
        return np.arange(rows.n)
    found = np.zeros(level.n, dtype=np.int64)
    found[index] = np.arange(rows.n)
    return found


def _made(codes: IndexArray, axes: Sequence[int], positions: list[IndexArray], table: LayerTable) -> _Kept:
    n = len(codes)
    columns = {name: getattr(table, name) for name in NAMES}
    dependence = Dependence(dict(zip(axes, (positions[i] for i in axes), strict=True)))
    masks = {}
    for name, column in columns.items():
        if isinstance(column, SharedColumn):
            masks[name] = column.mask
        elif len(column) == 1:
            masks[name] = 0
        else:
            masks[name] = dependence.mask(column) if n <= FEW_BLOCKS else dependence.everything
        if masks[name] & ~dependence.everything:
            raise NotImplementedError(
                f"{name} depends on an axis that is not among those that blocks depend on"
            )
    return _Kept(
        codes=codes,
        values={name: np.broadcast_to(dense(c), (n,)) for name, c in columns.items()},
        masks=masks,
        positions={i: positions[i] for i in axes},
    )


def _joined(one: _Kept, other: _Kept) -> _Kept:
    """Both, in order of code, each column on the axes that it depends on in all of them."""
    codes = np.concatenate([one.codes, other.codes])
    order = np.argsort(codes, kind="stable")
    positions = {i: np.concatenate([p, other.positions[i]])[order] for i, p in one.positions.items()}
    found = _Kept(codes=codes[order], values={}, masks={}, positions=positions)
    dependence = Dependence(positions)
    for name in NAMES:
        values = np.concatenate([one.values[name], other.values[name]])[order]
        mask = one.masks[name] | other.masks[name]
        # What is constant here and there need not be so over both, and a rule may look at an axis in one of them only.
        if mask != dependence.everything and not dependence.follows(values, mask):
            mask = dependence.everything
        found.values[name], found.masks[name] = values, mask
    return found


def _spread(kept: _Kept, rows: Rows, mask: int, level: Level | None, at: IndexArray) -> LayerTable:
    """Columns of a chunk's rows from what is kept, each on no more axes than it depends on."""
    if level is None:
        return LayerTable(**{name: kept.values[name][at] for name in NAMES})
    out, places = {}, {mask: at}
    for name in NAMES:
        own = kept.masks[name] & mask
        if own == 0:
            out[name] = kept.values[name][at[:1]]
            continue
        if own not in places:
            narrow = rows.level(own)
            if narrow.mask & level.mask != narrow.mask:
                own = mask
            else:
                # Of the whole table, which may be that of more axes: every entry of it is used.
                index = rows.index(level, narrow.mask)
                place = at
                if index is not None:
                    place = np.zeros(narrow.n, dtype=np.int64)
                    place[index] = at
                places[own] = place
        out[name] = column_of(rows, own, kept.values[name][places[own]])
    return LayerTable(**out)

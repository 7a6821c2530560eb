"""Blocks that were evaluated for earlier chunks of a sweep, by code, so that each is evaluated once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulator.columns import take
from simulator.layer_table import LayerTable, stacked

IndexArray = NDArray[np.int64]

# Beyond this many blocks per structure nothing is shared any more (a sweep over hardware figures, say).
MAX_KEPT = 200_000


@dataclass(slots=True)
class _Kept:
    """Tables of one structure: sorted codes, and the table row of each."""

    codes: IndexArray
    table: LayerTable


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

    def gather(
        self, key: Hashable, codes: IndexArray, evaluate: Callable[[IndexArray], LayerTable]
    ) -> LayerTable:
        """Table of every row.

        Parameters
        ----------
        key : hashable
            Structure; codes of different structures do not mix.
        codes : ndarray of int, shape (n,)
            Equal codes, equal blocks - in all chunks.
        evaluate : callable
            From row positions to their table.

        Returns
        -------
        LayerTable
            Arrays of shape (n,) or (1,).

        Raises
        ------
        Exception
            What ``evaluate`` raises.
        """
        distinct, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        kept = self._kept.get(key)
        if kept is None or len(kept.codes) > MAX_KEPT:
            missing = np.ones(len(distinct), dtype=bool)
        else:
            at = np.minimum(np.searchsorted(kept.codes, distinct), len(kept.codes) - 1)
            missing = kept.codes[at] != distinct
        n_missing = int(missing.sum())
        self.n_evaluated += n_missing
        if n_missing == len(distinct):
            fresh = evaluate(first)
            self._keep(key, kept, distinct, fresh)
            return take(fresh, inverse)
        if n_missing:
            self._keep(key, kept, distinct[missing], evaluate(first[missing]))
        whole = self._kept[key]
        return take(whole.table, np.searchsorted(whole.codes, distinct)[inverse])

    def _keep(self, key: Hashable, kept: _Kept | None, codes: IndexArray, table: LayerTable) -> None:
        if kept is not None and len(kept.codes) > MAX_KEPT:
            return
        if kept is not None:
            table = stacked([kept.table, table], [len(kept.codes), len(codes)])
            codes = np.concatenate([kept.codes, codes])
        else:
            table = stacked([table], [len(codes)])
        order = np.argsort(codes)
        self._kept[key] = _Kept(codes=codes[order], table=take(table, order))

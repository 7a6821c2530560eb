"""The best rows of a sweep as they come, chunk by chunk: the first k by one objective, or a Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.shared_columns import SharedColumn, dense
from simulator.sweeps.querying import pareto_front

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is wanted: a result column, and 1 where less is better, -1 where more is."""

    column: str
    sign: float


@dataclass(slots=True)
class BestRows:
    """The best rows so far.

    Attributes
    ----------
    objectives : sequence of Objective
        One: the first ``top`` rows, ties to the faster plan and then to row order. Several: the rows that no other
        equals or beats in all.
    top : int
        Rows to keep of one objective [1].
    numbers : ndarray of int
        Row numbers.
    columns : dict of str to ndarray
        Their results [unit in the name].
    """

    objectives: Sequence[Objective]
    top: int
    numbers: IndexArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    columns: dict[str, FloatArray] = field(default_factory=dict)

    def limit(self) -> float:
        """Largest cost among the best rows [unit of the objective]; infinite while there is room."""
        if len(self.objectives) > 1 or len(self.numbers) < self.top:
            return np.inf
        (objective,) = self.objectives
        return float((objective.sign * self.columns[objective.column]).max())

    def add(self, numbers: IndexArray, columns: Mapping[str, Any], allowed: NDArray[np.bool_]) -> None:
        """Look at the rows of a chunk: their numbers, result columns, and which of them count at all."""
        chosen = np.flatnonzero(allowed)
        costs = self._costs(columns, chosen, len(numbers))
        chosen = chosen[self._best(costs, numbers[chosen])]
        if not len(chosen):
            return
        fresh = {name: _picked(values, chosen) for name, values in columns.items()}
        before = self.columns or {name: np.zeros(0) for name in fresh}
        all_numbers = np.concatenate([self.numbers, numbers[chosen]])
        together = {name: np.concatenate([before[name], fresh[name]]) for name in fresh}
        everything = np.arange(len(all_numbers))
        kept = self._best(self._costs(together, everything, len(all_numbers)), all_numbers)
        self.numbers = all_numbers[kept]
        self.columns = {name: values[kept] for name, values in together.items()}

    def _costs(self, columns: Mapping[str, Any], chosen: IndexArray, n: int) -> FloatArray:
        """Costs of some rows, one column per objective and step time last, for ties."""
        wanted = [*self.objectives, Objective(column="step_time_s", sign=1.0)]
        return np.stack([o.sign * _picked(columns[o.column], chosen) for o in wanted], axis=1)

    def _best(self, costs: FloatArray, numbers: IndexArray) -> IndexArray:
        if len(self.objectives) > 1:
            order = np.argsort(numbers, kind="stable")
            front = order[pareto_front(costs[order, :-1])]
            return front[np.argsort(costs[front, 0], kind="stable")]
        close = np.flatnonzero(costs[:, 0] <= self.limit())
        if len(close) > 4 * self.top:
            worst = np.partition(costs[close, 0], self.top - 1)[self.top - 1]
            close = close[costs[close, 0] <= worst]
        order = np.lexsort((numbers[close], costs[close, 1], costs[close, 0]))
        return close[order[: self.top]]


def _picked(values: Any, rows: IndexArray) -> FloatArray:
    """Some rows of a column, or of a plain array of all rows or of length one."""
    if isinstance(values, SharedColumn):
        picked: FloatArray = values.pick(rows)
        return picked
    plain: FloatArray = dense(values)
    return np.broadcast_to(plain, (len(rows),)) if len(plain) == 1 else plain[rows]

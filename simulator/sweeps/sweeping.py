"""Sweep a space: chunks of rows through the engine, columns out, a frame or a file at the edge."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import Problem, ScenarioError
from simulator.arrays.freed_memory import keep_freed_memory
from simulator.arrays.result_table import ResultTable
from simulator.arrays.shared_columns import dense
from simulator.composition.evaluate import evaluate_totals, totals_columns
from simulator.composition.layer_cache import LayerCache
from simulator.scenarios.scenario import Scenario
from simulator.scenarios.scenario_reading import ABSENT
from simulator.spaces.legal_rows import LegalRows
from simulator.spaces.partition import Splitter
from simulator.spaces.refusals import refusals, way_out
from simulator.spaces.space import Space, space_from

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
FITS, DOES_NOT_FIT = "fits", "peak_bytes is above capacity_bytes"
CHUNK_ROWS = 2**18
FIRST_ROWS = 2**22
FEW_ROWS = 2**16


@dataclass(slots=True)
class SweepResult:
    """Columns of the legal rows of a space.

    Attributes
    ----------
    space : Space
        What was swept.
    rows : ndarray of int
        Row numbers in the space, in order.
    columns : mapping of str to ndarray
        Results by name [unit in the name].
    excluded : mapping of str to int
        Rows left out, by rule.
    n_layers_evaluated : int
        Distinct combinations that blocks were evaluated for.
    """

    space: Space
    rows: IndexArray
    columns: dict[str, FloatArray]
    excluded: dict[str, int] = field(default_factory=dict)
    n_layers_evaluated: int = 0

    def keys(self) -> dict[str, NDArray[Any]]:
        """Values of the swept keys by row, in file order."""
        positions = self.space.positions(self.rows)
        out: dict[str, NDArray[Any]] = {}
        for i, axis in enumerate(self.space.axes):
            for key, values in zip(axis.keys, axis.values, strict=True):
                out[key] = value_array(values)[positions[i]]
        return out

    def metadata(self) -> dict[str, Any]:
        """What a frame or a file carries beside its columns."""
        from simulator.estimates.estimate import llmsim_version

        return {
            "llmsim_version": llmsim_version(),
            "rows_in_space": self.space.n_rows,
            "rows_kept": int(self.rows.shape[0]),
            "excluded": self.excluded,
            "n_layers_evaluated": self.n_layers_evaluated,
            "base": json.loads(json.dumps(self.space.base, default=str)),
        }

    def frame(self) -> pd.DataFrame:
        """Swept keys, then results; ``attrs`` holds what was left out and why."""
        import pandas as pd

        feasible = self.columns["feasible"] > 0
        # Amounts stand beside it in the row; a text per row would cost more than the estimate.
        reason = np.where(feasible, FITS, DOES_NOT_FIT)
        columns: dict[str, Any] = {**self.keys(), **self.columns, "feasible": feasible, "reason": reason}
        frame = pd.DataFrame(columns)
        frame.attrs.update(self.metadata())
        return frame


def value_array(values: Any) -> NDArray[Any]:
    """Axis values as an array: numbers and booleans as such, mappings and lists as JSON text."""
    if isinstance(values, np.ndarray):
        return values
    if all(isinstance(v, bool) for v in values):
        return np.array(values, dtype=bool)
    if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return np.array(values, dtype=np.int64)
    numbers = [np.nan if v is None else v for v in values]
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in numbers):
        return np.array(numbers, dtype=np.float64)
    # A column of a file has one type: text, where the values are not all numbers.
    texts = [v if isinstance(v, str) or v is None or v is ABSENT else json.dumps(v) for v in values]
    return np.array([None if v is ABSENT else v for v in texts], dtype=object)


def run_space(
    space: Space,
    *,
    progress: Callable[[int], None] | None = None,
    keep: Callable[[dict[str, FloatArray]], NDArray[np.bool_]] | None = None,
) -> SweepResult:
    """Evaluate every legal row of a space.

    Parameters
    ----------
    space : Space
        From :func:`simulator.spaces.space.space_from`.
    progress : callable, optional
        Called with the rows done so far.
    keep : callable, optional
        From the columns of a part of a chunk to a mask of the rows to keep.

    Returns
    -------
    SweepResult
        Columns in row order.

    Raises
    ------
    ScenarioError, SpecError
        If a value of an axis does not resolve.
    """
    return run_rows(Splitter(space), LayerCache(), 0, space.n_rows, progress=progress, keep=keep)


def run_rows(
    splitter: Splitter,
    cache: LayerCache,
    start: int,
    stop: int,
    *,
    progress: Callable[[int], None] | None = None,
    keep: Callable[[dict[str, FloatArray]], NDArray[np.bool_]] | None = None,
) -> SweepResult:
    """As :func:`run_space` for the rows whose numbers are in [start, stop); raises the same errors.

    ``splitter`` is of the space, ``cache`` holds the blocks that earlier ranges have evaluated.
    """
    if stop - start > FEW_ROWS:
        keep_freed_memory()
    legal, before = LegalRows(splitter), cache.n_evaluated
    table = ResultTable(min(stop - start, FIRST_ROWS))
    for partition in legal.partitions(start, stop, CHUNK_ROWS):
        columns = totals_columns(evaluate_totals(partition, cache, splitter), partition)
        if keep is None:
            table.add(partition.numbers, columns)
        else:
            n = partition.rows.n
            whole = {name: np.broadcast_to(dense(values), (n,)) for name, values in columns.items()}
            chosen = np.flatnonzero(keep(whole))
            table.add(partition.numbers[chosen], {name: values[chosen] for name, values in whole.items()})
        if progress is not None:
            progress(int(partition.numbers[-1]) + 1 - start)
    rows, columns = table.finished()
    return SweepResult(
        space=splitter.space,
        rows=rows,
        columns=columns,
        excluded=legal.excluded,
        n_layers_evaluated=cache.n_evaluated - before,
    )


def explain_empty(space: Space, excluded: Mapping[str, int]) -> ScenarioError:
    """The error for a sweep without a legal row: what the rules left out, and the first row's messages."""
    found = refusals(Splitter(space), 0)
    counts = ", ".join(
        f"{name}: {count:,}" for name, count in sorted(excluded.items(), key=lambda kv: -kv[1])
    )
    head = Problem(
        path="sweep",
        value=f"{space.n_rows:,} rows",
        rule=f"no combination is legal (left out: {counts})",
        fix="of the first one:",
    )
    return ScenarioError([head, *found], way_out(space))


def sweep(
    space: Mapping[str, Any] | str | Path | Scenario, *, progress: Callable[[int], None] | None = None
) -> pd.DataFrame:
    """Evaluate a scenario with axes.

    Parameters
    ----------
    space : mapping, path or Scenario
        A scenario in which values are lists (axes), with optional ``zip`` and ``where``.
    progress : callable, optional
        Called with the rows done so far.

    Returns
    -------
    pandas.DataFrame
        Swept keys, then step time [s], tokens per second, memory [byte], energy [J] and the rest, one row per legal
        combination in file order, the last axis fastest. ``attrs["excluded"]`` counts what was left out by rule.

    Raises
    ------
    ScenarioError
        With every mistake; also when no combination is legal.
    SpecError
        If a model, a system or a file cannot be read.
    """
    parsed = space_from(space)
    result = run_space(parsed, progress=progress)
    if result.rows.size == 0:
        raise explain_empty(parsed, result.excluded)
    return result.frame()

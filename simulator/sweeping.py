"""Sweep a space: chunks of rows through the engine, columns out, a frame or a file at the edge."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import LlmsimError, Problem, ScenarioError
from simulator import legality
from simulator.evaluate import evaluate_totals, result_columns
from simulator.layer_cache import LayerCache
from simulator.partition import EXCLUDED_BY_CONDITION, REDUNDANT, Splitter
from simulator.refusals import refusals
from simulator.scenario import Scenario
from simulator.scenario_reading import ABSENT
from simulator.space import Space, space_from
from simulator.variants import Variants

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
FITS, DOES_NOT_FIT = "fits", "peak_bytes is above capacity_bytes"
CHUNK_ROWS = 32_768
OTHER_EXCLUSIONS = {EXCLUDED_BY_CONDITION: "where does not hold", REDUNDANT: "repeats another plan"}


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
                out[key] = _value_array(values)[positions[i]]
        return out

    def metadata(self) -> dict[str, Any]:
        """What a frame or a file carries beside its columns."""
        from simulator.estimate import llmsim_version

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


def _value_array(values: Any) -> NDArray[Any]:
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


def _consistent(splitter: Splitter, rows: IndexArray, excluded: dict[str, int]) -> IndexArray:
    """Rows whose model and system hold together; single values were checked before, combinations are here."""
    variants = splitter.variants
    for name, group in (("model is consistent", variants.models), ("system is consistent", variants.systems)):
        if len(group.axes) < 2 and not _checked_by_type_only(group.axes, splitter.space):
            continue
        codes = np.broadcast_to(group.codes(splitter.space.positions(rows)), rows.shape)
        wrong = [int(code) for code in np.unique(codes) if not _resolves(group, int(code))]
        if wrong:
            left_out = np.isin(codes, wrong)
            excluded[name] = excluded.get(name, 0) + int(left_out.sum())
            rows = rows[~left_out]
    return rows


def _checked_by_type_only(axes: Sequence[int], space: Space) -> bool:
    """Whether an axis holds single shapes of a model, of which the input checks see one at a time."""
    return any(key.startswith("model.") for i in axes for key in space.axes[i].keys)


def _resolves(group: Variants[Any], code: int) -> bool:
    try:
        group.get(code)
    except LlmsimError:
        return False
    return True


def _count_broken(excluded: dict[str, int], broken: NDArray[np.intp]) -> None:
    for number, count in zip(*np.unique(broken[broken != -1], return_counts=True), strict=True):
        name = OTHER_EXCLUSIONS.get(int(number)) or legality.RULES[int(number)].name
        excluded[name] = excluded.get(name, 0) + int(count)


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
        From :func:`simulator.space.space_from`.
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
    splitter = Splitter(space)
    n = space.n_rows
    cache = LayerCache()
    rows: list[IndexArray] = []
    parts: list[dict[str, FloatArray]] = []
    result = SweepResult(space=space, rows=np.zeros(0, dtype=np.int64), columns={})
    for start in range(0, n, CHUNK_ROWS):
        chunk = _consistent(splitter, np.arange(start, min(start + CHUNK_ROWS, n)), result.excluded)
        split = splitter.split(chunk)
        _count_broken(result.excluded, split.broken)
        for partition in split.partitions:
            columns = result_columns(evaluate_totals(partition, cache), partition)
            chosen = slice(None) if keep is None else np.flatnonzero(keep(columns))
            rows.append(partition.rows[chosen])
            parts.append({name: np.array(values[chosen]) for name, values in columns.items()})
        if progress is not None:
            progress(min(start + CHUNK_ROWS, n))
    result.n_layers_evaluated = cache.n_evaluated
    if rows:
        result.rows = np.concatenate(rows)
        order = np.argsort(result.rows, kind="stable")
        result.rows = result.rows[order]
        result.columns = {name: np.concatenate([p[name] for p in parts])[order] for name in parts[0]}
    return result


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
    return ScenarioError([head, *found])


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

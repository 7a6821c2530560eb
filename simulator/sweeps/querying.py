"""Questions to a saved sweep: SQL by DuckDB over its files, and the three that are asked most.

The rows are the table ``rows``; DuckDB reads only the columns that a question names, from all parts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import Problem, SpecError, near_names, shorten
from simulator.sweeps.saved_parts import part_files
from simulator.sweeps.sweep_parts import ROW

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
TABLE = "rows"
# Rows that are looked at together for a front: they fit into the processor's cache.
BATCH_ROWS = 2**17
# Rows of the first front that others are compared with before they are fetched.
PIVOTS = 8
# What is better when larger; everything else is better when smaller.
LARGER_IS_BETTER = ("tokens_per_s", "tokens_per_s_per_device", "mfu", "hfu", "memory_headroom_bytes")
HEADROOM = "memory_headroom_bytes"


def _refuse(where: str, value: str, rule: str, fix: str) -> SpecError:
    return SpecError([Problem(path=where, value=shorten(value), rule=rule, fix=fix)])


def _connection(path: Path) -> Any:
    """DuckDB with the rows of a sweep as a view; SpecError if there is no sweep at the path."""
    try:
        import duckdb
    except ModuleNotFoundError:
        raise _refuse(str(path), "", "queries need duckdb", "pip install 'llmsim[sweep]'") from None
    files = part_files(path) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        rule = "has no parts of a sweep" if path.is_dir() else "does not exist"
        raise _refuse(str(path), "", rule, "give the file or folder that llmsim sweep --out wrote")
    connection = duckdb.connect()
    read = connection.read_csv if path.suffix == ".csv" else connection.read_parquet
    try:
        relation = read([str(f) for f in files])
        names = relation.columns
        extra = (
            f", capacity_bytes - peak_bytes AS {HEADROOM}"
            if {"capacity_bytes", "peak_bytes"} <= {*names}
            else ""
        )
        relation.project(f"*{extra}").create_view(TABLE)
    except duckdb.Error as error:
        raise _refuse(
            str(path), "", f"cannot be read ({shorten(str(error))})", "give a file that llmsim sweep wrote"
        ) from None
    return connection


def query(path: str | Path, sql: str) -> pd.DataFrame:
    """Answer of a question in SQL about the rows of a saved sweep.

    Parameters
    ----------
    path : str or Path
        FILE.parquet, FILE.csv or a folder of parts.
    sql : str
        A question about the table ``rows``; swept keys have dots in their names: ``"plan.tensor_parallel"``.

    Returns
    -------
    pandas.DataFrame
        The answer.

    Raises
    ------
    SpecError
        If there is no sweep at the path, or DuckDB does not understand the question.
    """
    answer: pd.DataFrame = _answered(path, sql, lambda result: result.df())
    return answer


def _answered(path: str | Path, sql: str, fetched: Callable[[Any], Any]) -> Any:
    """An answer as it is wanted."""
    import duckdb

    connection = _connection(Path(path))
    try:
        return fetched(connection.execute(sql))
    except duckdb.Error as error:
        first = str(error).strip().split("\n")[0]
        rule = f"is not understood: {shorten(first)}"
        fix = (
            'ask such as: SELECT "plan.tensor_parallel", min(step_time_s) FROM rows WHERE feasible GROUP BY 1'
        )
        raise _refuse("SQL", sql, rule, fix) from None
    finally:
        connection.close()


def _arrays(path: str | Path, sql: str) -> dict[str, NDArray[Any]]:
    """Columns of an answer without missing values; SpecError as :func:`query`."""
    return _answered(path, sql, lambda result: result.fetchnumpy())


def columns_of_sweep(path: str | Path) -> list[str]:
    """Names of the columns of a saved sweep; SpecError as :func:`query`."""
    return list(query(path, f"SELECT * FROM {TABLE} LIMIT 0").columns)


def _checked(path: str | Path, names: Sequence[str]) -> list[str]:
    """Column names, the last part of a dotted one being enough; SpecError for one that is not there."""
    known = columns_of_sweep(path)
    found = []
    for name in names:
        matches = [k for k in known if k == name] or [k for k in known if k.rsplit(".", 1)[-1] == name]
        if len(matches) != 1:
            near = near_names(name, known, n=3)
            fix = f"did you mean {', '.join(near)}?" if near else f"columns are {', '.join(known[:8])}, ..."
            raise _refuse("column", name, "is not a column" if not matches else "is several columns", fix)
        found.append(matches[0])
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _order(name: str) -> str:
    return f"{_quoted(name)} {'DESC' if name in LARGER_IS_BETTER else 'ASC'}"


def top(path: str | Path, by: str = "step_time_s", k: int = 10, where: str = "feasible") -> pd.DataFrame:
    """The best ``k`` rows by a column among those where a condition in SQL holds; SpecError as :func:`query`."""
    (column,) = _checked(path, [by])
    # All columns are read for the chosen rows only.
    return query(path, f"SELECT * FROM {TABLE} WHERE {where} ORDER BY {_order(column)} LIMIT {int(k)}")


def pareto(path: str | Path, objectives: Sequence[str], where: str = "feasible") -> pd.DataFrame:
    """The rows that no other row equals or beats in all objectives.

    Parameters
    ----------
    path : str or Path
        A saved sweep.
    objectives : sequence of str
        Columns, two or more; rates of tokens, utilisation and headroom are better when larger, all else when smaller.
    where : str
        Condition in SQL.

    Returns
    -------
    pandas.DataFrame
        All columns, ordered by the first objective. Of equal rows the first is kept.

    Raises
    ------
    SpecError
        As :func:`query`.
    """
    names = _checked(path, objectives)
    listed = ", ".join(_quoted(n) for n in names)
    finite = " AND ".join(f"isfinite({_quoted(n)})" for n in names)
    known = columns_of_sweep(path)
    number = f", {ROW}" if ROW in known else ""
    order = ", ".join(_order(n) for n in names)
    signs = np.array([-1.0 if n in LARGER_IS_BETTER else 1.0 for n in names])
    ask = f"SELECT {listed}{number} FROM {TABLE} WHERE ({where}) AND {finite}"
    front, numbers = _front_of(path, f"{ask} LIMIT {BATCH_ROWS}", names, signs)
    # Rows that one of the first ones beats never leave the database.
    middle = np.argsort(
        np.sum((front - front.min(axis=0, initial=0.0)) / _width(front), axis=1), kind="stable"
    )
    worse = [
        " AND ".join(_no_better(n, v) for n, v in zip(names, front[i] * signs, strict=True)) for i in middle
    ]
    rest = _front_of(path, ask + "".join(f" AND NOT ({text})" for text in worse[:PIVOTS]), names, signs)
    front, numbers = np.concatenate([front, rest[0]]), np.concatenate([numbers, rest[1]])
    chosen_rows = pareto_front(front)
    if not len(chosen_rows):
        return query(path, f"SELECT * FROM {TABLE} LIMIT 0")
    if number:
        # Row numbers are in order, so that only the blocks that hold these are read.
        rows = ", ".join(str(int(row)) for row in numbers[chosen_rows])
        return query(path, f"SELECT * FROM {TABLE} WHERE {ROW} IN ({rows}) ORDER BY {order}")
    rows = ", ".join(
        "(" + ", ".join(f"{float(v)!r}::DOUBLE" for v in row) + ")" for row in front[chosen_rows] * signs
    )
    chosen = (
        f"SELECT * FROM {TABLE} WHERE ({where}) AND ({listed}) IN ({rows}) "
        f"QUALIFY row_number() OVER (PARTITION BY {listed}) = 1 ORDER BY {order}"
    )
    return query(path, chosen)


def _width(costs: FloatArray) -> FloatArray:
    """Range of each column, one where it has none."""
    wide: FloatArray = np.ptp(costs, axis=0) if len(costs) else np.zeros(costs.shape[1])
    return np.where(wide > 0, wide, 1.0)


def _no_better(name: str, value: float) -> str:
    return f"{_quoted(name)} {'<=' if name in LARGER_IS_BETTER else '>='} {float(value)!r}::DOUBLE"


def _front_of(
    path: str | Path, sql: str, names: Sequence[str], signs: FloatArray
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Costs on the front of an answer, and their row numbers where it has them."""
    values = _arrays(path, sql)
    front, numbers = np.zeros((0, len(names))), np.zeros(0, dtype=np.int64)
    for start in range(0, len(values[names[0]]), BATCH_ROWS):
        # What is left of a batch is little, and so is what is left of all of them.
        here = slice(start, start + BATCH_ROWS)
        costs = np.stack([values[n][here].astype(np.float64, copy=False) for n in names], axis=1) * signs
        own = pareto_front(costs)
        front = np.concatenate([front, costs[own]])
        numbers = np.concatenate([numbers, values[ROW][here][own] if ROW in values else own])
    return front, numbers


def pareto_front(costs: FloatArray) -> NDArray[np.int64]:
    """Rows that no other row equals or beats in all columns, smaller being better.

    Parameters
    ----------
    costs : ndarray, shape (n, k)
        Finite.

    Returns
    -------
    ndarray of int
        Row numbers, ascending. Of equal rows the first.

    Raises
    ------
    ValueError
        If ``costs`` has not two dimensions.

    Notes
    -----
    The row whose shares of the ranges have the least sum is beaten by none. It is on the front, and what it beats goes;
    then the next one among those that are left. The first few take most of the rows with them.
    """
    if costs.ndim != 2:
        raise ValueError("costs must have a row per plan and a column per objective")
    n = len(costs)
    if not n:
        return np.zeros(0, dtype=np.int64)
    columns = [np.ascontiguousarray(costs[:, k]) for k in range(costs.shape[1])]
    spread = [float(np.ptp(c)) for c in columns]
    shares = np.zeros(n)
    for column, width in zip(columns, spread, strict=True):
        shares += (column - column.min()) / (width if width > 0 else 1.0)
    left, front = np.arange(n), []
    while len(left):
        best = int(np.argmin(shares))
        # Sums are rounded: of several that are equal one may beat another.
        equal = np.flatnonzero(shares == shares[best])
        if len(equal) > 1:
            best = int(equal[np.lexsort([c[equal] for c in columns[::-1]])[0]])
        front.append(int(left[best]))
        stays = np.zeros(len(left), dtype=bool)
        for column in columns:
            stays |= column < column[best]
        left, shares = left[stays], shares[stays]
        columns = [column[stays] for column in columns]
    return np.sort(np.array(front))


def pivot(
    path: str | Path, index: str, columns: str, values: str = "step_time_s", where: str = "feasible"
) -> pd.DataFrame:
    """The best of a column for each pair of values of two others, as a table.

    Parameters
    ----------
    path : str or Path
        A saved sweep.
    index, columns, values : str
        Columns: down, across, and what is shown.
    where : str
        Condition in SQL.

    Returns
    -------
    pandas.DataFrame
        One row per value of ``index``; NaN where no row is.

    Raises
    ------
    SpecError
        As :func:`query`.
    """
    down, across, shown = _checked(path, [index, columns, values])
    best = "max" if shown in LARGER_IS_BETTER else "min"
    found = query(
        path,
        f"SELECT {_quoted(down)}, {_quoted(across)}, {best}({_quoted(shown)}) AS best FROM {TABLE} "
        f"WHERE {where} GROUP BY ALL ORDER BY ALL",
    )
    return found.pivot(index=down, columns=across, values="best")

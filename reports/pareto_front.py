"""The rows of a sweep that no other row beats in two columns."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from reports.errors import ReportError
from reports.tables import column_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

__all__ = ["pareto_table", "plan_points", "sign_of"]

_LARGER_IS_BETTER = ("tokens_per_s", "tokens_per_s_per_device", "mfu", "hfu", "speedup", "tokens_per_j")


def sign_of(column: str, maximize: Collection[str] | None) -> float:
    last = column.rsplit(".", 1)[-1]
    return -1.0 if (column in maximize if maximize is not None else last in _LARGER_IS_BETTER) else 1.0


def _front(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Places of the rows that no row equals or beats in both columns (smaller is better), in order of x.

    Sorted by x, then y, then row order, a row is on the front when its y is below every y before it.
    """
    import numpy as np

    order = np.lexsort((y, x))
    best_before = np.minimum.accumulate(np.concatenate(([np.inf], y[order][:-1])))
    return order[y[order] < best_before] if len(order) else order


def plan_points(frame: pd.DataFrame, x: str, y: str) -> tuple[Any, Any, Any]:
    """Both columns as float64 and a mask of the rows that are finite and feasible."""
    import numpy as np

    columns = []
    for name in (x, y):
        try:
            columns.append(frame[name].to_numpy(dtype=np.float64, na_value=np.nan))
        except (TypeError, ValueError):
            raise ReportError(f"column {name!r} holds text; choose a column of numbers") from None
    usable = np.isfinite(columns[0]) & np.isfinite(columns[1])
    if "feasible" in frame.columns:
        usable &= frame["feasible"].fillna(False).to_numpy(dtype=bool)
    return columns[0], columns[1], usable


def pareto_table(
    frame: pd.DataFrame,
    x: str = "step_time_s",
    y: str = "peak_bytes",
    *,
    maximize: Collection[str] | None = None,
) -> pd.DataFrame:
    """The rows of a sweep that no other feasible row equals or beats in both columns.

    Parameters
    ----------
    frame : pandas.DataFrame
        A sweep, one row per plan, any number of rows.
    x, y : str
        Columns of numbers, or the last part of a dotted name; units as in the name.
    maximize : collection of str, optional
        Columns where larger is better. By default rates of tokens, mfu and hfu; everything else is minimised.

    Returns
    -------
    pandas.DataFrame
        Rows of the frame with all columns, ordered from best to worst in ``x``; column ``front`` counts
        from one. Rows that are infeasible or not finite are never on the front.

    Raises
    ------
    ReportError
        If a column is missing, not unique, or not numeric.

    Notes
    -----
    Of rows that are equal in both columns the first is kept. O(n log n). Source: H. T. Kung, F. Luccio and
    F. P. Preparata, J. ACM 22(4), 469-476, 1975, doi:10.1145/321906.321910 (two dimensions by sorting).
    """
    import numpy as np

    x, y = column_name(list(frame.columns), x), column_name(list(frame.columns), y)
    xs, ys, usable = plan_points(frame, x, y)
    rows = np.flatnonzero(usable)
    front = rows[_front(sign_of(x, maximize) * xs[rows], sign_of(y, maximize) * ys[rows])]
    table = frame.iloc[front].copy()
    table.insert(0, "front", np.arange(1, len(table) + 1))
    return table

"""The tables of a sweep: its best rows, what each value of an axis is worth, what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reports.estimate_fields import Rows
from reports.pareto_front import sign_of
from reports.tables import column_name

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TOTALS", "axis_table", "best_table", "excluded_table", "feasible_rows", "swept_keys"]

TOTALS = ("step_time_s", "tokens_per_s", "tokens_per_s_per_device", "mfu", "peak_bytes", "energy_j")
_ALL_TOTALS = frozenset(
    {
        *TOTALS,
        "hfu",
        "time_to_first_token_s",
        "time_per_output_token_s",
        "feasible",
        "reasons",
        "reason",
        "notes",
        "smallest_change",
        "devices",
        "interval",
        "front",
    }
)
_MOST_VALUES = 24  # an axis with more values is a range, not a list of choices


def swept_keys(frame: pd.DataFrame) -> list[str]:
    """The columns before the first total that hold more than one value: what the sweep varied."""
    names = [str(name) for name in frame.columns]
    totals = [place for place, name in enumerate(names) if name.rsplit(".", 1)[-1] in TOTALS]
    keys = [name for name in names[: totals[0] if totals else len(names)] if name not in _ALL_TOTALS]
    return [name for name in keys if len(_levels(frame[name])[1]) > 1]


def _levels(column: pd.Series[Any]) -> tuple[Any, Any]:
    """The column as codes, and the values that they stand for in order of appearance."""
    import pandas as pd

    try:
        codes, values = pd.factorize(column, use_na_sentinel=False)
    except TypeError:  # lists and mappings have no hash
        codes, values = pd.factorize(column.map(str))
    return codes, values


def feasible_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["feasible"].fillna(False).astype(bool)] if "feasible" in frame.columns else frame


def best_table(frame: pd.DataFrame, objective: str = "step_time_s", top: int = 10) -> pd.DataFrame:
    """The best feasible rows of a sweep.

    Parameters
    ----------
    frame : pandas.DataFrame
        A sweep.
    objective : str
        Column to rank by, in its own unit; larger is better for rates of tokens, mfu and hfu.
    top : int
        Rows [1].

    Returns
    -------
    pandas.DataFrame
        At most ``top`` rows with all columns; ties keep the order of the frame.

    Raises
    ------
    ReportError
        If there is no such column.

    Notes
    -----
    Source: only the frame.
    """
    column = column_name([str(name) for name in frame.columns], objective)
    return (
        feasible_rows(frame)
        .dropna(subset=[column])
        .sort_values(column, kind="stable", ascending=sign_of(column, None) > 0)
        .head(top)
    )


def axis_table(frame: pd.DataFrame, objective: str = "step_time_s") -> Rows:
    """What each value of each swept key is worth: best and median objective over the rows that have it.

    Parameters
    ----------
    frame : pandas.DataFrame
        A sweep.
    objective : str
        Column to rank by, in its own unit; larger is better for rates of tokens, mfu and hfu.

    Returns
    -------
    list of dict
        ``key``, ``value``, ``rows``, ``feasible_rows`` [1], ``best`` and ``median`` (null where nothing
        fits), in the unit of the objective. Keys with more than 24 values are left out.

    Raises
    ------
    ReportError
        If there is no such column.

    Notes
    -----
    Source: only the frame.
    """
    import numpy as np

    column = column_name([str(name) for name in frame.columns], objective)
    best = "min" if sign_of(column, None) > 0 else "max"
    fits = feasible_rows(frame.reset_index(drop=True))[column].astype(float)
    table: Rows = []
    for key in swept_keys(frame):
        codes, values = _levels(frame[key])
        if len(values) > _MOST_VALUES:
            continue
        counts = np.bincount(codes, minlength=len(values))
        groups = fits.groupby(codes[fits.index]).agg(["count", best, "median"]).to_dict("index")
        for code, value in enumerate(values):
            found: Mapping[Any, Any] = groups.get(code) or {"count": 0}
            known = {"best": float(found[best]), "median": float(found["median"])} if found["count"] else {}
            row = {
                "key": key,
                "value": str(value),
                "rows": int(counts[code]),
                "feasible_rows": int(found["count"]),
            }
            table.append({**row, "best": None, "median": None, **known})
    return table


def excluded_table(frame: pd.DataFrame) -> Rows:
    """Counts of rows left out by rule, from any mapping of integers in ``frame.attrs``."""
    found = [value for value in frame.attrs.values() if isinstance(value, Mapping)]
    return [
        {"label": str(rule), "rows": count}
        for counts in found
        for rule, count in counts.items()
        if isinstance(count, int) and not isinstance(count, bool)
    ]

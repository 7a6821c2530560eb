"""Rows out of whatever the caller holds: a list of mappings or a pandas frame."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reports.errors import ReportError
from reports.estimate_fields import Rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["column_name", "rows_of"]


def rows_of(table: pd.DataFrame | Iterable[Mapping[str, Any]]) -> Rows:
    """The table as a list of plain dicts; NaN becomes None, so that absent means the same everywhere."""
    records: Iterable[Any] = table.to_dict("records") if hasattr(table, "to_dict") else table
    return [
        {
            str(name): None if isinstance(value, float) and math.isnan(value) else value
            for name, value in row.items()
        }
        for row in records
    ]


def column_name(names: Sequence[str], wanted: str) -> str:
    """The column called ``wanted``, or the only one whose last dotted part is ``wanted``.

    Raises
    ------
    ReportError
        If there is none or more than one; near names are offered.
    """
    if wanted in names:
        return wanted
    last = wanted.rsplit(".", 1)[-1]
    found = [name for name in names if name.rsplit(".", 1)[-1] == last]
    if len(found) == 1:
        return found[0]
    near = found or difflib.get_close_matches(wanted, names, n=5, cutoff=0.4) or list(names)[:5]
    raise ReportError(
        f"column {wanted!r} is {'not unique' if found else 'not in the table'}; use one of: {', '.join(near)}"
    )

"""NumPy's array functions on columns that are kept once per combination of their axes: choices, clips, reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simulator.arrays.axis_tables import Level, Rows
from simulator.arrays.shared_columns import FLOAT, SharedColumn


def _together(values: Sequence[Any]) -> tuple[Rows, int, Level | None] | None:
    """What columns and plain arrays have in common: rows, all axes, their table (None if not known)."""
    rows = next(v.rows for v in values if type(v) is SharedColumn)
    mask, known = 0, True
    for value in values:
        if type(value) is SharedColumn:
            mask |= value.mask
            known = known and value.values is not None
        else:
            shape = np.shape(value)
            if shape == (rows.n,) and rows.n > 1:
                mask = rows.all.mask
            elif shape not in ((), (1,)):
                return None
    return rows, mask, rows.level(mask) if known else None


def _is_float(value: Any) -> bool:
    return type(value) is float or (isinstance(value, (SharedColumn, np.ndarray)) and value.dtype is FLOAT)


def _taken_everywhere(condition: Any, a: Any, b: Any) -> Any:
    """The branch that all rows take, which may depend on fewer axes than the condition; None if there is none."""
    if not (_is_float(a) and _is_float(b)):
        return None
    if a is not b:
        holds = condition._known() if type(condition) is SharedColumn else np.asarray(condition)
        if holds.dtype != bool:
            return None
        if not holds.all():
            if holds.any():
                return None
            a = b
    return np.full(1, a) if type(a) is float else a


def _where(condition: Any, *branches: Any) -> Any:
    found = _together((condition, *branches))
    if found is None or len(branches) != 2:
        return NotImplemented
    rows, mask, level = found
    if level is None:
        return SharedColumn(rows, mask, None)
    taken = _taken_everywhere(condition, *branches)
    if taken is not None:
        return taken
    c, a, b = (v.at(level) if type(v) is SharedColumn else v for v in (condition, *branches))
    return SharedColumn(rows, mask, np.where(c, a, b))


def _select(conditions: Any, choices: Any, default: Any = 0) -> Any:
    """The first choice whose condition holds, as nested choices of two."""
    found = default
    for condition, choice in zip(reversed(conditions), reversed(choices), strict=True):
        found = np.where(condition, choice, found)
    return found


def _like(make: Callable[..., Any]) -> Callable[..., Any]:
    def handler(column: Any, *args: Any, **kwargs: Any) -> Any:
        return column._share(make(column._known(), *args, **kwargs))

    return handler


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def handler(*args: Any, **kwargs: Any) -> Any:
        found = None if kwargs else _together(args)
        if found is None:
            return NotImplemented
        rows, mask, level = found
        if level is None:
            return SharedColumn(rows, mask, None)
        return SharedColumn(
            rows, mask, function(*(v.at(level) if type(v) is SharedColumn else v for v in args))
        )

    return handler


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def handler(column: Any, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or type(column) is not SharedColumn:
            return NotImplemented
        return function(column._known())

    return handler


def _broadcast_arrays(*values: Any) -> Any:
    """Columns broadcast when they meet; arrays of length one become columns without axes."""
    if _together(values) is None:
        return NotImplemented
    return values


def _broadcast_to(column: Any, shape: Any, subok: bool = False) -> Any:
    if type(column) is SharedColumn and shape == column.shape:
        return column
    return NotImplemented


HANDLERS: dict[Any, Callable[..., Any]] = {
    np.where: _where,
    np.select: _select,
    np.clip: _elementwise(np.clip),
    np.round: _elementwise(np.round),
    np.nan_to_num: _elementwise(np.nan_to_num),
    np.zeros_like: _like(np.zeros_like),
    np.ones_like: _like(np.ones_like),
    np.full_like: _like(np.full_like),
    np.any: _reduced(np.any),
    np.all: _reduced(np.all),
    np.max: _reduced(np.max),
    np.min: _reduced(np.min),
    np.broadcast_arrays: _broadcast_arrays,
    np.broadcast_to: _broadcast_to,
    np.atleast_1d: lambda column: column if type(column) is SharedColumn else NotImplemented,
}

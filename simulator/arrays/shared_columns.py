"""Columns that are kept once per distinct combination of the axes that they depend on.

A sweep's row has many keys, and most numbers depend on few of them: a collective on the degrees, a layer on the
micro-batch. A :class:`SharedColumn` behaves like an array over all rows but holds one value per combination of its
own axes that occurs. An operation on two of them is carried out on the combinations of both, so cost rules stay the
plain array expressions that they are, and each is evaluated as rarely as it may be. Anything that is not an
elementwise operation gets the plain array of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from simulator.arrays.axis_tables import Level, Rows, UndecidedError

C = TypeVar("C")
FLOAT = np.dtype(np.float64)


def column_of(rows: Rows, mask: int, values: NDArray[Any]) -> Any:
    """Values by combination of a set of axes as a column; of length one they stay a plain array."""
    return values if values.shape[0] == 1 else SharedColumn(rows, mask, values)


def columns_of(rows: Rows, mask: int, made: C) -> C:
    """:func:`column_of` for every array of a dataclass, mappings and nested ones followed."""
    return mapped(made, lambda values: column_of(rows, mask, values))


def unknown_column(rows: Rows, mask: int) -> Any:
    """A column of axes that are not all known."""
    return SharedColumn(rows, mask, None)


def mapped(made: C, change: Callable[[Any], Any]) -> C:
    """A dataclass of arrays with every array changed; mappings and nested dataclasses are followed."""

    def one(value: Any) -> Any:
        if isinstance(value, (np.ndarray, SharedColumn)):
            return change(value)
        if isinstance(value, Mapping):
            return {key: one(item) for key, item in value.items()}
        return mapped(value, change) if is_dataclass(value) else value

    return replace(made, **{f.name: one(getattr(made, f.name)) for f in fields(made)})  # type: ignore[type-var, arg-type]


def dense(values: Any) -> Any:
    """The plain array of a column; anything else as it is."""
    return values.dense() if isinstance(values, SharedColumn) else values


def _densified(value: Any) -> Any:
    if isinstance(value, SharedColumn):
        return value.dense()
    if isinstance(value, (list, tuple)):
        return type(value)(_densified(v) for v in value)
    return value


def _common_mask(values: Sequence[Any], rows: Rows) -> tuple[int, bool] | None:
    """Axes of columns and plain arrays together, and whether all are known.

    None where a plain array has another shape than the rows.
    """
    mask, known = 0, True
    for value in values:
        if type(value) is SharedColumn:
            mask |= value.mask
            known = known and value.values is not None
        elif isinstance(value, np.ndarray) and value.ndim and value.shape != (1,):
            if value.shape != (rows.n,):
                return None
            mask = rows.all.mask
    return mask, known


def _applied(ufunc: np.ufunc, inputs: Sequence[Any], rows: Rows) -> Any:
    """A ufunc of columns, numbers and plain arrays, on the combinations that they have between them."""
    common = _common_mask(inputs, rows)
    if common is None:
        return ufunc(*_densified(inputs))
    mask, known = common
    if not known:
        return SharedColumn(rows, mask, None)
    level, args = None, []
    for value in inputs:
        if type(value) is SharedColumn:
            if value.mask == mask:
                value = value.values
            else:
                level = level or rows.level(mask)
                value = value.at(level)
        args.append(value)
    return SharedColumn(rows, mask, ufunc(*args))


def _operator(
    ufunc: np.ufunc, *, keeps: float | None = None, empties: float | None = None, reflected: bool = False
) -> Callable[..., Any]:
    """An operator of columns: as the ufunc, without its detour through NumPy for the usual operands.

    ``keeps`` is the other operand that changes nothing (zero that is added, one that is multiplied by), ``empties``
    the one that leaves zero of every finite number.
    """

    def operator(self: SharedColumn, other: Any) -> Any:
        values = self.values
        if type(other) is SharedColumn:
            if values is not None and self.mask == other.mask and other.values is not None:
                return SharedColumn(self.rows, self.mask, ufunc(values, other.values))
        elif values is not None and (type(other) is float or (type(other) is np.ndarray and other.size == 1)):
            if keeps is not None and values.dtype is FLOAT:
                if other == keeps:
                    return self
                if empties is not None and other == empties and np.isfinite(values).all():
                    return np.zeros(1)
            made = ufunc(other, values) if reflected else ufunc(values, other)
            return SharedColumn(self.rows, self.mask, made)
        return _applied(ufunc, (other, self) if reflected else (self, other), self.rows)

    return operator


class SharedColumn(NDArrayOperatorsMixin):
    """An array over rows that holds one value per distinct combination of the axes in ``mask``."""

    __slots__ = ("_dense", "mask", "rows", "values")
    __array_priority__ = 100

    def __init__(self, rows: Rows, mask: int, values: NDArray[Any] | None) -> None:
        self.rows = rows
        self.mask = mask
        self.values = values
        self._dense: NDArray[Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array over all rows."""
        return (self.rows.n,)

    ndim = 1

    @property
    def size(self) -> int:
        """Rows."""
        return self.rows.n

    @property
    def dtype(self) -> Any:
        """Of the values."""
        return self._known().dtype

    def __len__(self) -> int:
        return self.rows.n

    def _known(self) -> NDArray[Any]:
        if self.values is None:
            raise UndecidedError
        return self.values

    def at(self, level: Level) -> NDArray[Any]:
        """Values by combination of a level that has all axes of this column."""
        values = self._known()
        if level is self.rows.all:
            return self.dense()
        index = self.rows.index(level, self.mask)
        return values if index is None else values.take(index)

    def dense(self) -> NDArray[Any]:
        """Values by row."""
        if self._dense is None:
            values = self._known()
            index = self.rows.index(self.rows.all, self.mask)
            self._dense = values if index is None else values.take(index)
        return self._dense

    def pick(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Values of some rows."""
        if self._dense is not None:
            return self._dense[rows]
        index = self.rows.index(self.rows.all, self.mask)
        return self._known()[rows if index is None else index[rows]]

    def write(self, out: NDArray[Any]) -> None:
        """Write the values by row into an array of as many."""
        index = None if self._dense is not None else self.rows.index(self.rows.all, self.mask)
        if index is None:
            out[:] = self.dense()
        else:
            self._known().take(
                index, out=out, mode="clip"
            )  # indices are right; clip skips a check and a copy

    def _share(self, values: NDArray[Any]) -> SharedColumn:
        return SharedColumn(self.rows, self.mask, values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        values = self.dense()
        return values.astype(dtype) if dtype is not None and dtype != values.dtype else values

    def __getitem__(self, index: Any) -> Any:
        return self.dense()[index]

    def astype(self, dtype: Any, copy: bool = True) -> SharedColumn:
        """Values as another type."""
        return self if self.values is None else self._share(self.values.astype(dtype))

    def copy(self) -> SharedColumn:
        """A column with values of its own."""
        return self._share(self._known().copy())

    def any(self, *unused: Any, **also: Any) -> Any:
        """Whether any value is true."""
        return self._known().any()

    def all(self, *unused: Any, **also: Any) -> Any:
        """Whether all values are true."""
        return self._known().all()

    def max(self, *unused: Any, **also: Any) -> Any:
        """Largest value."""
        return self._known().max()

    def min(self, *unused: Any, **also: Any) -> Any:
        """Smallest value."""
        return self._known().min()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dense(), name)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or ufunc.nout != 1:
            return getattr(ufunc, method)(*_densified(inputs), **_densified_options(options))
        if not options:
            return _applied(ufunc, inputs, self.rows)
        where, out = options.get("where", True), options.pop("out", None)
        if where is not True:
            inputs = (*inputs, where)
        common = _common_mask(inputs, self.rows)
        if common is None:
            dense_out = {} if out is None else {"out": _densified(out)}
            return ufunc(*_densified(inputs), **_densified_options(options), **dense_out)
        mask, known = common
        if not known:
            return SharedColumn(self.rows, mask, None)
        if out is not None:
            return self._into(out[0], ufunc, inputs, where, mask)
        level = self.rows.level(mask)
        values = ufunc(*[v.at(level) if type(v) is SharedColumn else v for v in inputs], **options)
        return SharedColumn(self.rows, mask, values)

    def _into(
        self, out: Any, ufunc: np.ufunc, inputs: tuple[Any, ...], where: Any, mask: int
    ) -> SharedColumn:
        """A ufunc with ``out=`` (and ``where=``): the output's values are those of a new column."""
        if type(out) is SharedColumn:
            mask |= out.mask
        elif out.shape != (1,):
            mask = self.rows.all.mask
        level = self.rows.level(mask)
        args = [v.at(level) if type(v) is SharedColumn else v for v in inputs]
        before = out.at(level) if type(out) is SharedColumn else out
        if where is True:
            return SharedColumn(self.rows, mask, ufunc(*args))
        values = np.array(np.broadcast_to(before, (level.n,)))
        ufunc(*args[:-1], out=values, where=args[-1])
        return SharedColumn(self.rows, mask, values)

    __add__ = _operator(np.add, keeps=0.0)
    __radd__ = _operator(np.add, keeps=0.0, reflected=True)
    __sub__ = _operator(np.subtract, keeps=0.0)
    __rsub__ = _operator(np.subtract, reflected=True)
    __mul__ = _operator(np.multiply, keeps=1.0, empties=0.0)
    __rmul__ = _operator(np.multiply, keeps=1.0, empties=0.0, reflected=True)
    __truediv__ = _operator(np.true_divide, keeps=1.0)
    __rtruediv__ = _operator(np.true_divide, reflected=True)
    __pow__ = _operator(np.power)
    __lt__ = _operator(np.less)
    __le__ = _operator(np.less_equal)
    __gt__ = _operator(np.greater)
    __ge__ = _operator(np.greater_equal)
    __eq__ = _operator(np.equal)
    __ne__ = _operator(np.not_equal)
    __and__ = _operator(np.bitwise_and)
    __or__ = _operator(np.bitwise_or)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from simulator.arrays.column_functions import HANDLERS  # which make columns themselves

        handler = HANDLERS.get(function)
        if handler is not None:
            found = handler(*args, **kwargs)
            if found is not NotImplemented:
                return found
        return function(*_densified(args), **_densified_options(kwargs))


def _densified_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _densified(value) for name, value in options.items()}

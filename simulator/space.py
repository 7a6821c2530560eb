"""A scenario with axes: what a sweep file says, as a list of axes and the scenario of its first row.

A scenario without axes is the space with one row; there is no other path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hardware_specs import parse_override
from hardware_specs.errors import LlmsimError, Problem, ScenarioError, shorten
from hardware_specs.figure_table import figure_dimension
from hardware_specs.schema import SystemSpec
from simulator.conditions import Condition, parse_condition
from simulator.scenario import Scenario, mapping_from, merged, scenario_from

IndexArray = NDArray[np.int64]

# Keys whose value is a list by itself; an axis over them is written {sweep: [...]}.
LIST_KEYS = ("compression", "shape", "slices", "aliases")
DIRECTIVES = ("zip", "where")
MAX_ROWS = 10**9
# Axis values beyond this many are checked as whole arrays, not one scenario each.
CHECKED_ONE_BY_ONE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Keys that change together.

    Attributes
    ----------
    keys : tuple of str
        Dotted keys; more than one in a ``zip`` group.
    values : tuple of sequences
        One sequence per key, all of one length.
    """

    keys: tuple[str, ...]
    values: tuple[Sequence[Any], ...]

    def __len__(self) -> int:
        return len(self.values[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """All rows of a sweep.

    Attributes
    ----------
    base : mapping
        The scenario's keys, every axis at its first value, figure overrides left out.
    axes : tuple of Axis
        In file order; the last one runs fastest.
    fixed : mapping of str to value
        Overrides of hardware figures that do not vary.
    where : tuple of Condition
        Rows that break one are left out.
    """

    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    fixed: Mapping[str, Any]
    where: tuple[Condition, ...]

    @property
    def n_rows(self) -> int:
        """Rows before legality and conditions."""
        return math.prod(len(axis) for axis in self.axes)

    def keys(self) -> list[str]:
        """Swept keys in file order."""
        return [key for axis in self.axes for key in axis.keys]

    def positions(self, rows: IndexArray) -> list[IndexArray]:
        """Position on each axis of the given row numbers, the last axis fastest."""
        out: list[IndexArray] = []
        rest = rows
        for axis in reversed(self.axes):
            out.append(rest % len(axis))
            rest = rest // len(axis)
        return out[::-1]

    def scenario_mapping(self, row: int) -> dict[str, Any]:
        """The scenario of one row as a mapping, figure overrides as dotted keys at file level."""
        at = self.positions(np.array([row]))
        chosen = {
            key: axis.values[k][int(at[i][0])]
            for i, axis in enumerate(self.axes)
            for k, key in enumerate(axis.keys)
        }
        chosen = {
            key: (value.item() if isinstance(value, np.generic) else value) for key, value in chosen.items()
        }
        plain = merged(self.base, {k: v for k, v in chosen.items() if not is_figure(k)})
        return {**plain, **self.fixed, **{k: v for k, v in chosen.items() if is_figure(k)}}


def is_figure(key: str) -> bool:
    """Whether a dotted key names a numeric figure of the system (applied as an array, after the catalog)."""
    if not key.startswith("system."):
        return False
    try:
        figure_dimension(SystemSpec, key.removeprefix("system."))
    except LlmsimError:
        return False
    return True


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and set(value) != {"sweep"}:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _axis_values(path: str, value: Any) -> Sequence[Any] | None:
    """Values of an axis, or None for a plain value; ScenarioError for an empty axis."""
    if isinstance(value, Mapping) and set(value) == {"sweep"}:
        found = value["sweep"]
        if not isinstance(found, (list, tuple, np.ndarray)):
            raise ScenarioError(
                [Problem(path=path, value=shorten(found), rule="sweep takes a list of values")]
            )
    elif isinstance(value, (list, tuple, np.ndarray)) and path.rsplit(".", 1)[-1] not in LIST_KEYS:
        found = value
    else:
        return None
    if len(found) == 0:
        raise ScenarioError([Problem(path=path, value="[]", rule="an axis needs at least one value")])
    return cast("Sequence[Any]", found)


def _zip_axes(groups: Any) -> list[Axis]:
    axes = []
    for number, group in enumerate(groups if isinstance(groups, list) else [groups]):
        where = f"zip[{number}]"
        if not isinstance(group, Mapping) or not group:
            raise ScenarioError(
                [Problem(path=where, value=shorten(group), rule="is a mapping of dotted keys to lists")]
            )
        lengths = {
            str(k): len(v) if isinstance(v, (list, tuple, np.ndarray)) else -1 for k, v in group.items()
        }
        if len(set(lengths.values())) != 1 or min(lengths.values()) < 1:
            shown = ", ".join(f"{k}: {'no list' if n < 0 else n}" for k, n in lengths.items())
            raise ScenarioError(
                [Problem(path=where, value=shown, rule="the lists of a group have one length of at least 1")]
            )
        axes.append(Axis(keys=tuple(lengths), values=tuple(group.values())))
    return axes


def _checked(base: Mapping[str, Any], fixed: Mapping[str, Any], axes: Sequence[Axis]) -> list[Problem]:
    """Problems of types and names in the base scenario and in every axis value."""
    found: dict[str, Problem] = {}

    def attempt(changes: Mapping[str, Any]) -> None:
        try:
            scenario_from(merged(base, changes))
        except LlmsimError as error:
            for problem in error.problems:
                found.setdefault(str(problem), problem)

    attempt({})
    for axis in axes:
        for key, values in zip(axis.keys, axis.values, strict=True):
            if is_figure(key):
                found.update({str(p): p for p in _figure_problems(key, values)})
                continue
            for value in list(values)[:CHECKED_ONE_BY_ONE]:
                attempt({key: value.item() if isinstance(value, np.generic) else value})
    for key, value in fixed.items():
        found.update({str(p): p for p in _figure_problems(key, [value])})
    return list(found.values())


def _figure_problems(key: str, values: Sequence[Any]) -> list[Problem]:
    if isinstance(values, np.ndarray):
        good = np.issubdtype(values.dtype, np.number) and bool(np.all(np.isfinite(values) & (values > 0)))
        rule = "an array of figures holds finite positive numbers in SI units"
        return [] if good else [Problem(path=key, value=shorten(values.tolist()), rule=rule)]
    out = []
    dimension = figure_dimension(SystemSpec, key.removeprefix("system."))
    for value in values:
        try:
            parse_override(value, dimension)
        except LlmsimError as error:
            out += [
                Problem(path=key, value=p.value or shorten(value), rule=p.rule, fix=p.fix)
                for p in error.problems
            ]
    return out


def space_from(source: Mapping[str, Any] | Scenario | str | Path) -> Space:
    """Read a scenario with or without axes.

    Parameters
    ----------
    source : mapping, Scenario, str or Path
        A path names a YAML file.

    Returns
    -------
    Space
        Types and names are checked, for every value of every axis.

    Raises
    ------
    ScenarioError, SpecError
        With all mistakes found.
    """
    data = source.model_dump() if isinstance(source, Scenario) else mapping_from(source)
    axes: list[Axis] = []
    base: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for path, value in _leaves({k: v for k, v in data.items() if k not in DIRECTIVES}, ""):
        values = _axis_values(path, value)
        if values is not None:
            axes.append(Axis(keys=(path,), values=(values,)))
            value = values[0]
        # A figure inside an inline system belongs to that system; at file level it overrides the catalog.
        if is_figure(path) and not isinstance(data.get("system"), Mapping):
            if values is None:
                fixed[path] = value
        else:
            base = merged(base, {path: value.item() if isinstance(value, np.generic) else value})
    for axis in _zip_axes(data["zip"]) if "zip" in data else []:
        axes.append(axis)
        firsts = {k: v[0] for k, v in zip(axis.keys, axis.values, strict=True) if not is_figure(k)}
        base = merged(base, firsts)
    conditions = data.get("where", [])
    where = tuple(parse_condition(c) for c in (conditions if isinstance(conditions, list) else [conditions]))
    space = Space(base=base, axes=tuple(axes), fixed=fixed, where=where)
    swept = space.keys()
    duplicates = {k for k in swept if swept.count(k) > 1}
    problems = [
        Problem(path=k, value="", rule="is swept twice", fix="keep one axis") for k in sorted(duplicates)
    ]
    if space.n_rows > MAX_ROWS:
        rule = f"is more than the limit of {MAX_ROWS:,} rows"
        problems.append(
            Problem(
                path="sweep",
                value=f"{space.n_rows:,} rows",
                rule=rule,
                fix="shorten an axis or sweep in parts",
            )
        )
    problems += _checked(base, fixed, axes)
    if problems:
        raise ScenarioError(problems)
    return space

"""A scenario with axes: what a sweep file says, as a list of axes and the scenario of its first row.

A scenario without axes is the space with one row; there is no other path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from hardware_specs.errors import LlmsimError, Problem, ScenarioError
from simulator.scenarios.scenario import TASKS, Plan, Scenario
from simulator.scenarios.scenario_reading import mapping_from, merged, scenario_from
from simulator.spaces.axes import (
    Axis,
    Verbatim,
    axis_of,
    axis_values,
    figure_text,
    is_figure,
    leaves,
    plain,
    size_problems,
    zip_axes,
)
from simulator.spaces.conditions import Condition, parse_conditions
from simulator.spaces.input_checks import input_problems

__all__ = ["Axis", "Space", "is_figure", "space_from"]

IndexArray = NDArray[np.int64]

DIRECTIVES = ("zip", "where")


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
    late : mapping of str to value
        Dotted keys that do not vary, below a model or a system that does: applied after it was chosen.
    generated : frozenset of str
        Plan keys that a search has enumerated itself: plans that only repeat another one are left out.
    """

    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    fixed: Mapping[str, Any]
    where: tuple[Condition, ...]
    late: Mapping[str, Any] = field(default_factory=dict)
    generated: frozenset[str] = frozenset()

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

    def with_changes(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The base with some keys changed; ScenarioError if a parent is no mapping."""
        return merged(self.base, {**self.late, **{k: plain(v) for k, v in changes.items()}})

    def scenario_mapping(self, row: int) -> dict[str, Any]:
        """The scenario of one row as a mapping, figure overrides as dotted keys at file level."""
        at = self.positions(np.array([row]))
        chosen: dict[str, Any] = {}
        for i, axis in enumerate(self.axes):
            chosen.update(axis.at(int(at[i][0])))
        figures = {k: v for k, v in chosen.items() if is_figure(k)}
        return {
            **self.with_changes({k: v for k, v in chosen.items() if k not in figures}),
            **self.fixed,
            **figures,
        }


@dataclass(frozen=True, slots=True)
class _Entry:
    """One value of the scenario by dotted path; ``dotted`` if that was a dotted key at file level."""

    path: str
    value: Any
    dotted: bool

    def is_override(self, system: Any, swept: bool) -> bool:
        """Whether it is a figure to apply after the catalog: one inside a complete description belongs to that."""
        if not is_figure(self.path):
            return False
        if self.dotted or not isinstance(system, Mapping):
            return True
        return "base" in system and (swept or str(self.value).strip().endswith("x"))


def _entries(data: Mapping[str, Any], problems: list[Problem]) -> list[_Entry]:
    """Values in file order; a dotted key at file level takes the place of what stands at its path and below."""
    found: list[_Entry] = []
    for key, value in data.items():
        if "" in str(key).split("."):
            problems.append(Problem(path=str(key), value="", rule="is not a key", fix="remove the extra dot"))
        elif key not in DIRECTIVES:
            found += [_Entry(path, leaf, "." in str(key)) for path, leaf in leaves(value, str(key))]
    # A figure's override leaves the description alone that it is applied to.
    dotted = [e.path for e in found if e.dotted and not is_figure(e.path)]
    replaced = [
        e for e in found if not e.dotted and any(e.path == p or e.path.startswith(f"{p}.") for p in dotted)
    ]
    both = {e.path for e in found if e.dotted and axis_values(e.path, e.value, []) is not None}
    for entry in found:
        if not entry.dotted and entry.path in both and axis_values(entry.path, entry.value, []) is not None:
            problems.append(Problem(path=entry.path, value="", rule="is swept twice", fix="keep one axis"))
    return [e for e in found if e not in replaced]


def _constants(base: Mapping[str, Any], swept: Sequence[str]) -> dict[str, float]:
    """Numbers of the scenario that do not vary, by dotted key, for conditions; NaN where it has mistakes."""
    try:
        data = scenario_from(base).model_dump()
    except LlmsimError:
        sections: dict[str, list[type[BaseModel]]] = {"plan": [Plan], "task": list(TASKS.values())}
        return {
            f"{s}.{k}": math.nan for s, models in sections.items() for m in models for k in m.model_fields
        }
    found = {f"{s}.{k}": v for s in ("task", "plan") for k, v in data[s].items()}
    found["devices"] = data["devices"]
    return {k: float(v) for k, v in found.items() if isinstance(v, (int, float)) and k not in swept}


def space_from(source: Mapping[str, Any] | Scenario | str | Path) -> Space:
    """Read a scenario with or without axes.

    Parameters
    ----------
    source : mapping, Scenario, str or Path
        A path names a YAML file.

    Returns
    -------
    Space
        Types, bounds and names are checked, for every value of every axis.

    Raises
    ------
    ScenarioError, SpecError
        With all mistakes found.
    """
    data = source.model_dump() if isinstance(source, Scenario) else mapping_from(source)
    problems: list[Problem] = []
    entries = _entries(data, problems)
    dotted = {e.path for e in entries if e.dotted}
    axes: list[Axis] = []
    fixed: dict[str, Any] = {}
    plain_keys: dict[str, Any] = {}
    inside: set[str] = set()  # figures that vary inside a complete description
    for entry in entries:
        path, value = entry.path, entry.value
        values = axis_values(path, value, problems)
        override = entry.is_override(data.get("system"), values is not None)
        if override and not entry.dotted and path in dotted:
            continue
        if values is not None:
            axes.append(axis_of({path: values}))
            inside |= set() if override else {path}
        elif override:
            fixed[path] = figure_text(path, value)
        else:
            plain_keys[path] = plain(value.value if isinstance(value, Verbatim) else value)
    axes += zip_axes(data["zip"], problems) if "zip" in data else []
    swept = [key for axis in axes for key in axis.keys]
    for axis in axes:
        plain_keys.update({k: v for k, v in axis.at(0).items() if k in inside or not is_figure(k)})
    fixed = {k: v for k, v in fixed.items() if k not in swept}
    late = {
        k: v
        for k, v in plain_keys.items()
        if k in dotted and k not in swept and any(k.startswith(f"{key}.") for key in swept)
    }
    try:
        base = merged({}, plain_keys)
    except LlmsimError as error:
        problems += error.problems
        raise ScenarioError(problems) from None
    where: tuple[Condition, ...] = ()
    if data.get("where"):
        numeric = [
            k
            for axis in axes
            for k, v in zip(axis.keys, axis.values, strict=True)
            if isinstance(plain(v[0]), (int, float))
        ]
        where = parse_conditions(data["where"], problems, _constants(base, swept), numeric)
    space = Space(base=base, axes=tuple(axes), fixed=fixed, where=where, late=late)
    problems += size_problems(axes)
    said = {p.path for p in problems}
    problems += [p for p in input_problems(base, fixed, axes, space.with_changes) if p.path not in said]
    if problems:
        raise ScenarioError(problems)
    return space

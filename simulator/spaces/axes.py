"""The axes of a sweep: lists and ``{sweep: [...]}`` of a scenario, and the groups of ``zip``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hardware_specs.errors import LlmsimError, Problem
from hardware_specs.figure_table import figure_dimension
from hardware_specs.schema import SystemSpec
from hardware_specs.units import exact_quantity
from simulator.scenarios.scenario import Plan
from simulator.scenarios.scenario_reading import ABSENT, shown

# Keys whose value is a list by itself; an axis over them is written {sweep: [...]}.
LIST_KEYS = ("compression", "shape", "slices", "aliases")
# Sections whose keys the engine reads one by one; an axis over the whole section is one over all of its keys.
SECTIONS = ("task", "plan")
MAX_ROWS = 10**9


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

    def at(self, position: int) -> dict[str, Any]:
        """Keys and values at one position as a file would have them, NumPy numbers as Python's."""
        found = {k: v[position] for k, v in zip(self.keys, self.values, strict=True)}
        return {k: figure_text(k, v) if is_figure(k) else plain(v) for k, v in found.items()}


def plain(value: Any) -> Any:
    """A NumPy number as Python's, anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


@lru_cache(maxsize=4096)
def is_figure(key: str) -> bool:
    """Whether a dotted key names a numeric figure of the system (applied as an array, after the catalog)."""
    if not key.startswith("system."):
        return False
    try:
        figure_dimension(SystemSpec, key.removeprefix("system."))
    except LlmsimError:
        return False
    return True


def figure_text(key: str, value: Any) -> Any:
    """A figure from a NumPy array, in SI units, as the text that a file would have; others as they are."""
    if not isinstance(value, np.number):
        return value
    return exact_quantity(float(value), figure_dimension(SystemSpec, key.removeprefix("system.")))


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Dotted paths and values below a key; ``{sweep: ...}`` and an empty mapping are values.

    Lists in a Hugging Face configuration are its own: an axis there is written ``{sweep: [...]}``.
    """
    if not isinstance(value, Mapping) or not value or is_sweep(value):
        yield path, value
        return
    foreign = path == "model" and ("model_type" in value or "architectures" in value)
    for key, inner in value.items():
        if foreign and isinstance(inner, (list, Mapping)) and not is_sweep(inner):
            inner = Verbatim(inner)
        yield from leaves(inner, f"{path}.{key}")


@dataclass(frozen=True, slots=True)
class Verbatim:
    """A list or mapping that is a value, whatever is in it."""

    value: Any


def is_sweep(value: Any) -> bool:
    """Whether a value is written ``{sweep: ...}``."""
    return isinstance(value, Mapping) and set(value) == {"sweep"}


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)


def expanded(value: Any) -> list[Any]:
    """A value with ``{sweep: [...]}`` anywhere inside as the list of values it stands for, the last fastest."""
    if is_sweep(value) and _is_list(value["sweep"]):
        return [one for item in value["sweep"] for one in expanded(item)]
    if isinstance(value, Mapping):
        rows = itertools.product(*(expanded(v) for v in value.values()))
        return [dict(zip(value, row, strict=True)) for row in rows]
    if isinstance(value, list):
        return [list(row) for row in itertools.product(*(expanded(v) for v in value))]
    return [value]


def _has_sweep(value: Any) -> bool:
    if isinstance(value, Mapping):
        return is_sweep(value) or any(_has_sweep(v) for v in value.values())
    return isinstance(value, list) and any(_has_sweep(v) for v in value)


def axis_values(path: str, value: Any, problems: list[Problem]) -> Sequence[Any] | None:
    """Values of an axis, or None for a plain value; what is wrong with it goes to ``problems``."""
    if isinstance(value, Verbatim):
        return None
    found: Any
    if is_sweep(value):
        found = value["sweep"]
        if not _is_list(found):
            fix = "write {sweep: [first, second]}"
            problems.append(
                Problem(path=path, value=shown(found), rule="sweep takes a list of values", fix=fix)
            )
            return None
    elif isinstance(value, np.ndarray) and value.ndim != 1:
        problems.append(
            Problem(path=path, value=f"an array of {value.ndim} dimensions", rule="an axis has one dimension")
        )
        return None
    elif _is_list(value) and path.rsplit(".", 1)[-1] not in LIST_KEYS:
        found = value
    elif _has_sweep(value):
        found = expanded(value)
    else:
        return None
    if len(found) == 0:
        problems.append(
            Problem(
                path=path, value="[]", rule="an axis needs at least one value", fix="list a value, or drop it"
            )
        )
        return None
    if isinstance(found, np.ndarray) or not any(_has_sweep(item) for item in found):
        return found
    return [one for item in found for one in expanded(item)]


def axis_of(group: Mapping[str, Sequence[Any]]) -> Axis:
    """The axis over some keys; over a whole section it becomes one over the keys that its mappings have."""
    columns: dict[str, Sequence[Any]] = {}
    for path, values in group.items():
        if path not in SECTIONS or not all(isinstance(v, Mapping) for v in values):
            columns[path] = values
            continue
        missing = {f: field.default for f, field in Plan.model_fields.items()} if path == "plan" else {}
        for name in dict.fromkeys(str(name) for value in values for name in value):
            columns[f"{path}.{name}"] = [value.get(name, missing.get(name, ABSENT)) for value in values]
    return Axis(keys=tuple(columns), values=tuple(columns.values()))


def zip_axes(groups: Any, problems: list[Problem]) -> list[Axis]:
    """The axes of ``zip``: one per group of keys whose lists have one length."""
    axes = []
    for number, group in enumerate(groups if isinstance(groups, list) else [groups]):
        where = f"zip[{number}]"
        fix = "write such as {plan.tensor_parallel: [4, 8], devices: [64, 128]}"
        if not isinstance(group, Mapping) or not group:
            rule = "must be a mapping of dotted keys to lists"
            problems.append(Problem(path=where, value=shown(group), rule=rule, fix=fix))
            continue
        lengths = {str(k): len(v) if _is_list(v) else None for k, v in group.items()}
        if len(set(lengths.values())) != 1 or None in lengths.values() or 0 in lengths.values():
            written = ", ".join(f"{k}: {'no list' if n is None else n}" for k, n in lengths.items())
            rule = "the lists of a group must have one length, at least 1"
            problems.append(Problem(path=where, value=written, rule=rule, fix=fix))
            continue
        axes.append(axis_of({str(k): v for k, v in group.items()}))
    return axes


def size_problems(axes: Sequence[Axis]) -> list[Problem]:
    """Keys on two axes, and more rows than can be numbered."""
    swept = [key for axis in axes for key in axis.keys]
    twice = sorted({k for k in swept if swept.count(k) > 1})
    found = [Problem(path=k, value="", rule="is swept twice", fix="keep one axis") for k in twice]
    n_rows = 1
    for axis in axes:
        n_rows *= len(axis)
    if n_rows > MAX_ROWS:
        rule, fix = f"is more than the limit of {MAX_ROWS:,} rows", "shorten an axis or sweep in parts"
        found.append(Problem(path="sweep", value=f"{n_rows:,} rows", rule=rule, fix=fix))
    return found

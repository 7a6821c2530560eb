"""What can be wrong with a scenario or a sweep before anything is computed: types, bounds, names, figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from hardware_specs import SystemSpec, figures, parse_override, with_figures
from hardware_specs.errors import LlmsimError, Problem, near_names
from hardware_specs.fabric_rules import DOMAINS_DIVIDE
from hardware_specs.figure_table import figure_dimension
from simulator.scenarios.precision import precision_from
from simulator.scenarios.resolving import resolve_compression, resolve_model, resolve_system
from simulator.scenarios.scenario_reading import scenario_from, shown
from simulator.spaces.axes import Axis, is_figure, plain
from workloads.huggingface import is_huggingface
from workloads.model_spec import ModelSpec

# Axes with more values are checked by their extremes: bounds are intervals.
EVERY_VALUE = 256
MOST_SYSTEMS = 16

Changed = Callable[[Mapping[str, Any]], dict[str, Any]]


def representatives(values: Sequence[Any]) -> list[Any]:
    """Values that stand for all of an axis: each of them, or on a long one the extremes of each type."""
    if len(values) <= EVERY_VALUE:
        return [plain(v) for v in values]
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        return [plain(values.min()), plain(values.max())]
    whole = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
    extremes = [min(whole), max(whole)] if whole else []
    texts = list(dict.fromkeys(v for v in values if isinstance(v, str)))
    others = [plain(v) for v in values if isinstance(v, bool) or not isinstance(v, (int, str))]
    return [*extremes, *texts, *others]


def _representative_changes(axis: Axis) -> list[dict[str, Any]]:
    if len(axis.keys) == 1:
        return [{axis.keys[0]: v} for v in representatives(axis.values[0])]
    if len(axis) <= EVERY_VALUE:
        return [axis.at(i) for i in range(len(axis))]
    first = axis.at(0)
    pairs = zip(axis.keys, axis.values, strict=True)
    return [{**first, k: v} for k, values in pairs for v in representatives(values)]


def _model_field_problems(key: str, value: Any) -> list[Problem]:
    """What is wrong with one shape by itself; shapes that contradict each other are a matter of legality."""
    name = key.removeprefix("model.")
    field = ModelSpec.model_fields.get(name)
    if field is None:
        near = near_names(name, ModelSpec.model_fields, n=3)
        fix = (
            f"did you mean {', '.join(near)}?" if near else f"known keys: {', '.join(ModelSpec.model_fields)}"
        )
        return [Problem(path=key, value=shown(value), rule="is not a key of a model", fix=fix)]
    try:
        limits: Any = field.metadata
        annotated: Any = Annotated[(field.annotation, *limits)] if limits else field.annotation
        TypeAdapter(annotated).validate_python(value, strict=True)
    except ValidationError as error:
        rule = str(error.errors()[0]["msg"]).replace("Input should be", "must be")
        return [Problem(path=key, value=shown(value), rule=rule)]
    return []


def _of(call: Callable[[], Any]) -> list[Problem]:
    try:
        call()
    except LlmsimError as error:
        return list(error.problems)
    return []


def _name_problems(data: Mapping[str, Any], keys: Sequence[str] | None) -> list[Problem]:
    """Names that no catalog holds in the sections that ``keys`` touch (None: in all)."""

    def touched(*sections: str) -> bool:
        return keys is None or any(k == s or k.startswith(f"{s}.") for k in keys for s in sections)

    found: list[Problem] = []
    model, system = data.get("model"), data.get("system")
    plan, task = data.get("plan", {}), data.get("task", {})
    if touched("model") and isinstance(model, (str, Mapping)):
        found += _of(lambda: resolve_model(model))
    if touched("system") and isinstance(system, (str, Mapping)):
        found += _of(lambda: resolve_system(system))
    if not isinstance(plan, Mapping) or not isinstance(task, Mapping):
        return found
    precision, compression = plan.get("precision", "bf16"), plan.get("compression", [])
    texts = isinstance(precision, str) or (
        isinstance(precision, Mapping) and all(isinstance(v, str) for v in precision.values())
    )
    if touched("plan.precision") and texts:
        training = task.get("kind") == "training"
        found += precision_from(precision, training=training, path="plan.precision")[1]
    mappings = isinstance(compression, list) and all(isinstance(entry, Mapping) for entry in compression)
    if touched("plan.compression") and mappings:
        found += _of(lambda: resolve_compression(compression))
    return found


def _numbers(written: Mapping[str, Any]) -> dict[str, float]:
    """Figures by path, where they are written as amounts [SI unit]; raises nothing."""
    found = {}
    for key, value in written.items():
        path = key.removeprefix("system.")
        try:
            how, number = parse_override(value, figure_dimension(SystemSpec, path))
        except LlmsimError:
            continue
        if how == "set":
            found[path] = number
    return found


def _figure_problems(
    key: str,
    values: Sequence[Any],
    systems: Sequence[SystemSpec],
    fixed: Mapping[str, float],
    new: Mapping[str, float],
    paired: bool,
) -> list[Problem]:
    """Mistakes of one figure's values, in systems with the figures ``fixed`` and those ``new`` that they lack.

    ``paired``: another domain varies too, so that rows are left out where domains do not divide each other.
    """
    path = key.removeprefix("system.")
    dimension = figure_dimension(SystemSpec, path)
    numbers: list[float] = []
    factors: list[str] = []
    problems: list[Problem] = []
    if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.number):
        if not np.all(np.isfinite(values)) or np.any(values < 0):
            rule = "an array of figures must hold finite numbers in SI units that are not negative"
            return [Problem(path=key, value=shown(values.tolist()), rule=rule)]
        numbers = [float(values.min()), float(values.max())]
    else:
        for value in values:
            try:
                how, number = parse_override(value, dimension)
            except LlmsimError as error:
                problems += [
                    Problem(path=key, value=p.value or shown(value), rule=p.rule, fix=p.fix)
                    for p in error.problems
                ]
            else:
                numbers += [number] if how == "set" else []
                factors += [str(value)] if how != "set" else []
    extremes = sorted({min(numbers), max(numbers)}) if numbers and not problems else []
    for system in systems:
        if factors and path not in figures(system):
            rule = f"multiplies a figure that {system.name} does not state"
            fix = "give a value with its unit (a peak also follows accelerator.units and accelerator.clock)"
            problems.append(Problem(path=key, value=factors[0], rule=rule, fix=fix))
        lacked = {k: v for k, v in new.items() if k not in figures(system)} if extremes else {}
        for number in extremes:
            try:
                with_figures(system, {**lacked, **fixed, path: number})
            except LlmsimError as error:
                problems += [
                    replace(p, path=f"system.{p.path.removeprefix('system.')}")
                    for p in error.problems
                    if not (paired and DOMAINS_DIVIDE in p.rule)
                ]
    return problems


def _systems(base: Mapping[str, Any], axes: Sequence[Axis]) -> list[SystemSpec]:
    """The systems of a sweep that resolve; mistakes in the others are found elsewhere."""
    written = [base.get("system")]
    for axis in axes:
        if "system" in axis.keys:
            written += list(axis.values[axis.keys.index("system")])[:MOST_SYSTEMS]
    found: dict[str, SystemSpec] = {}
    for value in written:
        if isinstance(value, (str, Mapping)):
            try:
                found.setdefault(str(value), resolve_system(value))
            except LlmsimError:
                continue
    return list(found.values())


def input_problems(
    base: Mapping[str, Any], fixed: Mapping[str, Any], axes: Sequence[Axis], changed: Changed
) -> list[Problem]:
    """Every mistake of types, bounds, names and figures, in the base scenario and in every axis.

    Parameters
    ----------
    base : mapping
        The scenario of the first row.
    fixed : mapping
        Overrides of figures that do not vary.
    axes : sequence of Axis
        What varies.
    changed : callable
        From changed keys to the scenario with them.

    Returns
    -------
    list of Problem
        Each mistake once; empty if all is well. Raises nothing.
    """
    found: dict[str, Problem] = {}

    def note(problems: Sequence[Problem]) -> None:
        for problem in problems:
            found.setdefault(f"{problem.path} = {problem.value}" if problem.value else str(problem), problem)

    def attempt(changes: Mapping[str, Any], keys: Sequence[str] | None) -> None:
        try:
            data = changed(changes)
        except LlmsimError as error:
            note(error.problems)
            return
        note(_of(lambda: scenario_from(data)))
        note(_name_problems(data, keys))

    attempt({}, None)
    model = base.get("model")
    ours = not (isinstance(model, Mapping) and is_huggingface(model))
    for axis in axes:
        for change in _representative_changes(axis):
            checked = {k: v for k, v in change.items() if not is_figure(k)}
            shapes = [k for k in checked if k.startswith("model.") and len(axis.keys) == 1 and ours]
            for key in shapes:
                note(_model_field_problems(key, checked[key]))
            if checked and not shapes:
                attempt(checked, list(checked))
    pairs = [pair for axis in axes for pair in zip(axis.keys, axis.values, strict=True)]
    swept_figures = [(k, v) for k, v in pairs if is_figure(k)] + [(k, [v]) for k, v in fixed.items()]
    systems = _systems(base, axes) if swept_figures else []
    alike, new = _numbers(fixed), _numbers({k: v[0] for k, v in swept_figures if len(v) > 0})
    sized = {key for key, _ in swept_figures if key.endswith((".domain", ".accelerators_per_node"))}
    for key, values in swept_figures:
        paired = key not in fixed and key in sized and len(sized - fixed.keys()) > 1
        note(_figure_problems(key, values, systems, alike, new, paired))
    return list(found.values())

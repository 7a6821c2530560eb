"""All figures of a spec as a flat table, and a spec with some of them replaced."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hardware_specs.collective_fit import CollectiveFit
from hardware_specs.errors import Problem, SpecError, near_names
from hardware_specs.figure import Dimension, Figure, Spec
from hardware_specs.kernel_fits.evidence import EVIDENCE_FIELDS, FitEvidence
from hardware_specs.units import exact_quantity
from hardware_specs.validation import build

__all__ = ["figure_dimension", "figures", "to_mapping", "with_figures"]

_AnySpec = TypeVar("_AnySpec", bound=Spec)
_REFERENCE_ONLY = frozenset({"datasheet_peak"})  # read by the linter, never by a cost rule
ANY_NAME = "*"
_EVIDENCE = frozenset(EVIDENCE_FIELDS)  # statistics of a fit: no figures


def figures(spec: Spec, *, reference: bool = False) -> dict[str, tuple[Figure, str]]:
    """Every numeric leaf of an accelerator, a system or a calibration.

    Parameters
    ----------
    spec : Spec
        Such as `hardware_specs.schema.SystemSpec`.
    reference : bool
        Whether to include figures that change no result (``datasheet_peak``).

    Returns
    -------
    dict
        Dotted path, such as ``"accelerator.memory_bandwidth"``, to (figure, dimension). The value of
        the figure is in the SI unit of the dimension. Coefficients of a calibration carry the basis and
        the source of their fit; its error statistics are left out. Raises nothing.
    """
    return {path: (figure, dimension.name) for path, figure, dimension in _leaves(spec, "", reference)}


def figure_dimension(model: type[Spec] | Spec, path: str) -> str:
    """Dimension of a figure by its path, also of an optional one that is not set (``peak.bf16``).

    Parameters
    ----------
    model : type or Spec
        Such as `hardware_specs.schema.SystemSpec` or an instance of it.
    path : str
        Dotted path.

    Returns
    -------
    str
        A key of `hardware_specs.units.TIME_EXPONENT`.

    Raises
    ------
    SpecError
        If the path is no figure; near names are offered.
    """
    owner = model if isinstance(model, type) else type(model)
    known = dict(_paths(owner, ""))
    free = [name for name in known if ANY_NAME in name and fnmatchcase(path, name)]
    if free:  # below a key whose names are the user's own
        return known[free[0]]
    if path not in known:
        near = near_names(path, known, n=3)
        fix = f"did you mean {' or '.join(near)}?" if near else f"such as {', '.join(list(known)[:5])}"
        raise SpecError([Problem(path=path, value="", rule="is not a figure", fix=fix)])
    return known[path]


def to_mapping(spec: Spec) -> dict[str, Any]:
    """Plain data that loads again to the same spec, to the last digit.

    Parameters
    ----------
    spec : Spec
        Any description.

    Returns
    -------
    dict
        Text, numbers, lists and mappings; quantities are text with their SI unit. Raises nothing.
    """
    return {name: _plain(value, field) for name, field, value in _fields(spec) if value is not None}


def with_figures(spec: _AnySpec, values: Mapping[str, float]) -> _AnySpec:
    """A copy of a spec with some figures replaced and all its rules checked again.

    Parameters
    ----------
    spec : Spec
        The description to start from.
    values : mapping
        Dotted path to the new value. [SI unit of the figure's dimension]

    Returns
    -------
    Spec
        Replaced figures have the basis ``assumed``.

    Raises
    ------
    SpecError
        If a path is no figure, or a value breaks a rule.
    """
    data = to_mapping(spec)
    for path, value in values.items():
        dimension = figure_dimension(spec, path)
        *parents, last = path.split(".")
        here = data
        for key in parents:
            here = here.setdefault(key, {})
        here[last] = exact_quantity(float(value), dimension)
    return build(type(spec), data)


def _fields(spec: BaseModel) -> Iterator[tuple[str, FieldInfo, Any]]:
    for name, field in type(spec).model_fields.items():
        yield name, field, getattr(spec, name)


def _leaves(spec: BaseModel, path: str, reference: bool) -> Iterator[tuple[str, Figure, Dimension]]:
    for name, field, value in _fields(spec):
        here = f"{path}.{name}" if path else name
        if name in _REFERENCE_ONLY and not reference:
            continue
        dimension = _dimension(field)
        if isinstance(value, BaseModel) and not isinstance(value, Figure):
            yield from _leaves(value, here, reference)
        elif isinstance(value, dict) and name not in _EVIDENCE:
            for key, item in value.items():
                yield from _dict_leaves(item, f"{here}.{key}", dimension, reference)
        elif dimension is not None and isinstance(value, Figure):
            yield here, value, dimension
        elif (
            dimension is not None and isinstance(spec, (FitEvidence, CollectiveFit)) and name not in _EVIDENCE
        ):
            yield here, Figure(value=value, basis=spec.basis, source=spec.source), dimension


def _dict_leaves(
    item: Any, path: str, dimension: Dimension | None, reference: bool
) -> Iterator[tuple[str, Figure, Dimension]]:
    if isinstance(item, Figure) and dimension is not None:
        yield path, item, dimension
    elif isinstance(item, BaseModel):
        yield from _leaves(item, path, reference)
    elif isinstance(item, dict):
        for key, inner in item.items():
            yield from _dict_leaves(inner, f"{path}.{key}", dimension, reference)


def _paths(model: type[BaseModel], path: str) -> Iterator[tuple[str, str]]:
    """Every figure path that the schema allows, with its dimension."""
    for name, field in model.model_fields.items():
        here = f"{path}.{name}" if path else name
        if name in _REFERENCE_ONLY or name in _EVIDENCE:
            continue
        yield from _annotation_paths(field.annotation, here, _dimension(field))


def _annotation_paths(annotation: Any, path: str, dimension: Dimension | None) -> Iterator[tuple[str, str]]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        for key in _keys(arguments[0]) or [ANY_NAME]:
            yield from _annotation_paths(arguments[1], f"{path}.{key}", dimension)
    elif origin is typing.Annotated:
        yield from _annotation_paths(arguments[0], path, dimension)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation is not Figure:
        yield from _paths(annotation, path)
    elif origin is not None and type(None) in arguments:  # an optional value
        yield from _annotation_paths(arguments[0], path, dimension)
    elif dimension is not None:
        yield path, dimension.name


def _keys(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [key for part in typing.get_args(annotation) for key in _keys(part)]


def _dimension(field: FieldInfo) -> Dimension | None:
    """The `Dimension` in the annotation of a field, of its dict values, or of its non-null form."""
    for item in field.metadata:
        if isinstance(item, Dimension):
            return item
    return _nested_dimension(field.annotation)


def _nested_dimension(annotation: Any) -> Dimension | None:
    for item in getattr(annotation, "__metadata__", ()):
        if isinstance(item, Dimension):
            return item
    for argument in typing.get_args(annotation):
        found = _nested_dimension(argument)
        if found is not None:
            return found
    return None


def _plain(value: Any, field: FieldInfo) -> Any:
    dimension = _dimension(field)
    if isinstance(value, Figure):
        quantity = exact_quantity(value.value, dimension.name) if dimension else value.value
        note = {"note": value.note} if value.note else {}
        return {"value": quantity, "basis": value.basis, "source": value.source, **note}
    if isinstance(value, BaseModel):
        return to_mapping(value) if isinstance(value, Spec) else value.model_dump()
    if isinstance(value, dict):
        return {key: _plain(item, field) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, field) for item in value]
    if isinstance(value, float) and dimension is not None:
        return exact_quantity(value, dimension.name)
    return value

"""Build a spec from plain data; turn every finding of pydantic into a `Problem` that says what to do."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hardware_specs.errors import Problem, SpecError, near_names, shorten

__all__ = ["build", "problems_of"]

_Model = TypeVar("_Model", bound=BaseModel)


def build(model: type[_Model], data: Mapping[str, Any], *, path: str = "") -> _Model:
    """Validate plain data.

    Parameters
    ----------
    model : type
        A pydantic model, such as `hardware_specs.schema.AcceleratorSpec`.
    data : mapping
        Keys and values as read from a file.
    path : str
        Put before each key in messages.

    Returns
    -------
    model
        The description.

    Raises
    ------
    SpecError
        With one problem per mistake, all of them at once.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise SpecError(problems_of(error, model, path=path)) from None


def problems_of(error: ValidationError, model: type[BaseModel], *, path: str = "") -> list[Problem]:
    """One problem for each finding of pydantic.

    Parameters
    ----------
    error : ValidationError
        What validation raised.
    model : type
        The model that was validated; its field names are offered for misspelt ones.
    path : str
        Put before each key.

    Returns
    -------
    list of Problem
        In the order of the fields.
    """
    return [_problem(dict(found), model, path) for found in error.errors(include_url=False)]


def _problem(found: dict[str, Any], model: type[BaseModel], path: str) -> Problem:
    parts = list(found["loc"])
    bad_key = bool(parts) and parts[-1] == "[key]"
    if bad_key:
        parts.pop()
    where = _dotted(parts, path)
    context = found.get("ctx", {})
    value = _shown(found["input"])
    match found["type"]:
        case "llmsim":
            return Problem(path=where, value=context["value"], rule=context["rule"], fix=context["fix"])
        case "missing":
            return Problem(path=where, value="", rule="is missing", fix=_description(parts, model))
        case "extra_forbidden":
            known = _fields_at(parts[:-1], model)
            near = near_names(str(parts[-1]), known, n=3)
            offer = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
            return Problem(path=where, value="", rule="is an unknown key", fix=offer)
        case "literal_error":
            expected = str(context.get("expected", "")).replace("'", "")
            near = near_names(str(found["input"]), expected.replace(" or ", ", ").split(", "), n=2)
            fix = f"did you mean {' or '.join(near)}?" if near else ""
            rule = f"is not one of {expected}"
            return Problem(path=where, value="" if bad_key else value, rule=rule, fix=fix)
        case "string_too_short":
            rule = f"must have at least {context.get('min_length')} characters"
            return Problem(path=where, value=value, rule=rule, fix="cite the document and its table or page")
        case "string_pattern_mismatch":
            rule = "must be lower case letters and digits joined by hyphens or dots"
            return Problem(path=where, value=value, rule=rule, fix='write such as "h100-sxm"')
        case "bool_type":
            return Problem(
                path=where, value=value, rule="must be true or false", fix="write it without quotes"
            )
        case "list_type":
            return Problem(path=where, value=value, rule="must be a list", fix="write it as [a, b]")
        case "string_type":
            return Problem(path=where, value=value, rule="must be text", fix="put it in quotes")
        case "int_type":
            return Problem(path=where, value=value, rule="must be a whole number")
        case "model_type" | "model_attributes_type" | "dict_type":
            return Problem(path=where, value=value, rule="must be a mapping of keys to values")
    text = str(context.get("text") or found["msg"])
    rule = text[:1].lower() + text[1:].replace("Input should", "should")
    return Problem(path=where, value=value, rule=rule.replace("input should be", "must be"))


def _dotted(parts: list[Any], path: str) -> str:
    text = path
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "{...}" if value else "{}"
    return f'"{shorten(value)}"' if isinstance(value, str) else shorten(value)


def _description(parts: list[Any], model: type[BaseModel]) -> str:
    owner = _model_at(parts[:-1], model)
    field = owner.model_fields.get(str(parts[-1])) if owner else None
    return f"give {field.description}" if field and field.description else ""


def _fields_at(parts: list[Any], model: type[BaseModel]) -> list[str]:
    owner = _model_at(parts, model)
    return list(owner.model_fields) if owner else []


def _model_at(parts: list[Any], model: type[BaseModel]) -> type[BaseModel] | None:
    """The model that describes the value at a location such as ``("scale_up", "links")``."""
    here: Any = model
    for part in parts:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            if field is None:
                return None
            here = _plain(field.annotation)
        else:  # a key of a dict or an index of a list
            here = _plain(typing.get_args(here)[-1]) if typing.get_args(here) else None
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def _plain(annotation: Any) -> Any:
    """Strip ``Annotated`` and ``| None``."""
    while typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        options = [a for a in typing.get_args(annotation) if a is not type(None)]
        annotation = options[0]
    return annotation

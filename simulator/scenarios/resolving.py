"""What names and mappings of a scenario stand for: models, systems and compressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardware_specs import SystemSpec, load_system, to_mapping
from hardware_specs.errors import Problem, ScenarioError, near_names, shorten
from workloads.catalog import list_models, load_model
from workloads.compression import COMPRESSIONS, GraphRewrite
from workloads.model_spec import ModelSpec


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        inner = out.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            out[key] = _merge(inner, value)
        else:
            out[key] = value
    return out


def resolve_system(value: str | Mapping[str, Any]) -> SystemSpec:
    """A system from a name, a path or keys; ``base`` names the system that the other keys change.

    Raises SpecError with every mistake.
    """
    if isinstance(value, Mapping) and "base" in value:
        changes = {k: v for k, v in value.items() if k != "base"}
        return load_system(_merge(to_mapping(load_system(value["base"])), changes))
    return load_system(value)


def resolve_model(value: str | Mapping[str, Any]) -> ModelSpec:
    """A model from a name, a path or keys; ``base`` names the model, or its file, that the other keys change.

    Raises SpecError with every mistake.
    """
    if isinstance(value, Mapping) and "base" in value and value["base"] not in list_models():
        base, changes = load_model(value["base"]), {k: v for k, v in value.items() if k != "base"}
        written = {
            **base.model_dump(mode="json"),
            "name": f"{base.name}-changed",
            "published_parameters": None,
        }
        return load_model({**written, **changes})
    return load_model(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """What the compression list of a plan amounts to: fraction of layers kept [1], graph rewrites, limits."""

    layers_kept: float
    rewrites: tuple[GraphRewrite, ...]
    inference_only: bool


def _entry_problems(path: str, entry: Mapping[str, Any]) -> list[Problem]:
    name = entry.get("name")
    if not isinstance(name, str) or name not in COMPRESSIONS:
        near = near_names(str(name), COMPRESSIONS) or list(COMPRESSIONS)
        fix = f"use {', '.join(near)}"
        return [Problem(path=f"{path}.name", value=shorten(name), rule="is not a known transform", fix=fix)]
    known = COMPRESSIONS[name].parameters
    fix = f"{name} takes {', '.join(known) or 'no parameters'}" + (", from 0 to below 1" if known else "")
    found = []
    for key, value in entry.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key != "name" and (key not in known or not number or not 0 <= value < 1):
            where = f"{path}.{key}"
            found.append(Problem(path=where, value=shorten(value), rule="is not a legal parameter", fix=fix))
    return found


def resolve_compression(entries: Sequence[Mapping[str, Any]]) -> Compression:
    """Read ``plan.compression``; ScenarioError for unknown names, parameters and values."""
    kept, rewrites, inference_only = 1.0, [], False
    problems: list[Problem] = []
    for i, entry in enumerate(entries):
        found = _entry_problems(f"plan.compression[{i}]", entry)
        problems += found
        if found:
            continue
        kind = COMPRESSIONS[entry["name"]]
        given = {k: v for k, v in entry.items() if k != "name"}
        kept *= kind.layers_kept({**kind.parameters, **given})
        rewrites += [kind.rewrite] if kind.rewrite else []
        inference_only |= kind.inference_only
    if problems:
        raise ScenarioError(problems)
    return Compression(layers_kept=kept, rewrites=tuple(rewrites), inference_only=inference_only)

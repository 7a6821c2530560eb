"""From what a user wrote to a `Scenario`: files, dotted keys, relative paths, and messages for each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from hardware_specs.errors import LlmsimError, Problem, ScenarioError, near_names, shorten
from hardware_specs.strict_yaml import load_yaml, parse_yaml
from simulator.scenarios.scenario import TASKS, Plan, Scenario


class _Absent(float):
    """A number that is not there: a row of a swept section that does not have the key."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent("nan")

_UNION_BRANCHES = ("str", "dict[str,any]", "dict[str,str]")
# Keys that are a name or a mapping: pydantic reports each branch, a person wants one sentence.
_UNIONS = {
    "model": "must be a catalog name, a path, or a mapping of its keys",
    "system": "must be a catalog name, a path, or a mapping of its keys",
    "plan.precision": "must be the name of a recipe, or a mapping of types by tensor class",
}
_RULES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "union_tag_not_found": f"needs a kind: {', '.join(TASKS)}",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}


def shown(value: Any) -> str:
    """A value as YAML would have it: true, null, and quotes where text looks like a number."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and _reads_as_something_else(value):
        return f'"{shorten(value)}"'
    return shorten(value)


def _reads_as_something_else(text: str) -> bool:
    try:
        return not isinstance(parse_yaml(f"value: {text}")["value"], str)
    except LlmsimError:  # YAML cannot hold it without quotes
        return False


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    if len(location) == 1:
        return [*Scenario.model_fields, "zip", "where"]
    if location[0] == "plan":
        return list(Plan.model_fields)
    if location[0] == "task" and len(location) > 1 and location[1] in TASKS:
        return list(TASKS[str(location[1])].model_fields)
    return []


def _meaning(location: tuple[Any, ...]) -> str:
    """Description of a key from its schema, empty if there is none."""
    fields = Scenario.model_fields
    if location[0] == "task" and len(location) > 2 and location[1] in TASKS:
        fields = TASKS[str(location[1])].model_fields
    found = fields.get(str(location[-1]))
    return (found.description or "") if found else ""


def _rule(error: Mapping[str, Any]) -> str:
    kind, limits = error["type"], error.get("ctx", {})
    if kind == "greater_than_equal":
        return f"must be at least {limits['ge']}"
    if kind == "less_than_equal":
        return f"must be at most {limits['le']:,}"
    return _RULES.get(kind) or str(error["msg"]).removeprefix("Value error, ").replace(
        "Input should be", "must be"
    )


def _problem(error: Mapping[str, Any]) -> Problem:
    location = tuple(error["loc"])
    named = tuple(p for i, p in enumerate(location) if not (i == 1 and location[0] == "task" and p in TASKS))
    path = ""
    for part in (p for p in named if p not in _UNION_BRANCHES):
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        known = _known_keys(location)
        near = near_names(str(location[-1]), known, n=3)
        fix = f"did you mean {', '.join(near)}?" if near else f"known keys: {', '.join(known)}"
        return Problem(path=path, value=shown(value), rule="is not a key here", fix=fix)
    if kind == "missing":
        meaning = _meaning(location)
        return Problem(
            path=path, value="", rule="is missing", fix=f"add it: {meaning}" if meaning else "add it"
        )
    if kind == "union_tag_invalid":
        tag = shown(error["ctx"]["tag"])
        return Problem(path="task.kind", value=tag, rule="is not a known task", fix=f"use {', '.join(TASKS)}")
    if path.startswith("plan.compression["):
        return Problem(
            path=path, value=shown(value), rule="must be a mapping", fix="write {name: layer_drop}"
        )
    return Problem(path=path, value=shown(value), rule=_UNIONS.get(path) or _rule(error))


def problems_of(error: ValidationError) -> list[Problem]:
    """Mistakes that pydantic found, in the words of this project; a union's branches give one line."""
    seen: dict[str, Problem] = {}
    for item in error.errors(include_url=False):
        if "str" in item["loc"] and isinstance(item.get("input"), Mapping):
            continue  # a mapping was meant: what is wrong inside it is reported by the other branch
        problem = _problem(item)
        seen.setdefault(problem.path, problem)
    return list(seen.values())


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with dotted keys replaced, e.g. ``{"plan.tensor_parallel": 4}``; short keys go first.

    A catalog name below which a key is set becomes a mapping with that ``base``; the value ``ABSENT`` takes a key
    out. Raises ScenarioError if a parent is no mapping.
    """
    out: dict[str, Any] = dict(base)
    for dotted, value in sorted(overrides.items(), key=lambda item: item[0].count(".")):
        here, keys = out, dotted.split(".")
        for key in keys[:-1]:
            inner = here.get(key, {})
            if isinstance(inner, str) and key in ("model", "system"):
                inner = {"base": inner}
            if not isinstance(inner, Mapping):
                raise ScenarioError(
                    [Problem(path=dotted, value=shown(value), rule=f"{key} is not a mapping here")]
                )
            here[key] = dict(inner)
            here = here[key]
        if value is ABSENT:
            here.pop(keys[-1], None)
        else:
            here[keys[-1]] = value
    return out


def scenario_from(source: Scenario | Mapping[str, Any] | str | Path) -> Scenario:
    """Read a scenario.

    Parameters
    ----------
    source : Scenario, mapping, str or Path
        A path names a YAML file; relative paths in it are relative to its folder.

    Returns
    -------
    Scenario
        Types and bounds checked; nothing is looked up yet.

    Raises
    ------
    ScenarioError, SpecError
        With every mistake that was found; a file that cannot be read is a SpecError.
    """
    if isinstance(source, Scenario):
        return source
    data = mapping_from(source)
    # Dotted keys at file level are overrides.
    plain = {k: v for k, v in data.items() if "." not in str(k)}
    data = merged(plain, {str(k): v for k, v in data.items() if "." in str(k)})
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        raise ScenarioError(problems_of(error)) from None


def mapping_from(source: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """A mapping as it is, or the one in a YAML file, its relative paths anchored.

    Raises SpecError if the file is unreadable, ScenarioError for anything that is neither mapping nor path.
    """
    if isinstance(source, Mapping):
        return dict(source)
    if not isinstance(source, (str, Path)):
        rule = "is no scenario: it must be a mapping, a Scenario or the path of a YAML file"
        raise ScenarioError([Problem(path="scenario", value=shorten(source), rule=rule)])
    return anchored(load_yaml(Path(source)), Path(source).parent)


def anchored(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``data`` with relative paths of models and systems made relative to ``folder`` instead, in axes too."""
    out = dict(data)
    for key in ("model", "system", "system.accelerator", "system.calibration"):
        if key in out:
            out[key] = _anchored(out[key], folder)
    groups = out.get("zip")
    if isinstance(groups, list):
        out["zip"] = [anchored(g, folder) if isinstance(g, Mapping) else g for g in groups]
    return out


def _anchored(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        is_path = value.endswith((".yaml", ".yml", ".json")) or "/" in value
        return str(folder / value) if is_path else value  # an absolute path stays as it is
    if isinstance(value, list):
        return [_anchored(v, folder) for v in value]
    if isinstance(value, Mapping):
        named = ("sweep", "base", "accelerator", "calibration")
        return {k: _anchored(v, folder) if k in named else v for k, v in value.items()}
    return value

"""Arguments and options that several commands share, and the scenario that they amount to."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hardware_specs.errors import LlmsimError, Problem, ScenarioError


class Format(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"
    csv = "csv"


class Fidelity(StrEnum):
    """Which coefficients are used."""

    bound = "bound"
    datasheet = "datasheet"
    calibrated = "calibrated"


ScenarioArgument = Annotated[
    str, typer.Argument(help="YAML file with model, task, system, devices and plan", metavar="SCENARIO.yaml")
]
SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a key of the file, e.g. plan.tensor_parallel=4, model.n_layers=40 or "
        "system.accelerator.memory_bandwidth=1.5x. May be repeated.",
    ),
]
FidelityOption = Annotated[
    Fidelity | None,
    typer.Option(
        metavar="LEVEL",
        help="calibrated: fitted coefficients; datasheet: none; bound: no latencies either. "
        "Without it, what the file says (calibrated).",
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]


def overridden(source: str, settings: list[str], fidelity: Fidelity | None) -> dict[str, Any]:
    """The scenario file as a mapping, ``--set`` and ``--fidelity`` applied.

    Parameters
    ----------
    source : str
        Path of a YAML file.
    settings : list of str
        Such as "plan.tensor_parallel=4"; values are YAML.
    fidelity : Fidelity or None
        Replaces the file's.

    Returns
    -------
    dict
        As the file, dotted keys at file level where a key lies below a catalog name.

    Raises
    ------
    ScenarioError, SpecError
        If the file cannot be read or settings are malformed, with every mistake.
    """
    from hardware_specs.strict_yaml import load_yaml, parse_yaml
    from simulator.scenarios.scenario_reading import anchored

    data = anchored(load_yaml(Path(source)), Path(source).parent)
    problems: list[Problem] = []
    for setting in settings:
        key, separator, text = setting.partition("=")
        key = key.strip()
        if not separator or "" in key.split("."):
            fix = "write such as --set plan.tensor_parallel=4"
            problems.append(Problem(path="--set", value=setting, rule="must be KEY=VALUE", fix=fix))
            continue
        try:
            data = _assigned(data, key, parse_yaml(f"value: {text}", name=f"--set {key}")["value"])
        except LlmsimError as error:
            problems += error.problems
    if problems:
        raise ScenarioError(problems)
    if fidelity is not None:
        data["fidelity"] = fidelity.value
    return data


def _assigned(data: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """``data`` with a dotted key set: in the section it belongs to, or at file level over a catalog name."""
    from simulator.scenarios.scenario_reading import merged
    from simulator.spaces.axes import is_figure, is_sweep

    groups = data.get("zip")
    for number, group in enumerate(groups if isinstance(groups, list) else [groups]):
        if isinstance(group, Mapping) and key in group:
            rule, fix = f"is swept by zip[{number}] of the file", "change it there"
            raise ScenarioError([Problem(path=f"--set {key}", value="", rule=rule, fix=fix)])
    section = data.get(key.split(".")[0])
    inside = isinstance(section, Mapping) and not is_sweep(section)
    if "." in key and inside and key not in data and not is_figure(key):
        return merged(data, {key: value})
    return {**data, key: value}

"""Why a number is what it is: the recorded calls of cost rules behind one path of an estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware_specs import Figure, figures, format_quantity
from hardware_specs.errors import Problem, ScenarioError, near_names
from simulator.estimate import simulate_recorded
from simulator.partition import Partition
from simulator.rules import RULES, Record, Recorder
from simulator.scenario import Scenario

MAX_RECORDS = 40
# Totals of to_dict() whose parts are recorded under another path.
HOMES: Mapping[str, tuple[str, ...]] = {
    "step_time_s": ("step_time_s", "time"),
    "time": ("time", "step_time_s"),
    "memory.peak_bytes": ("memory",),
    "memory": ("memory",),
    "energy_j": ("energy", "energy_j"),
    "energy": ("energy", "energy_j"),
    "tokens_per_s_per_device": ("tokens_per_s",),
    "time.compute_s": ("operators",),
    "time.tensor_parallel_s": ("operators",),
    "time.optimizer_s": ("operators.optimizer",),
    "time.bubble_s": ("time.pipeline_s",),
    "peak_flop_per_s": ("peak_flop_per_s",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a rule: its value [SI unit in the name], and where it comes from."""

    name: str
    value: float
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One call of a rule, readable: path, rule, formula, unit, source, inputs, value."""

    path: str
    rule: str
    symbol: str
    formula: str
    unit: str
    source: str
    inputs: tuple[Input, ...]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The value of a path and the calls behind it, in calling order; ``n_more`` were left out."""

    path: str
    value: Any
    steps: tuple[Explained, ...]
    n_more: int


def _number(value: Any) -> float:
    return float(np.asarray(value, dtype=np.float64).reshape(-1)[0])


class _Origins:
    """Where a number may come from: an earlier rule's output, or a figure of the machine."""

    def __init__(self, recorder: Recorder, partition: Partition) -> None:
        self.by_identity = {id(r.output): f"{r.rule} at {r.path}" for r in recorder.records}
        self.figures: dict[float, str] = {}
        for path, (figure, dimension) in figures(partition.systems[0]).items():
            self.figures.setdefault(figure.value, self._describe(path, figure, dimension))

    @staticmethod
    def _describe(path: str, figure: Figure, dimension: str) -> str:
        return f"system.{path} = {format_quantity(figure.value, dimension)} ({figure.basis}: {figure.source})"

    def of(self, value: Any) -> str:
        if id(value) in self.by_identity:
            return self.by_identity[id(value)]
        number = _number(value)
        # Small whole numbers are counts of the graph; they would match figures by accident.
        if number > 1e4 and number in self.figures:
            return self.figures[number]
        return ""


def _explained(record: Record, origins: _Origins) -> Explained:
    known = RULES[record.rule]
    inputs = tuple(
        Input(name=name, value=_number(value), origin=origins.of(value))
        for name, value in record.inputs.items()
    )
    return Explained(
        path=record.path,
        rule=record.rule,
        symbol=known.symbol,
        formula=known.formula,
        unit=known.unit,
        source=known.source,
        inputs=inputs,
        value=_number(record.output),
    )


def _value_at(data: Any, path: str) -> Any:
    here = data
    for part in path.split("."):
        if isinstance(here, Mapping) and part in here:
            here = here[part]
        else:
            raise KeyError(path)
    return here


def paths_of(estimate: Mapping[str, Any]) -> list[str]:
    """Paths that can be explained: totals, parts, and operators by name."""
    out: list[str] = []
    for key, value in estimate.items():
        if key in (
            "scenario",
            "operators",
            "llmsim_version",
            "reasons",
            "notes",
            "interval",
            "smallest_change",
        ):
            continue
        out.append(key)
        if isinstance(value, Mapping):
            out += [f"{key}.{inner}" for inner in value]
    return out + [f"operators.{row['name']}" for row in estimate["operators"]]


def _operator_value(estimate: Mapping[str, Any], path: str) -> Any:
    name = path.removeprefix("operators.")
    for row in estimate["operators"]:
        if row["name"] == name:
            return row
        if name.startswith(f"{row['name']}.") and name.removeprefix(f"{row['name']}.") in row:
            return row[name.removeprefix(f"{row['name']}.")]
    raise KeyError(path)


def explain(scenario: Scenario | Mapping[str, Any] | str | Path, path: str) -> Explanation:
    """Explain one number of an estimate.

    Parameters
    ----------
    scenario : Scenario, mapping or path
        As for ``simulate``.
    path : str
        As in ``to_dict()``, e.g. "step_time_s", "memory.activations_bytes", "operators.layer.qkv".

    Returns
    -------
    Explanation
        Value, and the rules that were called for it with formula, inputs and sources [unit of each].

    Raises
    ------
    ScenarioError
        If the path does not exist; near ones are offered.
    """
    estimate, partition, recorder = simulate_recorded(scenario)
    data = estimate.to_dict()
    try:
        value = _operator_value(data, path) if path.startswith("operators.") else _value_at(data, path)
    except KeyError:
        known = paths_of(data)
        near = near_names(path, known) or known[:5]
        raise ScenarioError(
            [Problem(path=path, value="", rule="is not in the estimate", fix=f"such as {', '.join(near)}")]
        ) from None
    prefixes = list(HOMES.get(path, (path,)))
    if path.startswith("operators."):
        prefixes = [path, path.rsplit(".", 1)[0]]
    origins = _Origins(recorder, partition)
    found: list[Record] = []
    for prefix in prefixes:
        under = [
            r for r in recorder.under(prefix) if r.rule != "switching_energy" or path.startswith("energy")
        ]
        found += [r for r in under if r not in found]
        if path.startswith("operators.") and found:
            break
    distinct: dict[tuple[Any, ...], Record] = {}
    for r in found:
        distinct.setdefault((r.path, r.rule, _number(r.output)), r)
    records = list(distinct.values())
    return Explanation(
        path=path,
        value=value,
        steps=tuple(_explained(r, origins) for r in records[:MAX_RECORDS]),
        n_more=max(len(records) - MAX_RECORDS, 0),
    )

"""All scenarios of a table through the engine: rows of one structure are one space with one zipped axis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.arrays.columns import FloatArray
from simulator.arrays.shared_columns import dense
from simulator.composition.blocks import cost_blocks
from simulator.legality import registry as legality
from simulator.scenarios.scenario import Plan
from simulator.spaces.partition import Partition, Splitter
from simulator.spaces.space import Space, is_figure, space_from
from simulator.sweeps.sweeping import run_space
from simulator.validation.cases import Case

__all__ = ["Prediction", "predict", "scenario_of"]

_UNCHANGED = "1x"
# Keys that name things instead of counting them: rows that agree in them are evaluated together.
_STRUCTURE = (
    "system",
    "system.calibration",
    "task.logits",
    "plan.attention_kernel",
    "plan.kernel_fusion",
    "plan.precision",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Result columns of one scenario [SI unit], or the legality rule that it breaks."""

    columns: Mapping[str, float]
    broken: str = ""


def scenario_of(case: Case, fidelity: str = "calibrated") -> dict[str, Any]:
    """Scenario of a case as a mapping that ``simulate`` takes, dotted keys at its top; raises nothing."""
    return {"fidelity": fidelity, "task.kind": case.kind, **case.scenario}


def _default(key: str) -> Any:
    return _UNCHANGED if is_figure(key) else Plan.model_fields[key.removeprefix("plan.")].default


def _structure(case: Case) -> str:
    return json.dumps([case.part, case.kind, *(case.scenario.get(key) for key in _STRUCTURE)], sort_keys=True)


def _layer_columns(partition: Partition) -> dict[str, FloatArray]:
    """Seconds of each forward operator by block and name, each of length ``partition.rows.n``."""
    blocks = cost_blocks(partition.structure, partition.inputs)
    n = partition.rows.n
    return {
        f"{block}.{cost.operator.name}_s": np.broadcast_to(dense(cost.busy_s), (n,))
        for block, costs in blocks.forward.items()
        for cost in costs.operators
    }


def _by_row(space: Space, part: str) -> Iterator[tuple[int, dict[str, float]]]:
    """Result columns of each legal row of a space, with its number."""
    if part == "step":
        result = run_space(space)
        parts = [(result.rows, result.columns)]
    else:
        split = Splitter(space).split(np.arange(space.n_rows))
        parts = [(partition.numbers, _layer_columns(partition)) for partition in split.partitions]
    for rows, columns in parts:
        for place, row in enumerate(rows):
            yield int(row), {name: float(values[place]) for name, values in columns.items()}


def _together(cases: Sequence[Case], fidelity: str) -> list[Prediction]:
    """Predictions of cases of one structure, in order."""
    first = cases[0].scenario
    named = {key: first[key] for key in _STRUCTURE if key in first}
    keys = [key for key in dict.fromkeys(key for case in cases for key in case.scenario) if key not in named]
    axis = {key: [case.scenario.get(key, None) for case in cases] for key in keys}
    filled = {
        key: [_default(key) if value is None else value for value in values] for key, values in axis.items()
    }
    space = space_from({"fidelity": fidelity, "task.kind": cases[0].kind, **named, "zip": [filled]})
    found = dict(_by_row(space, cases[0].part))
    out = [Prediction(columns=found.get(row, {})) for row in range(len(cases))]
    missing = np.setdiff1d(np.arange(len(cases)), list(found))
    if missing.size:
        for row, rule in zip(missing, Splitter(space).split(missing).broken, strict=True):
            out[row] = Prediction(columns={}, broken=legality.RULES[int(rule)].name)
    return out


def predict(cases: Sequence[Case], fidelity: str) -> list[Prediction]:
    """Evaluate the scenarios of cases.

    Parameters
    ----------
    cases : sequence of Case
        All with scenarios.
    fidelity : str
        "calibrated", "datasheet" or "bound".

    Returns
    -------
    list of Prediction
        In order, columns in SI units; a row that breaks a legality rule names it.

    Raises
    ------
    ScenarioError, SpecError
        If a scenario has a wrong type or an unknown name.
    """
    members: dict[str, list[int]] = {}
    for number, case in enumerate(cases):
        members.setdefault(_structure(case), []).append(number)
    out: dict[int, Prediction] = {}
    for numbers in members.values():
        out.update(zip(numbers, _together([cases[n] for n in numbers], fidelity), strict=True))
    return [out[number] for number in range(len(cases))]

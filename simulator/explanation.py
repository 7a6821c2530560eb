"""Why a number is what it is: the recorded calls of cost rules behind one path of an estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware_specs import Figure, figures, format_quantity
from hardware_specs.errors import Problem, ScenarioError, near_names
from simulator.device import calibration_of
from simulator.estimate import simulate_recorded
from simulator.explanation_parts import Part, composition_of, paths_of, unit_of, value_at
from simulator.partition import Partition
from simulator.rules import RULES, Record
from simulator.scenario import Scenario

__all__ = ["Explained", "Explanation", "Input", "explain", "paths_of"]

# Paths of to_dict() whose rule is recorded under another path.
HOMES: Mapping[str, tuple[str, ...]] = {
    "time.bubble_s": ("time.pipeline_s",),
    "time.data_parallel_s": ("time.data_parallel_s.gradients", "time.data_parallel_s.weights"),
    "time_to_first_token_s": ("step_time_s",),
    "peak_flop_per_s": ("",),
}
# Inputs that the engine sums up from rules without one of its own.
SUMS: Mapping[str, str] = {
    "sum_of_stages_s": "forward and backward of one micro-batch, all stages in turn",
    "slowest_stage_s": "forward and backward of one micro-batch on the slowest stage: its operators' exposed time",
    "optimizer_s": "sum of operators.optimizer.*",
    "window_s": "pass of the last micro-batch, which the exchange may hide behind",
    "exchange_s": "all buckets of the exchange",
    "layer_j": "one micro-batch through one layer on one rank",
    "ends_j": "one micro-batch through embedding and head on one rank",
    "per_step_j": "optimizer and exchanges of one rank, once per step",
    "parameters": "parameters of the heaviest stage on one rank",
    "per_layer_bytes": "tensors that one layer keeps for the backward pass",
    "ends_bytes": "tensors that the embedding keeps",
    "rebuilt_bytes": "one layer under recomputation, or the logits if they are more",
    "moved_bytes": "every operand read once, every result written once",
    "links": "links of one rank of the group",
}
_COINCIDENCE = 1e4  # smaller whole numbers are counts of the graph; they would match a figure by accident

Number = float | list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a rule: value (a list where it varies over decode steps), unit, and where it comes from."""

    name: str
    value: Number
    unit: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One call of a rule, readable: path, rule, symbol, formula, unit, source, inputs, value [unit]."""

    path: str
    rule: str
    symbol: str
    formula: str
    unit: str
    source: str
    inputs: tuple[Input, ...]
    value: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The value of a path [unit], what it is made of, and the rules behind it.

    Attributes
    ----------
    path, unit : str
        Where the value stands, and its unit.
    value : number, text, bool, mapping or None
        As in ``to_dict()``.
    formula : str
        How it follows from ``parts``, or the formula of its rule.
    parts : tuple of Part
        Numbers of the estimate that it is made of; empty where a rule gives it.
    steps : tuple of Explained
        Calls of rules, that of the number itself first, then those of its inputs.
    """

    path: str
    unit: str
    value: Any
    formula: str
    parts: tuple[Part, ...]
    steps: tuple[Explained, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def _numbers(value: Any) -> list[float]:
    return [float(v) for v in np.asarray(value, dtype=np.float64).reshape(-1)]


def _number(value: Any) -> Number:
    found = _numbers(value)
    return found[0] if len(set(found)) == 1 else found


def _is_telling(value: float) -> bool:
    """Whether a number has so many digits that two equal ones are the same thing."""
    return bool(np.isfinite(value)) and float(f"{value:.7g}") != value


class _Origins:
    """Where a number may come from: an earlier rule's output, a figure of the machine, a fitted coefficient."""

    def __init__(self, records: Sequence[Record], partition: Partition) -> None:
        self.records = {id(r.output): r for r in records}
        self.by_value: dict[tuple[float, ...], Record] = {}
        for r in records:
            values = tuple(_numbers(r.output))
            if any(_is_telling(v) for v in values):
                self.by_value.setdefault(values, r)
        self.figures: dict[float, str] = {}
        for path, (figure, dimension) in figures(partition.systems[0]).items():
            self.figures.setdefault(figure.value, _figure_text(f"system.{path}", figure, dimension))
        self.coefficients: dict[tuple[str, float], str] = {}
        if partition.graphical.fidelity == "calibrated":
            kind = "training" if partition.graphical.kind == "training" else "inference"
            calibration = calibration_of(
                partition.systems[0], "training" if kind == "training" else "inference"
            )
            for path, (figure, _) in figures(calibration).items():
                text = f"{calibration.name}.{path} ({figure.basis}: {figure.source})"
                self.coefficients.setdefault((path.rsplit(".", 1)[-1], figure.value), text)

    def record(self, value: Any) -> Record | None:
        """The call whose output a value is."""
        return self.records.get(id(value)) or self.by_value.get(tuple(_numbers(value)))

    def of(self, name: str, value: Any) -> str:
        found = self.record(value)
        if found is not None:
            return f"{found.rule} at {found.path}" if found.path else found.rule
        number = _numbers(value)[0]
        if (name, number) in self.coefficients:
            return self.coefficients[name, number]
        if number > _COINCIDENCE and number in self.figures:
            return self.figures[number]
        return SUMS.get(name, "")


def _figure_text(path: str, figure: Figure, dimension: str) -> str:
    return f"{path} = {format_quantity(figure.value, dimension)} ({figure.basis}: {figure.source})"


def _explained(record: Record, origins: _Origins) -> Explained:
    known = RULES[record.rule]
    inputs = tuple(
        Input(name=name, value=_number(value), unit=unit_of(name), origin=origins.of(name, value))
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


def _passes(records: Sequence[Record]) -> list[list[Record]]:
    """Records of each evaluated pass: generation evaluates a prefill, then its decode steps."""
    out: list[list[Record]] = [[]]
    composed = False
    for record in records:
        if composed and record.path.startswith("operators."):
            out.append([])
            composed = False
        out[-1].append(record)
        composed = composed or record.path == "step_time_s"
    return out


def _roots(records: Sequence[Record], path: str, value: Any) -> list[Record]:
    """Calls that give the number at a path: of those made for it the one with that output, else the last."""
    homes = HOMES.get(path, (path,))
    if path.startswith("operators."):
        here = [r for r in records if r.path == path]
        return [r for r in here if RULES[r.rule].unit == "s"][-1:] or here[-1:]
    found: list[Record] = []
    for home in homes:
        under = [r for r in records if r.path == home]
        exact = [r for r in under if isinstance(value, float) and value in _numbers(r.output)]
        found += exact[:1] or (under[-1:] if home else [])
    return found


def _chain(roots: Sequence[Record], origins: _Origins) -> list[Record]:
    """The calls and those behind their inputs, the nearest first, each once."""
    out: list[Record] = []
    waiting = list(roots)
    while waiting:
        record = waiting.pop(0)
        if any(record is known for known in out):
            continue
        out.append(record)
        behind = [origins.record(value) for value in record.inputs.values()]
        waiting += [r for r in behind if r is not None and r is not record]
    return out


def _calls(passes: Sequence[list[Record]], data: Mapping[str, Any], path: str) -> list[Record]:
    """Calls for one path; in generation those of the pass that the path names, or of both."""
    chosen: Sequence[list[Record]] = passes
    home = path
    for number, name in enumerate(("prefill", "decode")):
        if path.startswith(f"operators.{name}.") and len(passes) > 1:
            chosen, home = [passes[number]], path.replace(f"operators.{name}.", "operators.", 1)
    if path == "time_to_first_token_s":
        chosen = passes[:1]
    try:
        value = value_at(data, path)
    except KeyError:
        value = None
    if home.startswith("operators.") and isinstance(value, Mapping):
        value = value["busy_s"]
    elif home.startswith("operators."):
        home = home.rsplit(".", 1)[0]
    return [r for records in chosen for r in _roots(records, home, value)]


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
        Value, its parts, and the rules that were called for it with formula, inputs and sources [unit of each].

    Raises
    ------
    ScenarioError
        If the path does not exist; near ones are offered. Otherwise as ``simulate``.
    """
    estimate, partition, recorder = simulate_recorded(scenario)
    data = estimate.to_dict()
    known = paths_of(data)
    parent = path.rsplit(".", 1)[0]
    try:
        value = value_at(data, path)
        listed = path in known or (parent.startswith("operators.") and parent in known)
    except KeyError:
        listed = False
    if not listed:
        near = near_names(path, known) or known[:5]
        fix = f"did you mean {', '.join(near)}?"
        raise ScenarioError(
            [Problem(path="PATH", value=path or '""', rule="is not a number of the estimate", fix=fix)]
        )
    origins = _Origins(recorder.records, partition)
    passes = _passes(recorder.records)
    composition = composition_of(data, path)
    roots = _calls(passes, data, path)
    for part in composition.parts if composition else ():
        if part.path in known:
            roots += _calls(passes, data, part.path)
    steps = tuple(_explained(r, origins) for r in _chain(roots, origins))
    formula, parts = (composition.formula, composition.parts) if composition else ("", ())
    return Explanation(
        path=path,
        unit="" if isinstance(value, (str, bool, Mapping)) or value is None else unit_of(path),
        value=value,
        formula=formula or (steps[0].formula if steps else _figure_of(origins, value)),
        parts=parts,
        steps=steps,
    )


def _figure_of(origins: _Origins, value: Any) -> str:
    return origins.of("", value) if isinstance(value, (int, float)) else ""

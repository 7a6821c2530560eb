"""Why a number is what it is: the recorded calls of cost rules behind one path of an estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hardware_specs.errors import Problem, ScenarioError, near_names
from simulator.estimates.estimate import simulate_recorded
from simulator.estimates.explanation_origins import Origins, numbers
from simulator.estimates.explanation_parts import Part, composition_of, paths_of, unit_of, value_at
from simulator.rules import RULES, Record
from simulator.scenarios.scenario import Scenario

__all__ = ["Explained", "Explanation", "Input", "explain", "paths_of"]

# Paths of to_dict() whose rule is recorded under another path.
HOMES: Mapping[str, tuple[str, ...]] = {
    "time.bubble_s": ("time.pipeline_s",),
    "time.data_parallel_s": ("time.data_parallel_s.gradients", "time.data_parallel_s.weights"),
    "time.offload_s": ("time.offload_s.passes", "time.offload_s.update"),
    "time_to_first_token_s": ("step_time_s",),
    "peak_flop_per_s": ("",),
}
NOTHING = "nothing of this kind in this scenario"
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


def _number(value: Any) -> Number:
    found = numbers(value)
    return found[0] if len(set(found)) == 1 else found


def _explained(record: Record, origins: Origins) -> Explained:
    known = RULES[record.rule]
    inputs = tuple(
        Input(
            name=name, value=_number(value), unit=unit_of(name), origin=origins.of(name, value, record.path)
        )
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
        exact = [r for r in under if isinstance(value, float) and value in numbers(r.output)]
        found += exact[:1] or (under[-1:] if home else [])
    return found


def _told(record: Record, others: Sequence[Record]) -> bool:
    """Whether a call of an operator's rule gave the same as one of another operator: once is enough to read."""
    here = [r for r in others if r.rule == record.rule and record.path.startswith("operators.")]
    return any(numbers(r.output) == numbers(record.output) for r in here)


def _chain(roots: Sequence[Record], origins: Origins) -> list[Record]:
    """The calls and those behind their inputs, the nearest first, each once."""
    out: list[Record] = []
    waiting = list(roots)
    while waiting:
        record = waiting.pop(0)
        if any(record is known for known in out):
            continue
        out.append(record)
        behind = [origins.record(value, record.path) for value in record.inputs.values()]
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
    elif home.startswith("interval."):
        # The rule of a time gives both limits; a rate mirrors the step.
        home = ".".join(home.split(".")[:2]).replace("tokens_per_s", "step_time_s")
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
    origins = Origins(recorder.records, partition)
    passes = _passes(recorder.records)
    composition = composition_of(data, path)
    roots = _calls(passes, data, path)
    for part in composition.parts if composition else ():
        roots += (
            [r for r in _calls(passes, data, part.path) if not _told(r, roots)] if part.path in known else []
        )
    steps = tuple(_explained(r, origins) for r in _chain(roots, origins))
    formula, parts = (composition.formula, composition.parts) if composition else ("", ())
    return Explanation(
        path=path,
        unit="" if isinstance(value, (str, bool, Mapping)) or value is None else unit_of(path),
        value=value,
        formula=formula or (steps[0].formula if steps else _figure_of(origins, path, value)) or NOTHING,
        parts=parts,
        steps=steps,
    )


def _figure_of(origins: Origins, path: str, value: Any) -> str:
    return origins.of(path.rsplit(".", 1)[-1], value) if isinstance(value, (int, float)) else ""

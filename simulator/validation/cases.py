"""One measured row as a case: what was measured, the scenario that stands for it, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hardware_specs.errors import Problem, ScenarioError, near_names, shorten
from simulator.measured_tables.measured_table import Cell, Row, parse_cell
from simulator.measured_tables.table_kinds import TableKind

__all__ = ["Case", "Quantity", "RowReader", "parse_assumptions"]

SMALL_PARAMETERS, LARGE_PARAMETERS = 3e9, 30e9
# Beside the columns: the length of a prompt, and for training runs a calibration for the rows of its device.
EXTRA_ASSUMPTIONS: Mapping[str, str] = {"prompt_length": "count"}
EXTRA_OF_TABLE: Mapping[str, Mapping[str, str]] = {"training_runs": {"calibration": "text"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A measured number and where its prediction stands.

    Attributes
    ----------
    name, unit : str
        Such as "step_time" in "s".
    measured : float or None
        In ``unit``; None where the row does not state it.
    absent : str
        Why ``measured`` is None where no other field is to blame.
    column : str
        Result column of the engine [SI unit].
    less : str
        A column to subtract, or "".
    plus : tuple of str
        Columns to add.
    per : float
        SI value of one ``unit``, or a count to share among [1].
    """

    name: str
    unit: str
    measured: float | None
    column: str
    less: str = ""
    plus: tuple[str, ...] = ()
    per: float = 1.0
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row ready to be scored.

    Attributes
    ----------
    id, source, device, stack, dtype, size_class : str
        What it is grouped by.
    assumed : str
        What was assumed, such as "recompute=none"; empty for nothing.
    quantities : tuple of Quantity
        Measured numbers.
    kind : str
        Task of the scenario.
    scenario : mapping of str to value
        Dotted keys of the scenario, figures included; empty where there are reasons.
    reasons : tuple of str
        Why the row is skipped.
    must_fit : bool
        Whether a prediction that does not fit in memory contradicts the run.
    part : str
        "step": columns are those of a sweep; "layer": seconds of the operators of embedding, layer and head.
    """

    id: str
    source: str
    device: str
    stack: str
    dtype: str
    size_class: str
    assumed: str
    quantities: tuple[Quantity, ...]
    kind: str
    scenario: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    must_fit: bool = False
    part: Literal["step", "layer"] = "step"


def size_class_of(parameters: float | None) -> str:
    """Class of a model by its parameters [1]: small below 3e9, large above 30e9, medium between."""
    if parameters is None:
        return "unknown"
    if parameters < SMALL_PARAMETERS:
        return "small"
    return "large" if parameters > LARGE_PARAMETERS else "medium"


def parse_assumptions(assume: Mapping[str, str], kind: TableKind) -> dict[str, Cell]:
    """Typed values of ``--assume``; ScenarioError for unknown keys and values of the wrong type."""
    known: dict[str, Any] = {**kind.columns, **EXTRA_ASSUMPTIONS, **EXTRA_OF_TABLE.get(kind.name, {})}
    out: dict[str, Cell] = {}
    problems: list[Problem] = []
    for key, value in assume.items():
        if key not in known or key.startswith("measured_") or key == "id":
            near = ", ".join(near_names(key, known)) or ", ".join(known)
            problems.append(
                Problem(
                    path=f"--assume {key}",
                    value=shorten(value),
                    rule="is not a field to assume",
                    fix=f"near: {near}",
                )
            )
            continue
        try:
            out[key] = parse_cell(value, known[key])
        except ValueError as error:
            problems.append(Problem(path=f"--assume {key}", value=shorten(value), rule=str(error)))
            continue
        if out[key] is None:
            problems.append(Problem(path=f"--assume {key}", value=shorten(value), rule="is blank"))
    if problems:
        raise ScenarioError(problems)
    return out


@dataclass(slots=True)
class RowReader:
    """Reads the fields of a row that a scenario needs, and keeps what is missing and what was assumed."""

    row: Row
    assumptions: Mapping[str, Cell]
    reasons: list[str] = field(default_factory=list)
    assumed: dict[str, str] = field(default_factory=dict)

    def skip(self, reason: str) -> None:
        """Note a reason to skip the row, once."""
        if reason not in self.reasons:
            self.reasons.append(reason)

    def assume(self, column: str, blank: str = "") -> Cell:
        """The assumed value of a field, noted; None and a reason where nothing is assumed."""
        if column in self.assumptions:
            self.assumed[column] = str(self.assumptions[column])
            return self.assumptions[column]
        self.skip(blank or f"{column} is blank")
        return None

    def need(self, column: str) -> Cell:
        """A field that the scenario cannot do without."""
        found = self.row.cells.get(column)
        return self.assume(column) if found is None else found

    def need_count(self, column: str) -> int:
        """A whole number that the scenario cannot do without; 0 stands for a missing one [1]."""
        return int(self.need(column) or 0)

    def assumed_text(self) -> str:
        """All assumptions that were used, such as "recompute=none, vpp=1"."""
        return ", ".join(f"{key}={value}" for key, value in sorted(self.assumed.items()))

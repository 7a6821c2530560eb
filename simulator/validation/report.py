"""The entry point, and what it gives back: scores as JSON, as tables for a terminal and as rows for a plot."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_specs import load_system
from hardware_specs.errors import Problem, ScenarioError
from simulator.measured_tables.kernel_kinds import KERNEL_KINDS
from simulator.measured_tables.measured_table import Cell, Row, read_table
from simulator.validation.cases import Case, parse_assumptions
from simulator.validation.eager_model_rows import eager_model_case
from simulator.validation.energy_rows import energy_case
from simulator.validation.floor import FloorViolation, floor_violations
from simulator.validation.kernel_rows import kernel_scores
from simulator.validation.layer_rows import layer_cases
from simulator.validation.predictions import predict
from simulator.validation.run_rows import measured_run_case, system_beside, usual_reference_us
from simulator.validation.scoring import Score, group_scores, score, source_prefix
from simulator.validation.training_rows import training_case
from simulator.validation.wrong_units import refuse_kernels_in_another_unit, refuse_runs_in_another_unit

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Validation", "validate"]

RUNS = "measured_runs"
Reader = Callable[[Sequence[Row], Mapping[str, Cell]], list[Case]]


def _each(of_row: Callable[[Row, Mapping[str, Cell]], Case]) -> Reader:
    """A reader that makes a case of each row."""
    return lambda rows, assumptions: [of_row(row, assumptions) for row in rows]


_CASES: Mapping[str, Reader] = {
    "training_runs": _each(training_case),
    "energy_serving": _each(energy_case),
    "models_e2e": _each(eager_model_case),
    "layer_ops": layer_cases,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Scores of one measured table.

    Attributes
    ----------
    table : str
        Kind of table.
    fidelity : str
        What it was predicted with.
    scores : tuple of Score
        Every quantity of every row, scored or skipped, in the order of the file.
    """

    table: str
    fidelity: str
    scores: tuple[Score, ...]

    def groups(self) -> list[dict[str, Any]]:
        """Errors by source, device, stack, type, quantity, size class and assumption; fractions [1]."""
        return group_scores(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``llmsim validate --format json`` prints exactly this. Errors are fractions [1].

        Under ``bound`` the key "floor_violations" is added.
        """
        out: dict[str, Any] = {
            "table": self.table,
            "groups": self.groups(),
            "rows": [entry.to_dict() for entry in self.scores],
        }
        if self.fidelity == "bound":
            out["floor_violations"] = [found.to_dict() for found in self.floor_violations()]
        return out

    def floor_violations(self) -> list[FloorViolation]:
        """Rows that beat the lower bound, with the likely cause; none where another fidelity was asked for."""
        return floor_violations(self.scores) if self.fidelity == "bound" else []

    def scored(self) -> list[Score]:
        """Rows that have a prediction."""
        return [entry for entry in self.scores if not entry.skipped_because]

    def skip_counts(self) -> list[tuple[str, str, int]]:
        """Quantity, reason and number of rows [1] skipped for it, most first; a row counts by its first reason."""
        counts = Counter(
            (entry.quantity, entry.skipped_because.split("; ")[0])
            for entry in self.scores
            if entry.skipped_because
        )
        return [(quantity, reason, n) for (quantity, reason), n in counts.most_common()]

    def parity_rows(self) -> list[dict[str, Any]]:
        """Rows for a plot of predicted over measured [``unit``]; sources by the letters of the ids."""
        return [
            {**entry.to_dict(), "source": source_prefix(entry.case), "device": entry.case.device}
            for entry in self.scored()
        ]

    def tables(self) -> list[RenderableType]:
        """Tables for a terminal: groups, worst rows, skipped rows by reason."""
        from simulator.validation.summary import summary_tables

        return summary_tables(self)


def _chosen(rows: Sequence[Row], sources: Sequence[str] | None) -> list[Row]:
    if sources is None:
        return list(rows)
    kept = [row for row in rows if row.name.startswith(tuple(sources))]
    if not kept:
        known = sorted({re.sub(r"-\d+$", "", row.name) for row in rows})
        fix = f"ids start with {', '.join(known[:30])}"
        raise ScenarioError(
            [Problem(path="sources", value=", ".join(sources), rule="no id starts with this", fix=fix)]
        )
    return kept


def _mixed(rows: Sequence[Row]) -> None:
    """Refuse rows of several machines in one table; ScenarioError that counts them."""
    counts = Counter(text for row in rows if (text := row.text("machine")))
    if len(counts) > 1:
        told = ", ".join(f"{name} ({count} rows)" for name, count in counts.items())
        rule = f"mixes rows of {len(counts)} machines or settings: {told}"
        fix = "score the table of each llmsim measure folder by itself"
        raise ScenarioError([Problem(path="--data, column machine", value="", rule=rule, fix=fix)])


def _run_cases(
    path: Path, rows: Sequence[Row], assumptions: Mapping[str, Cell], system: str | None
) -> list[Case]:
    cases, usual_us = [], usual_reference_us(path)
    for row in rows:
        found, why_not = (system, "") if system else system_beside(path, row.text("device"))
        cases.append(measured_run_case(row, assumptions, found, why_not, usual_us))
    return cases


def validate(
    path: Path,
    *,
    table: str | None = None,
    assume: Mapping[str, str] | None = None,
    sources: Sequence[str] | None = None,
    fidelity: str = "calibrated",
    system: str | None = None,
) -> Validation:
    """Score the engine against a measured table.

    Parameters
    ----------
    path : Path
        A CSV or Parquet file of a known kind.
    table : str, optional
        Its kind where the columns do not tell.
    assume : mapping of str to str, optional
        Values for blank fields; rows that need them form groups of their own.
    sources : sequence of str, optional
        Keep rows whose id starts with one of these.
    fidelity : str
        "calibrated", "datasheet" or "bound".
    system : str, optional
        Name or file of the system that rows of ``llmsim measure`` ran on; without it the file that ``llmsim
        calibrate`` put beside the table.

    Returns
    -------
    Validation
        Scores of all rows: seconds, GiB or joules against what was measured.

    Raises
    ------
    SpecError
        If the file cannot be read, lacks columns or has wrong cells, or holds times in another unit.
    ScenarioError
        If the table is not one that is scored, an assumption or a source is unknown, or machines are mixed.
    """
    if fidelity not in ("calibrated", "datasheet", "bound"):
        raise ScenarioError(
            [
                Problem(
                    path="fidelity",
                    value=fidelity,
                    rule="is not known",
                    fix="use calibrated, datasheet or bound",
                )
            ]
        )
    read = read_table(Path(path), table)
    chosen = _chosen(read.rows, sources)
    _mixed(chosen)
    if read.kind.name in KERNEL_KINDS:
        beside = system or system_beside(Path(path), chosen[0].text("device"))[0]
        own = load_system(beside) if beside else None
        refuse_kernels_in_another_unit(Path(path).name, read.kind.name, chosen, own)
        kernels = tuple(kernel_scores(read.kind.name, chosen, fidelity, own))
        return Validation(table=read.kind.name, fidelity=fidelity, scores=kernels)
    assumptions = parse_assumptions(assume or {}, read.kind)
    if read.kind.name == RUNS:
        cases = _run_cases(Path(path), chosen, assumptions, system)
    else:
        cases = _CASES[read.kind.name](chosen, assumptions)
    ready = [case for case in cases if case.scenario]
    predictions = dict(zip((id(case) for case in ready), predict(ready, fidelity), strict=True))
    scores = [entry for case in cases for entry in score(case, predictions.get(id(case)))]
    refuse_runs_in_another_unit(Path(path).name, scores)
    return Validation(table=read.kind.name, fidelity=fidelity, scores=tuple(scores))

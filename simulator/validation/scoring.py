"""Errors of predictions, by row and by group."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.validation.cases import Case, Quantity
from simulator.validation.predictions import Prediction

__all__ = ["Score", "group_scores", "score", "source_prefix", "statistics"]

GROUP_KEYS = ("source", "device", "stack", "dtype", "quantity", "unit", "size_class", "assumed")
WORST_PERCENTILE = 90
# Result columns that are the time of one step.
STEP_COLUMNS = ("step_time_s", "time_per_output_token_s", "time_to_first_token_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One quantity of one row: measured, predicted and its interval [``unit``], or why it is skipped.

    ``compute_floor_s`` is the time that the units of a single kernel need at their peak [s], under ``bound``.
    """

    case: Case
    quantity: str
    unit: str
    measured: float | None
    predicted: float | None
    skipped_because: str
    low: float | None = None
    high: float | None = None
    compute_floor_s: float | None = None

    @property
    def inside(self) -> bool | None:
        """Whether the measured value lies in the stated interval; None where none is stated."""
        if self.measured is None or self.low is None or self.high is None:
            return None
        return self.low <= self.measured <= self.high

    @property
    def error(self) -> float:
        """Predicted over measured minus one [1]; NaN where it is skipped."""
        if self.measured is None or self.predicted is None:
            return float("nan")
        return self.predicted / self.measured - 1.0

    def to_dict(self) -> dict[str, Any]:
        """The row of the JSON contract."""
        return {
            "id": self.case.id,
            "quantity": self.quantity,
            "unit": self.unit,
            "measured": self.measured,
            "predicted": self.predicted,
            "low": self.low,
            "high": self.high,
            "assumed": self.case.assumed or None,
            "skipped_because": self.skipped_because or None,
        }


def _skipped(case: Case, quantity: Quantity, prediction: Prediction | None) -> str:
    reasons = list(case.reasons)
    if quantity.absent:
        # Nothing to compare with outweighs what the scenario lacks.
        reasons.insert(0, quantity.absent)
    if prediction is not None and prediction.broken:
        reasons.append(f"illegal: {prediction.broken}")
    if prediction is not None and case.must_fit and prediction.columns.get("feasible") == 0:
        reasons.append("the batch does not fit in memory, so the server ran fewer at a time")
    return "; ".join(reasons)


def _interval(quantity: Quantity, prediction: Prediction) -> tuple[float | None, float | None]:
    """Interval of a quantity that is a whole step [its unit]; none is stated for parts of a step or for bytes."""
    whole = quantity.column in STEP_COLUMNS and not quantity.less and not quantity.plus
    bounds = [prediction.columns.get(name, math.nan) for name in ("step_time_low_s", "step_time_high_s")]
    if not whole or math.isnan(bounds[0]):
        return None, None
    return bounds[0] / quantity.per, bounds[1] / quantity.per


def score(case: Case, prediction: Prediction | None) -> list[Score]:
    """Scores of all quantities of a case; ``prediction`` is None where it has no scenario."""
    out = []
    for quantity in case.quantities:
        because = _skipped(case, quantity, prediction)
        predicted, low, high = None, None, None
        if prediction is not None and not because:
            less = prediction.columns[quantity.less] if quantity.less else 0.0
            whole = sum(prediction.columns[name] for name in (quantity.column, *quantity.plus))
            predicted = (whole - less) / quantity.per
            low, high = _interval(quantity, prediction)
        out.append(
            Score(
                case=case,
                quantity=quantity.name,
                unit=quantity.unit,
                measured=quantity.measured,
                predicted=predicted,
                skipped_because=because,
                low=low,
                high=high,
            )
        )
    return out


def source_prefix(case: Case) -> str:
    """Short name of a source: the id without its number, else the source itself (no id, or one of several rows)."""
    named = case.id.startswith("row-") or "/" in case.id
    return case.source if named else re.sub(r"-\d+$", "", case.id)


def _key(entry: Score) -> tuple[str, ...]:
    case = entry.case
    return (
        case.source,
        case.device,
        case.stack,
        case.dtype,
        entry.quantity,
        entry.unit,
        case.size_class,
        case.assumed,
    )


def statistics(scored: Sequence[Score]) -> dict[str, float | None]:
    """Errors of scored rows.

    Parameters
    ----------
    scored : sequence of Score
        Rows with a prediction.

    Returns
    -------
    dict
        ``mape``, ``median_ape``, ``bias`` (mean signed error) and ``p90_ape`` as fractions [1]; None without
        rows. Raises nothing.
    """
    if not scored:
        return dict.fromkeys(("mape", "median_ape", "bias", "p90_ape"))
    errors = np.array([entry.error for entry in scored])
    sizes = np.abs(errors)
    return {
        "mape": float(np.mean(sizes)),
        "median_ape": float(np.median(sizes)),
        "bias": float(np.mean(errors)),
        "p90_ape": float(np.percentile(sizes, WORST_PERCENTILE)),
    }


def coverage(scored: Sequence[Score]) -> float | None:
    """Share of rows inside their stated intervals [1]; None where no row states one."""
    inside = [entry.inside for entry in scored if entry.inside is not None]
    return sum(inside) / len(inside) if inside else None


def group_scores(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Groups of the JSON contract.

    Parameters
    ----------
    scores : sequence of Score
        All rows, skipped ones too.

    Returns
    -------
    list of dict
        In order of first appearance: ``rows`` scored and ``skipped`` [1], errors as fractions [1] (None
        where no row is scored), ``bias`` the mean signed error. Raises nothing.
    """
    groups: dict[tuple[str, ...], list[Score]] = {}
    for entry in scores:
        groups.setdefault(_key(entry), []).append(entry)
    out = []
    for key, members in groups.items():
        scored = [m for m in members if not m.skipped_because]
        named: dict[str, Any] = dict(zip(GROUP_KEYS, key, strict=True))
        named["assumed"] = named["assumed"] or None
        out.append(
            {
                **named,
                "rows": len(scored),
                "skipped": len(members) - len(scored),
                **statistics(scored),
                "interval_coverage": coverage(scored),
            }
        )
    return out

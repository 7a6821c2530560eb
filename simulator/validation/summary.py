"""Scores as tables for a terminal: errors by group, the worst rows, and what was skipped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simulator.validation.floor import MEANING
from simulator.validation.scoring import Score, coverage, source_prefix, statistics

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from simulator.validation.floor import FloorViolation
    from simulator.validation.report import Validation

__all__ = ["summary_tables"]

WORST_ROWS = 10
PERCENT = 100.0
MEBIBYTE = 2**20
ERRORS = ("mape", "median_ape", "bias")


def _percent(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{PERCENT * value:+.1f} %" if signed else f"{PERCENT * value:.1f} %"


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in left:
        table.add_column(name, overflow="fold", min_width=8)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add(table: Table, label: str, scores: Sequence[Score], **style: Any) -> None:
    from rich.text import Text

    scored = [entry for entry in scores if not entry.skipped_because]
    errors = statistics(scored)
    cells = [_percent(errors[name], signed=name == "bias") for name in ERRORS]
    share = coverage(scored)
    inside = "-" if share is None else f"{PERCENT * share:.0f} %"
    table.add_row(Text(label), f"{len(scored)} of {len(scores)}", *cells, inside, **style)


def _groups(validation: Validation, quantity: str) -> Table:
    """Groups of one quantity that have scored rows; sums over sizes and assumptions where there are several."""
    scores = [entry for entry in validation.scores if entry.quantity == quantity]
    n_scored = sum(not entry.skipped_because for entry in scores)
    title = f"{validation.table}, {quantity}: scored {n_scored} of {len(scores)}"
    table = _table(
        title,
        ["source, device, type, size (assumed)"],
        ["rows", "MAPE", "median", "bias", "inside"],
    )
    table.caption, table.caption_justify = "inside: measured values within the stated 90 % intervals", "left"
    families: dict[str, dict[str, list[Score]]] = {}
    for entry in scores:
        case = entry.case
        family = " ".join((source_prefix(case), case.device, case.dtype))
        part = case.size_class + (f" ({case.assumed})" if case.assumed else "")
        families.setdefault(family, {}).setdefault(part, []).append(entry)
    for part, found in _overall(scores).items():
        _add(table, part, found, style="bold")
    for family, parts in families.items():
        shown = {part: found for part, found in parts.items() if any(not s.skipped_because for s in found)}
        if len(shown) > 1:
            _add(
                table, f"{family}, all", [entry for found in parts.values() for entry in found], style="bold"
            )
        for part, found in shown.items():
            _add(table, f"  {part}" if len(shown) > 1 else f"{family}, {part}", found)
    return table


def _overall(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Scored rows that are fitted and those that are left out, where a calibration knows both."""
    parts: dict[str, list[Score]] = {"all rows, fitted": [], "all rows, left out": []}
    for entry in scores:
        if not entry.skipped_because:
            out = entry.case.size_class.endswith("left out")
            parts["all rows, left out" if out else "all rows, fitted"].append(entry)
    return parts if all(parts.values()) else {}


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.4g} {unit}"


def _worst(validation: Validation) -> Table:
    from rich.text import Text

    scored = sorted(validation.scored(), key=lambda entry: -abs(entry.error))
    shown = scored[:WORST_ROWS]
    title = f"worst {len(shown)} of {len(scored)} scored"
    table = _table(title, ["row", "quantity"], ["measured", "predicted", "error"])
    for entry in shown:
        table.add_row(
            Text(entry.case.id),
            entry.quantity,
            _number(entry.measured, entry.unit),
            _number(entry.predicted, entry.unit),
            _percent(entry.error, signed=True),
        )
    return table


def _skips(validation: Validation) -> Table:
    from rich.text import Text

    counts = validation.skip_counts()
    total = sum(count for _, _, count in counts)
    title = f"skipped {total} of {len(validation.scores)}, by first reason"
    table = _table(title, ["quantity", "reason"], ["rows"])
    for quantity, reason, count in counts:
        table.add_row(quantity, Text(reason), str(count))
    return table


def _floor(found: Sequence[FloorViolation]) -> list[Table]:
    """Rows faster than the bound: how many of each device and kind have which cause, and the fastest."""
    from rich.text import Text

    causes: dict[tuple[str, ...], Counter[str]] = {}
    for v in found:
        case = v.score.case
        causes.setdefault((case.device, case.stack, v.score.quantity), Counter())[v.cause] += 1
    counts = _table(
        f"rows faster than the bound: {len(found)}", ["device", "stack", "quantity"], list(MEANING)
    )
    counts.caption = "\n".join(f"{cause}: {meaning}" for cause, meaning in MEANING.items())
    counts.caption_justify = "left"
    for kind, n in causes.items():
        counts.add_row(*(Text(word) for word in kind), *(str(n[cause]) for cause in MEANING))
    title = f"fastest {min(WORST_ROWS, len(found))} of {len(found)}"
    fastest = _table(title, ["row", "quantity", "cause", "limit"], ["measured", "bound", "not moved"])
    for v in found[:WORST_ROWS]:
        fastest.add_row(
            Text(v.score.case.id),
            v.score.quantity,
            v.cause,
            v.limit,
            _number(v.score.measured, "s"),
            _number(v.score.predicted, "s"),
            _number(v.missing_bytes / MEBIBYTE if v.missing_bytes else None, "MiB"),
        )
    return [counts, fastest]


def summary_tables(validation: Validation) -> list[RenderableType]:
    """Tables for a terminal.

    Parameters
    ----------
    validation : Validation
        Scores; errors are shown in percent of the measured value.

    Returns
    -------
    list of renderables
        For each quantity its groups with scored rows (the title says scored of total), then the worst rows,
        under ``bound`` the rows that beat it, then the skipped rows by reason. Raises nothing.
    """
    quantities = dict.fromkeys(entry.quantity for entry in validation.scores)
    out: list[RenderableType] = [_groups(validation, quantity) for quantity in quantities]
    if validation.scored():
        out.append(_worst(validation))
    too_fast = validation.floor_violations()
    if too_fast:
        out += _floor(too_fast)
    if validation.skip_counts():
        out.append(_skips(validation))
    return out

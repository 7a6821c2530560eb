"""Where the step goes: exposed time by class, and by operator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import axes_in, clean, new_figure, save, titles
from reports.estimate_fields import (
    Rows,
    axis_suffix,
    number,
    operator_class,
    operator_label,
    part_rows,
    plan_text,
    scenario_text,
    shorten,
)
from reports.human_numbers import axis_unit, format_fraction, format_time
from reports.palette import CLASS_LABELS, INK, PAPER, SOFT_INK, colour_of
from reports.stacked_bar import draw_parts, legend_height_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["operator_table", "plot_time", "time_figure", "time_table"]

TOP_OPERATORS = 12
_LONGEST_OTHER = 3.0  # of the longest named operator
_PAPER = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
_SUMMED = ("count", "flop", "bytes", "message_bytes", "busy_s", "exposed_s")


def time_table(estimate: Mapping[str, Any]) -> Rows:
    """Exposed time of the step by class.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``; its ``time`` holds exposed seconds.

    Returns
    -------
    list of dict
        ``class``, ``label``, ``exposed_s`` [s], ``fraction`` (of the sum) [1]; the six classes in fixed
        order, zeros included, then any class that is not known here. ``exposed_s`` sums to the step time.

    Notes
    -----
    Raises nothing. Source: only the mapping; nothing is recomputed.
    """
    return part_rows(estimate.get("time"), "_s", CLASS_LABELS, "class", "exposed_s")


def operator_table(estimate: Mapping[str, Any], top: int = TOP_OPERATORS) -> Rows:
    """The operators with the longest exposed time, and one row for all the others.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``; rows of ``operators`` with one name, module and phase are added up.
    top : int
        Rows before the one called other.

    Returns
    -------
    list of dict
        At most ``top + 1`` rows: ``operator``, ``phase``, ``class``, ``bound``, ``operators`` (how many
        names), ``count``, ``flop`` [FLOP], ``bytes`` and ``message_bytes`` [byte], ``busy_s`` and
        ``exposed_s`` [s], ``fraction`` (of all exposed time) [1]. ``exposed_s`` sums to the step time.

    Notes
    -----
    Ties keep the order of the estimate. Raises nothing. Source: only the mapping.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for operator in estimate.get("operators") or ():
        groups.setdefault((operator_label(operator), str(operator.get("phase"))), []).append(operator)
    rows = [_sum(label, members) for (label, _), members in groups.items()]
    rows.sort(key=lambda row: (-row["exposed_s"], -row["busy_s"]))
    rest = rows[top:]
    if len(rest) > 1:
        other = {
            **_sum("", rest),
            "operator": f"other ({len(rest)} operators)",
            "phase": "",
            "class": "other",
            "bound": "",
        }
        rows = [*rows[:top], {**other, "operators": len(rest)}]
    total = math.fsum(row["exposed_s"] for row in rows)
    return [{**row, "fraction": row["exposed_s"] / total if total else 0.0} for row in rows]


def _sum(label: str, members: list[Any]) -> dict[str, Any]:
    first = members[0]
    sums = {name: math.fsum(number(member, name) for member in members) for name in _SUMMED}
    return {
        "operator": label,
        "phase": first.get("phase") or "",
        "class": operator_class(first),
        "bound": first.get("bound") or "",
        "operators": 1,
        **sums,
    }


def time_figure(estimate: Mapping[str, Any]) -> Figure:
    """Stacked bar of the classes above bars of the top operators; see ``plot_time``."""
    classes, operators = time_table(estimate), operator_table(estimate)
    legend = legend_height_in(classes, "exposed_s")
    list_height = 0.30 * max(1, len(operators)) + 0.1
    height = 0.75 + 0.6 + legend + 0.1 + list_height + 0.65
    figure = new_figure(height)
    step = math.fsum(row["exposed_s"] for row in classes)
    titles(
        figure,
        f"Step time {format_time(estimate.get('step_time_s'))}: {scenario_text(estimate)}",
        plan_text(estimate),
    )

    scale, unit = axis_unit(step, "s")
    above = axes_in(figure, 0.35, height - 0.75 - 0.6, 0.35, 0.75)
    draw_parts(above, classes, "class", "exposed_s", scale, format_time)
    above.set_xlabel(f"Exposed time by class ({unit}), {axis_suffix(estimate)}", size=9.5)

    below = axes_in(figure, 2.9, 0.65, 1.5, height - 0.65 - list_height)
    _draw_operators(below, operators, scale)
    below.set_xlabel(f"Time by operator ({unit}); solid: exposed, pale: hidden behind other work", size=9.5)
    return figure


def _draw_operators(axes: Axes, rows: Rows, scale: float) -> None:
    if not rows:
        words = "no operators in this estimate"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=SOFT_INK)
        axes.set(xlim=(0, 1), yticks=[])
        return
    longest = _longest(rows) or scale
    for place, row in enumerate(rows):
        _draw_operator(axes, place, row, scale, 1.05 * longest)
    axes.set(xlim=(0, 1.05 * longest / scale), ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticks(range(len(rows)), [clean(shorten(row["operator"], 38)) for row in rows])
    axes.tick_params(axis="y", length=0)


def _longest(rows: Rows) -> float:
    """The longest bar to show: 'other' and hidden time can dwarf the rest, and are cut."""
    named = max((row["exposed_s"] for row in rows if row["class"] != "other"), default=0.0)
    longest = min(max(row["exposed_s"] for row in rows), _LONGEST_OTHER * named)
    return float(longest or max(row["busy_s"] for row in rows))


def _draw_operator(axes: Axes, place: int, row: dict[str, Any], scale: float, limit: float) -> None:
    """One bar: exposed solid, hidden pale; figures at the right edge."""
    colour, hatch = colour_of(row["class"]), "////" if row["class"] == "other" else None
    busy, exposed = min(row["busy_s"], limit) / scale, min(row["exposed_s"], limit) / scale
    at_edge: dict[str, Any] = {"va": "center", "color": INK, "transform": axes.get_yaxis_transform()}
    axes.barh(place, exposed, height=0.66, color=colour, hatch=hatch, edgecolor="#ffffff", linewidth=0)
    if busy > exposed:
        axes.barh(place, busy - exposed, left=exposed, height=0.66, color=colour, alpha=0.28)
    if row["exposed_s"] > limit:
        axes.text(0.985, place, "cut off", ha="right", size=8, bbox=_PAPER, **at_edge)
    words = f"{format_time(row['exposed_s'])}  ({format_fraction(row['fraction'])})"
    axes.text(1.02, place, words, size=9, **at_edge)


def plot_time(estimate: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the exposed time by class and by operator.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``.
    path : str or Path
        PNG file to write.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ReportError
        If the file cannot be written.

    Notes
    -----
    Times are exposed seconds of one device, scaled to a readable unit. The tables behind it are
    ``time_table`` and ``operator_table`` (its source).
    """
    return save(time_figure(estimate), path)

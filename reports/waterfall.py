"""Why one figure is not another: steps from the first to the second that sum exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import axes_in, clean, new_figure, save, titles
from reports.errors import ReportError
from reports.estimate_fields import Rows, number, scenario_text, shorten
from reports.human_numbers import axis_unit, format_fraction, format_si, format_time
from reports.palette import INK, SOFT_INK, colour_of
from reports.time_breakdown import time_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compare_parts", "plot_waterfall", "waterfall_figure", "waterfall_table"]

# Parts that miss the difference by more than this share of the larger end are a mistake, not rounding.
_CLOSURE = 1e-9


def compare_parts(before: Mapping[str, Any], after: Mapping[str, Any]) -> Rows:
    """The change of the step time between two estimates, by class of time.

    Parameters
    ----------
    before, after : mapping
        Two ``Estimate.to_dict()``.

    Returns
    -------
    list of dict
        ``label``, ``class``, ``delta`` [s]; classes that are zero in both are left out. ``delta`` sums to
        the difference of the step times.

    Notes
    -----
    Raises nothing. Source: the ``time`` tables of both estimates.
    """
    first = {row["class"]: row for row in time_table(before)}
    second = {row["class"]: row for row in time_table(after)}
    parts: Rows = []
    for name in dict.fromkeys([*first, *second]):
        old, new = (table.get(name, {}).get("exposed_s", 0.0) for table in (first, second))
        if old or new:
            parts.append(
                {"label": (first.get(name) or second[name])["label"], "class": name, "delta": new - old}
            )
    return parts


def waterfall_table(
    start: float,
    end: float,
    parts: Iterable[Mapping[str, Any]],
    *,
    start_label: str = "A",
    end_label: str = "B",
) -> Rows:
    """Bars of a waterfall from ``start`` to ``end``.

    Parameters
    ----------
    start, end : float
        The two figures, in one unit.
    parts : iterable of mappings
        ``label``, ``delta`` (same unit) and, for a fixed colour, ``class``.
    start_label, end_label : str
        Names of the two ends.

    Returns
    -------
    list of dict
        ``label``, ``class``, ``from``, ``to``, ``delta`` [unit]; the first row rises from zero to
        ``start``, the last to ``end``, and each part begins where the one before it stopped.

    Raises
    ------
    ReportError
        If the parts miss ``end - start`` by more than 1e-9 of the larger end.

    Notes
    -----
    What rounding leaves (at most 1e-9) goes into the last part's end, so that the bars close exactly.
    Source: only the arguments.
    """
    given = [dict(part) for part in parts]
    total = math.fsum(float(part["delta"]) for part in given)
    if abs(start + total - end) > _CLOSURE * max(abs(start), abs(end)):
        raise ReportError(
            f"the parts of the waterfall sum to {total!r} but the ends differ by {end - start!r}; "
            "add the missing part"
        )
    rows: Rows = [{"label": start_label, "class": "total", "from": 0.0, "to": start, "delta": start}]
    for place, part in enumerate(given):
        last = place == len(given) - 1
        stop = end if last else math.fsum([start, *(float(other["delta"]) for other in given[: place + 1])])
        rows.append(
            {
                "label": str(part["label"]),
                "class": part.get("class") or "",
                "from": rows[-1]["to"],
                "to": stop,
                "delta": float(part["delta"]),
            }
        )
    return [*rows, {"label": end_label, "class": "total", "from": 0.0, "to": end, "delta": end}]


def waterfall_figure(
    start: float,
    end: float,
    parts: Iterable[Mapping[str, Any]],
    *,
    start_label: str = "A",
    end_label: str = "B",
    unit: str = "s",
    title: str = "",
) -> Figure:
    """Horizontal bars, one per part, each beginning where the last one ended; see ``plot_waterfall``."""
    rows = waterfall_table(start, end, parts, start_label=start_label, end_label=end_label)
    scale, name = axis_unit(max(abs(row["to"]) for row in rows), unit)
    height = 0.75 + 0.36 * len(rows) + 0.7
    figure = new_figure(height)
    change = f" ({'+' if end >= start else '-'}{format_fraction(abs(end - start) / start)})" if start else ""
    titles(
        figure,
        f"{end_label} against {start_label}: {format_si(start, unit)} to {format_si(end, unit)}{change}",
        title,
    )
    axes = axes_in(figure, 2.9, 0.65, 1.5, 0.75)
    for place, row in enumerate(rows):
        total = row["class"] == "total"
        direction = "slower" if row["delta"] > 0 else "faster"
        axes.barh(
            place,
            (row["to"] - row["from"]) / scale,
            left=row["from"] / scale,
            height=0.66,
            linewidth=0,
            color=colour_of(row["class"] or direction),
        )
        if place < len(rows) - 1:
            # A part of zero has no bar: the connecting line runs on through its place.
            top = place - 0.33 if row["from"] == row["to"] else place + 0.33
            axes.plot([row["to"] / scale] * 2, [top, place + 0.67], color=SOFT_INK, linewidth=0.8)
        sign = "" if total or row["delta"] == 0 else "+" if row["delta"] > 0 else "-"
        form = format_time if unit == "s" else lambda value: format_si(value, unit)
        axes.text(
            1.02,
            place,
            f"{sign}{form(abs(row['delta']))}",
            size=9,
            va="center",
            color=INK,
            weight="bold" if total else "normal",
            transform=axes.get_yaxis_transform(),
        )
    ends = [value / scale for row in rows for value in (row["from"], row["to"])]
    axes.set(xlim=(min(ends), max(ends) * 1.05 or 1.0), ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticks(range(len(rows)), [clean(shorten(row["label"], 38)) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{'Step time' if unit == 's' else 'Value'} ({name})", size=9.5)
    return figure


def plot_waterfall(
    start: float,
    end: float,
    parts: Iterable[Mapping[str, Any]],
    path: str | Path,
    *,
    start_label: str = "A",
    end_label: str = "B",
    unit: str = "s",
    title: str = "",
) -> Path:
    """Draw how one figure becomes another, part by part.

    Parameters
    ----------
    start, end : float
        The two figures, in ``unit``.
    parts : iterable of mappings
        ``label``, ``delta`` [unit] and, for the colour of a class of time, ``class``; they must sum to
        ``end - start``.
    path : str or Path
        PNG file to write.
    start_label, end_label : str
        Names of the two ends.
    unit : str
        Unit of all figures, without a prefix.
    title : str
        Second line of the title.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ReportError
        If the parts do not sum, or the file cannot be written.

    Notes
    -----
    The table behind it is ``waterfall_table`` (its source).
    """
    return save(
        waterfall_figure(
            start, end, parts, start_label=start_label, end_label=end_label, unit=unit, title=title
        ),
        path,
    )


def plot_compare(before: Mapping[str, Any], after: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the step time of one estimate becoming that of another, by class of time.

    Parameters
    ----------
    before, after : mapping
        Two ``Estimate.to_dict()``, times in seconds.
    path : str or Path
        PNG file to write.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ReportError
        If the times of an estimate do not sum to its step time, or the file cannot be written.

    Notes
    -----
    The table behind it is ``compare_parts`` (its source).
    """
    return plot_waterfall(
        number(before, "step_time_s"),
        number(after, "step_time_s"),
        compare_parts(before, after),
        path,
        title=f"A: {scenario_text(before)}; B: {scenario_text(after)}",
    )

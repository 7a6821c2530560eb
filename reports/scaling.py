"""Strong scaling: the same work on more devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import axes_in, legend_in, new_figure, save, titles
from reports.estimate_fields import Rows, number
from reports.human_numbers import axis_unit
from reports.palette import BLUE, INK, PAPER, SOFT_INK, VERMILLION
from reports.tables import rows_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_scaling", "scaling_figure", "scaling_table"]


def scaling_table(points: pd.DataFrame | Iterable[Mapping[str, Any]]) -> Rows:
    """Speed-up and efficiency relative to the smallest device count.

    Parameters
    ----------
    points : frame or iterable of mappings
        ``devices`` [1] and ``step_time_s`` [s]; ``tokens_per_s`` [1/s], ``measured_step_time_s`` [s],
        ``feasible`` and ``label`` (such as the plan) where known. Points without devices or a step time are
        left out.

    Returns
    -------
    list of dict
        In order of devices: those columns, and ``speedup``, ``ideal_speedup``, ``efficiency_fraction`` and
        ``measured_efficiency_fraction`` [1]. Of several points with one device count the fastest is kept.

    Notes
    -----
    With t(n) the step time, speed-up is t(n0)/t(n), the ideal is n/n0 and efficiency their quotient; the
    work per step must be the same in all points. Raises nothing. Source: G. M. Amdahl, AFIPS SJCC 1967,
    doi:10.1145/1465482.1465560 (fixed work).
    """
    known = [row for row in rows_of(points) if number(row, "devices") > 0 and number(row, "step_time_s") > 0]
    known.sort(key=lambda row: (row["devices"], row["step_time_s"]))
    fastest = {row["devices"]: row for row in reversed(known)}
    table: Rows = []
    for devices in sorted(fastest):
        row, first = fastest[devices], fastest[min(fastest)]
        speedup, ideal = first["step_time_s"] / row["step_time_s"], devices / first["devices"]
        measured = number(row, "measured_step_time_s")
        base = number(first, "measured_step_time_s") or first["step_time_s"]
        table.append(
            {
                "devices": devices,
                "step_time_s": row["step_time_s"],
                "tokens_per_s": row.get("tokens_per_s"),
                "speedup": speedup,
                "ideal_speedup": ideal,
                "efficiency_fraction": speedup / ideal,
                "measured_step_time_s": measured or None,
                "measured_efficiency_fraction": base / measured / ideal if measured else None,
                "feasible": bool(row.get("feasible", True)),
                "label": str(row.get("label") or ""),
            }
        )
    return table


def scaling_figure(points: pd.DataFrame | Iterable[Mapping[str, Any]], title: str = "") -> Figure:
    """Step time and efficiency over devices; see ``plot_scaling``."""
    rows = scaling_table(points)
    labelled = any(row["label"] for row in rows)
    figure = new_figure(6.3)
    titles(
        figure,
        f"Strong scaling: {title}" if title else "Strong scaling",
        f"the same step on more devices; ideal line from {rows[0]['devices']:,} devices" if rows else "",
    )
    above = axes_in(figure, 0.85, 2.75, 0.3, 0.8, grid="both")
    below = axes_in(figure, 0.85, 1.0, 0.3, 4.05, grid="both")
    if not rows:
        above.text(
            0.5,
            0.5,
            "no point has devices and a step time",
            transform=above.transAxes,
            ha="center",
            color=SOFT_INK,
        )
    _draw_times(above, rows)
    _draw_efficiency(below, rows, labelled)
    return figure


def _device_axis(axes: Axes, rows: Rows, *, named: bool) -> None:
    from matplotlib.ticker import NullLocator

    counts = [row["devices"] for row in rows]
    axes.set_xscale("log")
    if counts:
        axes.set_xlim(min(counts) / 1.3, max(counts) * 1.3)
        step = -(-len(counts) // 12)  # at most twelve tick labels
        axes.set_xticks(
            counts[::-1][::step], [f"{count:,}" for count in counts[::-1][::step]] if named else []
        )
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_times(axes: Axes, rows: Rows) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    scale, unit = axis_unit(max((row["step_time_s"] for row in rows), default=1.0), "s")
    _device_axis(axes, rows, named=False)
    axes.set_yscale("log")
    counts = [row["devices"] for row in rows]
    axes.plot(
        counts,
        [rows[0]["step_time_s"] / row["ideal_speedup"] / scale for row in rows],
        "--",
        color=SOFT_INK,
        linewidth=1.4,
    )
    axes.plot(counts, [row["step_time_s"] / scale for row in rows], color=BLUE, linewidth=1.8)
    for row in rows:
        axes.plot(
            row["devices"],
            row["step_time_s"] / scale,
            "o",
            color=BLUE,
            markersize=7,
            markeredgecolor=BLUE,
            markerfacecolor=BLUE if row["feasible"] else PAPER,
        )
        if row["measured_step_time_s"]:
            axes.plot(
                row["devices"], row["measured_step_time_s"] / scale, "D", color=VERMILLION, markersize=6
            )
    axes.set_ylabel(f"Step time ({unit})", size=9.5)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    handles = [
        Line2D([], [], color=BLUE, marker="o", label="estimate"),
        Line2D([], [], color=SOFT_INK, linestyle="--", label="ideal"),
    ]
    if any(row["measured_step_time_s"] for row in rows):
        handles.append(Line2D([], [], color=VERMILLION, marker="D", linestyle="", label="measured"))
    if not all(row["feasible"] for row in rows):
        handles.append(
            Line2D(
                [],
                [],
                color=BLUE,
                markerfacecolor=PAPER,
                marker="o",
                linestyle="",
                label="does not fit in memory",
            )
        )
    axes.legend(handles=handles, frameon=False, fontsize=9, labelcolor=INK, loc="lower left")


def _draw_efficiency(axes: Axes, rows: Rows, labelled: bool) -> None:
    from matplotlib.lines import Line2D

    _device_axis(axes, rows, named=True)
    counts = [row["devices"] for row in rows]
    axes.plot(counts, [100.0] * len(counts), "--", color=SOFT_INK, linewidth=1.4)
    axes.plot(
        counts,
        [100 * row["efficiency_fraction"] for row in rows],
        color=BLUE,
        linewidth=1.8,
        marker="o",
        markersize=6,
    )
    measured = [row for row in rows if row["measured_efficiency_fraction"]]
    axes.plot(
        [row["devices"] for row in measured],
        [100 * row["measured_efficiency_fraction"] for row in measured],
        "D",
        color=VERMILLION,
        markersize=6,
    )
    top = max((row["efficiency_fraction"] for row in rows), default=1.0)
    axes.set_ylim(0, 100 * max(1.15, 1.15 * top))
    axes.set_ylabel("Efficiency (%)", size=9.5)
    axes.set_xlabel("Devices (1)", size=9.5)
    if labelled and len(rows) <= 8:
        words = [f"{row['devices']:,}: {row['label']}" for row in rows if row["label"]]
        legend_in(axes, [Line2D([], [], linestyle="", label=word) for word in words], 4, 0.5)


def plot_scaling(
    points: pd.DataFrame | Iterable[Mapping[str, Any]], path: str | Path, title: str = ""
) -> Path:
    """Draw step time and parallel efficiency over the number of devices, with the ideal line.

    Parameters
    ----------
    points : frame or iterable of mappings
        ``devices`` [1], ``step_time_s`` [s]; see ``scaling_table`` for what else is used.
    path : str or Path
        PNG file to write.
    title : str
        Model and system.

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
    The table behind it is ``scaling_table`` (its source).
    """
    return save(scaling_figure(points, title), path)

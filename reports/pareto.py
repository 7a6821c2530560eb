"""Two columns of a sweep against each other, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import axes_in, clean, legend_in, new_figure, save, titles
from reports.column_words import heading_of, unit_of, words_of
from reports.human_numbers import axis_unit
from reports.label_placement import place_labels
from reports.palette import BLUE, GREY, PAPER, SOFT_INK, VERMILLION
from reports.pareto_front import pareto_table, plan_points, sign_of
from reports.tables import column_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pareto_figure", "plot_pareto"]

_LABELS = 12
_GRID = (500, 350)  # finer than a dot on the picture: thinning to it changes nothing that can be seen


def pareto_figure(
    frame: pd.DataFrame,
    x: str = "step_time_s",
    y: str = "peak_bytes",
    *,
    maximize: Collection[str] | None = None,
    title: str = "",
) -> Figure:
    """Scatter of the sweep with its front; see ``plot_pareto``."""
    import numpy as np

    x, y = column_name(list(frame.columns), x), column_name(list(frame.columns), y)
    table = pareto_table(frame, x, y, maximize=maximize)
    xs, ys, usable = plan_points(frame, x, y)
    finite = np.isfinite(xs) & np.isfinite(ys)
    figure = new_figure(6.0)
    better = [f"{'smaller' if sign_of(name, maximize) > 0 else 'larger'} {words_of(name)}" for name in (x, y)]
    titles(
        figure,
        f"{heading_of(x)} against {words_of(y)}" + (f": {title}" if title else ""),
        f"{len(frame):,} rows, {int(usable.sum()):,} that fit; front of {len(table):,} rows "
        f"({better[0]} and {better[1]} are better)",
    )
    axes = axes_in(figure, 0.95, 1.15, 0.3, 0.8, grid="both")
    x_scale = _set_axis(axes, "x", x, xs[finite])
    y_scale = _set_axis(axes, "y", y, ys[finite])
    _draw_sweep(axes, xs / x_scale, ys / y_scale, usable, finite)
    _draw_front(
        axes, table[x].to_numpy(float) / x_scale, table[y].to_numpy(float) / y_scale, _outward(x, y, maximize)
    )
    return figure


def _set_axis(axes: Axes, name: str, column: str, values: npt.NDArray[np.float64]) -> float:
    """Name, unit, limits and ticks of an axis, logarithmic over more than tenfold; returns the divisor."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    unit = unit_of(column)
    scale, unit = (1.0, unit) if unit in ("1", "tokens/s", "USD") else axis_unit(high, unit)
    logarithmic = low > 0 and high > 10 * low
    pad = (high / low) ** 0.06 if logarithmic else 0.06 * (high - low or abs(high) or 1.0)
    limits = (
        (low / pad / scale, high * pad / scale)
        if logarithmic
        else ((low - pad) / scale, (high + pad) / scale)
    )
    label = clean(f"{heading_of(column)} ({unit})")
    axis = axes.xaxis if name == "x" else axes.yaxis
    if name == "x":
        axes.set(xscale="log" if logarithmic else "linear", xlim=limits)
    else:
        axes.set(yscale="log" if logarithmic else "linear", ylim=limits)
    axis.set_label_text(label, size=9.5)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    if logarithmic:
        axis.set_major_locator(LogLocator(subs=(1,) if high > 1e3 * low else (1, 2, 5), numticks=12))
        axis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    return scale


def _thin(axes: Axes, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Places of one point per cell of a fine grid: a million dots draw as fast as a hundred thousand."""
    import numpy as np

    share = axes.transAxes.inverted().transform(axes.transData.transform(np.column_stack((xs, ys))))
    cells = np.floor(share * _GRID).astype(np.int64)
    _, first = np.unique(cells[:, 0] * 100_000 + cells[:, 1], return_index=True)
    kept: npt.NDArray[np.intp] = first
    return kept


def _draw_sweep(axes: Axes, xs: Any, ys: Any, usable: Any, finite: Any) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for mask, colour, marker, label in (
        (finite & ~usable, GREY, "x", "does not fit"),
        (usable, BLUE, "o", "fits"),
    ):
        if mask.any():
            points = xs[mask], ys[mask]
            kept = _thin(axes, *points)
            size = 22 if len(kept) < 300 else 8 if len(kept) < 5000 else 3
            axes.scatter(
                points[0][kept],
                points[1][kept],
                s=size,
                marker=marker,
                color=colour,
                zorder=3,
                alpha=0.55,
                linewidth=0.8 if marker == "x" else 0,
            )
            handles.append(
                Line2D([], [], linestyle="", marker=marker, color=colour, markersize=6, label=label)
            )
    handles.append(
        Line2D([], [], marker="D", color=VERMILLION, markersize=6, label="front, numbered as in the table")
    )
    if not usable.any():
        axes.text(0.5, 0.5, "no row fits", transform=axes.transAxes, ha="center", color=SOFT_INK)
    legend_in(axes, handles, 3, 0.62)


def _outward(x: str, y: str, maximize: Collection[str] | None) -> float:
    """Direction away from the sweep [degree]: to the lower left where smaller is better in both."""
    return math.degrees(math.atan2(-sign_of(y, maximize), -sign_of(x, maximize)))


def _draw_front(axes: Axes, xs: Any, ys: Any, prefer_deg: float) -> None:
    axes.plot(xs, ys, color=VERMILLION, linewidth=1.2, drawstyle="steps-post", zorder=4)
    axes.plot(
        xs, ys, "D", color=VERMILLION, markeredgecolor=PAPER, markeredgewidth=0.6, markersize=6, zorder=5
    )
    step = max(1, -(-len(xs) // _LABELS))
    chosen = [place for place in range(len(xs)) if place % step == 0 or place == len(xs) - 1]
    labels = [(float(xs[place]), float(ys[place]), str(place + 1)) for place in chosen]
    dots = [(float(x), float(y), 4.0) for x, y in zip(xs[:60], ys[:60], strict=True)]
    place_labels(axes, labels, dots, prefer_deg=prefer_deg)


def plot_pareto(
    frame: pd.DataFrame,
    x: str,
    y: str,
    path: str | Path,
    *,
    maximize: Collection[str] | None = None,
    title: str = "",
) -> Path:
    """Draw two columns of a sweep against each other, with the Pareto front.

    Parameters
    ----------
    frame : pandas.DataFrame
        A sweep; a column ``feasible``, where present, tells which rows fit.
    x, y : str
        Columns of numbers; the axis takes its unit from the name. Logarithmic over more than a factor of ten.
    path : str or Path
        PNG file to write.
    maximize : collection of str, optional
        Columns where larger is better; see ``pareto_table``.
    title : str
        What was swept.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ReportError
        If a column is missing, not unique or not numeric, or the file cannot be written.

    Notes
    -----
    The table behind it is ``pareto_table`` (its source).
    """
    return save(pareto_figure(frame, x, y, maximize=maximize, title=title), path)

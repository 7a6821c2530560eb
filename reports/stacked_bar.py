"""One horizontal bar made of parts, with a legend that carries the figures (time, memory, energy)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reports.canvas import legend_in
from reports.estimate_fields import Rows
from reports.human_numbers import format_fraction
from reports.palette import INK, PAPER, colour_of, text_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_parts", "legend_height_in"]

_COLUMNS = 3
_LABELLED_FRACTION = 0.045


def draw_parts(
    axes: Axes,
    rows: Rows,
    key: str,
    value: str,
    scale: float,
    form: Callable[[Any], str],
    limit: float | None = None,
) -> None:
    """Draw the parts left to right in units of ``scale``; shares are written inside parts that have room.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Its x axis gets the limit; the legend goes below it.
    rows : list of dict
        ``key`` (name of the colour), ``label``, ``value`` (SI unit) and ``fraction``.
    form : callable
        Writes a value for the legend.
    limit : float, optional
        Right end of the axis in the SI unit; by default the sum.
    """
    from matplotlib.patches import Patch

    total = sum(row[value] for row in rows)
    right, left = (limit or total) / scale or 1.0, 0.0
    for row in rows:
        width = row[value] / scale
        axes.barh(0, width, left=left, height=0.8, color=colour_of(row[key]), edgecolor=PAPER, linewidth=1)
        if width > _LABELLED_FRACTION * right:
            axes.text(
                left + width / 2,
                0,
                f"{100 * row['fraction']:.0f} %",
                ha="center",
                va="center",
                size=9,
                color=text_on(colour_of(row[key])),
            )
        left += width
    axes.set(xlim=(0, right), ylim=(-0.5, 0.5), yticks=[])
    axes.spines["left"].set_color(INK)
    shown = [row for row in rows if row[value] > 0] or rows[:1]
    handles = [
        Patch(
            color=colour_of(row[key]),
            label=f"{row['label']}  {form(row[value])}  ({format_fraction(row['fraction'])})",
        )
        for row in shown
    ]
    legend_in(axes, handles, _COLUMNS, 0.62)


def legend_height_in(rows: Rows, value: str) -> float:
    """Room [inch] that the legend of ``draw_parts`` needs under the axes, axis name included."""
    shown = max(1, sum(float(row[value]) > 0 for row in rows))
    return 0.75 + 0.2 * -(-shown // _COLUMNS)

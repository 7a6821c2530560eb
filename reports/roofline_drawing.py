"""The pieces of the roofline picture: ceilings with their names, and dots for operators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reports.canvas import legend_in
from reports.estimate_fields import Rows
from reports.human_numbers import format_bytes_per_s, format_flop_per_s
from reports.palette import INK, PAPER, SOFT_INK, colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["dot_area", "draw_ceilings", "draw_dots", "plain_ticks"]

_MARKERS = {"forward": "o", "backward": "s", "recompute": "^", "optimizer": "D"}
_LARGEST_DOT_PT2 = 900.0  # area of a dot that takes the whole step
_SMALLEST_DOT_PT2 = 14.0


def dot_area(row: Mapping[str, Any]) -> float:
    return max(_SMALLEST_DOT_PT2, _LARGEST_DOT_PT2 * float(row["fraction"]))


def plain_ticks(axes: Axes) -> None:
    """0.1, 1, 10, 1,000 instead of powers, and no minor labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)


def draw_ceilings(axes: Axes, rows: Rows, peak: float, bandwidth: float, scale: float) -> list[Any]:
    """Both ceilings with their names; returns the texts."""
    high, taken = axes.get_xlim()[1], []
    ridge = peak / bandwidth if peak and bandwidth else None
    if bandwidth:
        taken.append(_draw_slope(axes, rows, bandwidth, ridge or high, scale))
    if peak:
        start = ridge or axes.get_xlim()[0]
        axes.plot([start, high], [peak / scale, peak / scale], color=INK, linewidth=1.6, zorder=3)
        words = f"Matmul peak {format_flop_per_s(peak)}"
        right = (high, peak / scale)
        taken.append(
            axes.annotate(words, right, (-4, 5), textcoords="offset points", ha="right", size=9, color=INK)
        )
    return taken


def _draw_slope(axes: Axes, rows: Rows, bandwidth: float, end: float, scale: float) -> Any:
    """The bandwidth ceiling up to ``end``; its name stands along the line, where dots are farthest."""
    (low, _), (bottom, _), slope = axes.get_xlim(), axes.get_ylim(), bandwidth / scale
    axes.plot([low, end], [slope * low, slope * end], color=INK, linewidth=1.6, zorder=3)
    start = max(low, bottom / slope)
    dots = axes.transData.transform(
        [(row["flop_per_byte"], row["flop_per_s"] / scale) for row in rows] or [(end, 1.0)]
    )

    def clearance(share: float) -> float:
        x, y = axes.transData.transform(
            (start * (end / start) ** share, slope * start * (end / start) ** share)
        )
        return float(min(math.hypot(x - dot_x, y - dot_y) for dot_x, dot_y in dots))

    at = start * (end / start) ** max((0.5, 0.4, 0.6, 0.3, 0.7, 0.25), key=clearance)
    (x0, y0), (x1, y1) = axes.transData.transform([(at, slope * at), (10 * at, 10 * slope * at)])
    return axes.annotate(
        f"Memory bandwidth {format_bytes_per_s(bandwidth)}",
        (at, slope * at),
        xytext=(-5, 7),
        textcoords="offset points",
        rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)),
        rotation_mode="anchor",
        ha="center",
        size=9,
        color=INK,
    )


def draw_dots(axes: Axes, rows: Rows, scale: float) -> None:
    from matplotlib.lines import Line2D

    if not rows:
        axes.text(
            0.5,
            0.4,
            "no operator has FLOP, bytes and time",
            transform=axes.transAxes,
            ha="center",
            color=SOFT_INK,
        )
    handles: dict[str, Any] = {}
    for row in reversed(rows):  # the longest on top
        phase = row["phase"]
        latency = row["bound"] == "latency"
        colour, marker = colour_of(row["class"]), _MARKERS.get(phase, "o")
        axes.scatter(
            [row["flop_per_byte"]],
            [row["flop_per_s"] / scale],
            s=dot_area(row),
            marker=marker,
            zorder=5,
            color=PAPER if latency else colour,
            edgecolor=colour if latency else PAPER,
            linewidth=1.2 if latency else 0.8,
            alpha=1.0 if latency else 0.9,
        )
    for phase, marker in _MARKERS.items():
        if any(row["phase"] == phase for row in rows):
            colour = colour_of("optimizer" if phase == "optimizer" else "compute")
            handles[phase] = Line2D(
                [], [], linestyle="", marker=marker, color=colour, markersize=8, label=phase
            )
    if any(row["bound"] == "latency" for row in rows):
        handles["latency"] = Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markerfacecolor=PAPER,
            color=colour_of("compute"),
            markersize=8,
            label="hollow: latency bound",
        )
    if handles:
        legend_in(axes, list(handles.values()), 5, 0.62)

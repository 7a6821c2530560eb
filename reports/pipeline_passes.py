"""When each stage of a pipeline works on which micro-batch, and what it holds meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.canvas import axes_in, legend_in, new_figure, titles
from reports.estimate_fields import Rows
from reports.human_numbers import axis_unit, format_time
from reports.palette import BLUE, GREEN, INK, ORANGE, PAPER, SKY, VERMILLION

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pipeline_figure", "pipeline_table"]

# Passes by name: words and colour.
PASSES = {
    "forward": ("Forward", BLUE),
    "backward": ("Backward", ORANGE),
    "inputs": ("Backward, inputs", ORANGE),
    "weights": ("Backward, weights", GREEN),
}
NUMBERED = 400  # more passes have no room for the number of their micro-batch
DARK_HUES = (BLUE, GREEN)
LINE_INCHES, MOST_INCHES = 0.34, 4.2


def pipeline_table(passes: pd.DataFrame | Iterable[Mapping[str, Any]]) -> Rows:
    """Per stage: seconds at work and idle, its share of idle time, most micro-batches held and most memory.

    Parameters
    ----------
    passes : frame or iterable of mappings
        ``stage``, ``micro_batch`` [1], ``pass``, ``start_s``, ``end_s`` [s], ``held`` [1], ``memory_bytes`` [byte]
        where it is known.

    Returns
    -------
    list of dict
        ``stage`` [1], ``busy_s``, ``idle_s`` [s], ``idle_fraction``, ``most_held`` [1], ``most_bytes`` [byte] where
        it is known. Idle is all of the span from the first pass of the step to the last in which the stage runs none.

    Notes
    -----
    Raises nothing. Source: only the argument.
    """
    from reports.tables import rows_of

    rows = rows_of(passes)
    span = max((row["end_s"] for row in rows), default=0.0)
    table: Rows = []
    for stage in sorted({row["stage"] for row in rows}):
        mine = [row for row in rows if row["stage"] == stage]
        busy = _covered(mine)
        sizes = [row["memory_bytes"] for row in mine if "memory_bytes" in row]
        table.append(
            {
                "stage": stage,
                "busy_s": busy,
                "idle_s": span - busy,
                "idle_fraction": 1.0 - busy / span if span else 0.0,
                "most_held": max(row["held"] for row in mine),
                **({"most_bytes": max(sizes)} if sizes else {}),
            }
        )
    return table


def _covered(rows: Rows) -> float:
    """Seconds in which at least one pass runs: some schedules run two side by side."""
    total, until = 0.0, 0.0
    for start, end in sorted((row["start_s"], row["end_s"]) for row in rows):
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total


def pipeline_figure(passes: Rows, title: str = "") -> Figure:
    """Passes as bars, one line a stage, above what the first and the last stage hold."""
    stages = 1 + max(row["stage"] for row in passes)
    lines = min(max(stages * LINE_INCHES, 1.2), MOST_INCHES)
    figure = new_figure(lines + 3.9)
    idle = sum(row["idle_fraction"] for row in pipeline_table(passes)) / stages
    span = max(row["end_s"] for row in passes)
    titles(
        figure,
        f"Pipeline: {title}" if title else "Pipeline",
        f"{stages} stages, {format_time(span)}, idle {100 * idle:.1f} % of it (mean of the stages)",
    )
    scale, unit = axis_unit(span, "s")
    above = axes_in(figure, 0.85, 3.1, 0.3, 0.8)
    below = axes_in(figure, 0.85, 0.65, 0.3, lines + 1.65, grid="both")
    _draw_passes(above, passes, stages, scale)
    _draw_held(below, passes, stages, scale)
    for axes in (above, below):
        axes.set_xlim(0.0, span / scale)
    below.set_xlabel(f"Time ({unit}), all micro-batches of one step", size=9.5)
    _name_passes(above, {row["pass"] for row in passes})
    return figure


def _name_passes(axes: Axes, used: set[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=words) for one, (words, colour) in PASSES.items() if one in used]
    legend_in(axes, handles, len(handles), 0.38)


def _draw_passes(axes: Axes, passes: Rows, stages: int, scale: float) -> None:
    from matplotlib.collections import PolyCollection

    for one, (_, colour) in PASSES.items():
        mine = [row for row in passes if row["pass"] == one]
        if not mine:
            continue
        start, end, stage = (np.array([row[k] for row in mine]) for k in ("start_s", "end_s", "stage"))
        low, high = stage - 0.42, stage + 0.42
        start, end = start / scale, end / scale
        corners = np.stack([[start, low], [end, low], [end, high], [start, high]]).transpose(2, 0, 1)
        axes.add_collection(
            PolyCollection(
                list(corners),
                facecolors=colour,
                edgecolors=PAPER,
                linewidths=0.3 if len(passes) < 2000 else 0.0,
            )
        )
    if len(passes) <= NUMBERED:
        for row in passes:
            middle = (row["start_s"] + row["end_s"]) / 2 / scale
            colour = PAPER if PASSES[row["pass"]][1] in DARK_HUES else INK
            axes.text(
                middle,
                row["stage"],
                str(row["micro_batch"] + 1),
                ha="center",
                va="center",
                size=6,
                color=colour,
            )
    axes.set_ylim(stages - 0.5, -0.5)
    step = -(-stages // 16)
    axes.set_yticks(range(0, stages, step), [str(k) for k in range(0, stages, step)])
    axes.set_ylabel("Stage (1)", size=9.5)


def _draw_held(axes: Axes, passes: Rows, stages: int, scale: float) -> None:
    """Memory of a device over time, on the first and the last stage and on the one that needs most.

    Micro-batches held where no bytes are known.
    """
    known = all("memory_bytes" in row for row in passes)
    field = "memory_bytes" if known else "held"
    most = max(row[field] for row in passes)
    size, unit = axis_unit(most, "B") if known else (1.0, "micro-batches")
    chosen = {0: BLUE, stages - 1: SKY}
    if all(row[field] < most for row in passes if row["stage"] in chosen):
        chosen[next(row["stage"] for row in passes if row[field] == most)] = VERMILLION
    for stage, colour in chosen.items():
        mine = sorted((row["start_s"], row[field]) for row in passes if row["stage"] == stage)
        axes.step(
            [start / scale for start, _ in mine],
            [held / size for _, held in mine],
            where="post",
            color=colour,
            label=f"stage {stage}",
        )
    axes.set_ylim(0.0, 1.35 * most / size)
    axes.set_ylabel(f"{'Memory' if known else 'Held'} ({unit})", size=9.5)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right", ncols=3)

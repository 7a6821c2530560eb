"""Memory of the fullest device by owner, against what it has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import axes_in, new_figure, save, titles
from reports.estimate_fields import Rows, number, part_rows, plan_text, scenario_text
from reports.human_numbers import axis_unit, format_bytes, format_fraction
from reports.palette import INK, MEMORY_LABELS
from reports.stacked_bar import draw_parts, legend_height_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["memory_figure", "memory_parts_table", "memory_table", "plot_memory"]

_TOTALS = ("capacity_bytes", "peak_bytes")
_OVERFULL = "#d55e00"


def memory_table(estimate: Mapping[str, Any]) -> Rows:
    """Bytes of one device of the heaviest stage, by owner.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``.

    Returns
    -------
    list of dict
        ``owner``, ``label``, ``bytes`` [byte], ``fraction`` (of the peak) [1]; the seven owners in fixed
        order, zeros included. ``bytes`` sums to the peak.

    Notes
    -----
    Raises nothing. Source: only the mapping; nothing is recomputed.
    """
    owners = {name: value for name, value in (estimate.get("memory") or {}).items() if name not in _TOTALS}
    return part_rows(owners, "_bytes", MEMORY_LABELS, "owner", "bytes")


def memory_parts_table(estimate: Mapping[str, Any]) -> Rows:
    """What activations and buffers are made of, the largest part of each first.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``.

    Returns
    -------
    list of dict
        ``owner``, ``part``, ``bytes`` [byte], ``fraction`` (of the owner) [1]; empty for inference.

    Notes
    -----
    Raises nothing. Source: only the mapping; nothing is recomputed.
    """
    rows: Rows = []
    for owner, parts in (estimate.get("memory_parts") or {}).items():
        total = math.fsum(parts.values())
        ordered = sorted(parts.items(), key=lambda item: -item[1])
        rows += [
            {"owner": owner, "part": part, "bytes": size, "fraction": size / total} for part, size in ordered
        ]
    return rows


def memory_verdict(estimate: Mapping[str, Any]) -> str:
    """``"71.2 GB of 85.9 GB (82.9 %), 14.7 GB free"``, or by how much it does not fit."""
    memory = estimate.get("memory") or {}
    peak, capacity = number(memory, "peak_bytes"), number(memory, "capacity_bytes")
    if not capacity:
        return f"{format_bytes(peak)}, capacity not given"
    room = capacity - peak
    left = f"{format_bytes(room)} free" if room >= 0 else f"{format_bytes(-room)} too much"
    return f"{format_bytes(peak)} of {format_bytes(capacity)} ({format_fraction(peak / capacity)}), {left}"


def memory_figure(estimate: Mapping[str, Any]) -> Figure:
    """Stacked bar of the owners with the capacity as a line; see ``plot_memory``."""
    rows, memory = memory_table(estimate), estimate.get("memory") or {}
    capacity, peak = number(memory, "capacity_bytes"), math.fsum(row["bytes"] for row in rows)
    height = 0.75 + 0.3 + 0.85 + legend_height_in(rows, "bytes")
    figure = new_figure(height)
    titles(
        figure,
        f"Memory {memory_verdict(estimate)}",
        f"{scenario_text(estimate)}; {plan_text(estimate)}".rstrip("; "),
    )
    right = 1.12 * max(peak, capacity) or 1.0
    scale, unit = axis_unit(right, "B")
    axes = axes_in(figure, 0.35, height - 0.75 - 0.3 - 0.85, 0.35, 0.75 + 0.3)
    draw_parts(axes, rows, "owner", "bytes", scale, format_bytes, limit=right)
    stage = memory.get("heaviest_stage")
    axes.set_xlabel(f"Memory per device ({unit})" + (f", {stage} pipeline stage" if stage else ""), size=9.5)
    if capacity:
        colour = _OVERFULL if peak > capacity else INK
        axes.axvline(capacity / scale, color=colour, linewidth=2.2, zorder=5, ymax=1.0)
        axes.annotate(
            f"capacity {format_bytes(capacity)}",
            (capacity / scale, 0.5),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            size=9,
            color=colour,
            annotation_clip=False,
        )
    return figure


def plot_memory(estimate: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the memory of the fullest device by owner, with its capacity.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``; ``memory`` is in bytes.
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
    Bytes are shown in decimal units (GB is 1e9 bytes). The table behind it is ``memory_table`` (its source).
    """
    return save(memory_figure(estimate), path)

"""The roofline of one device with the operators of the step on it.

S. Williams, A. Waterman and D. Patterson, Communications of the ACM 52(4), 65-76, 2009,
doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import axes_in, new_figure, save, titles
from reports.estimate_fields import (
    Rows,
    number,
    operator_class,
    operator_label,
    plan_text,
    scenario_text,
    shorten,
)
from reports.human_numbers import axis_unit
from reports.label_placement import place_labels
from reports.palette import SOFT_INK
from reports.roofline_drawing import dot_area, draw_ceilings, draw_dots, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_roofline", "roofline_figure", "roofline_table"]

_LABELS = 8
_DOTS_KEPT_CLEAR = 200


def roofline_table(estimate: Mapping[str, Any]) -> Rows:
    """The operators that have a place on the roofline.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``.

    Returns
    -------
    list of dict
        Longest first: ``operator``, ``phase``, ``class``, ``bound``, ``flop`` [FLOP], ``bytes`` [byte],
        ``busy_s`` [s], ``flop_per_byte`` [FLOP/byte], ``flop_per_s`` (reached) [FLOP/s],
        ``ceiling_flop_per_s`` (the roof above it, null without a peak) [FLOP/s], ``fraction`` (of the busy
        time of all operators of the device's own work) [1]. Rows without FLOP, bytes or time have no place
        and are left out.

    Notes
    -----
    The roof is min(peak, bandwidth x intensity). Raises nothing. Source: Williams, Waterman and Patterson 2009.
    """
    own = [row for row in estimate.get("operators") or () if operator_class(row) in ("compute", "optimizer")]
    total = math.fsum(number(row, "busy_s") for row in own)
    table: Rows = []
    for row in own:
        flop, size, busy = number(row, "flop"), number(row, "bytes"), number(row, "busy_s")
        if flop > 0 and size > 0 and busy > 0:
            table.append(
                {
                    "operator": operator_label(row),
                    "phase": row.get("phase") or "forward",
                    "class": operator_class(row),
                    "bound": row.get("bound") or "",
                    "flop": flop,
                    "bytes": size,
                    "busy_s": busy,
                    "flop_per_byte": flop / size,
                    "flop_per_s": flop / busy,
                    "ceiling_flop_per_s": _roof(estimate, flop / size),
                    "fraction": busy / total,
                }
            )
    return sorted(table, key=lambda row: -row["busy_s"])


def _roof(estimate: Mapping[str, Any], intensity: float) -> float | None:
    ceilings = [
        value
        for value in (
            number(estimate, "peak_flop_per_s"),
            number(estimate, "memory_bandwidth_bytes_per_s") * intensity,
        )
        if value > 0
    ]
    return min(ceilings) if ceilings else None


def _limits(rows: Rows, peak: float, bandwidth: float) -> tuple[float, float, float, float]:
    """Axis limits (x low, x high, y low, y high) with room around the dots and the ridge."""
    ridge = peak / bandwidth if peak and bandwidth else 100.0
    intensities = [row["flop_per_byte"] for row in rows] or [ridge / 100]
    rates = [row["flop_per_s"] for row in rows] or [(peak or 1e12) / 100]
    low, high = min(*intensities, ridge / 30) / 2.5, max(*intensities, ridge * 8) * 2.5
    top = max(*rates, peak) * 3
    return low, high, min(*rates, top / 300) / 3, top


def roofline_figure(estimate: Mapping[str, Any]) -> Figure:
    """Log-log roofline; see ``plot_roofline``."""
    rows = roofline_table(estimate)
    figure = new_figure(6.0)
    titles(figure, f"Roofline: {scenario_text(estimate)}", plan_text(estimate))
    axes = axes_in(figure, 0.85, 1.35, 0.3, 0.8, grid="both")
    peak, bandwidth = number(estimate, "peak_flop_per_s"), number(estimate, "memory_bandwidth_bytes_per_s")
    low, high, bottom, top = _limits(rows, peak, bandwidth)
    scale, unit = axis_unit(peak or top, "FLOP/s")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(bottom / scale, top / scale))
    axes.set_xlabel("Arithmetic intensity (FLOP per byte of device memory traffic)", size=9.5)
    axes.set_ylabel(f"Rate while busy ({unit}), one device", size=9.5)
    plain_ticks(axes)
    taken = draw_ceilings(axes, rows, peak, bandwidth, scale)
    draw_dots(axes, rows, scale)
    _label(axes, rows, taken, scale, (peak, bandwidth))
    _note(figure, estimate, rows)
    return figure


def _label(axes: Axes, rows: Rows, taken: list[Any], scale: float, roof: tuple[float, float]) -> None:
    """Name the longest operators, each once: at the phase that takes longest (the marker tells the phase)."""
    longest: dict[str, Any] = {}
    for row in rows:
        longest.setdefault(row["operator"].removesuffix(f" ({row['phase']})"), row)
    labels = [
        (row["flop_per_byte"], row["flop_per_s"] / scale, shorten(name, 32))
        for name, row in list(longest.items())[:_LABELS]
    ]
    dots = [
        (row["flop_per_byte"], row["flop_per_s"] / scale, math.sqrt(dot_area(row) / math.pi))
        for row in rows[:_DOTS_KEPT_CLEAR]
    ]
    low, high = axes.get_xlim()
    peak, bandwidth = (value or math.inf for value in roof)
    samples = [low * (high / low) ** (place / 200) for place in range(201)]
    lines = [(x, min(peak, bandwidth * x) / scale) for x in samples if min(peak, bandwidth) < math.inf]
    place_labels(axes, labels, dots, taken, [point for point in lines if math.isfinite(point[1])])


def _note(figure: Figure, estimate: Mapping[str, Any], rows: Sequence[Any]) -> None:
    width, height = figure.get_size_inches()
    missing = sum(
        operator_class(row) in ("compute", "optimizer") for row in estimate.get("operators") or ()
    ) - len(rows)
    text = "Area of a dot: its share of the busy time."
    if missing:
        text += f" {missing} operator{'s' if missing > 1 else ''} without FLOP or bytes: not drawn."
    figure.text(0.85 / width, 0.2 / height, text, size=8.5, color=SOFT_INK)


def plot_roofline(estimate: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the roofline with the operators on it.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``; the ceilings are ``peak_flop_per_s`` [FLOP/s] and
        ``memory_bandwidth_bytes_per_s`` [byte/s].
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
    Both axes are logarithmic: intensity [FLOP/byte] and rate [FLOP/s] of one device. The table behind it is
    ``roofline_table``.

    References
    ----------
    .. [1] S. Williams, A. Waterman and D. Patterson, Communications of the ACM 52(4), 65-76, 2009,
       doi:10.1145/1498765.1498785.
    """
    return save(roofline_figure(estimate), path)

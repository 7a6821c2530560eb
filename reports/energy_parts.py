"""Energy of one step by part, over all devices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import axes_in, new_figure, save, titles
from reports.estimate_fields import Rows, number, part_rows, plan_text, scenario_text
from reports.human_numbers import axis_unit, format_energy, format_power
from reports.palette import ENERGY_LABELS
from reports.stacked_bar import draw_parts, legend_height_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["energy_figure", "energy_table", "plot_energy"]


def energy_table(estimate: Mapping[str, Any]) -> Rows:
    """Energy of one step over all used devices, by part.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``.

    Returns
    -------
    list of dict
        ``part``, ``label``, ``energy_j`` [J], ``average_power_w`` (over the step, all devices; null without
        a step time) [W], ``fraction`` (of the sum) [1]. ``energy_j`` sums to the energy of the step.

    Notes
    -----
    Raises nothing. Source: only the mapping; power is energy over step time.
    """
    rows = part_rows(estimate.get("energy"), "_j", ENERGY_LABELS, "part", "energy_j")
    step = number(estimate, "step_time_s")
    return [{**row, "average_power_w": row["energy_j"] / step if step else None} for row in rows]


def power_text(estimate: Mapping[str, Any]) -> str:
    """``"412 W per device, 26.4 kW in all"``; empty without energies."""
    each = (estimate.get("energy") or {}).get("average_power_w_per_device")
    step, energy = number(estimate, "step_time_s"), number(estimate, "energy_j")
    words = [f"{format_power(each)} per device"] if each is not None else []
    return ", ".join([*words, f"{format_power(energy / step)} in all"] if step and energy else words)


def energy_figure(estimate: Mapping[str, Any]) -> Figure:
    """Stacked bar of the parts; see ``plot_energy``."""
    rows = energy_table(estimate)
    total = math.fsum(row["energy_j"] for row in rows)
    height = 0.75 + 0.85 + legend_height_in(rows, "energy_j")
    figure = new_figure(height)
    power = power_text(estimate)
    titles(
        figure,
        f"Energy per step {format_energy(total)}" + (f" ({power})" if power else ""),
        f"{scenario_text(estimate)}; {plan_text(estimate)}".rstrip("; "),
    )
    scale, unit = axis_unit(total, "J")
    axes = axes_in(figure, 0.35, height - 0.75 - 0.85, 0.35, 0.75)
    draw_parts(axes, rows, "part", "energy_j", scale, format_energy)
    axes.set_xlabel(f"Energy of one step ({unit}), all devices", size=9.5)
    return figure


def plot_energy(estimate: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the energy of one step by part.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``; ``energy`` is in joules.
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
    The table behind it is ``energy_table`` (its source).
    """
    return save(energy_figure(estimate), path)

"""Predicted against measured, and the errors by source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import axes_in, clean, legend_in, new_figure, save, titles
from reports.estimate_fields import Rows, number, shorten
from reports.human_numbers import axis_unit, format_fraction
from reports.palette import GRID, INK, SERIES, SOFT_INK
from reports.tables import rows_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["parity_figure", "parity_summary", "parity_table", "plot_parity"]

_BAND_FRACTION = 0.10
_PANELS = 4


def parity_table(rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> Rows:
    """The rows that have both a measured and a predicted value.

    Parameters
    ----------
    rows : frame or iterable of mappings
        ``measured`` and ``predicted`` in ``unit``; ``id``, ``quantity``, ``source``, ``low`` and ``high``
        where known. Without a ``source`` the text before the last hyphen of ``id`` stands for it.

    Returns
    -------
    list of dict
        ``id``, ``source``, ``quantity``, ``unit``, ``measured``, ``predicted``, ``low``, ``high`` [unit],
        ``error_fraction`` (predicted over measured minus one) [1]. Rows without two positive numbers are
        left out.

    Notes
    -----
    Raises nothing. Source: only the rows; the error is relative to what was measured.
    """
    table: Rows = []
    for row in rows_of(rows):
        measured, predicted = number(row, "measured"), number(row, "predicted")
        if measured > 0 and predicted > 0:
            name = str(row.get("id") or "")
            table.append(
                {
                    "id": name,
                    "source": str(row.get("source") or name.rpartition("-")[0] or "rows"),
                    "quantity": str(row.get("quantity") or "value"),
                    "unit": str(row.get("unit") or "1"),
                    "measured": measured,
                    "predicted": predicted,
                    "low": row.get("low"),
                    "high": row.get("high"),
                    "error_fraction": predicted / measured - 1,
                }
            )
    return table


def parity_summary(rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> Rows:
    """Errors by quantity and source.

    Parameters
    ----------
    rows : frame or iterable of mappings
        As in ``parity_table``.

    Returns
    -------
    list of dict
        Most rows first: ``quantity``, ``unit``, ``source``, ``rows`` [1], ``mape``, ``median_ape``,
        ``bias`` (mean error), ``worst_ape`` and ``within_10_percent`` as fractions [1].

    Notes
    -----
    Raises nothing. Source: only the rows. The median of an even number of rows is the mean of the middle two.
    """
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in parity_table(rows):
        groups.setdefault((row["quantity"], row["unit"], row["source"]), []).append(row["error_fraction"])
    table: Rows = []
    for (quantity, unit, source), errors in groups.items():
        sizes, count = sorted(abs(error) for error in errors), len(errors)
        table.append(
            {
                "quantity": quantity,
                "unit": unit,
                "source": source,
                "rows": count,
                "mape": math.fsum(sizes) / count,
                "median_ape": (sizes[(count - 1) // 2] + sizes[count // 2]) / 2,
                "bias": math.fsum(errors) / count,
                "worst_ape": sizes[-1],
                "within_10_percent": sum(size <= _BAND_FRACTION for size in sizes) / count,
            }
        )
    return sorted(table, key=lambda row: -row["rows"])


def parity_figure(rows: pd.DataFrame | Iterable[Mapping[str, Any]], title: str = "") -> Figure:
    """One square panel per quantity (at most four, those with most rows); see ``plot_parity``."""
    table = parity_table(rows)
    counts: dict[tuple[str, str], int] = {}
    for row in table:
        counts[row["quantity"], row["unit"]] = counts.get((row["quantity"], row["unit"]), 0) + 1
    panels = sorted(counts, key=lambda key: -counts[key])[:_PANELS] or [("value", "1")]
    sources = list(dict.fromkeys(row["source"] for row in table if (row["quantity"], row["unit"]) in panels))
    styles = {source: SERIES[place % len(SERIES)] for place, source in enumerate(sources)}
    figure, axes = _panels(len(panels), max((_n_sources(table, key) for key in panels), default=1))
    shown = sum(counts.get(key, 0) for key in panels)
    left_out = f"; {len(table) - shown} rows of other quantities not drawn" if len(table) > shown else ""
    titles(
        figure,
        f"Predicted against measured: {title}" if title else "Predicted against measured",
        f"{shown} rows; shaded: within {100 * _BAND_FRACTION:.0f} % of the measured value{left_out}",
    )
    for panel, key in zip(axes, panels, strict=True):
        _draw_panel(panel, [row for row in table if (row["quantity"], row["unit"]) == key], key, styles)
    return figure


def _n_sources(table: Rows, key: tuple[str, str]) -> int:
    return len({row["source"] for row in table if (row["quantity"], row["unit"]) == key})


def _panels(count: int, n_legend_lines: int) -> tuple[Figure, list[Axes]]:
    """Square panels in one or two columns, each with room for its axis name and legend below [inch]."""
    columns = min(count, 2)
    side, gap, header = (5.2 if count == 1 else 3.7), 0.95, 0.75
    below = 0.7 + 0.2 * n_legend_lines
    lines = -(-count // columns)
    width, height = columns * (gap + side) + 0.3, header + lines * (side + below + 0.2)
    figure, axes = new_figure(height, width), []
    for place in range(count):
        line, column = divmod(place, columns)
        left, top = gap + column * (gap + side), header + line * (side + below + 0.2)
        axes.append(axes_in(figure, left, height - top - side, width - left - side, top, grid="both"))
    return figure, axes


def _draw_panel(axes: Axes, rows: Rows, key: tuple[str, str], styles: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = [row[name] for row in rows for name in ("measured", "predicted")] or [1.0, 10.0]
    scale, unit = (
        axis_unit(max(values), key[1]) if key[1] in ("s", "B", "FLOP/s", "W", "J", "B/s") else (1.0, key[1])
    )
    low, high = min(values) / scale / 1.4, max(values) / scale * 1.4
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.fill_between(
        [low, high],
        [low * (1 - _BAND_FRACTION), high * (1 - _BAND_FRACTION)],
        [low * (1 + _BAND_FRACTION), high * (1 + _BAND_FRACTION)],
        color=GRID,
        zorder=1,
        linewidth=0,
    )
    axes.plot([low, high], [low, high], color=SOFT_INK, linewidth=1.2, zorder=2)
    handles = []
    for source in dict.fromkeys(row["source"] for row in rows):
        own = [row for row in rows if row["source"] == source]
        colour, marker = styles[source]
        for row in own:
            if row["low"] and row["high"]:
                axes.plot(
                    [row["measured"] / scale] * 2,
                    [row["low"] / scale, row["high"] / scale],
                    color=colour,
                    linewidth=1,
                    zorder=3,
                )
        axes.scatter(
            [row["measured"] / scale for row in own],
            [row["predicted"] / scale for row in own],
            s=34,
            marker=marker,
            color=colour,
            edgecolor="#ffffff",
            linewidth=0.5,
            zorder=4,
        )
        mape = math.fsum(abs(row["error_fraction"]) for row in own) / len(own)
        handles.append(
            Line2D(
                [],
                [],
                linestyle="",
                marker=marker,
                color=colour,
                markersize=6,
                label=clean(f"{shorten(source, 34)}: {len(own)} rows, MAPE {format_fraction(mape)}"),
            )
        )
    name = key[0].replace("_", " ")
    axes.set_xlabel(f"Measured {name} ({unit})", size=9.5)
    axes.set_ylabel(f"Predicted {name} ({unit})", size=9.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1,) if high / low > 100 else (1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    if handles:
        legend_in(axes, handles, 1, 0.55)
    else:
        axes.text(0.5, 0.92, "no row has both values", transform=axes.transAxes, ha="center", color=INK)


def plot_parity(rows: pd.DataFrame | Iterable[Mapping[str, Any]], path: str | Path, title: str = "") -> Path:
    """Draw predicted over measured values with the line of equality and a band of 10 %.

    Parameters
    ----------
    rows : frame or iterable of mappings
        As in ``parity_table``; each quantity gets a panel with its own unit.
    path : str or Path
        PNG file to write.
    title : str
        What was validated.

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
    The tables behind it are ``parity_table`` and ``parity_summary`` (its source).
    """
    return save(parity_figure(rows, title), path)

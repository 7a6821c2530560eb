"""Pictures and tables of a fabric: bus bandwidth by message size, the links between devices, a flow replay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import axes_in, legend_in, new_figure, save, titles
from reports.human_numbers import axis_unit, format_bytes, format_bytes_per_s, format_time
from reports.palette import INK, PAPER, SERIES, SOFT_INK
from reports.tables import rows_of

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

__all__ = ["network_table", "plot_bus_bandwidth", "plot_topology", "replay_table"]

Rows = Iterable[Mapping[str, Any]]
MARKS = {"device": "o", "bridge": "s", "switch": "s", "host": "D", "nic": "^", "leaf": "s", "spine": "D"}
MANY_LABELS = 40


def _table(heads: list[str], rows: list[list[str]], left: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def network_table(rows: pd.DataFrame | Rows) -> Table:
    """Collectives for a terminal: time and bus bandwidth, one line per group, message and algorithm; raises nothing."""
    lines = [
        [
            str(row["algorithm"]),
            f"{row['ranks']:,}",
            format_bytes(row["message_bytes"]),
            format_time(row["seconds"]),
            format_bytes_per_s(row["bus_bytes_per_s"]),
        ]
        for row in rows_of(rows)
    ]
    return _table(["Algorithm", "Ranks", "Message", "Time", "Bus bandwidth"], lines, 1)


def replay_table(rows: pd.DataFrame | Rows) -> Table:
    """Exchanges of a step for a terminal, closed form and replay; raises nothing.

    A gap above 0 is where the form is optimistic.
    """
    lines = [
        [
            str(row["axis"]),
            str(row["collective"]),
            f"{row['groups']} x {row['ranks']}",
            format_bytes(row["message_bytes"]),
            f"{row['count']:,.0f}",
            format_time(row["closed_form_s"]),
            format_time(row["replay_s"]),
            f"{row['gap_fraction']:+.1%}",
        ]
        for row in rows_of(rows)
    ]
    heads = ["Axis", "Collective", "Groups", "Message", "Count", "Form", "Replay", "Gap"]
    return _table(heads, lines, 2)


def plot_bus_bandwidth(rows: pd.DataFrame | Rows, path: str | Path, title: str = "") -> Path:
    """Draw bus bandwidth over message size, one line per group size and algorithm.

    Parameters
    ----------
    rows : frame or iterable of mappings
        ``algorithm``, ``ranks`` [1], ``message_bytes`` [byte] and ``bus_bytes_per_s`` [byte/s].
    path : str or Path
        File to write; its ending decides the format.
    title : str
        What was measured on what.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ReportError
        If the file cannot be written.
    """
    from matplotlib.ticker import FuncFormatter

    table = rows_of(rows)
    lines: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for row in table:
        key = (row["ranks"], row["algorithm"])
        lines.setdefault(key, []).append((row["message_bytes"], row["bus_bytes_per_s"]))
    figure = new_figure(5.6)
    titles(
        figure, title or "Collectives", "bus bandwidth by message size; lines are group sizes and algorithms"
    )
    columns = 4
    below = 0.95 + 0.24 * (-(-len(lines) // columns))
    axes = axes_in(figure, 0.9, below, 0.3, 0.85, grid="both")
    scale, unit = axis_unit(max((row["bus_bytes_per_s"] for row in table), default=1.0), "B/s")
    several = len({algorithm for _, algorithm in lines}) > 1
    handles = []
    for i, ((ranks, algorithm), points) in enumerate(lines.items()):
        points.sort()
        label = f"{ranks:,} ranks, {algorithm}" if several else f"{ranks:,} ranks"
        handles += axes.plot(
            [size for size, _ in points],
            [rate / scale for _, rate in points],
            color=SERIES[i % len(SERIES)][0],
            linestyle=("-", "--", ":")[i // len(SERIES) % 3],
            linewidth=1.8,
            marker=SERIES[i % len(SERIES)][1],
            markersize=4,
            label=label,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"bus bandwidth, {unit}", color=INK)
    axes.set_xlabel("message", color=INK)
    legend_in(axes, handles, columns, 0.6)
    return save(figure, path)


def plot_topology(
    nodes: pd.DataFrame | Rows, links: pd.DataFrame | Rows, path: str | Path, title: str = ""
) -> Path:
    """Draw devices, switches and the links between them; wider lines are faster links.

    Parameters
    ----------
    nodes : frame or iterable of mappings
        ``name``, ``kind``, ``x`` and ``y`` [1].
    links : frame or iterable of mappings
        ``source``, ``target``, ``bytes_per_s`` one way [byte/s] and ``tier``.
    path : str or Path
        File to write; its ending decides the format.
    title : str
        The system.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ReportError
        If the file cannot be written.
    """
    from matplotlib.lines import Line2D

    placed = {row["name"]: row for row in rows_of(nodes)}
    joined = rows_of(links)
    rates = sorted({row["bytes_per_s"] for row in joined})
    figure = new_figure(5.2)
    said = ", ".join(format_bytes_per_s(rate) for rate in rates[:4])
    titles(figure, title or "Topology", f"links, one way: {said}" if rates else "")
    axes = axes_in(figure, 0.3, 0.75, 0.3, 0.85)
    axes.set_axis_off()
    for row in joined:
        a, b = placed[row["source"]], placed[row["target"]]
        axes.plot(
            [a["x"], b["x"]],
            [a["y"], b["y"]],
            color=SERIES[0 if row["tier"] == "inner" else 1][0],
            linewidth=0.6 + 1.8 * row["bytes_per_s"] / rates[-1],
            alpha=0.55,
            zorder=1,
        )
    kinds = list(dict.fromkeys(row["kind"] for row in placed.values()))
    size = 9.0 if len(placed) <= MANY_LABELS else 5.0
    for kind in kinds:
        here = [row for row in placed.values() if row["kind"] == kind]
        axes.plot(
            [row["x"] for row in here],
            [row["y"] for row in here],
            linestyle="none",
            marker=MARKS.get(kind, "o"),
            markersize=size,
            color=INK if kind == "device" else SOFT_INK,
            markeredgecolor=PAPER,
            zorder=2,
            label=kind,
        )
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=MARKS.get(kind, "o"),
            color=INK if kind == "device" else SOFT_INK,
            label=kind,
        )
        for kind in kinds
    ]
    legend_in(axes, handles, 7, 0.2)
    return save(figure, path)

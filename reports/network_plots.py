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
MARKS = {
    **{"device": "o", "idle": "x", "bridge": "s", "switch": "s", "wire": "s", "host": "D"},
    **{"nic": "^", "leaf": "p", "spine": "D", "port": "^", "hub": "p", "core": "D"},
}
SAID_TIERS = {"inner": "inside a node", "outer": "between nodes"}
MANY_LINKS = 200
STUB = 0.4  # of the distance of neighbours, by which a link around the end of an axis is shown
MANY_LABELS, MOST_TICKS = 40, 10
STYLES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1)), (0, (1, 1)), (0, (4, 1, 1, 1, 1, 1)))


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
    from matplotlib.lines import Line2D
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
    sizes = sorted({ranks for ranks, _ in lines})
    algorithms = list(dict.fromkeys(algorithm for _, algorithm in lines))
    columns = 6
    below = 0.95 + 0.24 * (-(-len(sizes) // columns)) + (0.3 if len(algorithms) > 1 else 0.0)
    axes = axes_in(figure, 0.9, below, 0.3, 0.85, grid="both")
    scale, unit = axis_unit(max((row["bus_bytes_per_s"] for row in table), default=1.0), "B/s")
    for (ranks, algorithm), points in lines.items():
        points.sort()
        axes.plot(
            [size for size, _ in points],
            [rate / scale for _, rate in points],
            color=_colour(sizes.index(ranks)),
            linestyle=STYLES[algorithms.index(algorithm) % len(STYLES)],
            linewidth=1.8,
            marker=SERIES[sizes.index(ranks) % len(SERIES)][1],
            markersize=4,
        )
    axes.set_xscale("log", base=2)
    messages = sorted({size for points in lines.values() for size, _ in points})
    axes.set_xticks(messages[:: -(-len(messages) // MOST_TICKS)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _binary(value)))
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"bus bandwidth, {unit}", color=INK)
    axes.set_xlabel("message", color=INK)
    handles = [
        Line2D([], [], color=_colour(i), marker=SERIES[i % len(SERIES)][1], label=f"{ranks:,} ranks")
        for i, ranks in enumerate(sizes)
    ]
    legend_in(axes, handles, columns, 0.6)
    if len(algorithms) > 1:
        styles = [
            Line2D([], [], color=SOFT_INK, linestyle=STYLES[i % len(STYLES)], label=name)
            for i, name in enumerate(algorithms)
        ]
        first = axes.get_legend()
        if first is not None:
            axes.add_artist(first)
        legend_in(axes, styles, columns, 0.6 + 0.3 * (-(-len(sizes) // columns)))
    return save(figure, path)


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)][0]


def _binary(size_bytes: float) -> str:
    """A message in the powers of two that benchmarks step by."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:g} {unit}"
        size_bytes /= 1024
    return ""


def plot_topology(
    nodes: pd.DataFrame | Rows, links: pd.DataFrame | Rows, path: str | Path, title: str = ""
) -> Path:
    """Draw devices, switches and the links between them; wider lines are faster links.

    Parameters
    ----------
    nodes : frame or iterable of mappings
        ``name``, ``kind``, ``x`` and ``y`` [1].
    links : frame or iterable of mappings
        ``source``, ``target``, ``bytes_per_s`` one way [byte/s], ``tier`` and, where it joins both ends of an axis,
        ``wraps``.
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
    rates, tiers = sorted({row["bytes_per_s"] for row in joined}), _tiers(joined)
    figure = new_figure(5.2)
    titles(figure, title or "Topology", _said_links(joined))
    axes = axes_in(figure, 0.3, 0.75, 0.3, 0.85)
    axes.set_axis_off()
    for row in joined:
        a, b = placed[row["source"]], placed[row["target"]]
        for xs, ys in _strokes(a, b, wraps=bool(row.get("wraps"))):
            axes.plot(
                xs,
                ys,
                color=_colour(list(tiers).index(row["tier"])),
                linewidth=0.4 + (1.8 if len(joined) <= MANY_LINKS else 0.8) * row["bytes_per_s"] / rates[-1],
                linestyle=":" if row.get("wraps") else "-",
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
    handles += [
        Line2D([], [], color=_colour(i), label=said)
        for i, (tier, said) in enumerate(tiers.items())
        if any(row["tier"] == tier for row in joined)
    ]
    if any(row.get("wraps") for row in joined):
        handles.append(Line2D([], [], color=_colour(0), linestyle=":", label="around to the other end"))
    if len(placed) <= MANY_LABELS:
        for row in placed.values():
            if row["kind"] == "device":
                number = row["name"].split()[-1]
                axes.annotate(
                    number,
                    (row["x"], row["y"]),
                    xytext=(0, -14),
                    textcoords="offset points",
                    ha="center",
                    color=INK,
                    fontsize=8,
                )
    legend_in(axes, handles, 9, 0.25)
    return save(figure, path)


def _tiers(links: list[dict[str, Any]]) -> dict[str, str]:
    """What to call each tier that has links, from the inside out."""
    further = dict.fromkeys(row["tier"] for row in links if row["tier"] not in SAID_TIERS)
    return {**SAID_TIERS, **{tier: f"in {tier}" for tier in further}}


def _said_links(links: list[dict[str, Any]]) -> str:
    """Bandwidths of the drawn lines by tier; parallel links are one line."""
    parts = []
    for tier, where in _tiers(links).items():
        rates = sorted({row["bytes_per_s"] for row in links if row["tier"] == tier})
        if rates:
            shown = ", ".join(format_bytes_per_s(rate) for rate in rates[:3])
            parts.append(f"{shown}{' and more' if len(rates) > 3 else ''} {where}")
    return f"one line, one way: {'; '.join(parts)}" if parts else ""


def _strokes(
    a: Mapping[str, Any], b: Mapping[str, Any], *, wraps: bool
) -> list[tuple[list[float], list[float]]]:
    """The line between two places; of a link around an end two stubs that point away from each other."""
    if not wraps:
        return [([a["x"], b["x"]], [a["y"], b["y"]])]
    across, up = b["x"] - a["x"], b["y"] - a["y"]
    length = max((across**2 + up**2) ** 0.5, 1e-9)
    across, up = STUB * across / length, STUB * up / length
    return [
        ([a["x"] - across, a["x"]], [a["y"] - up, a["y"]]),
        ([b["x"], b["x"] + across], [b["y"], b["y"] + up]),
    ]

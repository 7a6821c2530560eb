"""The summary of an estimate for a terminal, with rich; needs neither matplotlib nor pandas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reports.energy_parts import energy_table
from reports.estimate_fields import Rows, plan_text, scenario_text, shorten
from reports.headline import OPERATOR_COLUMNS, TEXT_COLUMNS, headline
from reports.human_numbers import format_bytes, format_energy, format_fraction, format_time
from reports.memory_by_owner import memory_table
from reports.palette import colour_of
from reports.time_breakdown import operator_table, time_table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

__all__ = ["estimate_table"]

_BAR_CELLS = 24
_NARROW = 100  # columns; below this the columns of bytes go
_LONGEST_NAME = 44
_EIGHTHS = " ▏▎▍▌▋▊▉"


class _Bar:
    """A share as a bar of block characters, or of ``#`` where the terminal has only ASCII."""

    def __init__(self, fraction: float, colour: str) -> None:
        self.fraction, self.colour = min(1.0, max(0.0, fraction)), colour

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment
        from rich.style import Style

        eighths = round(8 * _BAR_CELLS * self.fraction)
        if self.fraction > 0:
            eighths = max(1, eighths)
        text = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        if options.ascii_only:
            text = "#" * max(round(eighths / 8), int(self.fraction > 0))
        yield Segment(text, Style(color=self.colour))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Any:
        from rich.measure import Measurement

        return Measurement(_BAR_CELLS, _BAR_CELLS)


def _grid(title: str, headings: Sequence[tuple[str, bool]]) -> Table:
    """A table with a left-aligned title; each heading says whether its column holds text."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
    )
    for heading, is_text in headings:
        table.add_column(
            heading,
            justify="left" if is_text else "right",
            overflow="fold" if is_text else "ellipsis",
            no_wrap=not is_text,
        )
    return table


def _parts(title: str, heading: str, rows: Rows, key: str, value: str, form: Callable[[Any], str]) -> Table:
    """A table of parts with bars; parts at zero are left out."""
    from rich.text import Text

    table = _grid(title, [(heading, True), ("", False), ("Share", False), ("", True)])
    for row in [row for row in rows if row[value]] or rows[:1]:
        table.add_row(
            Text(row["label"]),
            form(row[value]),
            format_fraction(row["fraction"]),
            _Bar(row["fraction"], colour_of(row[key])),
        )
    return table


class _Operators:
    """The operator table, with fewer columns where the terminal is narrow."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        columns = OPERATOR_COLUMNS if options.max_width >= _NARROW else OPERATOR_COLUMNS[:-2]
        table = _grid(
            "Longest operators (one device, whole step)",
            [(heading, key in TEXT_COLUMNS) for key, heading, _ in columns],
        )
        for row in self.rows:
            cells = [Text(form(row[key])) for key, _, form in columns]
            cells[0] = Text(shorten(row["operator"], _LONGEST_NAME), style=colour_of(row["class"]))
            table.add_row(*cells)
        yield table


def _verdict(estimate: Mapping[str, Any]) -> list[RenderableType]:
    """Whether it fits, why not, and what would; then the notes."""
    from rich.text import Text

    lines: list[RenderableType] = []
    if estimate.get("feasible") is False:
        lines.append(Text("Does not fit.", style="bold red"))
    lines += [Text(f"  - {reason}", style="red") for reason in estimate.get("reasons") or ()]
    if estimate.get("smallest_change"):
        lines.append(Text(f"  Smallest change that fits: {estimate['smallest_change']}", style="bold"))
    lines += [Text(f"Note: {note}", style="dim") for note in estimate.get("notes") or ()]
    return lines


def estimate_table(estimate: Mapping[str, Any], top: int = 12) -> RenderableType:
    """The summary of an estimate, ready for ``rich.console.Console.print``.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``; parts that are missing or null are left out.
    top : int
        Operators to list before the row called other [1].

    Returns
    -------
    rich.console.RenderableType
        Headline figures, time by class, memory by owner, energy by part, the longest operators, reasons and
        notes. Units are printed with each figure (s, B, J, W with SI prefixes).

    Notes
    -----
    Raises nothing of its own. Source: only the mapping; the tables are those behind the plots.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    figures = Table.grid(padding=(0, 2))
    for name, value in headline(estimate):
        figures.add_row(Text(name), Text(value, style="bold"))
    items: list[RenderableType] = [
        Text(scenario_text(estimate), style="bold"),
        Text(plan_text(estimate), style="dim"),
        figures,
    ]
    items += [Text(""), *_verdict(estimate)] if _verdict(estimate) else []
    items.append(Text(""))
    if estimate.get("time"):
        items.append(
            _parts("Exposed time by class", "Class", time_table(estimate), "class", "exposed_s", format_time)
        )
    if estimate.get("memory"):
        items.append(
            _parts(
                "Memory by owner (fullest device)",
                "Owner",
                memory_table(estimate),
                "owner",
                "bytes",
                format_bytes,
            )
        )
    if estimate.get("energy"):
        items.append(
            _parts(
                "Energy by part (all devices)",
                "Part",
                energy_table(estimate),
                "part",
                "energy_j",
                format_energy,
            )
        )
    if estimate.get("operators"):
        items.append(_Operators(operator_table(estimate, top)))
    return Group(*items)

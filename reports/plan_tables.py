"""Tables of plans for a terminal: short column names, human units, and only the columns that fit and differ."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reports.column_words import form_of, words_of
from reports.estimate_fields import shorten
from reports.human_numbers import format_fraction, format_rate, format_time

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

__all__ = ["difference_table", "plan_columns", "plan_table"]

# Totals to show beside the keys, the most telling first: the last ones go where the terminal is narrow.
_TOTALS = (
    "step_time_s",
    "peak_bytes",
    "tokens_per_s",
    "mfu",
    "energy_j",
    "time_to_first_token_s",
    "time_per_output_token_s",
    "tokens_per_s_per_device",
)
_DERIVED = ("data_parallel", "micro_batch_size")  # part of the plan, whether written or not
_SHORT_WORDS = {
    "step_time_s": "step time",
    "peak_bytes": "peak memory",
    "tokens_per_s": "tokens/s",
    "tokens_per_s_per_device": "tokens/s per device",
    "energy_j": "energy",
    "time_to_first_token_s": "first token",
    "time_per_output_token_s": "per token",
}
# As in the line of the plan that llmsim run prints.
_INITIALS = {
    "tensor_parallel": "TP",
    "pipeline_parallel": "PP",
    "virtual_pipeline": "VP",
    "data_parallel": "DP",
    "context_parallel": "CP",
    "expert_parallel": "EP",
    "sequence_parallel": "SP",
    "zero_stage": "ZeRO",
    "micro_batch_size": "micro batch",
}
_ALWAYS = 2  # totals that stay however narrow the terminal is
_GAP = 2  # blanks between columns
_LONGEST_CELL = 26


@dataclass(frozen=True)
class _Column:
    heading: str
    cells: tuple[str, ...]
    is_key: bool
    initials: str = ""  # heading where the terminal is narrow

    @property
    def width(self) -> int:
        """Cells that the column needs: its widest value or the longest word of its heading."""
        return max(map(len, [*self.cells, *self.heading.split()]), default=0) + _GAP


def _cell(value: Any, form: Any) -> str:
    import numpy as np

    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return shorten(str(form(value)), _LONGEST_CELL)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bare_rate(value: Any) -> str:
    """Tokens per second without the unit, which the heading has."""
    return format_rate(value).partition(" ")[0]


def _heading(key: str, keys: Sequence[str]) -> str:
    """Last part of a key in words; the whole key where two end alike."""
    last = key.rsplit(".", 1)[-1]
    alike = sum(other.rsplit(".", 1)[-1] == last for other in keys) > 1
    return (key.replace(".", " ") if alike else last).replace("_", " ")


def plan_columns(frame: pd.DataFrame, keys: Sequence[str]) -> tuple[list[_Column], dict[str, str]]:
    """Columns in which the rows differ and the totals, all written for people; and what all rows share, by key.

    ``keys`` are the swept columns of the frame. Raises nothing: absent columns are left out.
    """
    columns: list[_Column] = []
    shared: dict[str, str] = {}
    derived = [k for k in _DERIVED if k in frame.columns and f"plan.{k}" not in keys]
    for key in [k for k in keys if k in frame.columns] + derived:
        cells = tuple(_cell(v, _number) for v in frame[key].tolist())
        if len(set(cells)) > 1:
            columns.append(
                _Column(_heading(key, keys), cells, True, _INITIALS.get(key.rsplit(".", 1)[-1], ""))
            )
        elif cells:
            shared[_heading(key, keys)] = cells[0]
    for name in _TOTALS:
        if name not in frame.columns or frame[name].isna().all():
            continue
        form = _bare_rate if name.startswith("tokens_per_s") else form_of(name)
        cells = tuple(_cell(v, form) for v in frame[name].tolist())
        columns.append(_Column(_SHORT_WORDS.get(name) or words_of(name), cells, False))
        if name == "peak_bytes" and "feasible" in frame.columns and not frame["feasible"].all():
            over = (frame["peak_bytes"] / frame["capacity_bytes"]).tolist()
            columns.append(_Column("of the memory", tuple(format_fraction(v) for v in over), False))
    return columns, shared


def _fitting(columns: Sequence[_Column], width: int) -> Iterator[_Column]:
    """Columns that fit: keys and the first totals stay, then the other totals as long as there is room."""
    keys = [c for c in columns if c.is_key]
    totals = [c for c in columns if not c.is_key]
    if sum(c.width for c in [*keys, *totals[:_ALWAYS]]) > width:
        keys = [replace(c, heading=c.initials or c.heading) for c in keys]
    room = width - sum(c.width for c in keys)
    kept = []
    for place, column in enumerate(totals):
        room -= column.width
        if place < _ALWAYS or room >= 0:
            kept.append(column)
    yield from [*keys, *kept]


class _PlanTable:
    """Rows of plans, as many columns as the terminal takes."""

    def __init__(self, columns: Sequence[_Column], shared: dict[str, str], title: str) -> None:
        self.columns, self.shared, self.title = columns, shared, title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text("")
        yield Text(self.title, style="bold")
        if self.shared:
            same = ", ".join(f"{name} {value}" for name, value in self.shared.items())
            yield Text(f"all with {same}", style="dim")
        columns = list(_fitting(self.columns, options.max_width))
        table = _table()
        for column in columns:
            heading = "\n".join(textwrap.wrap(column.heading, column.width - _GAP))
            table.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
        for row in zip(*(c.cells for c in columns), strict=True):
            table.add_row(*row)
        yield table


def _table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0), show_edge=False)


def plan_table(frame: pd.DataFrame, keys: Sequence[str], title: str) -> RenderableType:
    """Rows of a sweep or a search for a terminal.

    Parameters
    ----------
    frame : pandas.DataFrame
        The rows to show, in order; times in s, sizes in byte, energies in J.
    keys : sequence of str
        Its swept columns, dotted.
    title : str
        Printed above.

    Returns
    -------
    rich.console.RenderableType
        Keys in which the rows differ under the last part of their names, then totals with units; what all rows
        share is one line above. Totals that do not fit the terminal are left out.

    Notes
    -----
    Raises nothing of its own. Source: only the frame.
    """
    columns, shared = plan_columns(frame, keys)
    return _PlanTable(columns, shared, title)


def difference_table(
    parts: Sequence[tuple[str, float, float]], before_s: float, after_s: float
) -> RenderableType:
    """Why one step takes longer than another, by cause.

    Parameters
    ----------
    parts : sequence of (str, float, float)
        Cause, seconds before, seconds after; each column sums to the step [s].
    before_s, after_s : float
        The steps [s].

    Returns
    -------
    rich.console.RenderableType
        A table with a total; causes that neither step has are left out.

    Notes
    -----
    Raises nothing of its own. Source: only the arguments.
    """
    from rich.console import Group
    from rich.text import Text

    table = _table()
    for heading in ("cause", "A", "B", "B - A", "of the change"):
        table.add_column(heading, justify="left" if heading == "cause" else "right")

    def row(cause: str, before: float, after: float) -> tuple[str, ...]:
        change, whole = after - before, after_s - before_s
        share = format_fraction(change / whole) if whole else "-"
        signed = ("+" if change >= 0 else "-") + format_time(abs(change))
        return cause, format_time(before), format_time(after), signed, share

    for cause, before, after in parts:
        if before or after:
            table.add_row(*row(cause.removesuffix("_s").replace("_", " "), before, after))
    table.add_section()
    table.add_row(*row("step time", before_s, after_s))
    return Group(Text(f"Step time: A {format_time(before_s)}, B {format_time(after_s)}", style="bold"), table)

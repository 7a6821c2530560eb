"""What `llmsim calibrate` fitted: families with their rows and errors, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["calibration_table", "left_aside_text"]

_LEFT_OUT = "_left_out"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def calibration_table(rows: Iterable[Mapping[str, Any]], title: str) -> RenderableType:
    """Errors of each fitted family by size class.

    Parameters
    ----------
    rows : iterable of mapping
        family, dtype, rows, left_out [1], error and spread by class as in a calibration file [1], and like: the
        calibration whose curve was kept, or "".
    title : str
        Above the table.

    Returns
    -------
    RenderableType
        A line for each family and one for each of its size classes: mean errors [%], fitted rows and left-out ones, and
        the spread that holds 90 % of the errors [%].
        Raises nothing.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("family, type, size", overflow="fold", min_width=24)
    for name in ("rows", "left out", "MAPE %", "left out %", "spread %"):
        table.add_column(name, justify="right")
    for row in rows:
        few = f" (curve of {row['like']})" if row["like"] else ""
        left_out = "in turn" if row["like"] else f"{row['left_out']:,}"
        label = f"{row['family']} {row['dtype']}{few}"
        table.add_row(label, f"{row['rows']:,}", left_out, "", "", _percent(row["spread"].get("all")))
        for name in dict.fromkeys(key.removesuffix(_LEFT_OUT) for key in row["error"]):
            fitted, apart = row["error"].get(name), row["error"].get(name + _LEFT_OUT)
            spread = _percent(row["spread"].get(name)) if name != "all" else ""
            table.add_row(f"  {name}", "", "", _percent(fitted), _percent(apart), spread)
    return table


def left_aside_text(aside: Sequence[Mapping[str, Any]]) -> str:
    """Lines that name rows which were not fitted: what, how many [1], why; empty if there are none."""
    lines = [f"  {item['what']}: {item['rows']:,} rows ({item['why']})" for item in aside]
    return "\n".join(["Rows that were not fitted:", *lines]) if lines else ""

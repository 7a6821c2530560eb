"""A sweep in a folder: its Pareto front, its best rows, and one page that holds it all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import png
from reports.column_words import form_of, heading_of, words_of
from reports.estimate_fields import Rows
from reports.files import csv_text, write_files
from reports.html_page import definitions, html_table, page, picture
from reports.human_numbers import MISSING, format_count
from reports.pareto import pareto_figure
from reports.pareto_front import pareto_table
from reports.sweep_tables import TOTALS, axis_table, best_table, excluded_table, feasible_rows, swept_keys
from reports.tables import column_name, rows_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_sweep_report"]

_MOST_ROWS = 40  # rows shown on the page; the CSV has all


def _shown_columns(frame: pd.DataFrame, table: pd.DataFrame) -> list[tuple[str, str, Callable[[Any], str]]]:
    totals = [name for name in frame.columns if str(name).rsplit(".", 1)[-1] in TOTALS]
    names = [name for name in ("front", *swept_keys(frame), *totals) if name in table.columns]
    return [(name, heading_of(name), form_of(name)) for name in names]


def _axis_columns(objective: str) -> list[tuple[str, str, Callable[[Any], str]]]:
    form, words = form_of(objective), words_of(objective)
    return [
        ("key", "Key", str),
        ("value", "Value", str),
        ("rows", "Rows", format_count),
        ("feasible_rows", "Rows that fit", format_count),
        ("best", f"Best {words}", form),
        ("median", f"Median {words}", form),
    ]


def _sections(
    frame: pd.DataFrame, x: str, front: pd.DataFrame, axes: Rows, image: str
) -> list[tuple[str, str, str]]:
    """(anchor, heading, body) of each section of the page."""
    best, words = best_table(frame, x), words_of(x)
    per_value = html_table(axes, _axis_columns(x), f"{heading_of(x)} by value of each swept key")
    shown = f"The front, {min(len(front), _MOST_ROWS)} of {len(front)} rows"
    table = html_table(rows_of(front.head(_MOST_ROWS)), _shown_columns(frame, front), shown)
    sections = [
        ("front", "Pareto front", image + table),
        ("best", "Best rows", html_table(rows_of(best), _shown_columns(frame, best), f"Best {words}")),
        ("axes", "What each value is worth", per_value),
    ]
    excluded, columns = (
        excluded_table(frame),
        (("label", "Rule", str), ("rows", "Combinations", format_count)),
    )
    if excluded:
        caption = "Combinations left out, by rule"
        sections.append(("excluded", "Left out", html_table(excluded, columns, caption)))
    return sections


def _cards(frame: pd.DataFrame, x: str, front: pd.DataFrame) -> str:
    best = form_of(x)(front[x].iloc[0]) if len(front) else MISSING
    counts = (
        ("Rows", len(frame)),
        ("Rows that fit", len(feasible_rows(frame))),
        ("Rows on the front", len(front)),
    )
    words = [(name, format_count(count)) for name, count in counts]
    return definitions([*words, (f"Best {words_of(x)}", best)])


def write_sweep_report(
    frame: pd.DataFrame,
    out_dir: str | Path,
    *,
    x: str = "step_time_s",
    y: str = "peak_bytes",
    title: str = "Sweep",
) -> list[Path]:
    """Write the Pareto picture, the tables of a sweep, and one self-contained page.

    Parameters
    ----------
    frame : pandas.DataFrame
        A sweep: the swept keys, then totals with units in their names; any number of rows.
    out_dir : str or Path
        Folder; made where it does not exist.
    x, y : str
        Columns of the front; ``x`` is also the objective of the best rows.
    title : str
        What was swept.

    Returns
    -------
    list of Path
        ``report.html``, ``pareto.png``, ``pareto.csv``, ``best.csv``, ``axes.csv``.

    Raises
    ------
    ReportError
        If a column is missing or not numeric, or the folder cannot be written; then no file is changed.

    Notes
    -----
    Source: only the frame; rules that left rows out are read from ``frame.attrs``.
    """
    names = [str(name) for name in frame.columns]
    x, y = column_name(names, x), column_name(names, y)
    front = pareto_table(frame, x, y)
    axes = axis_table(frame, x)
    figure = pareto_figure(frame, x, y, title=title)
    light, dark = png(figure), png(figure, dark=True)
    alt = (
        f"Scatter of {len(frame):,} rows, {words_of(x)} against {words_of(y)}; a front of {len(front)} rows."
    )
    caption = "No other row that fits is as good in both columns as a row of the front."
    sections = _sections(frame, x, front, axes, picture(light, dark, alt, caption))
    lead = f"Varied: {', '.join(swept_keys(frame)) or 'nothing'}"
    folder = Path(out_dir)
    files: dict[Path, bytes | str] = {
        folder / "report.html": page(title, lead, sections, _cards(frame, x, front)),
        folder / "pareto.png": light,
        folder / "pareto.csv": csv_text(rows_of(front)),
        folder / "best.csv": csv_text(rows_of(best_table(frame, x))),
        folder / "axes.csv": csv_text(axes),
    }
    return write_files(files)

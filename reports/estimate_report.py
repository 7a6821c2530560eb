"""One estimate in a folder: pictures, the tables behind them, and one page that holds it all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.canvas import png
from reports.chapters import Chapter, chapters
from reports.estimate_fields import plan_text, scenario_text
from reports.files import csv_text, write_files
from reports.headline import headline
from reports.html_page import bullets, definitions, details, page, picture
from reports.scaling import scaling_table
from reports.tables import rows_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_report"]


def _page(
    estimate: Mapping[str, Any], found: list[Chapter], pictures: Mapping[str, tuple[bytes, bytes]]
) -> str:
    sections = []
    for chapter in found:
        image = picture(*pictures[chapter.name], chapter.alt, chapter.caption)
        sections.append((chapter.name, chapter.heading, image + chapter.shown))
    if estimate.get("notes"):
        sections.append(("notes", "Notes", bullets(estimate["notes"])))
    scenario = json.dumps(estimate.get("scenario"), indent=2, default=str)
    resolved = details("The resolved scenario, with every default", scenario)
    version = f'<p class="lead">llmsim {escape(str(estimate.get("llmsim_version") or ""))}</p>'
    sections.append(("scenario", "Scenario", resolved + version))
    intro = _misfit(estimate) + definitions(headline(estimate))
    return page(scenario_text(estimate), plan_text(estimate), sections, intro)


def _misfit(estimate: Mapping[str, Any]) -> str:
    """A box with the reasons and the way out, for a plan that does not fit."""
    if estimate.get("feasible") is not False:
        return ""
    change = estimate.get("smallest_change")
    lines = [*(estimate.get("reasons") or ()), *([f"Smallest change that fits: {change}"] if change else ())]
    return f'<div class="bad" role="note"><strong>Does not fit.</strong>{bullets(lines)}</div>'


def write_report(
    estimate: Mapping[str, Any],
    scaling: pd.DataFrame | Iterable[Mapping[str, Any]] | None,
    out_dir: str | Path,
    passes: pd.DataFrame | Iterable[Mapping[str, Any]] = (),
) -> list[Path]:
    """Write the pictures, the tables behind them, and one self-contained page.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``.
    scaling : frame or iterable of mappings, or None
        Points for ``plot_scaling`` (``devices`` [1], ``step_time_s`` [s]); no scaling chapter without them.
    out_dir : str or Path
        Folder; made where it does not exist.
    passes : frame or iterable of mappings, optional
        Passes of a pipeline for ``pipeline_table``; no pipeline chapter without them.

    Returns
    -------
    list of Path
        ``report.html``, then a PNG and the CSV files of each chapter (SI units, as in the column names).

    Raises
    ------
    ReportError
        If the folder cannot be written; then no file is changed.

    Notes
    -----
    The page holds its pictures in a light and a dark version and loads nothing. Source: only the arguments.
    """
    found = chapters(estimate, scaling_table(scaling) if scaling is not None else [], rows_of(passes))
    pictures: dict[str, tuple[bytes, bytes]] = {}
    files: dict[Path, bytes | str] = {Path(out_dir) / "report.html": ""}
    for chapter in found:
        figure = chapter.figure()
        pictures[chapter.name] = (png(figure), png(figure, dark=True))
        files[Path(out_dir) / f"{chapter.name}.png"] = pictures[chapter.name][0]
        files.update({Path(out_dir) / f"{name}.csv": csv_text(rows) for name, rows in chapter.tables.items()})
    files[Path(out_dir) / "report.html"] = _page(estimate, found, pictures)
    return write_files(files)

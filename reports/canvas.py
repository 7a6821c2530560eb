"""Figures without pyplot: laid out in inches, drawn with Agg, saved in a light or a dark scheme."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.files import write_files
from reports.palette import DARK, GRID, INK, PAPER, SOFT_INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["WIDTH_IN", "axes_in", "clean", "legend_in", "new_figure", "png", "save", "titles"]

WIDTH_IN = 9.0
_DPI = 144


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure with its own Agg canvas; nothing global is touched, so threads may draw at once."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def clean(text: str) -> str:
    """Names come from users: a dollar sign must not start a formula."""
    return text.replace("$", r"\$")


def axes_in(figure: Figure, left: float, bottom: float, right: float, top: float, *, grid: str = "x") -> Axes:
    """Axes with the given margins [inch] from the figure's edges (``top`` from the upper edge)."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=SOFT_INK, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(SOFT_INK)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(
            True, axis="both" if grid == "both" else "x" if grid == "x" else "y", color=GRID, linewidth=0.7
        )
    return axes


def titles(figure: Figure, title: str, subtitle: str = "") -> None:
    """Title and subtitle at the left edge; the title shrinks until it fits the width."""
    width, height = figure.get_size_inches()
    text = figure.text(
        0.15 / width, 1 - 0.12 / height, clean(title), size=12.5, weight="bold", color=INK, va="top"
    )
    _fit(figure, text, width - 0.3, 10.0)
    if subtitle:
        lower = figure.text(
            0.15 / width, 1 - 0.40 / height, clean(subtitle), size=9, color=SOFT_INK, va="top"
        )
        _fit(figure, lower, width - 0.3, 7.5)


def _fit(figure: Figure, text: Any, width_in: float, smallest: float) -> None:
    """Shrink down to the smallest readable size; what is longer still is cut at the end."""
    while text.get_window_extent().width / figure.dpi > width_in:
        if text.get_size() > smallest:
            text.set_size(text.get_size() - 0.5)
        else:
            text.set_text(text.get_text()[:-4] + "..")


def legend_in(axes: Axes, handles: Sequence[Any], columns: int, offset_in: float) -> None:
    """A frameless legend below the axes, ``offset_in`` inches under its lower edge."""
    height = axes.bbox.height / axes.figure.dpi
    axes.legend(
        handles=list(handles),
        loc="upper left",
        bbox_to_anchor=(0, -offset_in / height),
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.3,
        columnspacing=1.6,
    )


def png(figure: Figure, *, dark: bool = False) -> bytes:
    """The figure as PNG. Dark recolours ink, grid and paper in place, so save the light picture first."""
    if dark:
        _recolour(figure)
    stream = io.BytesIO()
    figure.savefig(
        stream, format="png", dpi=_DPI, facecolor=figure.get_facecolor(), metadata={"Software": "llmsim"}
    )
    return stream.getvalue()


def save(figure: Figure, path: str | Path) -> Path:
    """Write the figure as PNG, whole or not at all."""
    return write_files({Path(path): png(figure)})[0]


def _recolour(figure: Figure) -> None:
    """Swap the four neutral colours of every artist; class hues stay."""
    from matplotlib.axes import Axes
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_color(_dark(artist.get_color()))
        elif isinstance(artist, Line2D):
            artist.set_color(_dark(artist.get_color()))
            artist.set_markerfacecolor(_dark(artist.get_markerfacecolor()))
            artist.set_markeredgecolor(_dark(artist.get_markeredgecolor()))
        elif isinstance(artist, Patch):
            artist.set_edgecolor(_dark(artist.get_edgecolor()))
            artist.set_facecolor(_dark(artist.get_facecolor()))
        elif isinstance(artist, Collection):
            artist.set_facecolor([_dark(colour) for colour in artist.get_facecolor()])
            artist.set_edgecolor([_dark(colour) for colour in artist.get_edgecolor()])
        elif isinstance(artist, Axes):
            # Ticks that a later draw creates take their colours from here.
            artist.tick_params(
                which="both", colors=DARK[SOFT_INK], labelcolor=DARK[INK], grid_color=DARK[GRID]
            )


def _dark(colour: Any) -> Any:
    from matplotlib.colors import to_hex, to_rgba

    if isinstance(colour, str) and colour.lower() in ("none", "auto"):
        return colour
    swapped = DARK.get(to_hex(colour))
    return colour if swapped is None else to_rgba(swapped, to_rgba(colour)[3])

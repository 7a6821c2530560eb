"""Pictures are written, are not blank, cut nothing off, and stay the same in shape for odd input."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import estimate_fixtures as given
import numpy as np
import pandas as pd
import pytest

import reports
from reports.canvas import png
from reports.energy_parts import energy_figure
from reports.memory_by_owner import memory_figure
from reports.pareto import pareto_figure
from reports.parity import parity_figure
from reports.roofline import roofline_figure
from reports.scaling import scaling_figure
from reports.time_breakdown import time_figure
from reports.waterfall import waterfall_figure

Plot = Callable[[dict[str, Any], Path], Path]
PLOTS = [reports.plot_time, reports.plot_memory, reports.plot_energy, reports.plot_roofline]
FIGURES = [time_figure, memory_figure, energy_figure, roofline_figure]


def sweep_frame(n_rows: int = 400) -> pd.DataFrame:
    """A sweep that trades time for memory; some rows do not fit and one has no time."""
    rng = np.random.default_rng(0)
    tensor, pipeline = rng.choice([1, 2, 4, 8], n_rows), rng.choice([1, 2, 4, 8], n_rows)
    peak = 6e11 / tensor / pipeline + 4e9 * rng.lognormal(0, 0.2, n_rows)
    step = 4 * (1 + tensor / 20 + pipeline / 30) * rng.lognormal(0, 0.1, n_rows)
    step[3] = np.nan
    frame = pd.DataFrame(
        {
            "plan.tensor_parallel": tensor,
            "plan.pipeline_parallel": pipeline,
            "step_time_s": step,
            "tokens_per_s": 5e5 / step,
            "memory.peak_bytes": peak,
            "feasible": peak < 80e9,
        }
    )
    frame.attrs["excluded"] = {"plan.tensor_parallel must divide the <heads>": 12}
    return frame


def assert_picture(path: Path) -> None:
    """A PNG with ink on it and a clear margin: nothing runs over the edge."""
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(path)[..., :3]
    assert pixels.std() > 0.01
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert np.allclose(edge, 1.0), "something is cut off at the edge"


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("name", given.ALL)
def test_estimate_plots(plot: Plot, name: str, tmp_path: Path) -> None:
    path = plot(given.ALL[name](), tmp_path / "deep" / "plot.png")
    assert_picture(path)
    assert [file.name for file in path.parent.iterdir()] == ["plot.png"]  # no temporary file stays


def test_other_plots(tmp_path: Path) -> None:
    before, after = given.training(), given.decode()
    frame = sweep_frame()
    assert_picture(
        reports.plot_scaling(given.scaling_points(), tmp_path / "a.png", "llama-3.1-70b on dgx-h100")
    )
    assert_picture(reports.plot_parity(given.parity_rows(), tmp_path / "b.png"))
    assert_picture(reports.plot_compare(before, after, tmp_path / "c.png"))
    assert_picture(reports.plot_pareto(frame, "step_time_s", "peak_bytes", tmp_path / "d.png"))
    assert_picture(reports.plot_pareto(frame, "tokens_per_s", "peak_bytes", tmp_path / "e.png"))
    parts = [{"label": "more bandwidth", "delta": -0.5}, {"label": "less compute", "delta": 0.2}]
    assert_picture(reports.plot_waterfall(1.0, 0.7, parts, tmp_path / "f.png"))


def test_empty_tables_still_draw(tmp_path: Path) -> None:
    assert_picture(reports.plot_scaling([], tmp_path / "a.png"))
    assert_picture(reports.plot_parity([], tmp_path / "b.png"))
    nothing_fits = sweep_frame().assign(feasible=False)
    assert_picture(reports.plot_pareto(nothing_fits, "step_time_s", "peak_bytes", tmp_path / "c.png"))
    assert_picture(
        reports.plot_pareto(nothing_fits.iloc[:0], "step_time_s", "peak_bytes", tmp_path / "d.png")
    )
    assert_picture(reports.plot_scaling([{"devices": 8, "step_time_s": 1.0}], tmp_path / "e.png"))


def all_figures() -> list[Any]:
    frame = sweep_frame()
    figures = [
        make(build()) for make in FIGURES for build in (given.training, given.many_operators, given.decode)
    ]
    parts = [{"label": "x", "delta": 1.0}]
    others = [scaling_figure(given.scaling_points()), parity_figure(given.parity_rows())]
    return [*figures, *others, pareto_figure(frame), waterfall_figure(1.0, 2.0, parts)]


def test_every_axis_has_a_name_and_a_unit_and_no_texts_overlap() -> None:
    for figure in all_figures():
        figure.canvas.draw()
        for axes in figure.axes:
            labels = [axes.get_xlabel()] * bool(axes.get_xticklabels()) + [axes.get_ylabel()]
            named = [label for label in labels if label]
            assert named and all("(" in label and ")" in label for label in named)
        texts = [text for text in figure.texts + [t for a in figure.axes for t in a.texts] if text.get_text()]
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts if not text.get_rotation()]
        for (one, first), (other, second) in combinations(boxes, 2):
            assert not first.overlaps(second), (one, other)


def test_one_class_has_one_colour_everywhere() -> None:
    from matplotlib.colors import to_hex

    from reports.palette import CLASS_LABELS, colour_of

    colours = [colour_of(name) for name in CLASS_LABELS]
    assert len(set(colours)) == len(colours)
    legend = time_figure(given.training()).axes[0].get_legend()
    shown = {
        t.get_text().split("  ")[0]: h for t, h in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }
    for name, label in CLASS_LABELS.items():
        assert to_hex(shown[label].get_facecolor()) == colour_of(name)


def test_the_dark_picture_is_dark() -> None:
    import io

    from matplotlib.image import imread

    figure = time_figure(given.training())
    light, dark = (imread(io.BytesIO(png(figure, dark=dark)))[..., :3].mean() for dark in (False, True))
    assert light > 0.7 and dark < 0.35


def test_no_global_state_of_matplotlib_is_touched() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    png(roofline_figure(given.training()))
    assert dict(matplotlib.rcParams) == before


def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(reports.ReportError, match="cannot write"):
        reports.plot_memory(given.decode(), tmp_path / "file" / "memory.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(reports.ReportError, match="folder.png"):
        reports.plot_memory(given.decode(), tmp_path / "folder.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]

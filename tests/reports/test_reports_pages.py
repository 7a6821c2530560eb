"""The pages: self-contained, well formed, readable without pictures; and the files beside them."""

from __future__ import annotations

import csv
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import estimate_fixtures as given
import pytest
from test_reports_pictures import assert_picture, sweep_frame

import reports

_VOID = {"meta", "link", "img", "source", "br"}


class Page(HTMLParser):
    """Checks nesting, and collects what a browser would fetch and what a reader without pictures gets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def assert_self_contained(text: str) -> Page:
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and page.all("html") == [{"lang": "en"}]
    assert not page.all("script") and "@import" not in text and "url(" not in text
    for _, attrs in page.tags:
        for name in ("src", "srcset", "href", "action", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), value
    assert all(len(image["alt"] or "") > 20 for image in page.all("img"))
    assert len(page.all("h1")) == 1 and page.all("caption") is not None
    anchors = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(anchors)) == len(anchors)
    assert {f"#{anchor}" for anchor in anchors} == {link["href"] for link in page.all("a")}
    assert {"name": "color-scheme", "content": "light dark"} in page.all("meta")
    assert "prefers-color-scheme: dark" in text
    return page


@pytest.mark.parametrize("name", given.ALL)
def test_estimate_report(name: str, tmp_path: Path) -> None:
    written = reports.write_report(given.ALL[name](), None, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))
    for path in written:
        if path.suffix == ".png":
            assert_picture(path)


def test_estimate_report_has_every_chapter_and_the_tables_behind_it(tmp_path: Path) -> None:
    estimate = given.training()
    names = {path.name for path in reports.write_report(estimate, given.scaling_points(), tmp_path)}
    assert names == {
        "report.html", "time.png", "time.csv", "top_operators.csv", "memory_by_owner.png",
        "memory_by_owner.csv",
        "roofline.png", "roofline.csv", "energy.png", "energy.csv", "scaling.png", "scaling.csv",
    }  # fmt: skip
    with (tmp_path / "top_operators.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    total = math.fsum(float(row["exposed_s"]) for row in rows)
    assert total == pytest.approx(estimate["step_time_s"], rel=1e-12)
    page = assert_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == 5 and len(page.all("table")) == 6
    assert "llama-3.1-70b training on dgx-h100, 64 devices" in page.words and "mlp.gate_up" in page.words


def test_passes_of_a_pipeline_are_a_chapter_with_their_table(tmp_path: Path) -> None:
    # Two stages: the second starts when the first is done, and each waits half of the span.
    passes = [
        {"stage": s, "chunk": 0, "micro_batch": 0, "pass": p, "start_s": a, "end_s": b, "held": 1.0}
        for s, p, a, b in (
            (0, "forward", 0, 1),
            (1, "forward", 1, 2),
            (1, "backward", 2, 3),
            (0, "backward", 3, 4),
        )
    ]
    written = reports.write_report(given.training(), None, tmp_path, passes)
    assert {"pipeline.png", "pipeline.csv", "pipeline_passes.csv"} <= {path.name for path in written}
    assert_picture(tmp_path / "pipeline.png")
    with (tmp_path / "pipeline.csv").open(newline="", encoding="utf-8") as file:
        stages = list(csv.DictReader(file))
    assert [(float(row["busy_s"]), float(row["idle_s"])) for row in stages] == [(2.0, 2.0), (2.0, 2.0)]
    words = Page((tmp_path / "report.html").read_text(encoding="utf-8")).words
    assert "Micro-batches held" in words and "50.0 %" in words


def test_a_plan_that_does_not_fit_says_so_first(tmp_path: Path) -> None:
    reports.write_report(given.many_operators(), None, tmp_path)
    words = Page((tmp_path / "report.html").read_text(encoding="utf-8")).words
    assert "Does not fit." in words and "plan.zero_stage 1 -> 3" in words


def test_text_of_a_scenario_cannot_become_markup(tmp_path: Path) -> None:
    estimate: dict[str, Any] = given.decode()
    attack = '"><script src="http://example.org/x.js"></script>'
    estimate["scenario"]["model"] = {"name": attack}
    estimate["operators"][0]["name"] = attack
    estimate["notes"] = [attack]
    reports.write_report(estimate, None, tmp_path)
    assert_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_sweep_report(tmp_path: Path) -> None:
    frame = sweep_frame()
    written = reports.write_sweep_report(frame, tmp_path, title="gpt3-175b on dgx-a100-80gb")
    assert sorted(path.name for path in written) == [
        "axes.csv",
        "best.csv",
        "pareto.csv",
        "pareto.png",
        "report.html",
    ]
    page = assert_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Varied: plan.tensor_parallel, plan.pipeline_parallel" in page.words
    assert "must divide the <heads>" in page.words
    with (tmp_path / "pareto.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(reports.pareto_table(frame)) and rows[0]["front"] == "1"


def test_sweep_report_of_nothing_that_fits(tmp_path: Path) -> None:
    reports.write_sweep_report(sweep_frame().assign(feasible=False), tmp_path)
    assert_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_sweep_report_ranks_rates_from_the_top(tmp_path: Path) -> None:
    frame = sweep_frame()
    reports.write_sweep_report(frame, tmp_path, x="tokens_per_s")
    with (tmp_path / "best.csv").open(newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    assert float(first["tokens_per_s"]) == frame.loc[frame["feasible"], "tokens_per_s"].max()


def test_nothing_is_written_when_the_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(reports.ReportError, match="cannot write"):
        reports.write_report(given.decode(), None, tmp_path / "out")
    with pytest.raises(reports.ReportError, match="use one of"):
        reports.write_sweep_report(sweep_frame(), tmp_path / "sweep", x="nothing_s")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_style_has_no_address() -> None:
    from reports import html_page

    assert not re.search(r"https?:", html_page.page("title", "lead", []))

"""``llmsim report`` and ``compare``: pictures and pages for every kind of result."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator import simulate

PNG = b"\x89PNG\r\n"


def pictures(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.png"))
    assert all(p.read_bytes().startswith(PNG) for p in found)
    return found


@pytest.mark.parametrize("name", ["training", "decode", "generation"])
def test_report_of_a_scenario(llmsim, request, tmp_path: Path, name: str) -> None:
    out = tmp_path / "deep" / "report"
    found = llmsim("report", request.getfixturevalue(name), "--out", out)
    assert found.status == 0, found.err
    written = [Path(line) for line in found.out.splitlines()]
    assert all(p.is_file() for p in written)
    assert out / "report.html" in written
    assert len(pictures(out)) >= 3
    page = (out / "report.html").read_text()
    assert "<html" in page
    assert 'src="http' not in page  # self-contained


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_report_of_a_sweep(llmsim, sweep_file: Path, tmp_path: Path, suffix: str) -> None:
    rows = tmp_path / f"rows{suffix}"
    assert llmsim("sweep", sweep_file, "--out", rows).status == 0
    found = llmsim("report", rows, "--out", tmp_path / "report")
    assert found.status == 0, found.err
    assert pictures(tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "degrees multiply to devices" in page


def test_compare(llmsim, training: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(training.read_text().replace("zero_stage: 1", "zero_stage: 3"))
    found = llmsim("compare", training, other, "--out", tmp_path / "waterfall.png")
    assert found.status == 0, found.err
    assert pictures(tmp_path) == [tmp_path / "waterfall.png"]
    assert "100.0 %" in found.out
    a, b = simulate(training), simulate(other)
    changes = [b.time[k] - a.time[k] for k in a.time]
    assert sum(changes) == pytest.approx(b.step_time_s - a.step_time_s, rel=1e-9)


def test_compare_of_equals(llmsim, training: Path) -> None:
    found = llmsim("compare", training, training)
    assert found.status == 0
    assert "+0 s" in found.out


def test_compare_of_a_sweep_is_refused(llmsim, training: Path, sweep_file: Path) -> None:
    found = llmsim("compare", training, sweep_file)
    assert (found.status, len(found.messages)) == (2, 2)
    assert "has 3 values, and one scenario has one" in found.err

"""Outputs that cannot be written: exit status 2 before any work, and nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import simulator.commands.output as output


def contents(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("x")
    return tmp_path / "file"


@pytest.mark.parametrize("command", ["run", "report"])
def test_a_file_where_a_folder_should_be(llmsim, training: Path, blocked: Path, command: str) -> None:
    before = contents(training.parent)
    for out in (blocked, blocked / "below", blocked / "deep" / "below"):
        found = llmsim(command, training, "--out", out)
        assert (found.status, len(found.messages), found.out) == (2, 1, "")
        assert f"--out = {out}: cannot be a folder: {blocked} is a file" in found.err
    assert contents(training.parent) == before


def test_a_folder_where_a_file_should_be(llmsim, training: Path, tmp_path: Path) -> None:
    (tmp_path / "results" / "operators.csv").mkdir(parents=True)
    before = contents(tmp_path)
    found = llmsim("run", training, "--out", tmp_path / "results")
    assert (found.status, len(found.messages)) == (2, 1)
    assert "operators.csv is a folder" in found.err
    assert contents(tmp_path) == before


def test_a_name_that_is_empty(
    llmsim, training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    found = llmsim("run", training, "--out", "")
    assert found.status == 2
    assert "must name a folder" in found.err
    assert contents(tmp_path) == before


def test_a_disk_that_fills_up(
    llmsim, training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of four files fails: none of them stays, and no temporary one."""
    real = Path.write_text

    def write_text(self: Path, *args: object, **kwargs: object) -> int:
        if "operators" in self.name:
            raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", write_text)
    found = llmsim("run", training, "--out", tmp_path / "results")
    assert found.status == 2
    assert "cannot be written (No space left on device)" in found.err
    assert contents(tmp_path / "results") == []


def test_a_scenario_with_mistakes_makes_no_folder(llmsim, training: Path, tmp_path: Path) -> None:
    found = llmsim("run", training, "--set", "plan.tensor_parallel=3", "--out", tmp_path / "results")
    assert found.status == 2
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rows.txt", "must end in .parquet or .csv"),
        ("nowhere/rows.csv", "is not a folder; make the folder"),
        ("file/rows.parquet", "is not a folder"),
        ("folder.csv", "is a directory; name a file"),
    ],
)
def test_a_sweep_that_cannot_be_written(
    llmsim, sweep_file: Path, blocked: Path, name: str, message: str
) -> None:
    (blocked.parent / "folder.csv").mkdir()
    before = contents(blocked.parent)
    found = llmsim("sweep", sweep_file, "--out", blocked.parent / name)
    assert (found.status, len(found.messages), found.out) == (2, 1, "")
    assert message in found.err
    assert contents(blocked.parent) == before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_sweep_when_the_disk_is_full(
    llmsim, sweep_file: Path, tmp_path: Path, monkeypatch, suffix: str
) -> None:
    def replace(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    before = contents(tmp_path)
    found = llmsim("sweep", sweep_file, "--out", tmp_path / f"rows{suffix}")
    assert found.status == 2
    assert "No space left on device" in found.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["waterfall.foo", "waterfall"])
def test_a_picture_of_unknown_kind(llmsim, training: Path, tmp_path: Path, name: str) -> None:
    found = llmsim("compare", training, training, "--out", tmp_path / name)
    assert (found.status, found.out) == (2, "")
    assert "must end in .png" in found.err


def test_a_picture_below_a_file(llmsim, training: Path, blocked: Path) -> None:
    found = llmsim("compare", training, training, "--out", blocked / "x.png")
    assert found.status == 2
    assert "cannot write" in found.err


def test_folders_are_checked_before_the_estimate(llmsim, training: Path, blocked: Path, monkeypatch) -> None:
    called: list[object] = []
    monkeypatch.setattr("simulator.estimates.estimate.simulate", lambda *a: called.append(a))
    assert llmsim("run", training, "--out", blocked).status == 2
    assert called == []
    assert output.PROGRESS_ROWS == 100_000

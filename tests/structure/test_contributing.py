"""The worked examples of CONTRIBUTING.md work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulator.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = {
    re.match(r"# file: (\S+)\n", block)[1]: block  # type: ignore[index]
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
}
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_examples_run_in_their_order(folder: Path) -> None:
    """In a process of its own, since they register rules."""
    source = "\n\n".join(EXAMPLES)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("name", FILES)
def test_the_files_pass_the_linter(name: str, folder: Path) -> None:
    done = CliRunner().invoke(app, ["lint", str(folder / name)])
    assert done.exit_code == 0, done.exception
    assert "no errors" in done.output


def test_files_that_are_named_exist() -> None:
    paths = re.findall(r"`((?:hardware_specs|workloads|simulator|tests|docs|\.ci)/[\w./-]*)`", TEXT)
    assert paths
    assert not [p for p in paths if not (REPOSITORY / p).exists()]

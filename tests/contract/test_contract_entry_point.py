"""The command as a process: status, streams, help, pipes and what it loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "llama-3.1-70b-training.yaml"
COMMANDS = (
    *("run", "sweep", "search", "explain", "compare", "report"),
    *("list", "show", "lint", "validate", "calibrate"),
)


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "simulator.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "80", **environment},
        timeout=60,
    )


def test_status_and_streams(tmp_path: Path) -> None:
    found = process("run", EXAMPLE)
    assert (found.returncode, found.stderr) == (0, "")
    assert "Step time" in found.stdout
    found = process("run", EXAMPLE, "--set", "plan.tensor_parallel=3", "--out", tmp_path / "x")
    assert (found.returncode, found.stdout) == (2, "")
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "x").exists()


def test_a_reader_that_goes_away() -> None:
    """``llmsim show ... | head -1`` ends without a word."""
    shell = f"{sys.executable} -m simulator.cli run {EXAMPLE} --format json | head -1"
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        timeout=60,
    )
    assert (found.stdout, found.stderr) == ("{\n", "")


def test_a_terminal_without_unicode() -> None:
    found = process("run", EXAMPLE, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert (found.returncode, found.stderr) == (0, "")


def test_cheap_commands_load_no_heavy_packages() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['llmsim', *{arguments}]\n"
        "try:\n    runpy.run_module('simulator.cli', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {{'pandas', 'matplotlib', 'networkx', 'scipy', 'pyarrow'}}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    h100 = str(REPOSITORY / "hardware_specs" / "accelerators" / "h100-sxm.yaml")
    for arguments, allowed in (
        (["--help"], "[]"),
        (["list", "systems"], "[]"),
        (["list", "models"], "[]"),
        (["show", "gpt3-175b"], "[]"),
        (["lint", h100], "[]"),
        (["run", str(EXAMPLE)], "['networkx']"),
        (["run", str(EXAMPLE), "--format", "json"], "['networkx']"),
    ):
        found = subprocess.run(
            [sys.executable, "-c", code.format(arguments=arguments)],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=60,
        )
        assert found.stderr.splitlines()[-1] == allowed, (arguments, found.stderr[-500:])


def test_help(llmsim) -> None:
    found = llmsim("--help")
    assert found.status == 0
    assert "..." not in found.out.partition("Commands:")[2]  # no summary is cut
    for command in COMMANDS:
        assert f"  {command} " in found.out
        own = llmsim(command, "--help")
        assert own.status == 0
        assert max(map(len, own.out.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments",
    [
        ["rum"],
        ["run"],
        ["run", EXAMPLE, "--foo"],
        ["run", EXAMPLE, "--format", "xml"],
        ["run", EXAMPLE, "--out", "a\0b"],
    ],
)
def test_usage_errors(llmsim, arguments: list[object]) -> None:
    found = llmsim(*arguments)
    assert found.status == 2
    assert "Usage: llmsim" in found.err


def test_no_arguments_show_the_help(llmsim) -> None:
    assert "Commands:" in "".join([llmsim().out, llmsim().err])

"""A machine and tables as ``llmsim measure`` writes them, with times that known coefficients made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from measured_machine import MACHINE, products  # found by the line above, in any import mode

from simulator import cli
from simulator.measuring.machine import Machine, write_machine


class Outcome:
    """Exit status and both streams."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def llmsim(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command line in this process; anything but an exit fails the test."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["llmsim", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        return Outcome(status, printed.out, printed.err)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of measured products."""
    machine = Machine(**MACHINE)
    write_machine(tmp_path / "mine", machine)
    products(machine).to_csv(tmp_path / "mine" / "kernels_gemm.csv", index=False)
    return tmp_path / "mine"

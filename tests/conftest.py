"""The command line as a user meets it: ``main()`` with arguments, exit status, both streams."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from simulator import cli


@dataclass(frozen=True)
class Outcome:
    """Exit status and what was printed."""

    status: int
    out: str
    err: str

    @property
    def messages(self) -> list[str]:
        """Lines on standard error."""
        return self.err.splitlines()

    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Outcome]


@pytest.fixture
def terminal_width() -> int:
    """Columns of the terminal; a folder of tests may ask for another."""
    return 80


@pytest.fixture
def llmsim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal_width: int
) -> Command:
    """``llmsim(*arguments)`` in this process; an exception that is not an exit fails the test."""
    monkeypatch.setenv("COLUMNS", str(terminal_width))

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

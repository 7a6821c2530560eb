"""A machine and tables as ``llmsim measure`` writes them, with times that known coefficients made."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from measured_machine import MACHINE, products  # found by the line above, in any import mode

from simulator.measuring.machine import Machine, write_machine


@pytest.fixture
def terminal_width() -> int:
    """Wide: folders and messages of tables are long."""
    return 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of measured products."""
    machine = Machine(**MACHINE)
    write_machine(tmp_path / "mine", machine)
    products(machine).to_csv(tmp_path / "mine" / "kernels_gemm.csv", index=False)
    return tmp_path / "mine"

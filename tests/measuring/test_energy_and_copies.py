"""Energy where a machine counts it, and copies where a device has memory of its own; nowhere else is either made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.measuring.energy_counter import EnergyCounter, counter_of, step_energy_j
from simulator.measuring.shapes import transfer_shapes


def package(folder: Path, name: str, joules: float) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    (folder / name / "max_energy_range_uj").write_text("262143328850\n")


def test_all_packages_of_a_processor_count(tmp_path: Path) -> None:
    """Two packages; the part of one that counts its cores is in it already."""
    package(tmp_path, "intel-rapl:0", 5.0)
    package(tmp_path, "intel-rapl:0:0", 4.0)
    package(tmp_path, "intel-rapl:1", 7.0)
    counter = counter_of("cpu", tmp_path)
    assert counter is not None and counter.name == "rapl" and counter.joules() == pytest.approx(12.0)


def test_a_machine_without_a_counter_has_none(tmp_path: Path) -> None:
    assert counter_of("cpu", tmp_path) is None and counter_of("mps", tmp_path) is None
    assert step_energy_j(None, lambda: None, 1.0) is None


def test_a_counter_that_starts_again() -> None:
    counter = EnergyCounter("rapl", lambda: 0.0, wraps_j=100.0)
    assert counter.between(20.0, 50.0) == 30.0 and counter.between(95.0, 10.0) == 15.0


def test_energy_of_a_step() -> None:
    """Steps of 0.1 s that take 3 J: five of them fill half a second."""
    spent = [0.0]

    def step() -> None:
        spent[0] += 3.0

    assert step_energy_j(EnergyCounter("x", lambda: spent[0]), step, 0.1) == pytest.approx(3.0)
    assert spent[0] == pytest.approx(15.0)


def test_copies_go_both_ways() -> None:
    plain, locked = (list(transfer_shapes(6, locked=is_locked)) for is_locked in (False, True))
    assert len(plain) == 12 and len(locked) == 24
    assert {shape["direction"] for shape in plain} == {"to_device", "to_host"}
    sizes = [int(shape["bytes"]) for shape in plain]
    assert min(sizes) >= 4096 and max(sizes) <= 2**28 and max(sizes) / min(sizes) > 1000


def test_a_processor_has_no_copies(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from measured_machine import MACHINE

    from simulator.measuring.machine import Machine
    from simulator.measuring.timing import Effort
    from simulator.measuring.transfers import measure_transfers

    found = measure_transfers(tmp_path, Machine(**MACHINE), Effort(), 2, patience_s=0.0)
    assert found is None and not list(tmp_path.iterdir())

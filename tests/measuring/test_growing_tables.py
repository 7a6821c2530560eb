"""Tables that grow: resumed, repaired after a stop in the middle of a row, and never mixed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from measured_machine import MACHINE

from hardware_specs.errors import SpecError
from simulator.measuring.machine import Machine, check_same, read_machine, write_machine
from simulator.measuring.table_file import GrowingTable

ROWS = [{"op": "add", "rows": 4, "latency_us": "1.5"}, {"op": "mul", "rows": 8, "latency_us": "2.5"}]


def table(path: Path) -> GrowingTable:
    found = GrowingTable(path / "t.csv", ("op", "rows", "latency_us"), ("op", "rows"))
    found.open()
    return found


def test_rows_survive(tmp_path: Path) -> None:
    first = table(tmp_path)
    for row in ROWS:
        first.add(row)
    again = table(tmp_path)
    assert again.known() == {("add", "4"), ("mul", "8")} and not again.dropped
    again.put({"op": "add", "rows": 4, "latency_us": "9"})
    assert [row["latency_us"] for row in table(tmp_path).rows] == ["2.5", "9"]


@pytest.mark.parametrize("kept", range(1, len("mul,8,2.5\n")))
def test_a_half_written_row_is_dropped_wherever_it_stops(tmp_path: Path, kept: int) -> None:
    """Every length of the last line but the whole: the row before stays, the file is whole again."""
    first = table(tmp_path)
    for row in ROWS:
        first.add(row)
    text = first.path.read_text()
    first.path.write_text(text[: len(text) - len("mul,8,2.5\n") + kept])
    again = table(tmp_path)
    assert again.known() == {("add", "4")} and again.dropped == 1
    again.add(ROWS[1])
    assert again.path.read_text() == text


def test_a_broken_row_in_the_middle_is_told(tmp_path: Path) -> None:
    first = table(tmp_path)
    first.path.write_text("op,rows,latency_us\nadd,4\nmul,8,2.5\n")
    with pytest.raises(SpecError, match="row 1.*3 cells"):
        table(tmp_path)


def test_another_version_s_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("op,latency_us\n")
    with pytest.raises(SpecError, match="choose another --out"):
        table(tmp_path)


def test_two_machines_never_share_a_folder(tmp_path: Path) -> None:
    machine = Machine(**MACHINE)
    write_machine(tmp_path, machine)
    assert read_machine(tmp_path) == machine
    check_same(tmp_path, machine)
    check_same(tmp_path, replace(machine, governor="powersave"))  # recorded, not part of the identity
    with pytest.raises(SpecError, match="threads 1 there and 2 here"):
        check_same(tmp_path, replace(machine, threads=2))

"""Reading: typed cells, kinds told apart, and one clear message for every kind of bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from measured_rows import ENERGY_ROW, MEGATRON_ROW, write_rows

from hardware_specs.errors import LlmsimError, ScenarioError, SpecError
from simulator.measured_tables.measured_table import parse_cell, read_table
from simulator.validation import validate


def test_cells_are_typed(tmp_path: Path) -> None:
    table = read_table(write_rows(tmp_path / "runs.csv", {**MEGATRON_ROW, "tp": "8.0", "vpp": "NaN"}))
    assert table.kind.name == "training_runs"
    row = table.rows[0]
    assert (row.count("tp"), row.count("vpp"), row.cells["flash_attention"]) == (8, None, False)
    assert row.number_of("measured_step_time_s") == 1.4 and row.text("interconnect").startswith("Selene")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("-1", "positive"),
        ("0", "count"),
        ("inf", "number"),
        ("2.5", "count"),
        ("yes", "flag"),
        ("two", "positive"),
    ],
)
def test_wrong_cells_are_refused(text: str, kind: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_cell(text, kind)  # type: ignore[arg-type]


def test_message_names_row_and_column(tmp_path: Path) -> None:
    rows = [{**MEGATRON_ROW, "measured_step_time_s": -2}, {**MEGATRON_ROW, "id": "b", "hidden": "wide"}]
    with pytest.raises(SpecError) as caught:
        validate(write_rows(tmp_path / "runs.csv", *rows))
    assert [str(p) for p in caught.value.problems] == [
        "row 1 (meg-test-001), column measured_step_time_s = -2: must be above 0",
        "row 2 (b), column hidden = wide: must be a number",
    ]


def test_many_mistakes_are_cut_to_five(tmp_path: Path) -> None:
    rows = [{**MEGATRON_ROW, "id": f"r-{n}", "tp": 0} for n in range(9)]
    with pytest.raises(SpecError) as caught:
        validate(write_rows(tmp_path / "runs.csv", *rows))
    assert len(caught.value.problems) == 6 and "4 more" in str(caught.value.problems[-1])


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="repeats row 1"):
        validate(write_rows(tmp_path / "runs.csv", MEGATRON_ROW, MEGATRON_ROW))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "neither UTF-8 text nor Parquet"),
        (b"PAR1 and no more", "not a readable Parquet file"),
        (b"a,b\n1,2\n", "columns of no scored table"),
        (b"n_gpus,bytes,latency_us\n1,2,3\n", "does not score"),
        (b"id,id\n1,2\n", "columns twice: id"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(LlmsimError, match=message) as caught:
        validate(path)
    assert len(caught.value.problems) == 1


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist"):
        validate(tmp_path / "nothing.csv")
    with pytest.raises(SpecError, match="is a directory"):
        validate(tmp_path)


def test_ragged_and_headers_only(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "runs.csv", MEGATRON_ROW)
    header = path.read_text().splitlines()[0]
    path.write_text(f"{header}\n")
    with pytest.raises(SpecError, match="no rows"):
        validate(path)
    path.write_text(f"{header}\nonly,two\n")
    with pytest.raises(SpecError, match="row 1 does not have"):
        validate(path)


def test_named_tables(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "energy.csv", ENERGY_ROW)
    assert read_table(path).kind.name == read_table(path, "energy_serving").kind.name == "energy_serving"
    with pytest.raises(SpecError, match="lacks columns of training_runs"):
        read_table(path, "training_runs")
    with pytest.raises(ScenarioError, match="is not scored in this version"):
        read_table(path, "collectives")
    with pytest.raises(ScenarioError, match="is not a known table.*training_runs"):
        read_table(path, "training")


@pytest.mark.parametrize(
    ("assume", "message"),
    [
        ({"recomputation": "none"}, "near: recompute"),
        ({"tp": "many"}, "must be a number"),
        ({"tp": ""}, "is blank"),
        ({"measured_step_time_s": "1"}, "not a field to assume"),
    ],
)
def test_bad_assumptions(tmp_path: Path, assume: dict[str, str], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        validate(write_rows(tmp_path / "runs.csv", MEGATRON_ROW), assume=assume)


def test_unknown_source_and_fidelity(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "runs.csv", MEGATRON_ROW)
    with pytest.raises(ScenarioError, match="ids start with meg-test"):
        validate(path, sources=["lf"])
    with pytest.raises(ScenarioError, match="use calibrated, datasheet or bound"):
        validate(path, fidelity="exact")

"""Scores: the JSON contract, statistics by hand, tables and rows for the plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from measured_rows import FSDP_ROW, MEGATRON_ROW, write_rows
from rich.console import Console

from simulator.validation import validate

GROUP_KEYS = [
    "source",
    "device",
    "stack",
    "dtype",
    "quantity",
    "unit",
    "size_class",
    "assumed",
    "rows",
    "skipped",
    "mape",
    "median_ape",
    "bias",
    "p90_ape",
    "interval_coverage",
]
ROW_KEYS = ["id", "quantity", "unit", "measured", "predicted", "low", "high", "assumed", "skipped_because"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three rows of one group: 0.5, 1 and 2 times what is predicted; one skipped; one of another group."""
    predicted = validate(write_rows(tmp_path / "one.csv", MEGATRON_ROW)).scores[0].predicted
    assert predicted is not None
    rows = [
        {**MEGATRON_ROW, "id": f"meg-test-00{n}", "measured_step_time_s": predicted * factor}
        for n, factor in enumerate((0.5, 1.0, 2.0))
    ]
    return write_rows(
        tmp_path / "rows.csv", *rows, {**MEGATRON_ROW, "id": "meg-test-009", "tp": ""}, FSDP_ROW
    )


def test_contract(path: Path) -> None:
    result = validate(path).to_dict()
    assert list(result) == ["table", "groups", "rows"] and result["table"] == "training_runs"
    assert [list(group) for group in result["groups"]] == [GROUP_KEYS] * 2
    assert [list(row) for row in result["rows"]] == [ROW_KEYS] * 5
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert sum(group["rows"] + group["skipped"] for group in result["groups"]) == len(result["rows"])


def test_statistics(path: Path) -> None:
    group = validate(path).groups()[0]
    # errors +1, 0 and -1/2
    assert (group["rows"], group["skipped"]) == (3, 1)
    assert group["mape"] == pytest.approx(0.5) and group["bias"] == pytest.approx(0.5 / 3)
    assert group["median_ape"] == pytest.approx(0.5)
    # nine tenths of the way along 0, 1/2, 1: 0.8 of the last step
    assert group["p90_ape"] == pytest.approx(0.9)


def test_a_group_without_scores_has_no_errors(tmp_path: Path) -> None:
    result = validate(write_rows(tmp_path / "rows.csv", {**MEGATRON_ROW, "tp": ""}))
    assert result.groups()[0]["mape"] is None and result.parity_rows() == []


def test_tables_say_scored_of_total_and_why_not(path: Path) -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        for table in validate(path).tables():
            console.print(table)
    text = console.export_text()
    assert "training_runs, step_time: scored 4 of 5" in text and "tp is blank" in text and "+100.0 %" in text


def test_parity_rows(path: Path) -> None:
    rows = validate(path).parity_rows()
    assert [row["source"] for row in rows] == ["meg-test"] * 3 + ["lf-test"]
    assert all(row["measured"] > 0 and row["predicted"] > 0 and row["unit"] == "s" for row in rows)


def test_sources_and_fidelity(path: Path) -> None:
    assert len(validate(path, sources=["lf"]).scores) == 1
    bound, calibrated = (
        validate(path, sources=["lf"], fidelity=f).scores[0].predicted for f in ("bound", "calibrated")
    )
    assert bound is not None and calibrated is not None and bound < calibrated

"""Rows that beat the lower bound, told apart: built so that the cause is known."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pandas as pd
from rich.console import Console

from hardware_specs import load_accelerator
from hardware_specs.schema import dense_peak_flop_per_s
from simulator.validation import validate

BOARD = load_accelerator("h100-sxm")
LARGE = 16384  # a matrix has 512 MiB: ten times the last-level cache of this part


def _bound_s(m: int, n: int, k: int) -> float:
    """Roofline of a 16-bit product: 2 m n k FLOP, and every operand once through the memory [s]."""
    moved = 2.0 * (m * k + k * n + m * n)
    return max(2.0 * m * n * k / dense_peak_flop_per_s(BOARD, "bf16"), moved / BOARD.memory_bandwidth.value)


def _table(path: Path, rows: Sequence[tuple[int, int, int, float]]) -> Path:
    frame = pd.DataFrame(
        [{"m": m, "n": n, "k": k, "latency_us": 1e6 * factor * _bound_s(m, n, k)} for m, n, k, factor in rows]
    )
    frame.assign(device="h100_sxm", framework="vllm", dtype="bf16").to_parquet(path)
    return path


def _causes(path: Path) -> dict[str, tuple[str, str]]:
    found = validate(path, fidelity="bound").floor_violations()
    return {v.score.case.id: (v.cause, v.limit) for v in found}


def test_causes_are_told_apart(tmp_path: Path) -> None:
    slow = [(16, LARGE, LARGE + 8 * step, 1.3) for step in range(60)]
    rows = [
        (1, 4096, 4096, 0.5),  # half of 32 MiB was not waited for: less than the cache holds
        (1, LARGE, LARGE, 0.5),  # half of 512 MiB: more than it holds
        (LARGE, LARGE, LARGE, 0.9),  # beats the units
        *slow,
    ]
    assert _causes(_table(tmp_path / "rows.parquet", rows)) == {
        "row-1": ("cache-resident", "memory"),
        "row-2": ("bad row", "memory"),
        "row-3": ("bad row", "compute"),
    }


def test_many_fast_rows_blame_the_figure(tmp_path: Path) -> None:
    rows = [(1, LARGE, LARGE + 8 * step, 0.7 if step < 3 else 1.3) for step in range(10)]
    found = _causes(_table(tmp_path / "rows.parquet", rows))
    assert found == {f"row-{n}": ("wrong figure", "memory") for n in (1, 2, 3)}


def test_what_a_cache_explains_blames_no_figure(tmp_path: Path) -> None:
    rows = [(1, 4096, 4096 + 8 * step, 0.6) for step in range(10)] + [(1, LARGE, LARGE, 0.6)]
    causes = [cause for cause, _ in _causes(_table(tmp_path / "rows.parquet", rows)).values()]
    assert sorted(causes) == ["bad row"] + ["cache-resident"] * 10


def test_only_the_bound_has_violations_and_its_report_explains_them(tmp_path: Path) -> None:
    path = _table(tmp_path / "rows.parquet", [(1, LARGE, LARGE, 0.5), (1, LARGE, LARGE, 1.5)])
    assert validate(path).floor_violations() == []
    result = validate(path, fidelity="bound")
    row = result.to_dict()["floor_violations"]
    assert [entry["id"] for entry in row] == ["row-1"]
    half = _bound_s(1, LARGE, LARGE) / 2 * BOARD.memory_bandwidth.value
    assert abs(row[0]["missing_bytes"] / half - 1) < 1e-9
    console = Console(width=120, record=True, file=StringIO())
    for table in result.tables():
        console.print(table)
    text = console.export_text()
    assert "rows faster than the bound: 1" in text and "its neighbours obey the bound" in text

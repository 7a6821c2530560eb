"""The tables behind the plots: parts sum to the whole, and nothing is lost on the way."""

from __future__ import annotations

import math
from typing import Any

import estimate_fixtures as given
import pandas as pd
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

import reports

ESTIMATES = [pytest.param(make(), id=name) for name, make in given.ALL.items()]


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_time_memory_and_energy_tables_sum_to_the_totals(estimate: dict[str, Any]) -> None:
    step, memory = estimate.get("step_time_s") or 0.0, estimate.get("memory") or {}
    peak = 0.0 if not any(v for k, v in memory.items() if k.startswith("weights")) else memory["peak_bytes"]
    assert math.fsum(r["exposed_s"] for r in reports.time_table(estimate)) == pytest.approx(step, rel=1e-12)
    assert math.fsum(r["bytes"] for r in reports.memory_table(estimate)) == pytest.approx(peak, rel=1e-12)
    joules = math.fsum(r["energy_j"] for r in reports.energy_table(estimate))
    assert joules == pytest.approx(estimate.get("energy_j") or 0.0, rel=1e-12)


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_operator_table_sums_to_the_step_and_stays_short(estimate: dict[str, Any]) -> None:
    table = reports.operator_table(estimate)
    assert len(table) <= 13
    exposed = math.fsum(row["exposed_s"] for row in table)
    assert exposed == pytest.approx(estimate.get("step_time_s") or 0.0, rel=1e-12)
    for name in ("flop", "bytes", "message_bytes", "busy_s", "count"):
        whole = math.fsum(row[name] for row in estimate["operators"])
        assert math.fsum(row[name] for row in table) == pytest.approx(whole, rel=1e-12)
    if exposed:
        assert math.fsum(row["fraction"] for row in table) == pytest.approx(1.0)


def test_operators_of_a_class_sum_to_the_class() -> None:
    estimate = given.training()
    rows = reports.operator_table(estimate, top=1000)
    for part in reports.time_table(estimate):
        own = math.fsum(row["exposed_s"] for row in rows if row["class"] == part["class"])
        assert own == pytest.approx(part["exposed_s"], rel=1e-12), part["class"]


def test_operators_beyond_the_top_become_one_row() -> None:
    table = reports.operator_table(given.many_operators(200))
    assert len(table) == 13 and table[-1]["operator"] == "other (188 operators)"
    assert table[-1]["operators"] == 188
    # thirteen operators need no row for a single other
    assert [row["class"] for row in reports.operator_table(given.many_operators(13))].count("other") == 0


def test_rows_of_one_operator_are_added_up() -> None:
    rows = [given.operator("qkv", "attention", "forward", time) for time in (1.0, 2.0)]
    rows.append(given.operator("qkv", "attention", "backward", 4.0))
    table = reports.operator_table({"operators": rows})
    assert [(row["operator"], row["exposed_s"]) for row in table] == [
        ("attention.qkv (backward)", 4.0),
        ("attention.qkv", 3.0),
    ]


def test_a_class_that_is_not_known_here_is_kept() -> None:
    table = reports.time_table({"time": {"compute_s": 1.0, "expert_parallel_s": 3.0}})
    assert table[-1] == {
        "class": "expert_parallel",
        "label": "Expert parallel",
        "exposed_s": 3.0,
        "fraction": 0.75,
    }


def test_roofline_by_hand() -> None:
    # 1e8 FLOP over 1e6 B is 100 FLOP/B; in 1.1 us that is 9.09e13 FLOP/s; roof: 3.35e12 B/s x 100 = 3.35e14
    (row,) = reports.roofline_table(given.one_operator())
    assert row["flop_per_byte"] == pytest.approx(100.0)
    assert row["flop_per_s"] == pytest.approx(9.0909e13, rel=1e-4)
    assert row["ceiling_flop_per_s"] == pytest.approx(3.35e14)
    assert row["fraction"] == pytest.approx(1.0)


def test_roofline_leaves_out_what_has_no_place_on_it() -> None:
    names = {row["operator"] for row in reports.roofline_table(given.training())}
    assert "embedding" not in names and not any("reduce" in name or "bubble" in name for name in names)
    assert reports.roofline_table(given.all_zero()) == []


def test_scaling_by_hand() -> None:
    times = ((8, 4.0), (2, 12.0), (4, None), (8, 6.0))
    table = reports.scaling_table([{"devices": count, "step_time_s": time} for count, time in times])
    assert [row["devices"] for row in table] == [2, 8]
    # 12 s / 4 s = 3 of the ideal 8 / 2 = 4
    assert (table[1]["speedup"], table[1]["ideal_speedup"], table[1]["efficiency_fraction"]) == (
        3.0,
        4.0,
        0.75,
    )


def test_scaling_reads_a_frame_like_a_list() -> None:
    points = given.scaling_points()
    assert reports.scaling_table(pd.DataFrame(points)) == reports.scaling_table(points)


def test_parity_by_hand() -> None:
    rows = [
        {"id": "a-1", "quantity": "step_time", "unit": "s", "measured": 2.0, "predicted": 2.2},
        {"id": "a-2", "quantity": "step_time", "unit": "s", "measured": 4.0, "predicted": 3.0},
        {"id": "a-3", "quantity": "step_time", "unit": "s", "measured": 0.0, "predicted": 3.0},
    ]
    (summary,) = reports.parity_summary(rows)
    # errors are +10 % and -25 %; zero has no relative error
    assert summary["rows"] == 2 and summary["source"] == "a"
    assert summary["mape"] == pytest.approx(0.175) and summary["bias"] == pytest.approx(-0.075)
    assert summary["worst_ape"] == pytest.approx(0.25) and summary["median_ape"] == pytest.approx(0.175)


def test_parity_skips_rows_without_a_prediction_and_keeps_quantities_apart() -> None:
    rows = given.parity_rows()
    assert len(reports.parity_table(rows)) == len(rows) - 1
    assert {row["quantity"] for row in reports.parity_summary(rows)} == {"step_time", "energy_per_token"}


@for_all(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=40),
    st.booleans(),
)
def test_pareto_front_is_what_nothing_beats(points: list[tuple[int, int, bool]], maximize_y: bool) -> None:
    frame = pd.DataFrame(points, columns=["step_time_s", "peak_bytes", "feasible"])
    front = reports.pareto_table(frame, maximize=["peak_bytes"] if maximize_y else [])
    sign = -1 if maximize_y else 1
    usable = [(x, sign * y) for x, y, fits in points if fits]
    # played out pair by pair: a value pair is on the front if no other pair is as good in both
    expected = {
        one
        for one in usable
        if not any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in usable)
    }
    found = [(x, sign * y) for x, y in zip(front["step_time_s"], front["peak_bytes"], strict=True)]
    assert set(found) == expected and len(found) == len(expected)
    assert list(front["front"]) == list(range(1, len(found) + 1))


def test_pareto_finds_dotted_columns_and_names_near_ones() -> None:
    frame = pd.DataFrame(
        {"step_time_s": [1.0, 2.0], "memory.peak_bytes": [2.0, 1.0], "memory.note": ["a", "b"]}
    )
    assert len(reports.pareto_table(frame)) == 2
    with pytest.raises(reports.ReportError, match="step_time_s"):
        reports.pareto_table(frame, x="step_tme_s")
    with pytest.raises(reports.ReportError, match="text"):
        reports.pareto_table(frame, x="note")


def test_waterfall_closes_exactly() -> None:
    before, after = given.training(), given.decode()
    parts = reports.compare_parts(before, after)
    table = reports.waterfall_table(before["step_time_s"], after["step_time_s"], parts)
    assert table[0]["to"] == before["step_time_s"] and table[-1]["to"] == after["step_time_s"]
    assert table[-2]["to"] == after["step_time_s"]
    assert all(later["from"] == earlier["to"] for earlier, later in zip(table[:-2], table[1:-1], strict=True))


def test_waterfall_refuses_parts_that_do_not_sum() -> None:
    with pytest.raises(reports.ReportError, match="sum to 0.5"):
        reports.waterfall_table(1.0, 2.0, [{"label": "x", "delta": 0.5}])
    with pytest.raises(reports.ReportError):
        reports.waterfall_table(1.0, 2.0, [])


def test_waterfall_without_parts_between_equal_ends() -> None:
    assert [row["delta"] for row in reports.waterfall_table(1.0, 1.0, [])] == [1.0, 1.0]


def test_axis_table_counts_and_ranks() -> None:
    frame = pd.DataFrame(
        {
            "plan.tensor_parallel": [1, 1, 2, 2],
            "plan.zero_stage": [0, 0, 0, 0],
            "step_time_s": [4.0, 2.0, 3.0, 9.0],
            "tokens_per_s": [1.0, 2.0, 1.5, 0.1],
            "feasible": [True, True, True, False],
        }
    )
    table = reports.axis_table(frame)
    assert [(r["key"], r["value"], r["rows"], r["feasible_rows"], r["best"]) for r in table] == [
        ("plan.tensor_parallel", "1", 2, 2, 2.0),
        ("plan.tensor_parallel", "2", 2, 1, 3.0),
    ]
    assert [row["best"] for row in reports.axis_table(frame, "tokens_per_s")] == [2.0, 1.5]
    assert list(reports.best_table(frame)["step_time_s"]) == [2.0, 3.0, 4.0]
    assert list(reports.best_table(frame, "tokens_per_s", top=1)["tokens_per_s"]) == [2.0]

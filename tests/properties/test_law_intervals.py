"""Intervals: independent errors average out, shared ones do not, and borrowed coefficients widen them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import simulate, sweep
from simulator.certainty.evidence import ASSUMED_SPREAD, DEVIATIONS, FamilyEvidence, doubts_by_family
from simulator.certainty.intervals import COVERAGE, TimeDoubt, bounds, joined, stretched

TRAINING: dict[str, Any] = {
    "model": "llama-2-7b",
    "task": {"kind": "training", "sequence_length": 4096, "global_batch_size": 16},
    "system": "dgx-h100",
    "devices": 8,
    "plan": {"tensor_parallel": 2},
}
DEVIATION = st.floats(0.001, 0.4)


def column(value: float) -> np.ndarray:
    return np.full(1, value)


def width(parts: list[TimeDoubt], seconds: float) -> float:
    """Half-width in ln of a sum of times."""
    low, high = bounds(column(seconds), joined(*parts))
    assert low[0] * high[0] == pytest.approx(seconds**2)
    return float(np.log(high[0] / seconds))


@given(DEVIATION, st.integers(1, 60))
def test_independent_errors_average_out(deviation: float, n: int) -> None:
    parts = [TimeDoubt(independent_s=column(deviation), shared_s=column(0.0))] * n
    assert width(parts, n) == pytest.approx(DEVIATIONS * deviation / np.sqrt(n))


@given(DEVIATION, st.integers(1, 60))
def test_shared_errors_do_not(deviation: float, n: int) -> None:
    parts = [TimeDoubt(independent_s=column(0.0), shared_s=column(deviation))] * n
    assert width(parts, n) == pytest.approx(DEVIATIONS * deviation)


@given(DEVIATION, DEVIATION, st.integers(2, 60))
def test_a_sum_is_never_known_worse_than_its_terms(own: float, shared: float, n: int) -> None:
    part = TimeDoubt(independent_s=column(own), shared_s=column(shared))
    assert DEVIATIONS * shared <= width([part] * n, n) + 1e-12
    assert width([part] * n, n) < width([part], 1.0)


@given(DEVIATION, DEVIATION, st.floats(1.0, 5.0))
def test_a_bubble_scales_with_the_kernels(own: float, shared: float, whole: float) -> None:
    part = TimeDoubt(independent_s=column(own), shared_s=column(shared))
    wider = stretched(part, column(1.0), column(whole))
    assert width([wider], whole) == pytest.approx(width([part], 1.0))


def test_a_spread_contains_what_is_shared() -> None:
    # 90 % of kernels within 20 % in ln, of which a standard deviation of 5 % is shared by all of them.
    known = FamilyEvidence(label="fitted", spread={"all": 0.2}, floor=0.0, common=0.05, fitted_range={})
    columns = doubts_by_family(True, [{"pointwise": known}], np.zeros(1, dtype=np.intp))["pointwise"]
    own, shared = float(columns["all"][0]), float(columns["common"][0])
    assert shared == 0.05
    assert np.hypot(own, shared) * DEVIATIONS == pytest.approx(0.2)
    nothing = doubts_by_family(False, [{"pointwise": known}], np.zeros(1, dtype=np.intp))["pointwise"]
    assert float(nothing["all"][0]) == float(nothing["common"][0]) == 0.0


def test_time_and_rate_have_matching_intervals() -> None:
    found = simulate(TRAINING)
    assert found.interval is not None
    step, rate = found.interval["step_time_s"], found.interval["tokens_per_s"]
    assert step["low"] < found.step_time_s < step["high"]
    assert rate["low"] * step["high"] == pytest.approx(found.tokens_per_s * found.step_time_s)
    assert step["coverage"] == COVERAGE == 0.9


def test_a_sweep_states_the_interval_of_each_row() -> None:
    frame = sweep({**TRAINING, "plan.tensor_parallel": [1, 2, 4]})
    for i, degree in enumerate((1, 2, 4)):
        found = simulate({**TRAINING, "plan.tensor_parallel": degree}).interval
        assert found is not None
        assert frame["step_time_low_s"][i] == pytest.approx(found["step_time_s"]["low"], rel=1e-12)
        assert frame["step_time_high_s"][i] == pytest.approx(found["step_time_s"]["high"], rel=1e-12)


def test_generation_states_first_and_further_tokens() -> None:
    task = {"kind": "generation", "batch_size": 8, "prompt_length": 1024, "output_length": 64}
    found = simulate({"model": "llama-2-7b", "task": task, "system": "dgx-h100", "devices": 1})
    assert found.interval is not None
    assert set(found.interval) == {
        "step_time_s",
        "time_to_first_token_s",
        "time_per_output_token_s",
        "tokens_per_s",
    }
    token = found.interval["time_per_output_token_s"]
    assert found.time_per_output_token_s is not None
    assert token["low"] < found.time_per_output_token_s < token["high"]


@pytest.mark.parametrize("fidelity", ["bound", "datasheet"])
def test_without_coefficients_there_is_no_interval(fidelity: str) -> None:
    assert simulate({**TRAINING, "fidelity": fidelity}).interval is None
    assert sweep({**TRAINING, "fidelity": fidelity})["step_time_low_s"].isna().all()


def test_borrowed_coefficients_have_a_wider_interval() -> None:
    def relative(system: str) -> float:
        found = simulate({**TRAINING, "system": system, "devices": 8})
        assert found.interval is not None
        return found.interval["step_time_s"]["high"] / found.step_time_s

    assert relative("dgx-b200") > relative("dgx-h100")


def test_an_unknown_class_has_the_spread_of_all_and_a_borrowed_one_its_floor() -> None:
    known = FamilyEvidence(
        label="fitted", spread={"all": 0.1, "large": 0.05}, floor=0.0, common=0.02, fitted_range={}
    )
    assert known.half_width("large") == 0.05
    assert known.half_width("decode") == 0.1
    borrowed = FamilyEvidence(
        label="assumed", spread={"all": 0.1}, floor=ASSUMED_SPREAD, common=0.02, fitted_range={}
    )
    assert borrowed.half_width("large") == ASSUMED_SPREAD


def test_sizes_that_nobody_fitted_are_named() -> None:
    known = FamilyEvidence(
        label="fitted",
        spread={"all": 0.1},
        floor=0.0,
        common=0.0,
        fitted_range={"m": [16, 8192], "n": [64, 4096]},
    )
    sizes = {"m": np.array([4.0]), "n": np.array([8192.0]), "k": np.array([1e9])}
    assert known.beyond(sizes) == ["m 4 < 16", "n 8,192 > 4,096"]
    assert known.beyond({"m": np.array([16.0]), "n": np.array([4096.0])}) == []

"""Intervals: independent errors average out, shared ones do not, and borrowed coefficients widen them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import simulate
from simulator.evidence import ASSUMED_SPREAD, FamilyEvidence
from simulator.intervals import COVERAGE, DEVIATIONS, estimate_intervals

TRAINING = {
    "model": "llama-2-7b",
    "task": {"kind": "training", "sequence_length": 4096, "global_batch_size": 16},
    "system": "dgx-h100",
    "devices": 8,
    "plan": {"tensor_parallel": 2},
}
SPREADS = st.floats(0.01, 0.6)


def rows(n: int, spread: float, common: float) -> list[dict[str, object]]:
    """Operators of one second each."""
    return [{"name": f"op{i}", "exposed_s": 1.0, "spread": spread, "common": common} for i in range(n)]


def width(n: int, spread: float, common: float) -> float:
    """Half-width in ln of the step that these operators make up."""
    found = estimate_intervals({"step_time_s": float(n)}, 1.0, rows(n, spread, common))["step_time_s"]
    assert found["low"] * found["high"] == pytest.approx(n**2)
    assert found["coverage"] == COVERAGE == 0.9
    return float(np.log(found["high"] / n))


@given(SPREADS, st.integers(1, 60))
def test_independent_errors_average_out(spread: float, n: int) -> None:
    assert width(n, spread, 0.0) == pytest.approx(spread / np.sqrt(n))


@given(SPREADS, st.integers(1, 60))
def test_shared_errors_do_not(spread: float, n: int) -> None:
    assert width(n, spread, spread / DEVIATIONS) == pytest.approx(spread)


@given(SPREADS, st.floats(0.0, 1.0), st.integers(2, 60))
def test_a_step_is_never_known_worse_than_its_kernels(spread: float, part: float, n: int) -> None:
    common = part * spread / DEVIATIONS
    assert common * DEVIATIONS - 1e-12 <= width(n, spread, common) <= spread + 1e-12


def test_time_and_rate_have_matching_intervals() -> None:
    found = simulate(TRAINING)
    assert found.interval is not None
    step, rate = found.interval["step_time_s"], found.interval["tokens_per_s"]
    assert step["low"] < found.step_time_s < step["high"]
    assert rate["low"] * step["high"] == pytest.approx(found.tokens_per_s * found.step_time_s)


def test_a_bound_has_no_interval() -> None:
    assert simulate({**TRAINING, "fidelity": "bound"}).interval is None
    assert simulate({**TRAINING, "fidelity": "datasheet"}).interval is None


def test_borrowed_coefficients_have_a_wider_interval() -> None:
    def relative(system: str) -> float:
        found = simulate({**TRAINING, "system": system, "devices": 8})
        assert found.interval is not None
        return found.interval["step_time_s"]["high"] / found.step_time_s

    assert relative("dgx-b200") > relative("dgx-h100")


def test_an_unknown_class_has_the_spread_of_all_and_a_borrowed_one_its_floor() -> None:
    known = FamilyEvidence(
        label="fitted",
        spread={"all": 0.1, "large": 0.05},
        floor=0.0,
        common=0.02,
        fitted_range={"m": [1, 8192]},
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

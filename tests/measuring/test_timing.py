"""Timing: medians of undisturbed repeats, waits taken out where they are known, and disagreement told."""

from __future__ import annotations

import pytest

from simulator.measuring.quiet import SLOW, quality_of
from simulator.measuring.timing import Effort, robust_timing, timed


def test_undisturbed_repeats_decide() -> None:
    """Three calm repeats of two calls; the one that waited half of its time does not count."""
    found = robust_timing([(2.0, 0.0), (2.2, 0.0), (2.1, 0.01), (4.0, 2.0)], 2, exact_waits=True)
    assert found.seconds == pytest.approx(1.05)
    assert found.repeats == 3 and found.quality == "ok"
    assert found.waited_share == pytest.approx(2.01 / 10.3)


def test_waits_are_taken_out_where_they_are_exact() -> None:
    """Every repeat waited: with one thread 3 s of which 1 s was waited are 2 s, and the row says so."""
    samples = [(3.0, 1.0), (2.5, 0.5), (2.6, 0.6)]
    found = robust_timing(samples, 1, exact_waits=True)
    assert found.seconds == pytest.approx(2.0) and found.quality == "waited"
    # Several threads wait for each other too: nothing can be subtracted, so the row is noisy.
    several = robust_timing(samples, 1, exact_waits=False)
    assert several.seconds == pytest.approx(2.6) and several.quality == "noisy"


def test_a_wait_longer_than_the_run_says_nothing() -> None:
    found = robust_timing([(1.0, 0.99), (1.1, 0.1), (1.2, 0.2)], 1, exact_waits=True)
    assert found.seconds == pytest.approx(1.0)


def test_repeats_that_disagree_are_noisy() -> None:
    """10th and 90th percentile of 1, 1, 1, 2, 2 are 1 and 2: half of the distance is half of the median."""
    found = robust_timing([(1.0, 0.0)] * 3 + [(2.0, 0.0)] * 2, 1, exact_waits=True)
    assert found.quality == "noisy" and found.spread == pytest.approx(0.5)


def test_no_repeats_are_refused() -> None:
    with pytest.raises(ValueError, match="no repeats"):
        robust_timing([], 1, exact_waits=True)


class _Drum:
    """A clock that plays back seconds: two rounds that disagree, then a calm one."""

    def __init__(self) -> None:
        self.beats = iter([0.01] * 3 + [0.01, 0.05] * 5 + [0.02] * 50)
        self.calls: list[int] = []

    def repeat(self, call: object, calls: int) -> tuple[float, float]:
        self.calls.append(calls)
        return next(self.beats) * calls, 0.0


def test_a_row_is_measured_again_until_its_repeats_agree() -> None:
    drum = _Drum()
    effort = Effort(repeat_s=0.02, budget_s=0.2, least=5, most=10, rounds=3)
    found = timed(lambda: None, drum, effort, exact_waits=True)
    assert found.quality == "ok" and found.seconds == pytest.approx(0.02)
    assert set(drum.calls[3:]) == {2}  # two calls of 10 ms fill a repeat of 20 ms
    assert len(drum.calls) == 3 + 2 * 10


@pytest.mark.parametrize(
    ("quality", "waited", "ratio", "wanted"),
    [
        ("ok", 0.0, 1.0, "ok"),
        ("waited", 0.1, 1.0, "waited"),
        ("ok", 0.5, 1.0, "noisy"),
        ("ok", 0.0, SLOW * 1.01, "noisy"),
    ],
)
def test_a_busy_machine_makes_rows_noisy(quality: str, waited: float, ratio: float, wanted: str) -> None:
    assert quality_of(quality, waited, ratio) == wanted

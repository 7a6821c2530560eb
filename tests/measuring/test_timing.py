"""Timing: repeats beside a reference, waits taken out where they are known, and disagreement told."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator

import pytest

from simulator.measuring.quiet import MOST_WAITED, Pulse, quality_of
from simulator.measuring.timing import VOUCHED_S, Effort, Repeat, robust_timing, timed


def repeats(*pairs: tuple[float, float]) -> list[Repeat]:
    return [Repeat(seconds, waited) for seconds, waited in pairs]


def test_undisturbed_repeats_decide() -> None:
    """Three calm repeats of two calls; the one that waited half of its time does not count."""
    found = robust_timing(repeats((2.0, 0.0), (2.2, 0.0), (2.1, 0.01), (4.0, 2.0)), 2, exact_waits=True)
    assert found.seconds == pytest.approx(1.05)
    assert found.repeats == 3 and found.quality == "ok"
    assert found.waited_share == pytest.approx(2.01 / 10.3)


def test_waits_are_taken_out_where_they_are_exact() -> None:
    """Every repeat waited: with one thread 3 s of which 1 s was waited are 2 s, and the row says so."""
    samples = repeats((3.0, 1.0), (2.5, 0.5), (2.6, 0.6))
    found = robust_timing(samples, 1, exact_waits=True)
    assert found.seconds == pytest.approx(2.0) and found.quality == "waited"
    # Several threads wait for each other too: nothing can be subtracted, so the row is noisy.
    several = robust_timing(samples, 1, exact_waits=False)
    assert several.seconds == pytest.approx(2.6) and several.quality == "noisy"


def test_a_wait_longer_than_the_run_says_nothing() -> None:
    found = robust_timing(repeats((1.0, 0.99), (1.1, 0.1), (1.2, 0.2)), 1, exact_waits=True)
    assert found.seconds == pytest.approx(1.0)


def test_repeats_that_disagree_are_noisy() -> None:
    """10th and 90th percentile of 1, 1, 1, 2, 2 are 1 and 2: half of the distance is half of the median."""
    found = robust_timing(repeats(*[(1.0, 0.0)] * 3, *[(2.0, 0.0)] * 2), 1, exact_waits=True)
    assert found.quality == "noisy" and found.spread == pytest.approx(0.5)


def test_no_repeats_are_refused() -> None:
    with pytest.raises(ValueError, match="no repeats"):
        robust_timing([], 1, exact_waits=True)


def test_what_row_and_reference_share_is_no_spread() -> None:
    """A clock that slows by a half over the repeats: as it is the spread is 16 %, beside the reference none."""
    paces = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    beside = [Repeat(3e-3 * pace, 0.0, 4e-4 * pace) for pace in paces]
    alone = [Repeat(3e-3 * pace, 0.0, 4e-4) for pace in paces]
    found = robust_timing(beside, 1, exact_waits=True)
    assert found.spread == pytest.approx(0.0, abs=1e-12) and found.quality == "ok"
    assert found.seconds / found.reference_s == pytest.approx(3e-3 / 4e-4)
    assert robust_timing(alone, 1, exact_waits=True).quality == "noisy"


def test_a_long_repeat_stands_as_it_is() -> None:
    """What a reference of a millisecond did before and after a second says nothing of that second."""
    long = 10 * VOUCHED_S
    samples = [Repeat(long, 0.0, reference) for reference in (1e-3, 1.3e-3, 1e-3, 1e-3, 1.3e-3)]
    found = robust_timing(samples, 1, exact_waits=True)
    assert found.seconds == pytest.approx(long) and found.spread == 0.0
    inside = [Repeat(long * r.reference_s / 1e-3, 0.0, r.reference_s, 21) for r in samples]
    assert robust_timing(inside, 1, exact_waits=True).spread == pytest.approx(0.0, abs=1e-12)


def test_repeats_beside_a_slow_reference_do_not_count() -> None:
    """Other work slowed the reference by a third: three quiet repeats decide; without any the row is noisy."""
    busy = [Repeat(2.0e-3, 0.0, 1.33e-3)] * 4
    found = robust_timing([*busy, *[Repeat(1e-3, 0.0, 1e-3)] * 3], 1, exact_waits=True, usual_s=1e-3)
    assert found.seconds == pytest.approx(1e-3) and found.repeats == 3 and found.quality == "ok"
    assert robust_timing(busy, 1, exact_waits=True, usual_s=1e-3).quality == "noisy"
    assert robust_timing(busy, 1, exact_waits=True, usual_s=1.33e-3).quality == "ok"


class _Machine:
    """A clock whose pace drifts and whose calls scatter: a row of ``row_s`` and a reference of half a millisecond."""

    def __init__(self, row_s: float, pace: Iterator[float], scatter: float) -> None:
        self.row_s, self.pace, self.scatter, self.random = row_s, pace, scatter, random.Random(5)

    def repeat(self, call: Callable[[], object], calls: int) -> tuple[float, float]:
        work = call()
        assert isinstance(work, float)
        return work * calls * next(self.pace) * math.exp(self.random.gauss(0.0, self.scatter)), 0.0

    def pulse(self, folder) -> Pulse:
        return Pulse(lambda shape: lambda: 5e-4, self, exact_waits=True, folder=folder, patience_s=0.0)


EFFORT = Effort(repeat_s=0.004, budget_s=0.1, least=5, most=15, rounds=2)


def walk(step: float) -> Iterator[float]:
    """A pace that swings by 20 % either way, by ``step`` from one call to the next."""
    return (math.exp(0.2 * math.sin(step * i)) for i in itertools.count())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch) -> None:
    monkeypatch.setattr("simulator.measuring.quiet.time.sleep", lambda seconds: None)


def test_a_machine_that_drifts_passes(tmp_path) -> None:
    """The pace swings by 20 % over some hundred calls, as that of a shared machine does over seconds: 19 rows of 20 are
    no noise, and their time as a multiple of the reference is right to 3 %."""
    machine = _Machine(4e-3, walk(0.02), scatter=0.01)
    pulse = machine.pulse(tmp_path)
    found = [timed(lambda: 4e-3, machine, EFFORT, pulse, exact_waits=True) for _ in range(40)]
    quiet = [row for row in found if row.quality == "ok"]
    assert len(quiet) >= 38
    ratios = [row.seconds / row.reference_s for row in quiet]
    assert all(ratio == pytest.approx(8.0, rel=0.03) for ratio in ratios)
    raw = [row.seconds for row in quiet]
    assert max(raw) / min(raw) > 1.2  # the drift was there


def test_a_machine_of_noise_does_not(tmp_path) -> None:
    """Calls scatter by 25 % each on their own: no reference vouches for them."""
    machine = _Machine(4e-3, itertools.repeat(1.0), scatter=0.25)
    pulse = machine.pulse(tmp_path)
    found = [timed(lambda: 4e-3, machine, EFFORT, pulse, exact_waits=True) for _ in range(40)]
    assert sum(row.quality == "noisy" for row in found) >= 36


def test_usual_follows_the_machine(tmp_path, monkeypatch) -> None:
    """Another tenant slows the machine for good: after some beats its pace is the usual one."""
    machine = _Machine(4e-3, itertools.chain([1.0] * 60, itertools.repeat(1.4)), scatter=0.0)
    pulse = machine.pulse(tmp_path)
    assert pulse.usual_s == pytest.approx(5e-4)
    monkeypatch.setattr("simulator.measuring.quiet.USUAL_S", 0.0)  # the beats of the last minute are gone
    for _ in range(500):
        pulse.beat()
    assert pulse.usual_s == pytest.approx(7e-4)


def test_beats_inside_of_a_step_are_counted(tmp_path, monkeypatch) -> None:
    """Three beats of 0.5, 1 and 1 ms: their mean, and the last one counts for the next repeat too."""
    machine = _Machine(4e-3, itertools.repeat(1.0), scatter=0.0)
    pulse = machine.pulse(tmp_path)
    machine.pace = iter([1.0, 2.0, 2.0, 4.0])
    pulse.beside()
    pulse.beat()
    monkeypatch.setattr("simulator.measuring.quiet.INSIDE_S", 0.0)
    pulse.inside()
    pulse.beat()
    # The last beat before is of the start.
    assert pulse.beside() == (pytest.approx((0.5e-3 * 2 + 1e-3 * 2) / 4), 4)
    pulse.beat()
    assert pulse.beside() == (pytest.approx((1e-3 + 2e-3) / 2), 2)
    assert pulse.spent_s > 0


def test_a_folder_keeps_its_reference(tmp_path) -> None:
    """The smallest product that takes long enough; a second call takes the same, however fast it is then."""
    seconds = {192: 1e-5, 256: 1e-5, 512: 4e-4}
    asked: list[int] = []

    def product(shape: dict) -> Callable[[], float]:
        asked.append(shape["m"])
        return lambda: seconds[shape["m"]]

    machine = _Machine(0.0, itertools.repeat(1.0), 0.0)
    for expected in ([192, 256, 512], [512]):
        asked.clear()
        Pulse(product, machine, exact_waits=True, folder=tmp_path, patience_s=0.0)
        assert asked == expected
        seconds = dict.fromkeys(seconds, 1e-3)


class _Drum:
    """A clock that plays back seconds: two rounds that disagree, then a calm one."""

    usual_s = 1.0

    def __init__(self) -> None:
        self.beats = iter([0.01] * 3 + [0.01, 0.05] * 5 + [0.02] * 50)
        self.calls: list[int] = []

    def repeat(self, call: object, calls: int) -> tuple[float, float]:
        self.calls.append(calls)
        return next(self.beats) * calls, 0.0

    def beat(self) -> float:
        return 1.0

    def beside(self) -> tuple[float, int]:
        return 1.0, 2

    def wait(self) -> None:
        pass


def test_a_row_is_measured_again_until_its_repeats_agree() -> None:
    drum = _Drum()
    effort = Effort(repeat_s=0.02, budget_s=0.2, least=5, most=10, rounds=3)
    found = timed(lambda: None, drum, effort, drum, exact_waits=True)
    assert found.quality == "ok" and found.seconds == pytest.approx(0.02)
    assert set(drum.calls[3:]) == {2}  # two calls of 10 ms fill a repeat of 20 ms
    assert len(drum.calls) == 3 + 2 * 10


@pytest.mark.parametrize(
    ("quality", "waited", "wanted"),
    [("ok", 0.0, "ok"), ("waited", 0.1, "waited"), ("ok", 1.01 * MOST_WAITED, "noisy")],
)
def test_a_row_that_mostly_waited_is_noisy(quality: str, waited: float, wanted: str) -> None:
    assert quality_of(quality, waited) == wanted

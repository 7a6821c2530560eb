"""Timing one call: warm-up, repeats beside a reference, waits for a core, and how far repeats lie apart.

The clock of a shared or warm machine drifts by more than kernels differ. So a small product of known work runs between
the repeats of a row: a repeat counts as a multiple of the reference beside it, and what both share is no noise.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Beat", "Clock", "CpuClock", "Effort", "Repeat", "Timing", "robust_timing", "timed"]

NANO = 1e-9
# A repeat in which the scheduler gave the core to others for a larger share is not what the kernel takes.
MOST_WAITED = 0.02
QUIET_ENOUGH = 0.10  # spread below which a row is not measured again
# A wait that began before the clock was read counts in full: such a repeat says nothing.
MOSTLY_WAITED = 0.9
MOST_CALLS = 100_000
LONG_S = 1.0  # a call that needs no further warm-up to be known
FEW = 3  # repeats of calls that fill the budget alone
# A beat vouches for the moments around it; repeats that are longer, with none inside, average over drift themselves.
VOUCHED_S = 0.25
SLOW = 1.15  # of the usual time of the reference, beyond which other work runs beside a repeat


class Clock(Protocol):
    """Seconds of one repeat, and the share of them in which the device or core did something else."""

    def repeat(self, call: Callable[[], object], calls: int) -> tuple[float, float]:
        """Run ``calls`` calls; seconds of all [s], and those that were waited for a core [s]."""
        ...


@dataclass(frozen=True, slots=True)
class CpuClock:
    """Wall time, with the time that this process' threads waited for a core as Linux counts it.

    With one thread the wait is known exactly and is no part of the kernel; with several it only tells which
    repeats were disturbed.
    """

    threads: int

    def waited_s(self) -> float:
        """Time that threads of this process were ready and did not run [s]; 0 where the system does not tell."""
        total = 0
        tasks = [Path("/proc/self")] if self.threads == 1 else list(Path("/proc/self/task").glob("*"))
        for task in tasks:
            try:
                total += int((task / "schedstat").read_text().split()[1])
            except (OSError, IndexError, ValueError):
                continue
        return total * NANO

    def repeat(self, call: Callable[[], object], calls: int) -> tuple[float, float]:
        """Seconds of ``calls`` calls [s], and those waited for a core [s]; raises what the call raises."""
        before, start = self.waited_s(), time.perf_counter()
        for _ in range(calls):
            call()
        seconds = time.perf_counter() - start
        return seconds, min(max(self.waited_s() - before, 0.0), seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much time a row may take.

    Attributes
    ----------
    repeat_s : float
        Least length of a repeat, several calls where they are short [s].
    budget_s : float
        Time of a round of repeats [s].
    least, most : int
        Repeats of a round [1].
    rounds : int
        Rounds until repeats agree [1].
    """

    repeat_s: float = 0.004
    budget_s: float = 0.12
    least: int = 5
    most: int = 25
    rounds: int = 3


class Beat(Protocol):
    """The reference: how long it takes now, and what is usual."""

    @property
    def usual_s(self) -> float:
        """Median of its times so far [s]."""
        ...

    def beat(self) -> float:
        """Seconds of the reference now [s]."""
        ...

    def beside(self) -> tuple[float, int]:
        """Mean of the beats since this was asked last, that one's last included [s], and how many they are [1]."""
        ...

    def wait(self) -> None:
        """Wait until it takes its usual time, as long as there is patience."""
        ...


@dataclass(frozen=True, slots=True)
class Repeat:
    """One repeat: its time, what of it was waited for a core, the reference beside it [s], and how many beats."""

    seconds: float
    waited_s: float = 0.0
    reference_s: float = 1.0
    beats: int = 2

    @property
    def calm(self) -> bool:
        """Whether the core was the row's own."""
        return self.waited_s <= MOST_WAITED * self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What a row's repeats say.

    Attributes
    ----------
    seconds : float
        Median of one call over the undisturbed repeats at the row's own pace of the machine; where fewer than three
        are undisturbed, waits are subtracted [s].
    spread : float
        Half the distance between the 10th and 90th percentile of the repeats over the median, each as a multiple of
        the reference beside it [1].
    repeats, calls : int
        Repeats that count, and calls of each [1].
    waited_share : float
        Part of all time in which the core was taken away [1].
    reference_s : float
        Median of the reference beside the repeats that count: the row's pace of the machine [s].
    quality : str
        "ok", "waited" (waits were subtracted), or "noisy" (repeats that disagree, waits that nothing can take out, or
        a reference that was slow beside all of them).
    """

    seconds: float
    spread: float
    repeats: int
    calls: int
    waited_share: float
    reference_s: float
    quality: str


def _percentile(values: Sequence[float], share: float) -> float:
    """A percentile by linear interpolation of sorted values."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def _without_waits(repeats: Sequence[Repeat]) -> list[Repeat]:
    """The repeats that ran most of the time, without their waits; all of them as they are if none did."""
    ran = [r for r in repeats if r.waited_s <= MOSTLY_WAITED * r.seconds]
    return [Repeat(r.seconds - r.waited_s, 0.0, r.reference_s, r.beats) for r in ran] or list(repeats)


def robust_timing(
    samples: Sequence[Repeat],
    calls: int,
    *,
    exact_waits: bool,
    usual_s: float = math.inf,
    agree: float = QUIET_ENOUGH,
) -> Timing:
    """Combine repeats.

    Parameters
    ----------
    samples : sequence of Repeat
        All repeats of a row [s].
    calls : int
        Calls of each repeat [1].
    exact_waits : bool
        Whether subtracting the wait gives the undisturbed time (one thread).
    usual_s : float
        Usual time of the reference: repeats beside a slower one count only where there are no others [s].
    agree : float
        Spread above which repeats disagree [1].

    Returns
    -------
    Timing
        Of one call. Repeats with a beat every quarter of a second are set against the reference, others stand as they
        are.

    Raises
    ------
    ValueError
        Without samples.
    """
    if not samples:
        raise ValueError("no repeats to combine")
    few = min(FEW, len(samples))
    steady = [r for r in samples if r.reference_s <= SLOW * usual_s]
    slow = len(steady) < few
    kept = list(samples) if slow else steady
    calm = [r for r in kept if r.calm]
    disturbed = len(calm) < few
    if disturbed:
        calm = _without_waits(kept) if exact_waits else kept
    reference_s = statistics.median(r.reference_s for r in calm)
    vouched = statistics.median(r.seconds / (r.beats - 1) for r in calm) <= VOUCHED_S
    values = sorted(r.seconds / calls * (reference_s / r.reference_s if vouched else 1.0) for r in calm)
    median = statistics.median(values)
    spread = (_percentile(values, 0.9) - _percentile(values, 0.1)) / 2.0 / median if median > 0 else math.inf
    noisy = spread > agree or slow or (disturbed and not exact_waits)
    return Timing(
        seconds=median,
        spread=spread,
        repeats=len(values),
        calls=calls,
        waited_share=sum(r.waited_s for r in samples) / max(sum(r.seconds for r in samples), NANO),
        reference_s=reference_s,
        quality="noisy" if noisy else "waited" if disturbed else "ok",
    )


def _round(call: Callable[[], object], clock: Clock, beat: Beat, calls: int, repeats: int) -> list[Repeat]:
    """Repeats with the reference between them, each beside the mean of those around and inside it."""
    out = []
    beat.beat()
    beat.beside()
    for _ in range(repeats):
        seconds, waited = clock.repeat(call, calls)
        beat.beat()
        out.append(Repeat(seconds, waited, *beat.beside()))
    return out


def timed(
    call: Callable[[], object], clock: Clock, effort: Effort, beat: Beat, *, exact_waits: bool
) -> Timing:
    """Time a call until its repeats agree.

    Parameters
    ----------
    call : callable
        One execution.
    clock : Clock
        Of the device.
    effort : Effort
        Limits.
    beat : Beat
        The reference that runs between repeats.
    exact_waits : bool
        As in :func:`robust_timing`.

    Returns
    -------
    Timing
        Of the calmest round, a noisy one only where all were.

    Raises
    ------
    RuntimeError
        If the call fails, such as out of memory.
    """
    beat.wait()
    once = clock.repeat(call, 1)[0]
    if once < LONG_S:
        once = min(clock.repeat(call, 1)[0] for _ in range(2))
    calls = min(max(1, math.ceil(effort.repeat_s / once)), MOST_CALLS)
    least = min(effort.least, FEW) if once > effort.budget_s / FEW else effort.least
    repeats = min(max(least, int(effort.budget_s / (once * calls))), effort.most)
    rounds: list[Timing] = []
    for _ in range(effort.rounds):
        samples = _round(call, clock, beat, calls, repeats)
        rounds.append(robust_timing(samples, calls, exact_waits=exact_waits, usual_s=beat.usual_s))
        if rounds[-1].quality != "noisy":
            break
        beat.wait()
    return min(rounds, key=lambda found: (found.quality == "noisy", found.spread))

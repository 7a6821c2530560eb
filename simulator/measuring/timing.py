"""Timing one call: warm-up, repeats, the time that a core was taken away, and how far repeats lie apart."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Clock", "CpuClock", "Effort", "Timing", "robust_timing", "timed"]

NANO = 1e-9
# A repeat in which the scheduler gave the core to others for a larger share is not what the kernel takes.
MOST_WAITED = 0.02
QUIET_ENOUGH = 0.10  # spread below which a row is not measured again
# A wait that began before the clock was read counts in full: such a repeat says nothing.
MOSTLY_WAITED = 0.9
MOST_CALLS = 100_000
LONG_S = 1.0  # a call that needs no further warm-up to be known
FEW = 3  # repeats of calls that fill the budget alone


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What a row's repeats say.

    Attributes
    ----------
    seconds : float
        Median of one call over the undisturbed repeats; where fewer than three are, waits are subtracted [s].
    spread : float
        Half the distance between the 10th and 90th percentile of the repeats over the median [1].
    repeats, calls : int
        Repeats that count, and calls of each [1].
    waited_share : float
        Part of all time in which the core was taken away [1].
    quality : str
        "ok", "waited" (waits were subtracted), or "noisy" (repeats that disagree, or waits that nothing can
        take out).
    """

    seconds: float
    spread: float
    repeats: int
    calls: int
    waited_share: float
    quality: str


def _percentile(values: Sequence[float], share: float) -> float:
    """A percentile by linear interpolation of sorted values."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def _without_waits(samples: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds of the repeats that ran most of the time, without their waits; all of them as they are if none did."""
    ran = [(seconds, waited) for seconds, waited in samples if waited <= MOSTLY_WAITED * seconds]
    return [seconds - waited for seconds, waited in ran] or [seconds for seconds, _ in samples]


def robust_timing(samples: Sequence[tuple[float, float]], calls: int, *, exact_waits: bool) -> Timing:
    """Combine repeats.

    Parameters
    ----------
    samples : sequence of (float, float)
        Seconds of each repeat, and of them waited for a core [s].
    calls : int
        Calls of each repeat [1].
    exact_waits : bool
        Whether subtracting the wait gives the undisturbed time (one thread).

    Returns
    -------
    Timing
        Of one call.

    Raises
    ------
    ValueError
        Without samples.
    """
    if not samples:
        raise ValueError("no repeats to combine")
    calm = [seconds for seconds, waited in samples if waited <= MOST_WAITED * seconds]
    disturbed = len(calm) < min(3, len(samples))
    if disturbed:
        calm = _without_waits(samples) if exact_waits else [seconds for seconds, _ in samples]
    values = sorted(seconds / calls for seconds in calm)
    median = statistics.median(values)
    spread = (_percentile(values, 0.9) - _percentile(values, 0.1)) / 2.0 / median if median > 0 else math.inf
    quality = "noisy" if spread > QUIET_ENOUGH or (disturbed and not exact_waits) else "ok"
    return Timing(
        seconds=median,
        spread=spread,
        repeats=len(values),
        calls=calls,
        waited_share=sum(w for _, w in samples) / max(sum(s for s, _ in samples), NANO),
        quality="waited" if disturbed and quality == "ok" else quality,
    )


def timed(call: Callable[[], object], clock: Clock, effort: Effort, *, exact_waits: bool) -> Timing:
    """Time a call until its repeats agree.

    Parameters
    ----------
    call : callable
        One execution.
    clock : Clock
        Of the device.
    effort : Effort
        Limits.
    exact_waits : bool
        As in :func:`robust_timing`.

    Returns
    -------
    Timing
        Of the calmest round.

    Raises
    ------
    RuntimeError
        If the call fails, such as out of memory.
    """
    once = clock.repeat(call, 1)[0]
    if once < LONG_S:
        once = min(clock.repeat(call, 1)[0] for _ in range(2))
    calls = min(max(1, math.ceil(effort.repeat_s / once)), MOST_CALLS)
    least = min(effort.least, FEW) if once > effort.budget_s / FEW else effort.least
    repeats = min(max(least, int(effort.budget_s / (once * calls))), effort.most)
    best: Timing | None = None
    for _ in range(effort.rounds):
        samples = [clock.repeat(call, calls) for _ in range(repeats)]
        found = robust_timing(samples, calls, exact_waits=exact_waits)
        if best is None or found.spread < best.spread:
            best = found
        if best.quality != "noisy":
            break
    assert best is not None
    return best

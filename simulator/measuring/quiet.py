"""The machine's pulse: a small product of known work between all others, and waiting until it takes its usual time."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from simulator.measuring.timing import SLOW, Clock

__all__ = ["FILE", "MOST_WAITED", "Pulse", "quality_of"]

MOST_WAITED = 0.15  # share of a row's time without a core, beyond which caches are no longer the row's own
FILE = "reference.txt"
PAUSE_S = 0.1
LEAST_S = 1.5e-4  # a reference that is shorter would time the clock and the launch
SIDES = (192, 256, 512, 1024, 2048, 4096)
USUAL_S = 60.0  # the usual time is the median of the beats of the last minute
NEW = 50  # beats after which it is computed anew
FIRST, APART_S = 40, 0.02  # beats at the start, spread over a second
INSIDE_S = 0.05  # between beats inside of long repeats


class Pulse:
    """Times the reference.

    Parameters
    ----------
    product : callable
        Makes the call of a square product from its shape.
    clock : Clock
        Of the device.
    exact_waits : bool
        As in `simulator.measuring.timing.robust_timing`.
    folder : Path
        Where the side of the product is kept: all rows of a folder are set against the same one.
    patience_s : float
        Time to wait in all [s].

    Notes
    -----
    Usual is the median over the last minute, not the best: another tenant of the processor slows it for hours, and
    rows carry the reference beside them, so that the fit moves them to one pace.
    """

    def __init__(
        self,
        product: Callable[[Mapping[str, Any]], Callable[[], object]],
        clock: Clock,
        *,
        exact_waits: bool,
        folder: Path,
        patience_s: float,
    ) -> None:
        self._clock, self._exact, self.patience_s = clock, exact_waits, patience_s
        self._beats: deque[tuple[float, float]] = deque()
        self._usual_s, self._new = math.inf, 0
        self._beside: list[float] = []
        self.spent_s = 0.0
        self._call = self._chosen(product, folder / FILE)
        for _ in range(FIRST):
            self.beat()
            time.sleep(APART_S)
        self._usual_s = self._median()

    def _median(self) -> float:
        while len(self._beats) > FIRST and self._beats[-1][0] - self._beats[0][0] > USUAL_S:
            self._beats.popleft()
        return statistics.median(seconds for _, seconds in self._beats)

    def _chosen(
        self, product: Callable[[Mapping[str, Any]], Callable[[], object]], file: Path
    ) -> Callable[[], object]:
        """The product of the folder, else the smallest one that is long enough to be timed."""
        try:
            sides: tuple[int, ...] = (int(file.read_text(encoding="utf-8").split()[0]),)
        except (OSError, ValueError, IndexError):
            sides = SIDES
        for side in sides:
            call = product({"dtype": "fp32", "m": side, "n": side, "k": side})
            self._clock.repeat(call, 3)
            if min(self._clock.repeat(call, 1)[0] for _ in range(5)) >= LEAST_S:
                break
        file.write_text(f"{side} sides of the square product that rows are timed beside\n", encoding="utf-8")
        return call

    @property
    def usual_s(self) -> float:
        """Median of the beats so far [s]."""
        if self._new >= NEW:
            self._usual_s, self._new = self._median(), 0
        return self._usual_s

    def beat(self) -> float:
        """Seconds of the reference now [s]; RuntimeError if it fails.

        Called once untimed before: what the row left in the caches is the row's, not the machine's pace.
        """
        self._call()
        seconds, waited = self._clock.repeat(self._call, 1)
        found = seconds - waited if self._exact and waited < seconds else seconds
        self._beats.append((time.perf_counter(), found))
        self._beside.append(found)
        self._new += 1
        return found

    def inside(self) -> None:
        """A beat inside of a long repeat, where the last one is old; its time is counted in ``spent_s`` [s]."""
        start = time.perf_counter()
        if start - self._beats[-1][0] >= INSIDE_S:
            self.beat()
            self.spent_s += time.perf_counter() - start

    def beside(self) -> tuple[float, int]:
        """Mean of the beats since this was asked last, that one's last included [s], and how many they are [1]."""
        beats, self._beside = self._beside, self._beside[-1:]
        return statistics.fmean(beats), len(beats)

    def wait(self) -> None:
        """Wait until the reference takes its usual time or patience ends; RuntimeError if it fails."""
        while self.patience_s > 0 and statistics.median(self.beat() for _ in range(3)) > SLOW * self.usual_s:
            time.sleep(PAUSE_S)
            self.patience_s -= PAUSE_S


def quality_of(quality: str, waited_share: float) -> str:
    """Quality of a row from its repeats and from the share of its time without a core; raises nothing."""
    return "noisy" if waited_share > MOST_WAITED else quality

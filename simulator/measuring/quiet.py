"""Whether the machine is quiet: a small product of known time before and after each row, and waiting until it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from simulator.measuring.timing import Clock, robust_timing

__all__ = ["SHAPE", "QuietGate", "quality_of"]

# A product of a millisecond or two on a core; its time is the machine's pulse.
SHAPE = {"dtype": "fp32", "m": 256, "n": 512, "k": 512}
RUNS = 7
SLOW = 1.10  # of its best time, beyond which the machine does other work
MOST_WAITED = 0.15  # share of a row's time without a core, beyond which caches are no longer the row's own
FILE = "reference.txt"
PAUSE_S = 0.25
OLD_S = 0.25  # after which the reference is asked again


class QuietGate:
    """Times the reference, and waits for the machine to be quiet as long as there is patience.

    Parameters
    ----------
    call : callable
        The reference product.
    clock : Clock
        Of the device.
    exact_waits : bool
        As in `simulator.measuring.timing.robust_timing`.
    folder : Path
        Where its best time is kept, so that a resumed measurement knows it.
    patience_s : float
        Time to wait in all [s].
    """

    def __init__(
        self, call: Callable[[], object], clock: Clock, *, exact_waits: bool, folder: Path, patience_s: float
    ) -> None:
        self._call, self._clock, self._exact = call, clock, exact_waits
        self._file, self.patience_s = folder / FILE, patience_s
        self._last, self._asked = 1.0, 0.0
        clock.repeat(call, 3)
        self.best_s = self._kept()
        for _ in range(5):
            self.ratio()

    def _kept(self) -> float:
        try:
            return float(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return float("inf")

    def ratio(self) -> float:
        """Time of the reference now over its best so far [1]; RuntimeError if it fails."""
        samples = [self._clock.repeat(self._call, 1) for _ in range(RUNS)]
        seconds = robust_timing(samples, 1, exact_waits=self._exact).seconds
        if seconds < self.best_s:
            self.best_s = seconds
            self._file.write_text(f"{seconds:.6g}\n", encoding="utf-8")
        return seconds / self.best_s

    def lately(self) -> float:
        """The ratio, measured anew where the last one is old [1]; RuntimeError if it fails."""
        if time.perf_counter() - self._asked > OLD_S:
            self._last, self._asked = self.ratio(), time.perf_counter()
        return self._last

    def wait(self) -> float:
        """Wait until the machine is quiet or patience ends; the reference's ratio then [1]."""
        found = self.lately()
        while found > SLOW and self.patience_s > 0:
            started = time.perf_counter()
            time.sleep(PAUSE_S)
            found = self._last = self.ratio()
            self._asked = time.perf_counter()
            self.patience_s -= time.perf_counter() - started
        return found


def quality_of(quality: str, waited_share: float, ratio: float) -> str:
    """Quality of a row from its repeats and from the reference beside it; raises nothing."""
    return "noisy" if ratio > SLOW or waited_share > MOST_WAITED else quality

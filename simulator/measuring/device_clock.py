"""Clocks of devices that work beside the host: events of the device, and waiting for it where there are none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from simulator.measuring.machine import Machine
from simulator.measuring.operators import Bench
from simulator.measuring.quiet import Pulse
from simulator.measuring.timing import Clock, CpuClock

__all__ = ["EventClock", "WaitingClock", "captured", "clock_of", "pulse_in"]

MILLI = 1e-3
REFERENCE_BYTES = 1e6  # of the reference's weights: they stay in a cache, so that it tells of the clock alone


@dataclass(frozen=True, slots=True)
class EventClock:
    """CUDA events around the calls: the device's own time. Not run in this project's tests, which have no GPU."""

    def repeat(self, call: Callable[[], object], calls: int) -> tuple[float, float]:
        """Seconds of ``calls`` calls [s] and no wait; RuntimeError if a kernel fails."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * MILLI, 0.0


@dataclass(frozen=True, slots=True)
class WaitingClock:
    """Wall time until a device (mps, xpu) has done all calls."""

    device: str

    def repeat(self, call: Callable[[], object], calls: int) -> tuple[float, float]:
        """Seconds of ``calls`` calls [s] and no wait; RuntimeError if a kernel fails."""
        backend = getattr(torch, self.device)
        backend.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        backend.synchronize()
        return time.perf_counter() - start, 0.0


def clock_of(device: str, threads: int) -> Clock:
    """The clock of a device; raises nothing."""
    if device == "cpu":
        return CpuClock(threads)
    return EventClock() if device == "cuda" else WaitingClock(device)


def pulse_in(folder: Path, machine: Machine, patience_s: float) -> Pulse:
    """The pulse of a folder's machine.

    Parameters
    ----------
    folder : Path
        Of the tables.
    machine : Machine
        Whose.
    patience_s : float
        Time to wait in all for its usual pace [s].

    Raises
    ------
    RuntimeError
        If the reference fails.
    """
    bench, clock = Bench(machine.device, REFERENCE_BYTES), clock_of(machine.device, machine.threads)
    return Pulse(bench.product, clock, exact_waits=machine.exact_waits, folder=folder, patience_s=patience_s)


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """A CUDA graph of one call, which leaves the host's launches out; RuntimeError where it cannot be captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], object] = graph.replay
    return replay

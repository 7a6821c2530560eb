"""Energy as the machine counts it: RAPL of a processor, NVML of a GPU. Where there is neither, none is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["EnergyCounter", "counter_of", "step_energy_j"]

MICRO, MILLI = 1e-6, 1e-3
PACKAGES = Path("/sys/class/powercap")
LEAST_S = 0.5  # counters advance every few milliseconds to a tenth of a second


@dataclass(frozen=True, slots=True)
class EnergyCounter:
    """A counter: its name, joules so far [J], and where it starts again [J], infinite where it does not."""

    name: str
    joules: Callable[[], float]
    wraps_j: float = float("inf")

    def between(self, before: float, after: float) -> float:
        """Joules between two readings [J], of a counter that wrapped at most once; raises nothing."""
        return after - before if after >= before else after - before + self.wraps_j


def _rapl(packages: Path) -> EnergyCounter | None:
    """The sum of all packages of a processor, or None where none can be read."""
    counters = [
        path / "energy_uj"
        for path in sorted(packages.glob("intel-rapl:*"))
        if path.name.count(":") == 1 and (path / "energy_uj").is_file()
    ]
    try:
        limits = [float((path.parent / "max_energy_range_uj").read_text()) for path in counters]
        for path in counters:
            float(path.read_text())
    except (OSError, ValueError):  # most systems let only root read them
        return None
    if not counters:
        return None

    def joules() -> float:
        return sum(float(path.read_text()) for path in counters) * MICRO

    # Of several packages one may wrap: their limits are alike.
    return EnergyCounter("rapl", joules, limits[0] * MICRO)


def _nvml() -> EnergyCounter | None:
    """The first GPU as NVML counts it, or None without its package or a counter."""
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]  # comes with NVIDIA's driver

        pynvml.nvmlInit()
        handle: Any = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # of a library that may be missing or refuse: then there is no counter
        return None
    return EnergyCounter("nvml", lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * MILLI)


def counter_of(device: str, packages: Path = PACKAGES) -> EnergyCounter | None:
    """The counter of a device, or None where the machine has none; raises nothing."""
    if device == "cuda":
        return _nvml()
    return _rapl(packages) if device == "cpu" else None


def step_energy_j(counter: EnergyCounter | None, step: Callable[[], object], step_s: float) -> float | None:
    """Joules of one step, all the machine's other work included.

    Parameters
    ----------
    counter : EnergyCounter or None
        Of the device.
    step : callable
        Waits until the device is done.
    step_s : float
        Its time: as many steps run as fill half a second [s].

    Returns
    -------
    float or None
        Energy [J]; None without a counter, never an estimate.

    Raises
    ------
    OSError
        If the counter goes away.
    """
    if counter is None:
        return None
    steps = max(int(LEAST_S / max(step_s, 1e-6)), 1)
    before = counter.joules()
    for _ in range(steps):
        step()
    return counter.between(before, counter.joules()) / steps

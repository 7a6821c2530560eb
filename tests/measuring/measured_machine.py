"""A machine that never was, and its products, with times that known coefficients made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from simulator.measuring.machine import Machine

MACHINE: dict[str, Any] = {
    "name": "test-machine-1t",
    "processor": "Test Processor",
    "device": "cpu",
    "device_name": "Test Processor",
    "driver": "",
    "cores": 2,
    "threads": 1,
    "processes": 1,
    "units": 1,
    "memory_bytes": 8e9,
    "cache_bytes": 3.2e7,
    "private_cache_bytes": 5e5,
    "clock_hz": 2e9,
    "governor": "unknown",
    "allocator": "test",
    "torch": "2.13.0",
    "libraries": "mkl",
}


def products(machine: Machine, rows: int = 120) -> pd.DataFrame:
    """Products at 50 GFLOP/s and 10 GB/s of weights, two copies of panels and 5 us, with 1 % noise."""
    random = np.random.default_rng(4)
    m, n, k = (
        2 ** random.integers(0, 11, rows),
        64 * random.integers(2, 40, rows),
        64 * random.integers(2, 40, rows),
    )
    copies = np.where(m > 1, 2.0, 0.0) * 4.0 * n * k / 10e9
    seconds = 2.0 * m * n * k / 50e9 + 4.0 * (m * k + n * k + m * n) / 10e9 + copies + 5e-6
    return pd.DataFrame(
        {
            "device": machine.name,
            "framework": "pytorch",
            "version": machine.torch,
            "machine": machine.id,
            "dtype": "fp32",
            "batch": 1,
            "m": m,
            "n": n,
            "k": k,
            "weights_rotated": True,
            "latency_us": seconds * np.exp(0.01 * random.standard_normal(rows)) * 1e6,
            "spread": 0.02,
            "quality": "ok",
        }
    )

"""Products of a device and some stacks, as in a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simulator.fitting.rows import Families

__all__ = ["gemm_families"]


def gemm_families(folder: Path, table: str, accelerator: str, stacks: Sequence[str]) -> Families:
    """Fits of every type that the stacks have rows of; FileNotFoundError if the table is missing."""
    return {}

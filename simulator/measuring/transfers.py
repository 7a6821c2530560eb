"""Copies between the host and a device with memory of its own. A processor has none, and no row is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from simulator.measuring.device_clock import clock_of, pulse_in
from simulator.measuring.machine import Machine
from simulator.measuring.shapes import transfer_shapes
from simulator.measuring.table_file import GrowingTable
from simulator.measuring.timing import Effort, timed

__all__ = ["TRANSFER_COLUMNS", "measure_transfers"]

MICRO = 1e-6
KEYS = ("direction", "pinned", "bytes")
TRANSFER_COLUMNS = (
    "device",
    "version",
    "source",
    "machine",
    *KEYS,
    "latency_us",
    "GBps",
    "spread",
    "repeats",
    "reference_us",
    "quality",
)


def measure_transfers(
    folder: Path, machine: Machine, effort: Effort, rows: int, *, patience_s: float
) -> int | None:
    """Time copies to and from a device, by its events where it has them, with and without page-locked memory.

    Parameters
    ----------
    folder, machine, effort, patience_s
        As for `simulator.measuring.operator_rows.measure_operators`.
    rows : int
        Sizes of each direction [1].

    Returns
    -------
    int or None
        Rows measured [1]; None on a processor, whose memory is the host's.

    Raises
    ------
    SpecError
        If the table cannot be continued.
    """
    if machine.device == "cpu":
        return None
    table = GrowingTable(folder / "transfers.csv", TRANSFER_COLUMNS, KEYS)
    table.open()
    known, measured = table.known(), 0
    clock, pulse = clock_of(machine.device, machine.threads), pulse_in(folder, machine, patience_s)
    for shape in transfer_shapes(rows, locked=machine.device == "cuda"):
        if table.key(shape) in known:
            continue
        host = torch.empty(int(shape["bytes"]), dtype=torch.uint8, pin_memory=shape["pinned"] == "yes")
        there = torch.empty_like(host, device=machine.device, pin_memory=False)
        target, source = (there, host) if shape["direction"] == "to_device" else (host, there)

        def copy(target: Any = target, source: Any = source) -> object:
            return target.copy_(source, non_blocking=True)

        found = timed(copy, clock, effort, pulse, exact_waits=machine.exact_waits)
        table.add(
            {
                **shape,
                "device": machine.name,
                "version": machine.torch,
                "source": "llmsim measure",
                "machine": machine.id,
                "latency_us": f"{found.seconds / MICRO:.6g}",
                "GBps": f"{float(shape['bytes']) / found.seconds / 1e9:.6g}",
                "spread": f"{found.spread:.4f}",
                "repeats": found.repeats,
                "reference_us": f"{found.reference_s / MICRO:.6g}",
                "quality": found.quality,
            }
        )
        measured += 1
    return measured

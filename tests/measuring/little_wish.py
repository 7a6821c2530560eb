"""What the scripts of this folder ask for: as little as there is, on the processor."""

from __future__ import annotations

from pathlib import Path

from simulator.measuring.session import Wish


def little_wish(folder: Path, *, processes: int, rows: int) -> Wish:
    """A quick wish in fp32, eager, with one thread in each process, that waits for no quiet machine."""
    return Wish(
        folder=folder,
        device="cpu",
        dtypes=("fp32",),
        modes=("eager",),
        threads=1,
        processes=processes,
        rows=rows,
        quick=True,
        graphs=False,
        patience_s=0.0,
    )

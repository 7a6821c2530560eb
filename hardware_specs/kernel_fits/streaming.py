"""Coefficients of kernels that stream through memory row by row."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from hardware_specs.figure import Dimension
from hardware_specs.kernel_fits.evidence import FitEvidence

__all__ = ["StreamingFit"]

Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Seconds = Annotated[float, Dimension("s", bare=True)]
Count = Annotated[float, Dimension("count")]


class StreamingFit(FitEvidence):
    """Coefficients of ``T = fixed_s + max(1, saturating_rows / rows) (R (1 + rereads miss) / e_r + V / e_w) / W``.

    R and V are bytes read and written; ``miss = 1 / (1 + (resident_row_bytes / row_bytes)^row_sharpness)``. Where W is
    the bandwidth of a cache, what did not stay in it takes ``spill`` longer: times
    ``1 + spill / (1 + (resident_bytes / (R + V))^2)``.
    """

    read_efficiency: Efficiency = Field(
        description="sustained share of the memory bandwidth of reads, (0, 1]"
    )
    write_efficiency: Efficiency = Field(
        description="sustained share of the memory bandwidth of writes, (0, 1]"
    )
    fixed_s: Seconds = Field(description="fixed time of one kernel [s]")
    saturating_rows: Count = Field(
        default=0.0, description="rows that occupy the device; fewer take as long as these"
    )
    rereads: Count = Field(
        default=0.0, description="how often a row is read again, from memory where it did not stay in a cache"
    )
    resident_row_bytes: Annotated[float, Dimension("bytes", positive=True, bare=True)] = Field(
        default=1e12, description="length of a row of which half still is in a cache when it is read again"
    )
    row_sharpness: Annotated[float, Dimension("count", minimum=1)] = Field(
        default=4.0, description="how suddenly longer rows leave the cache"
    )
    spill: Count = Field(
        default=0.0, description="further share of its time that a stream takes which no cache holds"
    )
    resident_bytes: Annotated[float, Dimension("bytes", positive=True, bare=True)] = Field(
        default=1e12,
        description="bytes of a kernel of which half stays in a cache from one kernel to the next",
    )

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """Each byte moved once at the full bandwidth, or the arithmetic where it takes longer."""
        return {
            "read_efficiency": 1.0,
            "write_efficiency": 1.0,
            "fixed_s": 0.0,
            "saturating_rows": 0.0,
            "rereads": 0.0,
            "resident_row_bytes": math.inf,
            "row_sharpness": 1.0,
            "spill": 0.0,
            "resident_bytes": math.inf,
        }

"""Coefficients of a grouped matrix product: one product for each expert that received rows."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from hardware_specs.figure import Dimension
from hardware_specs.kernel_fits.evidence import FitEvidence

__all__ = ["GroupedGemmFit"]

Fraction = Annotated[float, Dimension("fraction")]
Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Seconds = Annotated[float, Dimension("s", bare=True)]
Bytes = Annotated[float, Dimension("bytes", positive=True, bare=True)]


class GroupedGemmFit(FitEvidence):
    """Coefficients of `simulator.kernels.grouped_gemm.grouped_gemm_time`."""

    compute_efficiency: Efficiency = Field(description="sustained share of the dense peak, (0, 1]")
    memory_efficiency: Efficiency = Field(description="sustained share of the memory bandwidth, (0, 1]")
    sharpness: Annotated[float, Dimension("count", minimum=1)] = Field(
        description="exponent p of the p-norm that joins compute and memory time; large: the maximum"
    )
    feed_bytes_per_clock: Bytes = Field(
        description="operand bytes that one unit takes in per clock from the last cache [byte]"
    )
    tile_s: Seconds = Field(description="time that a unit needs to start and end one tile [s]")
    granularity: Fraction = Field(
        description="share of the cost of whole tiles that shows; 0: work divides without loss, 1: it does not"
    )

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """Work that divides without loss at full rates: the longer of compute and memory time."""
        return {
            "compute_efficiency": 1.0,
            "memory_efficiency": 1.0,
            "sharpness": math.inf,
            "feed_bytes_per_clock": math.inf,
            "tile_s": 0.0,
            "granularity": 0.0,
        }

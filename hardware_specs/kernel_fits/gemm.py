"""Coefficients of dense and batched matrix products."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from hardware_specs.errors import Problem
from hardware_specs.figure import Dimension
from hardware_specs.kernel_fits.evidence import FitEvidence

__all__ = ["GemmFit"]

Fraction = Annotated[float, Dimension("fraction")]
Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Seconds = Annotated[float, Dimension("s", bare=True)]
Bytes = Annotated[float, Dimension("bytes", positive=True, bare=True)]
Count = Annotated[float, Dimension("count")]
LARGEST_STEP = 64.0
FromOne = Annotated[float, Dimension("count", minimum=1)]


class GemmFit(FitEvidence):
    """Coefficients of `simulator.kernels.gemm.gemm_time`; the defaults switch off what only some kernels show."""

    compute_efficiency: Efficiency = Field(description="sustained share of the dense peak, (0, 1]")
    memory_efficiency: Efficiency = Field(description="sustained share of the memory bandwidth, (0, 1]")
    fixed_s: Seconds = Field(description="fixed time of one kernel [s]")
    fill_s: Seconds = Field(
        default=0.0,
        description="further fixed time of a product whose inner length fills the units' pipelines, 256 and more; "
        "in proportion below [s]",
    )
    sharpness: FromOne = Field(
        description="exponent p of the p-norm that joins compute and memory time; large: the maximum"
    )
    feed_bytes_per_clock: Bytes = Field(
        default=1e12,
        description="operand bytes that one unit takes in per clock from the last cache [byte]",
    )
    tile_s: Seconds = Field(
        default=0.0,
        description="time to start and end a tile of 128 x 128 results, in proportion to its area [s]",
    )
    split_s: Seconds = Field(
        default=0.0,
        description="time to add up the parts of a product that is split along its inner length [s]",
    )
    tail: Fraction = Field(
        default=0.0, description="tiles that the last unit still works on when the others are done, [0, 1]"
    )
    memory_ramp_s: Seconds = Field(
        default=0.0,
        description="r in the time sqrt(r B/W) by which short streams miss the sustained bandwidth [s]",
    )
    rereads: Count = Field(
        default=0.0,
        description="how often each further 128 rows read again what of the second operand no cache holds",
    )
    resident_bytes: Bytes = Field(
        default=1e12, description="part of the second operand that a cache holds between rows of tiles [byte]"
    )
    row_step: FromOne = Field(default=64.0, description="rows that the height of a tile is a multiple of")
    least_rows: FromOne = Field(default=64.0, description="least height of a tile; fewer rows take as long")
    granularity: Fraction = Field(
        default=1.0,
        description="share of the cost of whole tiles that shows; 0: work divides without loss, 1: it does not",
    )
    panel_copies: Count = Field(
        default=0.0,
        description="times that a library moves the second operand to bring it into panels, with two rows and more",
    )

    def broken_rules(self) -> Iterator[Problem]:
        """Tiles of at most 128 rows are whole steps: otherwise one more row could take less time."""
        if LARGEST_STEP % self.row_step:
            fix = "use a power of two up to 64"
            yield Problem(
                path="row_step", value=f"{self.row_step:g}", rule=f"does not divide {LARGEST_STEP:g}", fix=fix
            )

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """Work that divides without loss at full rates: the longer of compute and memory time."""
        return {
            "compute_efficiency": 1.0,
            "memory_efficiency": 1.0,
            "fixed_s": 0.0,
            "fill_s": 0.0,
            "sharpness": math.inf,
            "feed_bytes_per_clock": math.inf,
            "tile_s": 0.0,
            "split_s": 0.0,
            "tail": 0.0,
            "memory_ramp_s": 0.0,
            "rereads": 0.0,
            "resident_bytes": math.inf,
            "row_step": 1.0,
            "least_rows": 1.0,
            "granularity": 0.0,
            "panel_copies": 0.0,
        }

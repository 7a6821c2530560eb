"""Coefficients of a smooth roofline with a fixed cost."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from hardware_specs.figure import Dimension
from hardware_specs.kernel_fits.evidence import FitEvidence

__all__ = ["RooflineFit"]

Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Seconds = Annotated[float, Dimension("s", bare=True)]


class RooflineFit(FitEvidence):
    """Coefficients of ``T = fixed_s + (compute^p + memory^p)^(1/p)`` with p the sharpness."""

    compute_efficiency: Efficiency = Field(description="sustained share of the dense peak, (0, 1]")
    memory_efficiency: Efficiency = Field(description="sustained share of the memory bandwidth, (0, 1]")
    fixed_s: Seconds = Field(description="fixed time of one kernel [s]")
    sharpness: Annotated[float, Dimension("count", minimum=1)] = Field(
        description="exponent p of the p-norm that joins compute and memory time; large: the maximum"
    )

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """The plain roofline: no fixed cost, full efficiency, the maximum of both times."""
        return {"compute_efficiency": 1.0, "memory_efficiency": 1.0, "fixed_s": 0.0, "sharpness": math.inf}

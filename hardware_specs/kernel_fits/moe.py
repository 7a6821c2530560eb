"""Coefficients of the kernels around grouped products: sorting rows to experts, activation, weighted sum."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hardware_specs.figure import Dimension
from hardware_specs.kernel_fits.evidence import FitEvidence

__all__ = ["MoeDispatchFit"]

Fraction = Annotated[float, Dimension("fraction")]
Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Seconds = Annotated[float, Dimension("s", bare=True)]


class MoeDispatchFit(FitEvidence):
    """Coefficients of `simulator.kernels.moe_dispatch.moe_dispatch_time`."""

    fixed_s: Seconds = Field(description="fixed time of one of a layer's three kernels [s]")
    memory_efficiency: Efficiency = Field(description="sustained share of the memory bandwidth, (0, 1]")
    foreign_share: Fraction = Field(
        description="share of the rows of other ranks' experts that the kernel touches too, [0, 1]"
    )

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """Own rows only, at full bandwidth, without a fixed cost."""
        return {"fixed_s": 0.0, "memory_efficiency": 1.0, "foreign_share": 0.0}

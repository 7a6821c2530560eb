"""Coefficients of the pass that turns activations into a narrower type."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hardware_specs.figure import Dimension
from hardware_specs.kernel_fits.evidence import FitEvidence

__all__ = ["QuantiseFit"]

Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Seconds = Annotated[float, Dimension("s", bare=True)]


class QuantiseFit(FitEvidence):
    """Coefficients of ``T = fixed_s + max(F/P, B/(memory_efficiency W), rows row_unit_s / units)``."""

    fixed_s: Seconds = Field(description="fixed time of one pass [s]")
    memory_efficiency: Efficiency = Field(
        description="sustained share of the memory bandwidth if each element were read once and written once, (0, 1]"
    )
    row_unit_s: Seconds = Field(
        default=0.0, description="time that one unit needs for a row, however short: finding its scale [s]"
    )

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """Each byte moved once at the full bandwidth, or the arithmetic where it takes longer."""
        return {"fixed_s": 0.0, "memory_efficiency": 1.0, "row_unit_s": 0.0}

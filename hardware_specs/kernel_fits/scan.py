"""Coefficients of scans over a sequence: state-space models and linear attention."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from hardware_specs.figure import Dimension
from hardware_specs.kernel_fits.evidence import FitEvidence

__all__ = ["ScanFit"]

Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Seconds = Annotated[float, Dimension("s", bare=True)]


class ScanFit(FitEvidence):
    """Coefficients of ``T = fixed_s + step_s (chunks - 1) + max(compute, memory)``; no device was measured."""

    compute_efficiency: Efficiency = Field(description="sustained share of the dense peak, (0, 1]")
    memory_efficiency: Efficiency = Field(description="sustained share of the memory bandwidth, (0, 1]")
    fixed_s: Seconds = Field(description="fixed time of all kernels of one scan [s]")
    step_s: Seconds = Field(description="time by which a chunk waits for the state of the one before [s]")

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """The longer of computing and moving bytes; chunks do not wait."""
        return {"compute_efficiency": 1.0, "memory_efficiency": 1.0, "fixed_s": 0.0, "step_s": 0.0}

    @classmethod
    def of_siblings(
        cls, *, compute_efficiency: float, memory_efficiency: float, fixed_s: float, why: str
    ) -> ScanFit:
        """Assumed coefficients from kernels that were measured.

        Parameters
        ----------
        compute_efficiency : float
            Of prefill attention: products of a chunk by a head are as small as its tiles [1].
        memory_efficiency, fixed_s : float
            Of plain streaming kernels [1], [s]; a scan in chunks is five kernels that follow each other
            (state-spaces/mamba, ``ssd_combined``), of which the one that passes states waits.
        why : str
            Where the numbers come from.

        Returns
        -------
        ScanFit
            Basis "assumed".

        Raises
        ------
        ValidationError
            If a number is out of range.
        """
        return cls.of(
            {
                "compute_efficiency": compute_efficiency,
                "memory_efficiency": memory_efficiency,
                "fixed_s": KERNELS * fixed_s,
                "step_s": 0.0 if math.isclose(fixed_s, 0.0) else fixed_s / CHUNKS_PER_LAUNCH,
            },
            basis="assumed",
            source=why,
        )


# Cumulative sums, states of chunks, passing of states, products inside chunks, output.
KERNELS = 5
# A chunk's state is some kilobytes: it is passed in a fraction of what a launch takes. Assumed, not measured.
CHUNKS_PER_LAUNCH = 10.0

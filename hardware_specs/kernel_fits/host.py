"""Time of the host between operators: on a device whose cores dispatch, or where the host waits for each kernel."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hardware_specs.figure import Dimension
from hardware_specs.kernel_fits.evidence import FitEvidence

__all__ = ["HostFit"]


class HostFit(FitEvidence):
    """Coefficient of ``T = T_kernel + [w > 0] between_s`` in eager code; graphs and fused code have none of it.

    A kernel that is timed alone finds its code, its tables and its operands' headers in the nearest caches. In a model
    the operators before it have pushed them out, and modules call it. On a device with a queue of its own this time
    hides behind the kernels that run, so nothing is added there, unless the host ``waits`` for each kernel before it
    launches the next.
    """

    between_s: Annotated[float, Dimension("s", bare=True)] = Field(
        description="time of the host between two operators of eager code [s]"
    )
    waits: bool = Field(
        False,
        description="whether the host waits for each kernel, so that its time is added on devices with a queue and to "
        "fused code too",
    )

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """No time between operators."""
        return {"between_s": 0.0}

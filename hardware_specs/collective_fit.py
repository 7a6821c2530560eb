"""Fitted coefficients of collectives on one tier of a fabric."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hardware_specs.figure import Basis, Dimension, Spec

__all__ = ["CollectiveFit"]

Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Seconds = Annotated[float, Dimension("s", bare=True)]
Source = Annotated[str, Field(min_length=8)]
Errors = dict[str, Annotated[float, Dimension("count")]]


class CollectiveFit(Spec):
    """Coefficients of ``T = L + t + ramp sqrt(L t)`` with L = base + step x hops, t = bytes / bandwidth."""

    efficiency: Efficiency = Field(description="sustained share of the link bandwidth, (0, 1]")
    base_latency_s: Seconds = Field(description="fixed time of one collective [s]")
    step_latency_s: Seconds = Field(description="time added by each exchange that waits for the last [s]")
    ramp: Annotated[float, Dimension("count")] = Field(description="weight of the chunk-pipelining term")
    in_switch_gain: Annotated[float, Dimension("count", positive=True)] = Field(
        default=1.0,
        description="efficiency of an all-reduce that the switch adds up, over that of the ring (often "
        "below 1: each rank then sends its message once, not twice)",
    )
    compute_share: Annotated[float, Dimension("fraction")] = Field(
        default=0.0, description="share of the compute units that a running exchange occupies, [0, 1]"
    )
    basis: Basis
    source: Source = Field(description="data set the coefficients were fitted on")
    rows: Annotated[int, Field(ge=0)] = Field(default=0, description="rows fitted")
    error: Errors = Field(default_factory=dict, description="mean error as a fraction, by size class")

"""Fitted coefficients of collectives on one tier of a fabric: per algorithm that the software offers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from hardware_specs.figure import Basis, Dimension, Spec
from hardware_specs.kernel_fits.evidence import FitEvidence

__all__ = ["OPTIONAL_ALGORITHMS", "AlgorithmFit", "CollectiveFit"]

Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Seconds = Annotated[float, Dimension("s", bare=True)]
Ratio = Annotated[float, Dimension("count")]
# Beside the ring and direct messages, which every library has.
OPTIONAL_ALGORITHMS = ("tree", "in_switch", "one_shot", "two_shot", "halving_doubling")


class AlgorithmFit(FitEvidence):
    """Coefficients of ``T = L + t + ramp sqrt(base t)`` with L = base + step x exchanges, t = bytes / (e W)."""

    efficiency: Efficiency = Field(description="sustained share of the link bandwidth, (0, 1]")
    base_latency_s: Seconds = Field(description="fixed time of one collective [s]")
    step_latency_s: Seconds = Field(description="time added by each exchange that waits for the last [s]")
    ramp: Ratio = Field(default=0.0, description="weight of the chunk-pipelining term")
    own_chunk: Ratio = Field(
        default=0.0, description="cost of moving a rank's own chunk, over that of sending one [1]"
    )
    bridge_efficiency: Efficiency = Field(
        default=1.0, description="sustained share of the bandwidth through a host bridge, (0, 1]"
    )


class CollectiveFit(Spec):
    """Algorithms of one tier, each with its coefficients; one that is absent is not offered by the software."""

    ring: AlgorithmFit = Field(description="neighbours in a ring; on a torus one ring per axis")
    direct: AlgorithmFit = Field(description="each rank to each other: all-to-all, send and receive")
    tree: AlgorithmFit | None = Field(default=None, description="pipelined double binary tree")
    in_switch: AlgorithmFit | None = Field(default=None, description="the switch adds up and multicasts")
    one_shot: AlgorithmFit | None = Field(default=None, description="each rank reads all whole buffers")
    two_shot: AlgorithmFit | None = Field(default=None, description="direct reduce-scatter, then all-gather")
    halving_doubling: AlgorithmFit | None = Field(default=None, description="recursive halving and doubling")
    compute_share: Annotated[float, Dimension("fraction")] = Field(
        default=0.0, description="share of the compute units that a running exchange occupies, [0, 1]"
    )
    compute_share_source: str = Field(default="", description="where the share comes from")

    @property
    def basis(self) -> Basis:
        """How the share of the compute units came about."""
        return "assumed"

    @property
    def source(self) -> str:
        """Where the share of the compute units comes from."""
        return self.compute_share_source

    def algorithms(self) -> Iterator[tuple[str, AlgorithmFit]]:
        """Name and coefficients of each algorithm that the software offers; raises nothing."""
        for name in ("ring", "direct", *OPTIONAL_ALGORITHMS):
            fit = getattr(self, name)
            if fit is not None:
                yield name, fit

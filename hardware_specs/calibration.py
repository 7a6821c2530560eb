"""Fitted coefficients of a device and its software: kept apart from datasheet figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from hardware_specs.errors import Problem
from hardware_specs.figure import Basis, Dimension, Spec
from hardware_specs.schema import DType, Name

__all__ = ["CalibrationSpec", "CollectiveFit", "KernelFamily", "KernelFit", "Task"]

KernelFamily = Literal[
    "matmul",
    "attention_prefill",
    "attention_decode",
    "pointwise",  # plain eager operations: additions, multiplications, copies
    "activation",  # of the MLP, gated or plain
    "rotary",
    "rms_norm",
    "layer_norm",
    "softmax",
    "embedding",
    "optimizer",
]
Task = Literal["training", "inference"]
Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Seconds = Annotated[float, Dimension("s", bare=True)]
Source = Annotated[str, Field(min_length=8)]
Errors = dict[str, Annotated[float, Dimension("count")]]


class KernelFit(Spec):
    """Coefficients of ``T = fixed_s + (compute^p + memory^p)^(1/p)`` with p the sharpness."""

    compute_efficiency: Efficiency = Field(description="sustained share of the dense peak, (0, 1]")
    memory_efficiency: Efficiency = Field(description="sustained share of the memory bandwidth, (0, 1]")
    fixed_s: Seconds = Field(description="fixed time of one kernel [s]")
    sharpness: Annotated[float, Dimension("count", minimum=1)] = Field(
        description="exponent p of the p-norm that joins compute and memory time; large: the maximum"
    )
    basis: Basis
    source: Source = Field(description="data set the coefficients were fitted on")
    rows: Annotated[int, Field(ge=0)] = Field(default=0, description="rows fitted")
    error: Errors = Field(default_factory=dict, description="mean error as a fraction, by size class")


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


def _all_tasks() -> list[Task]:
    return list(get_args(Task))


class CalibrationSpec(Spec):
    """All coefficients of one software stack on one or more accelerators."""

    schema_version: Literal[1]
    name: Name
    applies_to: list[Name] = Field(default_factory=list, description="accelerators it was measured on")
    tasks: list[Task] = Field(
        default_factory=_all_tasks, min_length=1, description="what its software is used for"
    )
    stack: str = Field(min_length=1, description="software it was measured with, with versions")
    date: str = Field(min_length=4, description="when it was measured or written")
    kernels: dict[KernelFamily, dict[DType | Literal["any"], KernelFit]]
    scale_up: CollectiveFit
    scale_out: CollectiveFit

    def broken_rules(self) -> Iterator[Problem]:
        """Every kernel family needs a fit."""
        for family in get_args(KernelFamily):
            if not self.kernels.get(family):
                fix = "give a fit for each family; `any` stands for every dtype"
                yield Problem(path=f"kernels.{family}", value="", rule="is missing", fix=fix)

"""Fitted coefficients of the kernels of a device and its software: kept apart from datasheet figures."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from hardware_specs.figure import Spec
from hardware_specs.kernel_fits import HostFit, KernelFits
from hardware_specs.schema import Name

__all__ = ["CalibrationSpec", "Task"]

Task = Literal["training", "inference"]


def _all_tasks() -> list[Task]:
    return list(get_args(Task))


class CalibrationSpec(Spec):
    """All coefficients of one software stack on one or more accelerators."""

    schema_version: Literal[1]
    name: Name
    applies_to: list[Name] = Field(default_factory=list, description="accelerators it was measured on")
    measured_on: list[Name] = Field(
        default_factory=list, description="the same for a calibration that is asked for by name"
    )
    tasks: list[Task] = Field(
        default_factory=_all_tasks, min_length=1, description="what its software is used for"
    )
    stack: str = Field(min_length=1, description="software it was measured with, with versions")
    date: str = Field(min_length=4, description="when it was measured or written")
    kernels: KernelFits
    fabric: Name | None = Field(
        default=None,
        description="fabric calibration of the same machine, which systems take that name this one and no other fabric",
    )
    host: HostFit | None = Field(
        default=None,
        description="time between operators of eager code, where the device's own cores dispatch",
    )

    @property
    def devices(self) -> tuple[str, ...]:
        """Accelerators that the rows ran on; none for a default that was derived from several. Raises nothing."""
        return tuple(self.applies_to or self.measured_on)

    def is_foreign(self, accelerator: str) -> bool:
        """Whether all rows ran on accelerators other than the one of this name; raises nothing."""
        return bool(self.devices) and accelerator not in self.devices

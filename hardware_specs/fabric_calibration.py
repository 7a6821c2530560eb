"""Fitted coefficients of a fabric and its communication library: kept apart from datasheet figures."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from hardware_specs.calibration import Task
from hardware_specs.collective_fit import CollectiveFit
from hardware_specs.figure import Spec
from hardware_specs.schema import Name, Topology

__all__ = ["FabricCalibrationSpec"]


def _all_tasks() -> list[Task]:
    return list(get_args(Task))


class FabricCalibrationSpec(Spec):
    """Coefficients of the collectives of one communication library on one kind of fabric.

    It serves systems whose accelerator or its generation is listed and whose node has a listed topology; an
    empty list stands for all.
    """

    schema_version: Literal[1]
    name: Name
    accelerators: list[Name] = Field(default_factory=list, description="accelerators that it serves")
    generations: list[str] = Field(default_factory=list, description="generations that it serves")
    topologies: list[Topology] = Field(default_factory=list, description="topologies of a node it serves")
    tasks: list[Task] = Field(
        default_factory=_all_tasks, min_length=1, description="what its software is used for"
    )
    stack: str = Field(min_length=1, description="software it was measured with, with versions")
    date: str = Field(min_length=4, description="when it was measured or written")
    scale_up: CollectiveFit = Field(description="inside a node, or a slice of a torus")
    scale_out: CollectiveFit = Field(description="between nodes")

    def serves(self, accelerator: str, generation: str, topology: str, task: str) -> int:
        """How closely it fits a system: 0 not at all; more for a named accelerator, generation, topology."""
        listed = accelerator in self.accelerators or generation in self.generations
        if task not in self.tasks or (self.topologies and topology not in self.topologies):
            return 0
        if (self.accelerators or self.generations) and not listed:
            return 0
        return 1 + 4 * (accelerator in self.accelerators) + 2 * listed + bool(self.topologies)

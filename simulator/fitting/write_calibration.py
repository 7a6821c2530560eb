"""Turn fitted coefficients into calibration files of the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from hardware_specs.calibration import Task
from hardware_specs.kernel_fits import FitEvidence, KernelFamily
from hardware_specs.kernel_fits.families import NumberFormat
from simulator.fitting.calibrate import DeviceFit
from simulator.fitting.rows import Families

__all__ = ["CALIBRATION_DATE", "CalibrationFile", "calibration_file", "write_calibration"]

CALIBRATION_DATE = "2026-11"  # of the measured tables; bump when they are replaced
FAMILY_ORDER: tuple[str, ...] = get_args(KernelFamily)
DTYPE_ORDER = ("bf16", "fp16", "tf32", "fp32", "fp8", "mxfp8", "int8", "fp4", *get_args(NumberFormat), "any")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFile:
    """One calibration as it is written: see ``hardware_specs.calibration.CalibrationSpec``."""

    name: str
    applies_to: Sequence[str]
    tasks: Sequence[Task]
    stack: str
    kernels: Families
    measured_on: Sequence[str] = ()
    fabric: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """Plain mapping in the schema's keys, in a fixed order."""
        return {
            "schema_version": 1,
            "name": self.name,
            "applies_to": list(self.applies_to),
            **({"measured_on": list(self.measured_on)} if self.measured_on else {}),
            "tasks": list(self.tasks),
            "stack": self.stack,
            "date": CALIBRATION_DATE,
            **({"fabric": self.fabric} if self.fabric else {}),
            "kernels": {
                **{
                    family: _by_dtype(self.kernels[family])
                    for family in FAMILY_ORDER
                    if family in self.kernels
                },
            },
        }


def _by_dtype(fits: Mapping[str, FitEvidence]) -> dict[str, dict[str, Any]]:
    return {dtype: _kernel(fits[dtype]) for dtype in DTYPE_ORDER if dtype in fits}


def _kernel(fit: FitEvidence) -> dict[str, Any]:
    return fit.model_dump(mode="json", exclude_defaults=True)


def calibration_file(fit: DeviceFit) -> CalibrationFile:
    """The file of a measured device and task."""
    return CalibrationFile(
        name=fit.name,
        applies_to=fit.device.applies_to,
        tasks=(fit.task,),
        stack=fit.stack,
        kernels=fit.kernels,
    )


def write_calibration(file: CalibrationFile, folder: Path) -> Path:
    """Write ``folder/<name>.yaml`` and return its path; OSError if the folder cannot be written."""
    text = yaml.safe_dump(file.to_mapping(), sort_keys=False, width=110, allow_unicode=False)
    path = folder / f"{file.name}.yaml"
    header = "# Written by `python -m simulator.fitting`: change the fit, not this file.\n"
    path.write_text(header + text, encoding="utf-8")
    return path

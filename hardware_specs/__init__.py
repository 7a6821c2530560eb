"""Descriptions of machines: schema, units, catalog, calibrations and the checks on all of them.

Every figure is an SI number with its basis and its source. Nothing here knows a cost rule.
"""

from __future__ import annotations

from hardware_specs.calibration import CalibrationSpec
from hardware_specs.catalog import (
    calibration_for,
    catalog_hash,
    fabric_calibration_for,
    list_accelerators,
    list_calibrations,
    list_fabric_calibrations,
    list_systems,
    load_accelerator,
    load_calibration,
    load_fabric_calibration,
    load_system,
)
from hardware_specs.collective_fit import AlgorithmFit, CollectiveFit
from hardware_specs.device_names import NamedDevice, device_named, find_device
from hardware_specs.errors import InfeasibleError, LlmsimError, Problem, ScenarioError, SpecError, near_names
from hardware_specs.fabric_calibration import FabricCalibrationSpec
from hardware_specs.figure import Dimension, Figure
from hardware_specs.figure_table import figure_dimension, figures, to_mapping, with_figures
from hardware_specs.kernel_fits import FitEvidence, KernelFamily, KernelFits
from hardware_specs.lint import LintWarning, detect_kind, lint
from hardware_specs.schema import (
    AcceleratorSpec,
    DriveSpec,
    FabricSpec,
    HostMemorySpec,
    SliceSpec,
    StoreSpec,
    SystemSpec,
    WireSpec,
    dense_peak_flop_per_s,
)
from hardware_specs.strict_yaml import load_yaml, parse_yaml
from hardware_specs.units import (
    TIME_EXPONENT,
    exact_quantity,
    format_quantity,
    parse_override,
    parse_quantity,
)

__all__ = [
    "TIME_EXPONENT",
    "AcceleratorSpec",
    "AlgorithmFit",
    "CalibrationSpec",
    "CollectiveFit",
    "Dimension",
    "DriveSpec",
    "FabricCalibrationSpec",
    "FabricSpec",
    "Figure",
    "FitEvidence",
    "HostMemorySpec",
    "InfeasibleError",
    "KernelFamily",
    "KernelFits",
    "LintWarning",
    "LlmsimError",
    "NamedDevice",
    "Problem",
    "ScenarioError",
    "SliceSpec",
    "SpecError",
    "StoreSpec",
    "SystemSpec",
    "WireSpec",
    "calibration_for",
    "catalog_hash",
    "dense_peak_flop_per_s",
    "detect_kind",
    "device_named",
    "exact_quantity",
    "fabric_calibration_for",
    "figure_dimension",
    "figures",
    "find_device",
    "format_quantity",
    "lint",
    "list_accelerators",
    "list_calibrations",
    "list_fabric_calibrations",
    "list_systems",
    "load_accelerator",
    "load_calibration",
    "load_fabric_calibration",
    "load_system",
    "load_yaml",
    "near_names",
    "parse_override",
    "parse_quantity",
    "parse_yaml",
    "to_mapping",
    "with_figures",
]

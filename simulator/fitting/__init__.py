"""Fits the calibrations that hardware_specs ships from measured kernels and collectives.

Run ``python -m simulator.fitting MEASUREMENTS --out hardware_specs/calibrations``. Needs the ``calibrate``
extra (scipy, pyarrow). No row of a training or serving run is read.
"""

from simulator.fitting.calibrate import TASKS, DeviceFit, calibrate_device
from simulator.fitting.defaults import derived_files
from simulator.fitting.devices import MEASURED_DEVICES, MeasuredDevice
from simulator.fitting.fit_collectives import MeasuredFabric, fit_algorithms
from simulator.fitting.fit_gemm import FittedGemm, fit_gemm_rows
from simulator.fitting.measured_collectives import CollectiveRows
from simulator.fitting.samples import KernelSamples
from simulator.fitting.write_calibration import CalibrationFile, calibration_file, write_calibration

__all__ = [
    "MEASURED_DEVICES",
    "TASKS",
    "CalibrationFile",
    "CollectiveRows",
    "DeviceFit",
    "FittedGemm",
    "KernelSamples",
    "MeasuredDevice",
    "MeasuredFabric",
    "calibrate_device",
    "calibration_file",
    "derived_files",
    "fit_algorithms",
    "fit_gemm_rows",
    "write_calibration",
]

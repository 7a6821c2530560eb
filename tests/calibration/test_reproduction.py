"""The shipped calibrations are what the committed fit makes of the measured tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hardware_specs.catalog import load_calibration
from simulator.fitting import (
    MEASURED_DEVICES,
    TASKS,
    CalibrationFile,
    DeviceFit,
    calibrate_device,
    calibration_file,
    derived_files,
)
from simulator.fitting.eager_devices import EAGER_DEVICES, eager_file, fit_eager_device
from simulator.fitting.error_lines import error_lines

REPOSITORY = Path(__file__).resolve().parents[2]
MEASUREMENTS = Path(os.environ.get("LLMSIM_MEASUREMENTS", REPOSITORY.parent / "shared" / "measurements"))
TOLERANCE = 0.02  # optimisers of other versions stop at slightly other places

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")
pytestmark = pytest.mark.skipif(
    not (MEASUREMENTS / "kernels_gemm.parquet").is_file(),
    reason=f"no measured tables in {MEASUREMENTS}; set LLMSIM_MEASUREMENTS",
)


@pytest.fixture(scope="module")
def fits() -> list[DeviceFit]:
    return [calibrate_device(MEASUREMENTS, device, task) for device in MEASURED_DEVICES for task in TASKS]


@pytest.fixture(scope="module")
def files(fits: list[DeviceFit]) -> Sequence[CalibrationFile]:
    derived = derived_files(MEASUREMENTS, fits)
    default = next(file for file in derived if file.name == "default")
    eager = [eager_file(fit_eager_device(MEASUREMENTS, device), default) for device in EAGER_DEVICES]
    return [*map(calibration_file, fits), *derived, *eager]


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted path."""
    if not isinstance(value, dict):
        return {path: value}
    return {key: leaf for name, item in value.items() for key, leaf in leaves(item, f"{path}.{name}").items()}


def test_shipped_numbers_are_reproduced(files: Sequence[CalibrationFile]) -> None:
    for file in files:
        shipped = leaves(load_calibration(file.name).model_dump())
        fitted = leaves(file.to_mapping())
        assert set(fitted) <= set(shipped), file.name
        for path, value in fitted.items():
            expected = pytest.approx(value, rel=TOLERANCE, abs=1e-9) if isinstance(value, float) else value
            assert shipped[path] == expected, f"{file.name}{path}"


def test_large_products_have_little_bias(fits: list[DeviceFit]) -> None:
    for fit in fits:
        wide = fit.products[0].fitted
        lines = error_lines(wide.samples, wide.predicted_s(), by_stack=False)
        large = {line.left_out: line for line in lines if line.size_class == "large"}
        assert abs(large[False].bias) < 0.02, (fit.name, large)
        # Whole shapes that the fit did not see; the four models of the layers are all seen.
        assert True not in large or abs(large[True].bias) < 0.07, (fit.name, large)


def test_training_is_fitted_to_pytorch_alone(fits: list[DeviceFit]) -> None:
    for fit in fits:
        stacks = set(fit.products[0].fitted.samples.stack.tolist())
        assert (stacks == {"pytorch-layer"}) == (fit.task == "training"), (fit.name, stacks)

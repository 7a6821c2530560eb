"""The calibrations in the catalog load, name their evidence, and stay within physical limits."""

from __future__ import annotations

import pytest

from hardware_specs.calibration import CalibrationSpec
from hardware_specs.catalog import (
    calibration_for,
    list_accelerators,
    list_calibrations,
    load_accelerator,
    load_calibration,
)

MEASURED = {"a100-sxm-pytorch", "a100-sxm-serving", "h100-sxm-pytorch", "h100-sxm-serving"}
EAGER = {"a100-pcie-eager", "v100-pcie-eager", "t4-eager", "p4-eager", "h100-sxm-eager"}
SHIPPED = {*MEASURED, *EAGER, "blackwell", "cdna3", "tpu-v5", "x86", "default"}


@pytest.fixture(params=sorted(SHIPPED))
def calibration(request: pytest.FixtureRequest) -> CalibrationSpec:
    return load_calibration(request.param)


def test_all_are_in_the_catalog() -> None:
    assert set(list_calibrations()) >= SHIPPED


def test_efficiencies_are_fractions(calibration: CalibrationSpec) -> None:
    for fits in calibration.kernels.by_family().values():
        for fit in fits.values():
            for name, value in fit.coefficients().items():
                assert 0 < value <= 1 or not name.endswith("_efficiency"), name
                assert value >= 1 or name != "sharpness"
                assert 0 <= value <= 400e-6 or not name.endswith("_s"), name  # latent attention starts slowly


def test_measured_fits_name_rows_and_errors(calibration: CalibrationSpec) -> None:
    for family, fits in calibration.kernels.by_family().items():
        for dtype, fit in fits.items():
            assert len(fit.source) > 8
            if fit.basis == "measured":
                assert fit.rows > 0, (family, dtype)
                # Layer products are of four models, none of which the checksum holds out.
                held_out = any(name.endswith("_left_out") for name in fit.error)
                assert held_out or "layer_ops" in fit.source, (family, dtype)


def test_every_family_serves_every_dtype(calibration: CalibrationSpec) -> None:
    assert all("any" in fits for fits in calibration.kernels.by_family().values())


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_errors_of_matmul_stay_small(name: str) -> None:
    errors = load_calibration(name).kernels.matmul["bf16"].error
    assert errors["large"] < 0.10
    assert errors.get("large_left_out", 0.0) < 0.10
    assert errors["decode"] < 0.12  # all shapes, n or k below 512 too
    assert errors.get("decode_left_out", 0.0) < 0.15


def test_devices_that_were_not_measured_say_so() -> None:
    for name in SHIPPED - MEASURED - EAGER:
        spec = load_calibration(name)
        bases = {fit.basis for fits in spec.kernels.by_family().values() for fit in fits.values()}
        assert bases <= {"assumed", "derived"}, name


@pytest.mark.parametrize(
    ("accelerator", "training", "inference"),
    [
        ("a100-sxm-40gb", "a100-sxm-pytorch", "a100-sxm-serving"),
        ("a100-sxm-80gb", "a100-sxm-pytorch", "a100-sxm-serving"),
        ("h100-sxm", "h100-sxm-pytorch", "h100-sxm-serving"),
        ("h200-sxm", "h100-sxm-pytorch", "h100-sxm-serving"),
        ("h800-sxm", "h100-sxm-pytorch", "h100-sxm-serving"),
        ("b200-sxm", "blackwell", "blackwell"),
        ("mi300x", "cdna3", "cdna3"),
        ("tpu-v5p", "tpu-v5", "tpu-v5"),
        ("xeon-8480", "x86", "x86"),
    ],
)
def test_accelerator_finds_its_calibration(accelerator: str, training: str, inference: str) -> None:
    assert accelerator in list_accelerators()
    found = load_accelerator(accelerator)
    assert calibration_for(found).name == training
    assert calibration_for(found, "training").name == training
    assert calibration_for(found, "inference").name == inference
    assert "training" in load_calibration(training).tasks
    assert "inference" in load_calibration(inference).tasks

"""The shipped fabric calibrations: limits, evidence, which system finds which, and what the fits reach."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from hardware_specs import (
    fabric_calibration_for,
    list_fabric_calibrations,
    list_systems,
    load_fabric_calibration,
    load_system,
)

REPOSITORY = Path(__file__).resolve().parents[2]
MEASUREMENTS = Path(os.environ.get("LLMSIM_MEASUREMENTS", REPOSITORY.parent / "shared" / "measurements"))
measured = pytest.mark.skipif(
    not (MEASUREMENTS / "collectives.parquet").is_file(),
    reason=f"no measured tables in {MEASUREMENTS}; set LLMSIM_MEASUREMENTS",
)


@pytest.mark.parametrize("name", list_fabric_calibrations())
def test_coefficients_are_within_limits_and_name_their_evidence(name: str) -> None:
    spec = load_fabric_calibration(name)
    for tier in (spec.scale_up, spec.scale_out):
        for _, fit in tier.algorithms():
            assert 0 < fit.efficiency <= 1
            assert 0 <= fit.base_latency_s < 100e-6
            assert 0 <= fit.step_latency_s < 100e-6
            assert len(fit.source) > 8
            assert fit.basis != "measured" or fit.rows > 0
        assert 0 <= tier.compute_share < 0.3
        assert len(tier.compute_share_source) > 8


@pytest.mark.parametrize(
    ("system", "training", "inference"),
    [
        ("dgx-a100-80gb", "nvswitch-ampere-training", "nvswitch-ampere-serving"),
        ("dgx-h100", "nvswitch-hopper-training", "nvswitch-hopper-serving"),
        ("dgx-b200", "nvswitch-blackwell-training", "nvswitch-blackwell-serving"),
        ("rtx-pro-6000-8", "pcie-5", "pcie-5"),
        ("t4-1", "pcie", "pcie"),
        ("arc-b60-8", "arc-b60-pcie", "arc-b60-pcie"),
        ("tpu-v5p", "torus", "torus"),
        ("mi300x-8", "default", "default"),
    ],
)
def test_system_finds_its_calibration(system: str, training: str, inference: str) -> None:
    assert fabric_calibration_for(load_system(system)).name == training
    assert fabric_calibration_for(load_system(system), "inference").name == inference


def test_every_system_has_one_and_may_name_another() -> None:
    for name in list_systems():
        assert fabric_calibration_for(load_system(name)).name in list_fabric_calibrations()
    named = load_system("dgx-h100").model_copy(update={"fabric_calibration": "default"})
    assert fabric_calibration_for(named).name == "default"


def test_a_switch_that_adds_beats_the_ring_by_what_its_maintainers_say() -> None:
    """30 % over the ring at eight ranks (NVIDIA/nccl issue 1442), in sent bytes: 2 (7/8) S against (9/8) S."""
    tier = load_fabric_calibration("nvswitch-hopper-training").scale_up
    assert tier.in_switch is not None
    ring = (14 / 8 + tier.ring.own_chunk / 8) / tier.ring.efficiency
    assert ring / (9 / 8 / tier.in_switch.efficiency) == pytest.approx(1.3, abs=0.1)


@measured
def test_shipped_numbers_are_reproduced_and_hold() -> None:
    """Limits are the aims of the project, with the same fits as ``python -m simulator.fitting.fabrics`` prints."""
    pytest.importorskip("scipy", reason="fitting needs the calibrate extra")
    from simulator.fitting.fabric_files import fabric_files
    from simulator.fitting.fit_collectives import predict_collectives
    from simulator.fitting.fit_fabrics import FABRICS, fit_library, library_rows, with_in_switch_prior

    for file in fabric_files(MEASUREMENTS):
        shipped = yaml.safe_load(
            (REPOSITORY / "hardware_specs" / "fabric_calibrations" / f"{file['name']}.yaml").read_text()
        )
        assert _close(shipped, file), file["name"]
    aims = {"nvswitch-ampere": (0.09, 0.06), "nvswitch-hopper": (0.10, 0.06), "pcie-5": (0.13, 0.13)}
    blind_aims = {"nvswitch-ampere": (0.14, 0.08), "nvswitch-hopper": (0.14, 0.08), "pcie-5": (0.20, 0.20)}
    for source in FABRICS[:3]:
        rows = library_rows(MEASUREMENTS, source)
        predicted = predict_collectives(rows, source.fabric, fit_library(source, rows))
        few, many = rows.where(rows.n_ranks < 8), rows.where(rows.n_ranks == 8)
        blind = with_in_switch_prior(fit_library(source, few))
        left_out = predict_collectives(many, source.fabric, blind)
        for seen, times, (most, most_reduce) in (
            (rows, predicted, aims[source.name]),
            (many, left_out, blind_aims[source.name]),
        ):
            off = np.abs(times / seen.measured_s - 1)
            assert off.mean() <= most, source.name
            assert off[seen.operation == "all_reduce"].mean() <= most_reduce, source.name


@measured
def test_many_nodes_that_no_coefficient_saw() -> None:
    """Bus bandwidth of 32 x B200 at 1 GiB and more within 10 %."""
    pytest.importorskip("pandas")
    from simulator.fitting.fabric_evidence import between_nodes_table

    lines = [line for line in between_nodes_table(MEASUREMENTS) if line.startswith("32 x B200")]
    assert len(lines) == 5
    assert all(abs(float(line.split()[-2])) <= 10 for line in lines)


def _close(shipped: object, fitted: object) -> bool:
    if isinstance(fitted, dict):
        return isinstance(shipped, dict) and all(
            _close(shipped.get(k), v) for k, v in fitted.items() if k != "error"
        )
    if isinstance(fitted, float):
        return shipped == pytest.approx(fitted, rel=0.03, abs=1e-9)
    return shipped == fitted

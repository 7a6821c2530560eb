"""A change of the time unit: every figure with time in its unit is rescaled, machine and calibration.

The exponents come from the schema. Times scale by k, power by 1/k, energy, memory and FLOP not at all; a
constant in seconds that hides in the code breaks this.
"""

from __future__ import annotations

from functools import lru_cache
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import EXACT, TASKS, laws, scenarios

import hardware_specs.catalog
import simulator.estimates.estimate
import simulator.machines.device
import simulator.machines.fabric
from hardware_specs import (
    TIME_EXPONENT,
    calibration_for,
    fabric_calibration_for,
    figures,
    list_systems,
    load_calibration,
    load_fabric_calibration,
    load_system,
    with_figures,
)
from simulator import simulate

PLAIN, CATALOG_SYSTEM = simulator.machines.device.calibration_of, hardware_specs.catalog._catalog_system
PLAIN_FABRIC = hardware_specs.catalog.fabric_calibration_for
FACTORS = (0.125, 0.3, 7.0, 1000.0)


def stretched(spec, k):
    """A spec whose every figure is multiplied by k to the power of time in its unit."""
    return with_figures(
        spec,
        {
            path: figure.value * k ** TIME_EXPONENT[dimension]
            for path, (figure, dimension) in figures(spec).items()
            if TIME_EXPONENT[dimension]
        },
    )


@lru_cache(maxsize=64)
def stretched_system(name, k):
    return stretched(CATALOG_SYSTEM(name), k)


@lru_cache(maxsize=64)
def stretched_calibration(name, k):
    return stretched(load_calibration(name), k)


@lru_cache(maxsize=64)
def stretched_fabric(name, k):
    return stretched(load_fabric_calibration(name), k)


def in_other_unit(scenario, k):
    def calibration_of(system, task):
        return stretched_calibration(PLAIN(system, task).name, k)

    def fabric_calibration_for(system, task):
        return stretched_fabric(PLAIN_FABRIC(system, task).name, k)

    with (
        mock.patch.object(simulator.machines.fabric, "fabric_calibration_for", fabric_calibration_for),
        mock.patch.object(simulator.estimates.estimate, "fabric_calibration_for", fabric_calibration_for),
        mock.patch.object(simulator.machines.device, "fabric_calibration_for", fabric_calibration_for),
        mock.patch.object(simulator.machines.device, "calibration_of", calibration_of),
        mock.patch.object(simulator.estimates.estimate, "calibration_of", calibration_of),
        mock.patch.object(hardware_specs.catalog, "_catalog_system", lambda name: stretched_system(name, k)),
    ):
        return simulate(scenario).to_dict()


def scaled(value, power, k):
    return None if value is None else pytest.approx(value * k**power, rel=EXACT, abs=0.0)


def rescales(scenario, k):
    """Every number of an estimate follows from its unit."""
    here, there = simulate(scenario).to_dict(), in_other_unit(scenario, k)
    for name in ("step_time_s", "time_to_first_token_s", "time_per_output_token_s"):
        assert there[name] == scaled(here[name], 1, k), name
    for name in (
        "tokens_per_s",
        "tokens_per_s_per_device",
        "peak_flop_per_s",
        "memory_bandwidth_bytes_per_s",
    ):
        assert there[name] == scaled(here[name], -1, k), name
    for name in ("mfu", "hfu", "energy_j"):
        assert there[name] == scaled(here[name], 0, k), name
    for name, value in here["energy"].items():
        assert there["energy"][name] == scaled(value, -1 if name.endswith("_w_per_device") else 0, k)
    assert there["memory"] == here["memory"]
    step = here["step_time_s"]
    for name, value in here["time"].items():
        assert there["time"][name] == pytest.approx(value * k, rel=EXACT, abs=step * k * 1e-12), name
    assert len(there["operators"]) == len(here["operators"])
    for row, other in zip(here["operators"], there["operators"], strict=True):
        for name, value in row.items():
            if name.endswith("_s"):
                value = pytest.approx(value * k, rel=EXACT, abs=step * k * 1e-12)
            if name != "bound":
                assert other[name] == value, (row["name"], name)


@pytest.mark.parametrize("kind", TASKS)
def test_estimate_in_another_time_unit(kind):
    @laws(15)
    @given(
        scenarios(tasks=(kind,), fidelities=("calibrated", "calibrated", "datasheet", "bound")),
        st.sampled_from(FACTORS),
    )
    def law(scenario, k):
        rescales(scenario, k)

    law()


@pytest.mark.parametrize(
    "plan",
    [
        {"offload": "optimizer activations", "optimizer_step": "host"},
        {"offload": "optimizer:nvme weights", "optimizer": "adafactor"},
        {"optimizer": "muon", "recompute": "modules", "recompute_modules": "layernorm mlp"},
    ],
)
def test_hosts_drives_and_muon_in_another_time_unit(plan):
    scenario = {
        "model": "llama-3.1-8b",
        "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": 16},
        "system": "dgx-h100",
        "devices": 8,
        "plan": {"tensor_parallel": 2, "pipeline_parallel": 2, "zero_stage": 1, **plan},
    }
    for k in FACTORS:
        rescales(scenario, k)


@pytest.mark.parametrize("k", FACTORS)
def test_a_host_that_waits_follows_the_time_unit(k):
    scenario = {
        "model": "gpt3-175b",
        "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": 16},
        "system": "dgx-a100-80gb",
        "devices": 64,
        "system.calibration": "a100-sxm-megatron-deepspeed",
        "plan": {"tensor_parallel": 8, "pipeline_parallel": 8, "recompute": "full"},
    }
    assert load_calibration(scenario["system.calibration"]).host.waits
    assert in_other_unit(scenario, k)["step_time_s"] == scaled(simulate(scenario).step_time_s, 1, k)


@pytest.mark.parametrize("name", list_systems())
def test_stretching_there_and_back_changes_no_figure(name):
    system = load_system(name)
    tasks = ("training", "inference")
    fits = [calibration_for(system.accelerator, t) for t in tasks]
    for spec in (system, *fits, *(fabric_calibration_for(system, t) for t in tasks)):
        again = figures(stretched(stretched(spec, 8.0), 0.125))
        for path, (figure, _) in figures(spec).items():
            assert again[path][0].value == figure.value, path


def test_time_exponents_by_hand():
    """Durations grow with k; rates, power and a price per time fall; energy, bytes, FLOP and counts stay."""
    expected = {
        "s": 1,
        "hz": -1,
        "bytes_per_s": -1,
        "flop_per_s": -1,
        "w": -1,
        "usd_per_s": -1,
        "bytes": 0,
        "flop": 0,
        "j": 0,
        "j_per_flop": 0,
        "j_per_byte": 0,
        "usd": 0,
        "fraction": 0,
        "count": 0,
    }
    assert {name: TIME_EXPONENT[name] for name in expected} == expected

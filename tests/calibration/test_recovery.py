"""The fit finds coefficients back that made the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.fitting import CollectiveRows, MeasuredFabric, fit_algorithms
from simulator.fitting.fit_collectives import predict_collectives
from simulator.fitting.measured_collectives import collective_rows
from simulator.fitting.rows import left_out_by_group

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

NOISE = 0.03


FABRIC = MeasuredFabric(topology="switch", link_bytes_per_s=450e9, in_switch=True)
HOST = MeasuredFabric(topology="host", link_bytes_per_s=63e9, bridge=2.0, bridge_bytes_per_s=63e9)
RING = {
    "efficiency": 0.78,
    "base_latency_s": 6e-6,
    "step_latency_s": 0.6e-6,
    "ramp": 1.2,
    "own_chunk": 0.4,
}


def measured_collectives(fabric: MeasuredFabric, truth, operations: list[str]) -> CollectiveRows:
    """Collectives of 2, 4 and 8 ranks, timed by the engine with known coefficients and 3 % of noise."""
    random = np.random.default_rng(3)
    axes = np.meshgrid(np.array(operations), np.array([2.0, 4.0, 8.0]), 2.0 ** np.arange(9, 30))
    operation, ranks, size = (axis.ravel() for axis in axes)
    rows = collective_rows(operation, ranks, size, np.ones(size.size), np.array(["s"] * size.size))
    factor = np.exp(NOISE * random.standard_normal(size.size))
    return replace(rows, measured_s=predict_collectives(rows, fabric, truth) * factor)


def test_collective_coefficients_are_recovered() -> None:
    in_switch = {**RING, "own_chunk": 0.0, "efficiency": 0.7, "step_latency_s": 9e-6}
    truth = {"ring": RING, "direct": {**RING, "step_latency_s": 0.0}, "in_switch": in_switch}
    rows = measured_collectives(FABRIC, truth, ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
    fits = fit_algorithms(
        rows,
        FABRIC,
        {
            "ring": tuple(RING),
            "direct": ("efficiency", "base_latency_s", "ramp", "own_chunk"),
            "in_switch": ("efficiency", "step_latency_s"),
        },
        source="made up for a test",
        linked={"in_switch": {"base_latency_s": "ring", "ramp": "ring"}},
    )
    for name, tolerance in (("efficiency", 0.03), ("base_latency_s", 0.05), ("step_latency_s", 0.15)):
        assert getattr(fits["ring"], name) == pytest.approx(RING[name], rel=tolerance), name
    assert fits["ring"].own_chunk == pytest.approx(RING["own_chunk"], abs=0.1)
    assert fits["in_switch"].efficiency == pytest.approx(0.7, rel=0.05)
    assert fits["in_switch"].ramp == fits["ring"].ramp
    assert fits["direct"].efficiency == pytest.approx(0.78, rel=0.05)
    assert max(fits["ring"].error.values()) < 1.5 * NOISE


def test_bridges_of_a_host_are_recovered() -> None:
    ring = {**RING, "bridge_efficiency": 0.4}
    rows = measured_collectives(HOST, {"ring": ring}, ["all_reduce", "all_gather", "reduce_scatter"])
    free = {"ring": (*RING, "bridge_efficiency")}
    fit = fit_algorithms(rows, HOST, free, source="made up for a test")["ring"]
    assert fit.bridge_efficiency == pytest.approx(0.4, rel=0.03)
    assert fit.efficiency == pytest.approx(RING["efficiency"], rel=0.1)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=50))
def test_held_out_groups_are_whole(names: list[str]) -> None:
    twice = left_out_by_group([*names, *names])
    assert (twice[: len(names)] == twice[len(names) :]).all()


def test_about_a_third_of_the_groups_is_held_out() -> None:
    share = left_out_by_group([f"{n}x{k}" for n in range(64, 4096, 64) for k in range(64, 4096, 64)]).mean()
    assert share == pytest.approx(0.3, abs=0.03)

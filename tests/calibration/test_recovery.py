"""The fit finds coefficients back that made the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.fitting import fit_collective, fit_in_switch_gain
from simulator.fitting.fit_collectives import FittedCollective, predict_collective
from simulator.fitting.measured_collectives import CollectiveRows, ring_traffic
from simulator.fitting.rows import left_out_by_group

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

NOISE = 0.03


def collective_rows(truth: FittedCollective, noise: float = NOISE) -> CollectiveRows:
    random = np.random.default_rng(3)
    operations = np.array(["all_reduce", "all_gather", "reduce_scatter", "alltoall"])
    message = 2.0 ** np.arange(9, 30)
    operation, ranks, size = (a.ravel() for a in np.meshgrid(operations, np.array([2.0, 4.0, 8.0]), message))
    rows = CollectiveRows(
        operation=operation,
        n_ranks=ranks,
        message_bytes=size,
        link_bytes_per_s=450e9,
        measured_s=np.ones(size.size),
        stack=np.array(["s"] * size.size),
        size_class=np.select([size <= 2**16, size < 2**23], ["small", "middle"], "large"),
        in_switch=(operation == "all_reduce") & (ranks == 8),
        left_out=left_out_by_group([f"{o}{n}{s}" for o, n, s in zip(operation, ranks, size, strict=True)]),
    )
    factor = np.exp(noise * random.standard_normal(size.size))
    return replace(rows, measured_s=predict_collective(rows, truth) * factor)


def test_collective_coefficients_are_recovered() -> None:
    truth = FittedCollective(
        efficiency=0.78, base_latency_s=6e-6, step_latency_s=0.6e-6, ramp=1.2, in_switch_gain=0.8,
        basis="assumed", source="made up for a test", rows=0,
    )  # fmt: skip
    rows = collective_rows(truth)
    fit = fit_in_switch_gain(rows, fit_collective(rows, source="made up for a test"))
    assert fit.efficiency == pytest.approx(truth.efficiency, rel=0.02)
    assert fit.base_latency_s == pytest.approx(truth.base_latency_s, rel=0.05)
    assert fit.step_latency_s == pytest.approx(truth.step_latency_s, rel=0.15)
    assert fit.ramp == pytest.approx(truth.ramp, rel=0.1)
    assert fit.in_switch_gain == pytest.approx(truth.in_switch_gain, rel=0.03)
    assert max(fit.error.values()) < 1.5 * NOISE


def test_ring_traffic_by_hand() -> None:
    operation = np.array(["all_reduce", "all_gather", "alltoall", "send_recv"])
    sent, steps = ring_traffic(operation, np.array([4.0, 4.0, 4.0, 2.0]), np.full(4, 800.0))
    # 2 x 3/4 x 800, 3/4 x 800, 3/4 x 800, all of it
    assert sent.tolist() == [1200.0, 600.0, 600.0, 800.0]
    assert steps.tolist() == [6.0, 3.0, 1.0, 1.0]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=50))
def test_held_out_groups_are_whole(names: list[str]) -> None:
    twice = left_out_by_group([*names, *names])
    assert (twice[: len(names)] == twice[len(names) :]).all()


def test_about_a_third_of_the_groups_is_held_out() -> None:
    share = left_out_by_group([f"{n}x{k}" for n in range(64, 4096, 64) for k in range(64, 4096, 64)]).mean()
    assert share == pytest.approx(0.3, abs=0.03)

"""The fit finds coefficients back that made the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.fitting import CollectiveRows, KernelRows, MeasuredFabric, fit_algorithms, fit_kernel
from simulator.fitting.fit_collectives import predict_collectives
from simulator.fitting.fit_kernels import error_lines, predict
from simulator.fitting.measured_collectives import collective_rows
from simulator.fitting.rows import cell_weights, join_rows, left_out_by_group

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

NOISE = 0.03


def matmul_rows(
    coefficients: tuple[float, float, float, float], *, stack: str = "s", seed: int = 1
) -> KernelRows:
    """GEMMs of a language model on a made-up device of 300 TFLOP/s and 2 TB/s, timed with 3 % of noise."""
    random = np.random.default_rng(seed)
    m = 2.0 ** random.integers(0, 14, 600)
    n, k = (1024.0 * random.integers(1, 17, 600) for _ in range(2))
    rows = KernelRows(
        flop=2 * m * n * k,
        moved_bytes=2 * (m * k + k * n + m * n),
        peak_flop_per_s=np.full(600, 300e12),
        bandwidth_bytes_per_s=np.full(600, 2e12),
        measured_s=np.ones(600),
        stack=np.array([stack] * 600),
        size_class=np.select([m >= 2048, m >= 512, m > 64], ["large", "prefill", "middle"], "decode"),
        left_out=left_out_by_group([f"{a:.0f}x{b:.0f}" for a, b in zip(n, k, strict=True)]),
        other_s=np.zeros(600),
        rounding_s=np.zeros(600),
    )
    return replace(rows, measured_s=predict(rows, coefficients) * np.exp(NOISE * random.standard_normal(600)))


@pytest.mark.parametrize(
    "truth", [(0.82, 0.78, 3e-6, 1.6), (0.74, 0.87, 4e-6, 2.4), (0.55, 0.60, 12e-6, 5.0)], ids=str
)
def test_kernel_coefficients_are_recovered(truth: tuple[float, float, float, float]) -> None:
    rows = matmul_rows(truth)
    fit = fit_kernel(rows, source="made up for a test")
    assert fit.compute_efficiency == pytest.approx(truth[0], rel=0.02)
    assert fit.memory_efficiency == pytest.approx(truth[1], rel=0.03)
    assert fit.fixed_s == pytest.approx(truth[2], rel=0.08)
    assert fit.sharpness == pytest.approx(truth[3], rel=0.35)  # only kernels near the ridge show it
    assert fit.rows == len(rows)
    assert max(fit.error.values()) < 1.5 * NOISE


def test_large_kernels_have_no_bias_when_stacks_disagree() -> None:
    # Two stacks 20 % apart and one model: the large class must come out at their geometric mean.
    rows = join_rows(
        [
            matmul_rows((0.9, 0.8, 3e-6, 2.0), stack="fast"),
            matmul_rows((0.75, 0.8, 5e-6, 2.0), stack="slow", seed=2),
        ]
    )
    fit = fit_kernel(rows, source="made up for a test")
    lines = error_lines(rows, fit.coefficients, fit.blind, by_stack=False)
    bias = {(e.size_class, e.left_out): e.bias for e in lines}
    assert abs(bias["large", False]) < 0.01
    assert fit.compute_efficiency == pytest.approx((0.9 * 0.75) ** 0.5, rel=0.03)


def test_left_out_rows_are_scored_by_a_fit_that_did_not_see_them() -> None:
    rows = matmul_rows((0.8, 0.8, 3e-6, 2.0))
    odd = replace(rows, measured_s=rows.measured_s * np.where(rows.left_out, 1.25, 1.0))
    fit = fit_kernel(odd, source="made up for a test")
    assert fit.blind is not None
    assert fit.blind[0] == pytest.approx(0.8, rel=0.02)
    assert fit.error["large_left_out"] == pytest.approx(0.2, abs=0.03)  # 1 / 1.25 - 1
    large = [e for e in error_lines(odd, fit.coefficients, fit.blind) if e.size_class == "large"]
    assert [e.left_out for e in large] == [False, True]
    assert abs(large[0].bias) < 0.01  # the shipped coefficients serve all rows
    assert large[0].rows == int((odd.size_class == "large").sum())


def test_given_shape_is_kept() -> None:
    truth = (0.8, 0.8, 3e-6, 2.0)
    shape = fit_kernel(matmul_rows(truth), source="made up for a test")
    slower = fit_kernel(matmul_rows((0.6, 0.8, 3e-6, 2.0)), source="made up for a test", shape=shape)
    assert slower.compute_efficiency == pytest.approx(0.6, rel=0.02)
    assert (slower.memory_efficiency, slower.fixed_s) == pytest.approx(
        (shape.memory_efficiency, shape.fixed_s)
    )


def test_known_other_kernels_are_taken_out() -> None:
    truth = (0.8, 0.8, 3e-6, 2.0)
    rows = matmul_rows(truth)
    whole = replace(rows, other_s=np.full(len(rows), 7e-6), measured_s=rows.measured_s + 7e-6)
    assert fit_kernel(whole, source="made up for a test").fixed_s == pytest.approx(3e-6, rel=0.1)


def test_coarse_rounding_counts_for_less() -> None:
    rows = matmul_rows((0.8, 0.8, 3e-6, 2.0))
    coarse = replace(rows, rounding_s=np.where(np.arange(len(rows)) < 300, rows.measured_s, 0.0))
    ratio = cell_weights(coarse) / cell_weights(rows)
    assert ratio[:300] == pytest.approx(1 / 401)  # error of 100 % against a scatter of 5 %: 1 / (1 + 20^2)
    assert ratio[300:] == pytest.approx(1.0)


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

"""Laws of one kernel's time, and one number by hand for each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from simulator.kernels.roofline import kernel_time

work = st.floats(0.0, 1e18)
rates = st.floats(1e6, 1e18)
efficiencies = st.floats(0.01, 1.0)
sharpnesses = st.one_of(st.floats(1.0, 50.0), st.just(np.inf))


@st.composite
def kernels(draw):
    return {
        "flop": draw(work),
        "moved_bytes": draw(work),
        "peak_flop_per_s": draw(rates),
        "bandwidth_bytes_per_s": draw(rates),
        "compute_efficiency": draw(efficiencies),
        "memory_efficiency": draw(efficiencies),
        "fixed_s": draw(st.floats(0.0, 1e-3)),
        "sharpness": draw(sharpnesses),
    }


def seconds(kernel, **changes):
    return float(kernel_time(**{k: np.array([v]) for k, v in {**kernel, **changes}.items()})[0])


@laws(100)
@given(kernels())
def test_never_below_the_roofline_and_never_above_the_sum(k):
    compute = k["flop"] / k["peak_flop_per_s"]
    memory = k["moved_bytes"] / k["bandwidth_bytes_per_s"]
    assert seconds(k) >= max(compute, memory) * (1 - 1e-12)
    slow = compute / k["compute_efficiency"] + memory / k["memory_efficiency"] + k["fixed_s"]
    assert seconds(k) <= slow * (1 + 1e-12)


@laws(30)
@given(kernels())
def test_no_work_takes_no_time(k):
    assert seconds(k, flop=0.0, moved_bytes=0.0) == 0.0


@laws(100)
@given(
    kernels(),
    st.sampled_from(
        ["peak_flop_per_s", "bandwidth_bytes_per_s", "compute_efficiency", "memory_efficiency", "sharpness"]
    ),
    st.floats(1.0, 10.0),
)
def test_more_of_a_rate_is_never_slower(k, rate, factor):
    better = k[rate] * factor if rate.endswith("_s") or rate == "sharpness" else min(k[rate] * factor, 1.0)
    assert seconds(k, **{rate: better}) <= seconds(k) * (1 + 1e-12)


@laws(100)
@given(kernels(), st.sampled_from(["flop", "moved_bytes", "fixed_s"]), st.floats(1.0, 10.0))
def test_more_work_is_never_faster(k, amount, factor):
    assert seconds(k, **{amount: k[amount] * factor}) >= seconds(k) * (1 - 1e-12)


@laws(60)
@given(kernels(), st.floats(1e-3, 1e3))
def test_time_unit(k, scale):
    other = seconds(
        k,
        peak_flop_per_s=k["peak_flop_per_s"] / scale,
        bandwidth_bytes_per_s=k["bandwidth_bytes_per_s"] / scale,
        fixed_s=k["fixed_s"] * scale,
    )
    assert other == pytest.approx(scale * seconds(k), rel=1e-9)


@laws(30)
@given(st.lists(kernels(), min_size=2, max_size=6))
def test_vector_is_the_loop_of_scalars(many):
    columns = {name: np.array([k[name] for k in many]) for name in many[0]}
    assert kernel_time(**columns).tolist() == [seconds(k) for k in many]


def test_by_hand():
    """3 GFLOP at 75 % of 1 TFLOP/s: 4 ms. 1.5 MB at 50 % of 1 GB/s: 3 ms. p = 2: 5 ms, and 1 ms to launch."""
    k = {
        "flop": 3e9,
        "moved_bytes": 1.5e6,
        "peak_flop_per_s": 1e12,
        "bandwidth_bytes_per_s": 1e9,
        "compute_efficiency": 0.75,
        "memory_efficiency": 0.5,
        "fixed_s": 1e-3,
        "sharpness": 2.0,
    }
    assert seconds(k) == pytest.approx(6e-3, rel=1e-12)
    assert seconds(k, sharpness=np.inf) == pytest.approx(5e-3, rel=1e-12)
    assert seconds(k, sharpness=1.0) == pytest.approx(8e-3, rel=1e-12)

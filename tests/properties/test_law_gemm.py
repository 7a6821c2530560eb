"""Laws of matrix products and of the pass that narrows their activations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from hardware_specs.errors import SpecError
from hardware_specs.kernel_fits import GemmFit, QuantiseFit
from simulator.kernels.gemm import gemm_time
from simulator.kernels.quantise import quantise_time
from simulator.kernels.smooth_maximum import smooth_maximum, smooth_maximum_of_two

sizes = st.one_of(st.integers(1, 200_000).map(float), st.floats(1.0, 2e5))
fractions = st.floats(0.01, 1.0)
short = st.floats(0.0, 1e-4)
SIZES = ("batch", "m", "n", "k")


def counted(values):
    """The same product with its work counted anew."""
    b, m, n, k = (values[name] for name in SIZES)
    moved = b * (2.0 * m * k + values["second_operand_bytes"] * n * k + 2.0 * m * n)
    return {**values, "flop": 2.0 * b * m * n * k, "moved_bytes": moved}


@st.composite
def products(draw):
    units = draw(st.integers(1, 300))
    return counted(
        {
            "batch": draw(st.integers(1, 1000)),
            **{name: draw(sizes) for name in ("m", "n", "k")},
            "operand_bytes": 2.0,
            "second_operand_bytes": draw(st.sampled_from([0.5, 1.0, 2.0])),
            "peak_flop_per_s": units * draw(st.floats(1e9, 1e14)),
            "bandwidth_bytes_per_s": draw(st.floats(1e8, 1e14)),
            "units": units,
            "clock_hz": draw(st.floats(1e8, 1e10)),
            "compute_efficiency": draw(fractions),
            "memory_efficiency": draw(fractions),
            "fixed_s": draw(short),
            "fill_s": draw(short),
            "sharpness": draw(st.one_of(st.floats(1.0, 50.0), st.just(np.inf))),
            "feed_bytes_per_clock": draw(st.floats(1.0, 1e4)),
            "tile_s": draw(short),
            "split_s": draw(short),
            "tail": draw(st.floats(0.0, 1.0)),
            "memory_ramp_s": draw(short),
            "rereads": draw(st.floats(0.0, 2.0)),
            "resident_bytes": draw(st.floats(1.0, 1e9)),
            "row_step": draw(st.sampled_from([1.0, 8.0, 16.0, 32.0, 64.0])),
            "least_rows": draw(st.sampled_from([1.0, 16.0, 64.0])),
            "granularity": draw(st.one_of(st.just(1.0), st.floats(0.0, 1.0))),
            "panel_copies": draw(st.one_of(st.just(0.0), st.floats(0.0, 10.0))),
        }
    )


@st.composite
def passes(draw):
    return {
        "flop": draw(st.floats(0.0, 1e15)),
        "moved_bytes": draw(st.floats(0.0, 1e12)),
        "rows": draw(st.floats(0.0, 1e6)),
        "peak_flop_per_s": draw(st.floats(1e9, 1e16)),
        "bandwidth_bytes_per_s": draw(st.floats(1e8, 1e14)),
        "units": draw(st.integers(1, 300)),
        "fixed_s": draw(short),
        "memory_efficiency": draw(fractions),
        "row_unit_s": draw(st.floats(0.0, 1e-5)),
    }


RULES = st.one_of(st.tuples(st.just(gemm_time), products()), st.tuples(st.just(quantise_time), passes()))


def of(rule, values, **changes):
    return float(rule(**{k: np.array([float(v)]) for k, v in {**values, **changes}.items()})[0])


def bound(v):
    return max(v["flop"] / v["peak_flop_per_s"], v["moved_bytes"] / v["bandwidth_bytes_per_s"])


@laws(250)
@given(RULES)
def test_never_below_compute_and_memory_bounds(case):
    rule, v = case
    assert of(rule, v) >= bound(v) * (1 - 1e-12)


@laws(100)
@given(products(), passes())
def test_ideal_coefficients_give_exactly_the_bounds(product, narrowing):
    for rule, v, fit in ((gemm_time, product, GemmFit), (quantise_time, narrowing, QuantiseFit)):
        assert of(rule, v, **fit.ideal()) == pytest.approx(bound(v), rel=1e-12)


@laws(40)
@given(products(), passes(), st.sampled_from(SIZES))
def test_no_work_takes_no_time(product, narrowing, size):
    assert of(gemm_time, product, **{size: 0.0, "flop": 0.0, "moved_bytes": 0.0}) == 0.0
    assert of(quantise_time, narrowing, flop=0.0, moved_bytes=0.0, rows=0.0) == 0.0


@laws(250)
@given(
    RULES,
    st.sampled_from(["peak_flop_per_s", "bandwidth_bytes_per_s", "clock_hz", "units"]),
    st.floats(1.0, 9.0),
)
def test_more_of_a_rate_is_never_slower(case, rate, factor):
    rule, v = case
    if rate not in v:
        return
    better = {rate: v[rate] * factor}
    if rate == "units":  # the peak follows the units
        better["peak_flop_per_s"] = v["peak_flop_per_s"] * factor
    assert of(rule, v, **better) <= of(rule, v) * (1 + 1e-12)


@laws(400)
@given(products(), st.sampled_from(SIZES), st.one_of(st.just("one"), st.floats(1.0, 9.0)))
def test_a_larger_product_is_never_faster(v, size, growth):
    """One more row is where tiles, splits and padding could make it so."""
    grown = v[size] + 1.0 if growth == "one" else v[size] * growth
    assert of(gemm_time, counted({**v, size: grown})) >= of(gemm_time, v) * (1 - 1e-12)


@laws(60)
@given(products(), st.sampled_from([64.0, 128.0, 256.0, 1024.0]), st.integers(-1, 1))
def test_a_row_at_the_edge_of_a_tile_costs_no_less(v, edge, offset):
    rows = edge + offset
    at, after = (of(gemm_time, counted({**v, "m": m})) for m in (rows, rows + 1))
    assert after >= at * (1 - 1e-12)


@laws(60)
@given(products(), st.floats(1.0, 9.0))
def test_rows_beyond_a_tile_keep_more_units_busy(v, factor):
    """With one tile and no stream the time does not depend on further units of the same rate."""
    alone = counted({**v, "batch": 1.0, "m": 8.0, "n": 8.0, "k": 8.0, "bandwidth_bytes_per_s": 1e18})
    more = {"units": alone["units"] * factor, "peak_flop_per_s": alone["peak_flop_per_s"] * factor}
    alone |= {"tail": 0.0, "granularity": 1.0, "memory_ramp_s": 0.0, "rereads": 0.0}
    assert of(gemm_time, alone, **more) == pytest.approx(of(gemm_time, alone), rel=1e-6)


@laws(100)
@given(RULES, st.floats(1e-3, 1e3))
def test_time_unit(case, scale):
    rule, v = case
    other = {k: x / scale for k, x in v.items() if k.endswith("_per_s") or k == "clock_hz"}
    other |= {k: x * scale for k, x in v.items() if k.endswith("_s") and not k.endswith("_per_s")}
    assert of(rule, v, **other) == pytest.approx(scale * of(rule, v), rel=1e-9)


@laws(40)
@given(st.lists(products(), min_size=1, max_size=5))
def test_vector_is_the_loop_of_scalars(many):
    together = gemm_time(**{k: np.array([float(v[k]) for v in many]) for k in many[0]})
    assert together.tolist() == pytest.approx([of(gemm_time, v) for v in many], rel=1e-12)


@laws(60)
@given(st.floats(0.0, 1e3), st.floats(0.0, 1e3), st.one_of(st.floats(1.0, 60.0), st.just(np.inf)))
def test_two_times_join_as_any_number(one, other, sharpness):
    arrays = [np.array([x]) for x in (one, other)]
    joined = smooth_maximum(*arrays, sharpness=np.array([sharpness]))
    assert smooth_maximum_of_two(*arrays, np.array([sharpness])) == pytest.approx(joined, rel=1e-12)


def test_a_step_that_does_not_divide_a_tile_is_refused():
    known = {"compute_efficiency": 0.8, "memory_efficiency": 0.8, "fixed_s": 3e-6, "sharpness": 2.0}
    evidence = {"basis": "assumed", "source": "made up for a test"}
    assert GemmFit.of({**known, "row_step": 16.0}, **evidence).row_step == 16.0
    with pytest.raises((SpecError, ValueError), match="row_step|divide"):
        GemmFit.of({**known, "row_step": 24.0}, **evidence)

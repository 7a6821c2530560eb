"""Laws of grouped products, of the kernels around them, and of how routing spreads rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from hardware_specs.kernel_fits import GroupedGemmFit, MoeDispatchFit
from simulator.kernels.grouped_gemm import TILE_ROWS, grouped_gemm_time, row_tiles
from simulator.kernels.moe_dispatch import moe_dispatch_time
from simulator.kernels.moe_routing import distinct_experts, even_load, power_law_share, skewed_load

counts = st.floats(1.0, 1e6)
rates = st.floats(1e6, 1e18)
fractions = st.floats(0.01, 1.0)


def of(rule, values, **changes):
    return float(rule(**{k: np.array([float(v)]) for k, v in {**values, **changes}.items()})[0])


@st.composite
def products(draw):
    rows, n, k = (draw(counts) for _ in range(3))
    hit = draw(st.floats(0.0, 1.0)) * rows
    return {
        "m": rows,
        "experts_hit": hit,
        "n": n,
        "k": k,
        "flop": 2 * rows * n * k,
        "moved_bytes": 2 * (hit * n * k + rows * (n + k)),
        "operand_bytes": 2.0,
        "peak_flop_per_s": draw(rates),
        "bandwidth_bytes_per_s": draw(rates),
        "units": draw(st.integers(1, 500)),
        "clock_hz": draw(st.floats(1e8, 1e10)),
        "compute_efficiency": draw(fractions),
        "memory_efficiency": draw(fractions),
        "sharpness": draw(st.one_of(st.floats(1.0, 50.0), st.just(np.inf))),
        "feed_bytes_per_clock": draw(st.floats(1.0, 1e3)),
        "tile_s": draw(st.floats(0.0, 1e-4)),
        "granularity": draw(st.floats(0.0, 1.0)),
    }


@st.composite
def streams(draw):
    return {
        "flop": draw(st.floats(0.0, 1e15)),
        "moved_bytes": draw(st.floats(0.0, 1e12)),
        "foreign_elements": draw(st.floats(0.0, 1e12)),
        "operand_bytes": 2.0,
        "peak_flop_per_s": draw(rates),
        "bandwidth_bytes_per_s": draw(rates),
        "fixed_s": draw(st.floats(0.0, 1e-3)),
        "memory_efficiency": draw(fractions),
        "foreign_share": draw(st.floats(0.0, 1.0)),
    }


RULES = st.one_of(
    st.tuples(st.just(grouped_gemm_time), products()), st.tuples(st.just(moe_dispatch_time), streams())
)


@laws(150)
@given(RULES)
def test_never_below_compute_and_memory_bounds(case):
    rule, v = case
    bound = max(v["flop"] / v["peak_flop_per_s"], v["moved_bytes"] / v["bandwidth_bytes_per_s"])
    assert of(rule, v) >= bound * (1 - 1e-12)


@laws(80)
@given(products(), streams())
def test_ideal_coefficients_give_exactly_the_bounds(product, stream):
    for rule, v, fit in (
        (grouped_gemm_time, product, GroupedGemmFit),
        (moe_dispatch_time, stream, MoeDispatchFit),
    ):
        bound = max(v["flop"] / v["peak_flop_per_s"], v["moved_bytes"] / v["bandwidth_bytes_per_s"])
        assert of(rule, v, **fit.ideal()) == pytest.approx(bound, rel=1e-12)


@laws(30)
@given(products(), streams())
def test_no_work_takes_no_time(product, stream):
    nothing = {"m": 0.0, "experts_hit": 0.0, "flop": 0.0, "moved_bytes": 0.0}
    assert of(grouped_gemm_time, product, **nothing) == 0.0
    assert of(moe_dispatch_time, stream, flop=0.0, moved_bytes=0.0, foreign_elements=0.0) == 0.0


@laws(150)
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


@laws(150)
@given(products(), st.sampled_from(["m", "experts_hit", "n", "k"]), st.floats(1.0, 9.0))
def test_a_larger_product_is_never_faster(v, size, factor):
    larger = {**v, size: v[size] * factor}
    larger["flop"] = 2 * larger["m"] * larger["n"] * larger["k"]
    larger["moved_bytes"] = 2 * (
        larger["experts_hit"] * larger["n"] * larger["k"] + larger["m"] * (larger["n"] + larger["k"])
    )
    assert of(grouped_gemm_time, larger) >= of(grouped_gemm_time, v) * (1 - 1e-12)


@laws(80)
@given(RULES, st.floats(1e-3, 1e3))
def test_time_unit(case, scale):
    rule, v = case
    other = {k: x / scale for k, x in v.items() if k.endswith("_per_s") or k == "clock_hz"}
    other |= {k: v[k] * scale for k in ("tile_s", "fixed_s") if k in v}
    assert of(rule, v, **other) == pytest.approx(scale * of(rule, v), rel=1e-9)


@laws(30)
@given(st.lists(products(), min_size=1, max_size=5))
def test_vector_is_the_loop_of_scalars(many):
    together = grouped_gemm_time(**{k: np.array([float(v[k]) for v in many]) for k in many[0]})
    assert together.tolist() == pytest.approx([of(grouped_gemm_time, v) for v in many], rel=1e-12)


@laws(40)
@given(st.integers(1, 400), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from(TILE_ROWS))
def test_tiles_lie_between_none_and_all_padded(rows, experts, seed, tile_rows):
    """Rows dealt to experts at random, tiles counted one expert at a time."""
    experts = min(experts, rows)
    random = np.random.default_rng(seed)
    loads = np.ones(experts) + random.multinomial(rows - experts, np.ones(experts) / experts)
    counted = np.ceil(loads / tile_rows).sum()
    estimate = float(row_tiles(np.array([float(rows)]), np.array([float(experts)]), tile_rows)[0])
    assert max(rows / tile_rows, experts) * (1 - 1e-12) <= estimate <= rows / tile_rows + experts
    assert abs(estimate - counted) <= max(experts, 1)


@laws(25)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_distinct_experts_are_those_of_random_draws(tokens, topk, seed):
    random = np.random.default_rng(seed)
    experts, draws = 8 * topk, 400
    keys = random.random((draws, tokens, experts))
    picked = np.argpartition(keys, topk - 1, axis=2)[:, :, :topk]
    counted = np.array([len(np.unique(draw)) for draw in picked])
    expected = float(
        distinct_experts(tokens=np.array([tokens]), topk=np.array([topk]), experts=np.array([experts]))[0]
    )
    # Standard deviation of the mean of 400 draws, four times, and a little for draws that do not scatter.
    assert abs(counted.mean() - expected) <= 4 * counted.std() / draws**0.5 + 1e-9 * experts


loads = st.tuples(
    st.integers(1, 40_000),  # tokens
    st.integers(1, 22),
    st.sampled_from([8.0, 32.0, 128.0, 512.0]),
    st.sampled_from([1.0, 2.0, 8.0]),
    st.floats(0.3, 2.0),
)


def load_of(tokens, topk, experts, ranks, exponent):
    sizes = {"tokens": tokens, "topk": min(topk, experts), "experts": experts, "ranks": ranks}
    sizes = {k: np.array([float(v)]) for k, v in sizes.items()}
    return skewed_load(**sizes, exponent=np.array([exponent])), even_load(**sizes)


@laws(150)
@given(loads, st.integers(0, 5000))
def test_skewed_load_is_bounded_and_grows_with_tokens(case, more):
    (rows, hit), even = load_of(*case)
    tokens, topk, experts, ranks, _ = case
    assert even.rows <= rows * (1 + 1e-12)
    assert rows <= max(tokens * min(topk, experts), 1) * (1 + 1e-9)
    assert 0 < hit <= min(experts / ranks, rows) * (1 + 1e-12)
    (later_rows, later_hit), _ = load_of(tokens + more, *case[1:])
    assert later_rows >= rows * (1 - 1e-9)
    assert later_hit >= hit * (1 - 1e-9)


@pytest.mark.parametrize(("topk", "experts", "ranks"), [(2, 8.0, 4.0), (1, 128.0, 8.0), (4, 512.0, 8.0)])
def test_load_grows_where_one_law_takes_over_from_the_other(topk, experts, ranks):
    """Around as many rows as experts, with a spread below 200 on the far side of it."""
    tokens = np.arange(1.0, 3 * experts / topk)
    sizes = {"topk": np.array([float(topk)]), "experts": np.array([experts]), "ranks": np.array([ranks])}
    rows, hit = skewed_load(tokens=tokens, **sizes, exponent=np.array([1.2]))
    assert (np.diff(rows) >= -1e-9).all()
    assert (np.diff(hit) >= -1e-9).all()


def test_no_tokens_load_nothing():
    (rows, hit), even = load_of(0, 2, 8.0, 2.0, 1.0)
    assert (rows, hit, even.rows, even.experts_hit) == (0, 0, 0, 0)


def test_one_rank_has_all_rows_whatever_the_skew():
    (rows, _), even = load_of(300, 4, 64.0, 1.0, 1.3)
    assert rows == even.rows == 1200


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.01, 1.2, 2.0])
@pytest.mark.parametrize("load", [0.02, 0.4, 1.0, 7.0, 300.0])
def test_power_law_share_is_the_mean_of_drawn_loads(exponent, load):
    """Quantiles of the law, taken at 200 000 even steps."""
    spread, u = 150.0, (np.arange(200_000) + 0.5) / 200_000
    order = 1.0 - exponent
    drawn = spread**u if order == 0 else ((spread**order - 1) * u + 1) ** (1 / order)
    counted = np.minimum(load * drawn / drawn.mean(), 1.0).mean()
    closed = power_law_share(load=np.array([load]), spread=np.array([spread]), exponent=np.array([exponent]))
    assert closed[0] == pytest.approx(counted, rel=1e-4)


@pytest.mark.parametrize(
    ("tokens", "topk", "experts", "ranks"),
    [
        (16, 8, 128, 1),
        (256, 8, 128, 8),
        (4096, 8, 256, 32),
        (512, 4, 128, 16),
        (8192, 8, 128, 1),
    ],
)
def test_skewed_load_is_that_of_random_loads(tokens, topk, experts, ranks):
    """400 draws of loads from the law, fullest rank, loads of less than a row rounded by chance."""
    random = np.random.default_rng(5)
    exponent, spread = 1.2, 0.8 * tokens if tokens * topk > experts else 200.0
    u = random.random((400, experts))
    drawn = ((spread**-0.2 - 1) * u + 1) ** (1 / -0.2)
    drawn *= tokens * topk / drawn.sum(axis=1, keepdims=True)
    whole = np.floor(drawn + random.random(drawn.shape)).reshape(400, ranks, experts // ranks)
    fullest = np.take_along_axis(whole, whole.sum(axis=2).argmax(axis=1)[:, None, None], axis=1)[:, 0]
    (rows, hit), _ = load_of(tokens, topk, float(experts), float(ranks), exponent)
    assert rows[0] == pytest.approx(fullest.sum(axis=1).mean(), rel=0.12)
    assert hit[0] == pytest.approx((fullest > 0).sum(axis=1).mean(), rel=0.08)

"""Laws of attention kernels: bounds, monotone in every size, unit of time, arrays as loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from hardware_specs.kernel_fits import DecodeAttentionFit, PrefillAttentionFit
from simulator.kernels.attention_decode import SPLITS, decode_attention_time
from simulator.kernels.attention_prefill import prefill_attention_time
from simulator.kernels.smooth_maximum import smooth_maximum
from workloads.attention import attended_pairs

ROUNDING = 1 - 1e-9
sharpnesses = st.one_of(st.floats(1.0, 12.0), st.just(np.inf))
efficiencies = st.floats(0.05, 1.0)
times = st.floats(0.0, 1e-4)
devices = st.fixed_dictionaries(
    {
        "peak_flop_per_s": st.floats(1e12, 2e15),
        "bandwidth_bytes_per_s": st.floats(1e11, 8e12),
        "units": st.integers(1, 200),
        "clock_hz": st.floats(5e8, 3e9),
    }
)
prefill_coefficients = st.fixed_dictionaries(
    {
        "compute_efficiency": efficiencies,
        "memory_efficiency": efficiencies,
        "fixed_s": times,
        "sharpness": sharpnesses,
        "score_clocks": st.floats(0.0, 1.0),
        "mask_clocks": st.floats(0.0, 2.0),
        "imbalance": st.floats(0.0, 2.0),
        "query_tile": st.sampled_from([64.0, 128.0]),
        "kv_tile": st.sampled_from([64.0, 128.0]),
        "packs_groups": st.sampled_from([0.0, 1.0]),
        "least_width": st.floats(1.0, 128.0),
    }
)
decode_coefficients = st.fixed_dictionaries(
    {
        "compute_efficiency": efficiencies,
        "memory_efficiency": efficiencies,
        "fixed_s": times,
        "sharpness": sharpnesses,
        "stream_fraction": st.floats(0.002, 1.0),
        **{
            name: times
            for name in ("task_s", "row_tile_s", "split_s", "split_step_s", "sequence_s", "regroup_s")
        },
        "kv_tile": st.sampled_from([32.0, 128.0]),
        "group_limit": st.sampled_from([1.0, 32.0, 1e9]),
        "split_limit": st.sampled_from([1.0, 128.0]),
    }
)
shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 600),
        "query_length": st.integers(1, 3000),
        "earlier": st.integers(0, 3000),
        "kv_heads": st.integers(1, 12),
        "group": st.integers(1, 100),
        "head_dim": st.sampled_from([64, 80, 128, 192, 256]),
        "window": st.one_of(st.just(np.inf), st.integers(1, 5000)),
    }
)


def arrays(values):
    return {name: np.array([float(value)]) for name, value in values.items()}


def prefill_work(shape, *, causal=True, products=2.0):
    """What the engine counts: FLOP under the mask, and every operand and result moved once, in 16 bits."""
    s = arrays(shape)
    keys = s["query_length"] + s["earlier"]
    heads = s["kv_heads"] * s["group"]
    window = s["window"] if causal else np.array([np.inf])
    pairs = attended_pairs(s["query_length"], keys, window, causal=causal)
    tokens = s["batch"] * s["head_dim"] * 2.0
    return {
        "flop": 2.0 * products * s["batch"] * heads * pairs * s["head_dim"],
        "moved_bytes": tokens * (2.0 * s["query_length"] * heads + 2.0 * keys * s["kv_heads"]),
        "batch": s["batch"],
        "query_length": s["query_length"],
        "kv_length": keys,
        "kv_span": np.minimum(keys, window),
        "heads": heads,
        "kv_heads": s["kv_heads"],
        "head_dim": s["head_dim"],
        "pairs": pairs,
    }


def decode_work(shape):
    """One token per sequence over 1 to 6000 cached tokens in 16 bits."""
    s = arrays(shape)
    keys, heads = s["query_length"] + s["earlier"], s["kv_heads"] * s["group"]
    width = 4.0 * s["head_dim"]
    return {
        "flop": 4.0 * s["batch"] * heads * keys * s["head_dim"],
        "moved_bytes": s["batch"] * width * (keys * s["kv_heads"] + heads),
        "batch": s["batch"],
        "kv_length": keys,
        "heads": heads,
        "kv_heads": s["kv_heads"],
        "token_bytes": width,
        "query_bytes": width,
    }


def prefill_s(work, device, coefficients):
    return float(prefill_attention_time(**work, **arrays(device), **arrays(coefficients))[0])


def decode_s(work, device, coefficients):
    known = {name: value for name, value in device.items() if name != "clock_hz"}
    return float(decode_attention_time(**work, **arrays(known), **arrays(coefficients))[0])


def bound_s(work, device):
    return max(
        float(work["flop"][0]) / device["peak_flop_per_s"],
        float(work["moved_bytes"][0]) / device["bandwidth_bytes_per_s"],
    )


@laws(150)
@given(shapes, devices, prefill_coefficients, decode_coefficients, st.booleans())
def test_never_below_the_bounds(shape, device, prefill, decode, causal):
    work = prefill_work(shape, causal=causal)
    assert prefill_s(work, device, prefill) >= bound_s(work, device) * ROUNDING
    work = decode_work(shape)
    assert decode_s(work, device, decode) >= bound_s(work, device) * ROUNDING


@laws(60)
@given(shapes, devices, st.booleans())
def test_ideal_coefficients_give_the_bounds(shape, device, causal):
    work = prefill_work(shape, causal=causal)
    assert prefill_s(work, device, PrefillAttentionFit.ideal()) == pytest.approx(bound_s(work, device))
    work = decode_work(shape)
    assert decode_s(work, device, DecodeAttentionFit.ideal()) == pytest.approx(bound_s(work, device))


@laws(30)
@given(shapes, devices, prefill_coefficients, decode_coefficients)
def test_no_work_takes_no_time(shape, device, prefill, decode):
    for empty in ({"batch": 0}, {"group": 0}):
        work = prefill_work({**shape, **empty})
        work["moved_bytes"] = work["moved_bytes"] * 0.0
        assert prefill_s(work, device, prefill) == 0.0
        work = decode_work({**shape, **empty})
        work["moved_bytes"] = work["moved_bytes"] * 0.0
        assert decode_s(work, device, decode) == 0.0


@laws(200)
@given(
    shapes,
    devices,
    prefill_coefficients,
    decode_coefficients,
    st.sampled_from(["batch", "query_length", "earlier", "kv_heads", "group", "head_dim", "window"]),
    st.integers(1, 4),
    st.booleans(),
)
def test_more_work_is_never_faster(shape, device, prefill, decode, size, step, causal):
    """Key heads grow with their groups: a token more, a sequence more, a head more; never a shorter time."""
    more = {**shape, size: shape[size] * (step + 1) if size == "head_dim" else shape[size] + step}
    fewer_s, more_s = (prefill_s(prefill_work(s, causal=causal), device, prefill) for s in (shape, more))
    assert more_s >= fewer_s * ROUNDING
    fewer_s, more_s = (decode_s(decode_work(s), device, decode) for s in (shape, more))
    assert more_s >= fewer_s * ROUNDING


@laws(100)
@given(shapes, devices, prefill_coefficients, st.integers(2, 8))
def test_more_key_heads_for_the_same_queries_are_never_faster(shape, device, prefill, factor):
    """Of prompts only: against a cache each key head is a task of its own, and more tasks occupy more units."""
    shared = {**shape, "group": shape["group"] * factor}
    apart = {**shape, "kv_heads": shape["kv_heads"] * factor}
    fewer_s, more_s = (prefill_s(prefill_work(s), device, prefill) for s in (shared, apart))
    assert more_s >= fewer_s * ROUNDING


@laws(100)
@given(
    shapes,
    devices,
    prefill_coefficients,
    decode_coefficients,
    st.sampled_from(["peak_flop_per_s", "bandwidth_bytes_per_s", "clock_hz", "units"]),
    st.integers(2, 5),
)
def test_more_hardware_is_never_slower(shape, device, prefill, decode, figure, factor):
    """More units bring their peak along."""
    better = {**device, figure: device[figure] * factor}
    if figure == "units":
        better["peak_flop_per_s"] = device["peak_flop_per_s"] * factor
    work = prefill_work(shape)
    assert prefill_s(work, better, prefill) <= prefill_s(work, device, prefill) / ROUNDING
    work = decode_work(shape)
    assert decode_s(work, better, decode) <= decode_s(work, device, decode) / ROUNDING


@laws(60)
@given(shapes, devices, prefill_coefficients, decode_coefficients, st.floats(1e-3, 1e3))
def test_time_unit(shape, device, prefill, decode, scale):
    rates = ("peak_flop_per_s", "bandwidth_bytes_per_s", "clock_hz")
    other = {name: value / scale if name in rates else value for name, value in device.items()}

    def rescaled(coefficients):
        return {n: v * scale if n.endswith("_s") else v for n, v in coefficients.items()}

    work = prefill_work(shape)
    expected = pytest.approx(scale * prefill_s(work, device, prefill), rel=1e-9)
    assert prefill_s(work, other, rescaled(prefill)) == expected
    work = decode_work(shape)
    expected = pytest.approx(scale * decode_s(work, device, decode), rel=1e-9)
    assert decode_s(work, other, rescaled(decode)) == expected


@laws(40)
@given(
    shapes,
    devices,
    prefill_coefficients,
    decode_coefficients,
    st.sampled_from(["query_length", "earlier", "group"]),
)
def test_no_tile_or_split_makes_a_larger_size_faster(shape, device, prefill, decode, size):
    """Each size from 1 to 400: steps of tiles, tasks and splits only ever go up."""
    steps = np.arange(1.0, 401.0)
    works = []
    for count in (prefill_work, decode_work):
        parts = [count({**shape, size: step}) for step in steps]
        works.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    known = arrays(device)
    times = [prefill_attention_time(**works[0], **known, **arrays(prefill))]
    known.pop("clock_hz")
    times.append(decode_attention_time(**works[1], **known, **arrays(decode)))
    for time_s in times:
        assert (time_s[1:] >= time_s[:-1] * ROUNDING).all()


@laws(30)
@given(st.lists(shapes, min_size=2, max_size=6), devices, prefill_coefficients, decode_coefficients)
def test_vector_is_the_loop_of_scalars(many, device, prefill, decode):
    for count, rule_s, coefficients in ((prefill_work, prefill_s, prefill), (decode_work, decode_s, decode)):
        works = [count(shape) for shape in many]
        together = {name: np.concatenate([w[name] for w in works]) for name in works[0]}
        known = arrays(device)
        if rule_s is decode_s:
            known.pop("clock_hz")
            found = decode_attention_time(**together, **known, **arrays(coefficients))
        else:
            found = prefill_attention_time(**together, **known, **arrays(coefficients))
        assert found.tolist() == [rule_s(w, device, coefficients) for w in works]


@laws(40)
@given(shapes, devices, prefill_coefficients)
def test_backward_is_the_forward_kernel_with_more_products(shape, device, prefill):
    plain = {**prefill, "fixed_s": 0.0}
    forward, back = (prefill_work(shape, products=p) for p in (2.0, 5.0))
    forward["moved_bytes"], back["moved_bytes"] = np.zeros(1), np.zeros(1)
    assert prefill_s(back, device, plain) == pytest.approx(2.5 * prefill_s(forward, device, plain))


@laws(60)
@given(shapes, devices, decode_coefficients)
def test_the_split_taken_is_the_best_one(shape, device, decode):
    """Dear splits are never made; free ones bring the time of the best of them."""
    work, plain = (
        decode_work(shape),
        {**decode, "split_step_s": 0.0, "split_limit": 128.0, "sharpness": np.inf},
    )
    free, never = ({**plain, "split_s": s} for s in (0.0, 1e3))
    best, whole = decode_s(work, device, free), decode_s(work, device, never)
    assert best <= whole / ROUNDING
    assert best >= whole / max(SPLITS) * ROUNDING


@laws(60)
@given(st.lists(st.floats(0.0, 1e3), min_size=1, max_size=4), sharpnesses)
def test_smooth_maximum_lies_between_maximum_and_sum(values, sharpness):
    found = float(smooth_maximum(*(np.array([v]) for v in values), sharpness=np.array([float(sharpness)]))[0])
    assert max(values) * ROUNDING <= found <= sum(values) / ROUNDING


def test_smooth_maximum_needs_a_time():
    with pytest.raises(ValueError, match="no times"):
        smooth_maximum(sharpness=np.ones(1))

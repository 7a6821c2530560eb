"""Laws of kernels that stream through memory, and of scans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from hardware_specs.kernel_fits import ScanFit, StreamingFit
from simulator.kernels.scan import scan_flop, scan_time
from simulator.kernels.streaming import streaming_time

rates = st.floats(1e6, 1e16)
efficiencies = st.floats(0.01, 1.0)
sizes = st.floats(0.0, 1e7)
COEFFICIENTS = {
    "read_efficiency": efficiencies,
    "write_efficiency": efficiencies,
    "fixed_s": st.floats(0.0, 1e-3),
    "saturating_rows": st.floats(0.0, 1000.0),
    "rereads": st.floats(0.0, 3.0),
    "resident_row_bytes": st.floats(1e2, 1e12),
    "row_sharpness": st.floats(1.0, 8.0),
    "spill": st.floats(0.0, 10.0),
    "resident_bytes": st.floats(1e3, 1e12),
}


@st.composite
def kernels(draw):
    """A kernel that reads and writes ``rows`` x ``row_bytes``, at whatever ratio."""
    return {
        "rows": draw(sizes),
        "row_bytes": draw(sizes),
        "reads": draw(st.floats(0.0, 3.0)),
        "writes": draw(st.floats(0.0, 3.0)),
        "shared_rows": draw(st.floats(0.0, 3.0)),
        "flop_per_byte": draw(st.floats(0.0, 100.0)),
        "peak_flop_per_s": draw(rates),
        "bandwidth_bytes_per_s": draw(rates),
        **{name: draw(values) for name, values in COEFFICIENTS.items()},
    }


def inputs(kernel):
    """What the rule asks for: more rows and longer rows move and compute more."""
    k = dict(kernel)
    whole = k["rows"] * k["row_bytes"]
    # Weights are read once for all rows, if there are any.
    k["shared_bytes"] = k.pop("shared_rows") * k["row_bytes"] * (whole > 0)
    k["read_bytes"] = k.pop("reads") * whole + k["shared_bytes"]
    k["written_bytes"] = k.pop("writes") * whole
    k["flop"] = k.pop("flop_per_byte") * whole
    return {name: np.array([value]) for name, value in k.items()}


def seconds(kernel, **changes):
    return float(streaming_time(**inputs({**kernel, **changes}))[0])


@laws(100)
@given(kernels())
def test_never_below_the_roofline(kernel):
    k = inputs(kernel)
    memory = (k["read_bytes"] + k["written_bytes"]) / k["bandwidth_bytes_per_s"]
    assert seconds(kernel) >= float(np.maximum(k["flop"] / k["peak_flop_per_s"], memory)[0]) * (1 - 1e-12)


@laws(60)
@given(kernels())
def test_ideal_coefficients_give_the_roofline(kernel):
    k = inputs({**kernel, **StreamingFit.ideal()})
    memory = (k["read_bytes"] + k["written_bytes"]) / k["bandwidth_bytes_per_s"]
    bound = float(np.maximum(k["flop"] / k["peak_flop_per_s"], memory)[0])
    assert float(streaming_time(**k)[0]) == pytest.approx(bound, rel=1e-12)


@laws(30)
@given(kernels(), st.sampled_from(["rows", "row_bytes"]))
def test_no_work_takes_no_time(kernel, size):
    assert seconds(kernel, **{size: 0.0}) == 0.0


@laws(100)
@given(
    kernels(),
    st.sampled_from(["peak_flop_per_s", "bandwidth_bytes_per_s", "read_efficiency", "write_efficiency"]),
    st.floats(1.0, 10.0),
)
def test_more_of_a_rate_is_never_slower(kernel, rate, factor):
    better = kernel[rate] * factor
    better = better if rate.endswith("_per_s") else min(better, 1.0)
    assert seconds(kernel, **{rate: better}) <= seconds(kernel) * (1 + 1e-12)


@laws(100)
@given(
    kernels(),
    st.sampled_from(["rows", "row_bytes", "reads", "writes", "shared_rows", "saturating_rows", "rereads"]),
    st.floats(1.0, 10.0),
)
def test_more_work_is_never_faster(kernel, amount, factor):
    assert seconds(kernel, **{amount: kernel[amount] * factor}) >= seconds(kernel) * (1 - 1e-12)


@laws(60)
@given(kernels(), st.floats(1e-3, 1e3))
def test_time_unit(kernel, scale):
    other = seconds(
        kernel,
        peak_flop_per_s=kernel["peak_flop_per_s"] / scale,
        bandwidth_bytes_per_s=kernel["bandwidth_bytes_per_s"] / scale,
        fixed_s=kernel["fixed_s"] * scale,
    )
    assert other == pytest.approx(scale * seconds(kernel), rel=1e-9)


@laws(30)
@given(st.lists(kernels(), min_size=2, max_size=6))
def test_vector_is_the_loop_of_scalars(many):
    columns = {name: np.concatenate([inputs(k)[name] for k in many]) for name in inputs(many[0])}
    assert streaming_time(**columns).tolist() == [seconds(k) for k in many]


def test_long_rows_are_read_again():
    """1 MB read and written at 1 GB/s is 2 ms; a second reading of rows far beyond the cache is a third one."""
    kernel = {
        "rows": 100.0, "row_bytes": 1e4, "reads": 1.0, "writes": 1.0, "shared_rows": 0.0, "flop_per_byte": 0.0,
        "peak_flop_per_s": 1e12, "bandwidth_bytes_per_s": 1e9, **StreamingFit.ideal(), "rereads": 1.0,
        "row_sharpness": 4.0,
    }  # fmt: skip
    assert seconds(kernel, resident_row_bytes=1e9) == pytest.approx(2e-3)
    assert seconds(kernel, resident_row_bytes=1e4) == pytest.approx(2.5e-3)  # half of them
    assert seconds(kernel, resident_row_bytes=1.0) == pytest.approx(3e-3)


def test_few_rows_leave_units_idle():
    """10 rows take as long as the 50 that occupy the device; 100 take twice that."""
    kernel = {
        "rows": 50.0, "row_bytes": 1e4, "reads": 1.0, "writes": 1.0, "shared_rows": 0.0, "flop_per_byte": 0.0,
        "peak_flop_per_s": 1e12, "bandwidth_bytes_per_s": 1e9, **StreamingFit.ideal(), "saturating_rows": 50.0,
    }  # fmt: skip
    assert seconds(kernel, rows=10.0) == seconds(kernel) == pytest.approx(1e-3)
    assert seconds(kernel, rows=100.0) == pytest.approx(2e-3)


scans = st.fixed_dictionaries(
    {
        "tokens": st.integers(1, 10**6).map(float),
        "chunk": st.integers(1, 1024).map(float),
        "flop_per_token": st.floats(0.0, 1e9),
        "bytes_per_token": st.floats(0.0, 1e9),
        "peak_flop_per_s": rates,
        "bandwidth_bytes_per_s": rates,
        "compute_efficiency": efficiencies,
        "memory_efficiency": efficiencies,
        "fixed_s": st.floats(0.0, 1e-3),
        "step_s": st.floats(0.0, 1e-5),
    }
)


def scan_seconds(scan, **changes):
    k = {**scan, **changes}
    k["flop"], k["moved_bytes"] = (k["tokens"] * k.pop(f"{what}_per_token") for what in ("flop", "bytes"))
    return float(scan_time(**{name: np.array([value]) for name, value in k.items()})[0])


@laws(60)
@given(scans, st.floats(1.0, 10.0))
def test_scans_are_bounded_monotone_and_free_of_hidden_seconds(scan, factor):
    flop_s = scan["tokens"] * scan["flop_per_token"] / scan["peak_flop_per_s"]
    memory_s = scan["tokens"] * scan["bytes_per_token"] / scan["bandwidth_bytes_per_s"]
    usual = scan_seconds(scan)
    assert usual >= max(flop_s, memory_s) * (1 - 1e-12)
    assert scan_seconds(scan, **ScanFit.ideal()) == pytest.approx(max(flop_s, memory_s), rel=1e-12)
    for rate in ("peak_flop_per_s", "bandwidth_bytes_per_s"):
        assert scan_seconds(scan, **{rate: scan[rate] * factor}) <= usual * (1 + 1e-12)
    for amount in ("tokens", "flop_per_token", "bytes_per_token"):
        assert scan_seconds(scan, **{amount: scan[amount] * factor}) >= usual * (1 - 1e-12)
    assert scan_seconds(scan, flop_per_token=0.0, bytes_per_token=0.0) == 0.0
    rescaled = {name: scan[name] / factor for name in ("peak_flop_per_s", "bandwidth_bytes_per_s")}
    rescaled |= {name: scan[name] * factor for name in ("fixed_s", "step_s")}
    assert scan_seconds(scan, **rescaled) == pytest.approx(factor * usual, rel=1e-9)


def test_scan_flop_is_the_recurrence_played_in_chunks():
    """Multiply-adds counted one by one for 6 tokens in chunks of 3; half of a chunk's square is masked."""
    batch, tokens, heads, width, state, groups, chunk = 2, 6, 3, 4, 5, 1, 3
    counted = 0.0
    for _ in range(batch):
        for first in range(0, tokens, chunk):
            n = min(chunk, tokens - first)
            counted += n * n / 2 * state * groups  # scores
            counted += n * n / 2 * heads * width  # times inputs
            counted += n * state * heads * width  # state of the chunk
            counted += n * state * heads * width  # from the state to outputs
            counted += state * heads * width  # states pass
    sizes = {"batch": batch, "tokens": tokens, "heads": heads, "head_dim": width, "state": state}
    found = scan_flop(
        **{k: np.array([float(v)]) for k, v in {**sizes, "groups": groups, "chunk": chunk}.items()}
    )
    assert float(found[0]) == pytest.approx(2.0 * counted)

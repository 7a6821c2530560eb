"""Samples of any kernel family are fitted, scored and held out the same way."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.fitting.robust_fit import Free
from simulator.fitting.samples import (
    ONE_STACK_COMMON,
    KernelSamples,
    fit_samples,
    fold_of,
    join_samples,
    predict_samples,
)

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

TRUTH = {"memory_efficiency": 0.8, "row_unit_s": 7e-7, "fixed_s": 4e-6}
FREE = (
    Free(name="memory_efficiency", start=(0.5,), lower=0.01, upper=1.0),
    Free(name="fixed_s", start=(1e-6,), lower=0.0, upper=1e-4, scale=1e-6),
    Free(name="row_unit_s", start=(1e-7,), lower=0.0, upper=1e-5, scale=1e-6),
)
N = 400


def made_up(stack: str = "s", factor: float = 1.0, seed: int = 3) -> KernelSamples:
    """Passes over activations at 2 TB/s on 100 units, ``factor`` slower than the truth, with 2 % of noise."""
    random = np.random.default_rng(seed)
    group = random.integers(0, 60, N)
    rows = 10.0 ** random.uniform(1, 5, N)
    blank = KernelSamples(
        family="quantise",
        inputs={
            "flop": np.zeros(N),
            "rows": rows,
            "moved_bytes": rows * 10.0 ** random.uniform(3, 5, N),
            "peak_flop_per_s": np.full(N, 300e12),
            "bandwidth_bytes_per_s": np.full(N, 2e12),
            "units": np.full(N, 100.0),
        },
        measured_s=np.ones(N),
        stack=np.array([stack] * N),
        size_class=np.where(rows > 1e3, "large", "decode"),
        group=np.array([f"pair{g}" for g in group]),
        other_s=np.zeros(N),
        rounding_s=np.zeros(N),
        row=np.arange(N),
    )
    noise = np.exp(0.02 * random.standard_normal(N))
    seconds = predict_samples(blank, TRUTH) * factor * noise
    return KernelSamples(
        **{**{f: getattr(blank, f) for f in blank.__dataclass_fields__}, "measured_s": seconds}
    )


def test_coefficients_are_found_and_held_out_rows_scored() -> None:
    samples = made_up()
    fit = fit_samples(samples, FREE, fixed={}, source="made up for a test")
    for name, value in TRUTH.items():
        assert fit.coefficients()[name] == pytest.approx(value, rel=0.03), name
    assert fit.rows == int((~samples.left_out).sum()) < N
    assert {"large", "decode", "large_left_out", "decode_left_out"} == set(fit.error)
    # |N(0, 2 %)| has a mean of 1.6 % and a 90 % quantile of 3.3 %.
    assert 0.01 < fit.error["large_left_out"] < 0.025
    assert 0.02 < fit.spread["all"] < 0.05
    assert fit.common == ONE_STACK_COMMON


def test_left_out_rows_change_no_coefficient() -> None:
    samples = made_up()
    bent = np.where(samples.left_out, 3.0, 1.0) * samples.measured_s
    fields = {f: getattr(samples, f) for f in samples.__dataclass_fields__}
    other = KernelSamples(**{**fields, "measured_s": bent})
    first, second = (fit_samples(s, FREE, fixed={}, source="made up for a test") for s in (samples, other))
    assert first.coefficients() == second.coefficients()
    assert second.error["large_left_out"] > 0.5


def test_stacks_that_disagree_share_a_common_part() -> None:
    both = join_samples([made_up("fast", 0.8), made_up("slow", 1.25, seed=4)])
    fit = fit_samples(both, FREE, fixed={}, source="made up for a test")
    # ln 0.8 and ln 1.25 lie 0.446 apart: a standard deviation of two points of 0.446 / sqrt(2).
    assert fit.common == pytest.approx(0.446 / np.sqrt(2), rel=0.05)


def test_folds_split_groups_not_rows() -> None:
    names = [f"pair{i % 50}" for i in range(500)]
    folds = fold_of(names)
    assert all(len({f for f, n in zip(folds, names, strict=True) if n == name}) == 1 for name in set(names))
    assert 0.25 < folds.mean() < 0.75

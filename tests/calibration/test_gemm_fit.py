"""Coefficients of products: found back from made-up rows, and as good on measured ones as stated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardware_specs import load_accelerator
from hardware_specs.catalog import load_calibration
from simulator.fitting.fit_gemm import FREE, fit_gemm, fit_gemm_rows, gemm_seconds, tile_steps
from simulator.fitting.measured_gemm import gemm_samples, narrow, product_figures
from simulator.fitting.samples import KernelSamples
from simulator.kernels.size_classes import matmul_class

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

REPOSITORY = Path(__file__).resolve().parents[2]
MEASUREMENTS = Path(os.environ.get("LLMSIM_MEASUREMENTS", REPOSITORY.parent / "shared" / "measurements"))
measured = pytest.mark.skipif(
    not (MEASUREMENTS / "kernels_gemm.parquet").is_file(),
    reason=f"no measured tables in {MEASUREMENTS}; set LLMSIM_MEASUREMENTS",
)
NOISE = 0.02
N = 1500
TRUTH = {
    "compute_efficiency": 0.8,
    "memory_efficiency": 0.85,
    "fixed_s": 2.5e-6,
    "fill_s": 0.8e-6,
    "sharpness": 4.0,
    "feed_bytes_per_clock": 70.0,
    "tile_s": 1e-6,
    "split_s": 2e-6,
    "tail": 0.3,
    "memory_ramp_s": 3e-7,
    "rereads": 0.0,
    "resident_bytes": 50e6,
    "row_step": 8.0,
    "least_rows": 64.0,
    "granularity": 1.0,
    "panel_copies": 0.0,
}
PASS = {"quantise.fixed_s": 7e-6, "quantise.memory_efficiency": 0.4, "quantise.row_unit_s": 8e-7}
# One start each: the made-up rows have one optimum.
QUICK = tuple(replace(f, start=f.start[:1]) for f in FREE)
FIXED = {name: TRUTH[name] for name in TRUTH if name not in {f.name for f in FREE}}


def made_up(quantised: bool = False, seed: int = 5) -> KernelSamples:
    """Products on an H100 under the truth, with 2 % of noise."""
    random = np.random.default_rng(seed)
    m = np.round(2.0 ** random.uniform(0, 15, N))
    n, k = (256.0 * random.integers(1, 60, N) for _ in range(2))
    k = np.where(
        random.random(N) < 0.2, 32.0 * random.integers(1, 8, N), k
    )  # some too short for the pipeline
    width = 1.0 if quantised else 2.0
    blank = KernelSamples(
        family="matmul",
        inputs={
            "batch": np.ones(N),
            "m": m,
            "n": n,
            "k": k,
            "flop": 2.0 * m * n * k,
            "moved_bytes": width * (m * k + n * k) + 2.0 * m * n,
            "operand_bytes": np.full(N, width),
            "second_operand_bytes": np.full(N, width),
            "quantise_bytes": 3.0 * m * k * quantised,
            **product_figures(load_accelerator("h100-sxm"), "fp8" if quantised else "bf16", N),
        },
        measured_s=np.ones(N),
        stack=np.array(["made-up"] * N),
        size_class=matmul_class(np.ones(N), m, n, k),
        group=np.array([f"{a:.0f}x{b:.0f}" for a, b in zip(n, k, strict=True)]),
        other_s=np.zeros(N),
        rounding_s=np.zeros(N),
        row=np.arange(N),
    )
    truth = {**TRUTH, **(PASS if quantised else {})}
    return replace(blank, measured_s=gemm_seconds(blank, truth) * np.exp(NOISE * random.standard_normal(N)))


def test_coefficients_are_found() -> None:
    samples = made_up()
    found = fit_gemm_rows(samples, source="made up for a test", fixed=FIXED, free=QUICK)
    # Tails, tiles and the ramp trade against each other; what they trade is small.
    loose = {"sharpness": 0.3, "tail": 0.5, "memory_ramp_s": 0.5, "split_s": 0.3, "tile_s": 0.3}
    for name, value in TRUTH.items():
        assert found.coefficients[name] == pytest.approx(value, rel=loose.get(name, 0.06)), name
    exact = gemm_seconds(samples, TRUTH)
    assert np.abs(found.predicted_s() / exact - 1).mean() < 0.006
    # |N(0, 2 %)| has a mean of 1.6 %.
    assert max(found.gemm.error.values()) < 1.4 * 0.8 * NOISE
    assert found.gemm.rows == int((~samples.left_out).sum()) < N


def test_a_pass_before_the_product_is_told_apart() -> None:
    samples = made_up(quantised=True)
    # The rest is known from products in 16 bits.
    free = [f for f in QUICK if f.name in ("compute_efficiency", "memory_efficiency", "sharpness", "tile_s")]
    found = fit_gemm_rows(samples, source="made up for a test", fixed=TRUTH, free=free, quantised=True)
    for name, value in PASS.items():
        assert found.coefficients[name] == pytest.approx(value, rel=0.1), name
    assert found.quantise is not None and found.quantise.error == found.gemm.error


def test_left_out_pairs_change_no_coefficient() -> None:
    samples = made_up()
    bent = replace(samples, measured_s=samples.measured_s * np.where(samples.left_out, 3.0, 1.0))
    free = [f for f in FREE if f.name in ("compute_efficiency", "memory_efficiency", "fixed_s")]
    first, second = (
        fit_gemm_rows(s, source="made up for a test", fixed=TRUTH, free=free) for s in (samples, bent)
    )
    assert first.coefficients == second.coefficients
    assert second.gemm.error["decode_left_out"] > 0.5


def table(folder: Path, rows: Sequence[dict[str, object]]) -> None:
    usual = {
        "framework": "vllm", "version": "1", "batch": 1, "quality": "ok", "weights_rotated": True, "latency_us": 10.0,
    }  # fmt: skip
    frame = pd.DataFrame([{**usual, **row} for row in rows])
    frame.astype({name: "int32" for name in ("batch", "m", "n", "k")}).to_parquet(
        folder / "kernels_gemm.parquet"
    )


def test_work_is_counted_by_hand(tmp_path: Path) -> None:
    rows = [
        {"device": "h100_sxm", "dtype": "fp8", "m": 65536, "n": 8192, "k": 4096},
        {"device": "h100_sxm", "dtype": "bf16", "m": 16, "n": 8192, "k": 4096},
        {
            "device": "h100_sxm",
            "dtype": "bf16",
            "m": 1,
            "n": 64,
            "k": 32,
            "quality": "suspect_above_hbm_peak",
        },
        {"device": "a100_sxm", "dtype": "int4_wo", "m": 4, "n": 1024, "k": 2048},
        {
            "device": "Tesla T4",
            "dtype": "fp32",
            "m": 4096,
            "n": 128,
            "k": 64,
            "batch": 65536,
            "version": "bmm",
        },
        {"device": "b60", "dtype": "fp8", "m": 4, "n": 1024, "k": 2048},
    ]
    table(tmp_path, rows)
    narrow8 = gemm_samples(tmp_path, "h100-sxm", "fp8")
    assert narrow8.inputs["flop"].tolist() == [2.0 * 65536 * 8192 * 4096]  # far above 2^31
    assert narrow8.inputs["moved_bytes"].tolist() == [65536 * 4096 + 8192 * 4096 + 2 * 65536 * 8192]
    assert narrow8.inputs["quantise_bytes"].tolist() == [3 * 65536 * 4096]
    # 132 units, 1.83 GHz, 8,192 FLOP a clock
    assert narrow8.inputs["peak_flop_per_s"].tolist() == [pytest.approx(132 * 1.83e9 * 8192)]
    wide = gemm_samples(tmp_path, "h100-sxm", "bf16")
    assert wide.group.tolist() == ["8192x4096"] and not wide.inputs["quantise_bytes"].any()
    packed = gemm_samples(tmp_path, "a100-sxm-80gb", "int4_wo")
    # 16-bit activations and results, weights of half a byte and 2 bytes for 128 of them
    expected = 2 * 4 * 2048 + (0.5 + 2 / 128) * 1024 * 2048 + 2 * 4 * 1024
    assert packed.inputs["moved_bytes"].tolist() == [expected]
    assert packed.inputs["second_operand_bytes"].tolist() == [0.5 + 2 / 128]
    batched = gemm_samples(tmp_path, "t4", "fp32", family="batched_matmul")
    assert batched.group.tolist() == ["4096x128x64"]
    assert batched.inputs["moved_bytes"].tolist() == [4.0 * 65536 * (4096 * 64 + 64 * 128 + 4096 * 128)]
    # No units for fp8: weights are stored in it, products run in bf16.
    stored = gemm_samples(tmp_path, "arc-b60", "fp8")
    assert stored.inputs["operand_bytes"].tolist() == [2.0] and not stored.inputs["quantise_bytes"].any()
    with pytest.raises(ValueError, match="no fp8 row of a100-sxm-80gb"):
        gemm_samples(tmp_path, "a100-sxm-80gb", "fp8")


def test_warm_weights_of_a_large_cache_do_not_count_as_moved(tmp_path: Path) -> None:
    usual = {"device": "rtx_pro_6000_server", "dtype": "bf16", "m": 1}
    rows = [{**usual, "n": 2048, "k": 4096}, {**usual, "n": 8192, "k": 4096}]
    table(tmp_path, [*rows, {**rows[1], "weights_rotated": False}])
    moved = gemm_samples(tmp_path, "rtx-pro-6000", "bf16").inputs["moved_bytes"]
    # 17 MB are under a sixth of 128 MiB; 67 MB are not, but a single copy of them is under 128 MiB.
    assert moved.tolist() == [2 * (4096 + 2048), 2 * (4096 + 8192 + 8192 * 4096), 2 * (4096 + 8192)]


def test_steps_of_tiles() -> None:
    assert tile_steps("hopper") == {"row_step": 8.0, "least_rows": 64.0}
    assert tile_steps("ampere") == {"row_step": 64.0, "least_rows": 64.0}
    assert tile_steps("ampere", "int4_wo") == {"row_step": 8.0, "least_rows": 16.0}


def left_out_errors(
    calibration: str, accelerator: str, dtype: str, stacks: Sequence[str]
) -> dict[str, float]:
    """MAPE of shipped coefficients on left-out pairs with n and k of at least 512 [1]."""
    kernels, table_dtype = load_calibration(calibration).kernels, {"int8": "sq"}.get(dtype, dtype)
    samples = gemm_samples(MEASUREMENTS, accelerator, table_dtype, stacks)
    coefficients = kernels.own("matmul")[dtype].coefficients()
    if samples.inputs["quantise_bytes"].any():
        narrowing = kernels.own("quantise")[dtype].coefficients()
        coefficients |= {f"quantise.{name}": value for name, value in narrowing.items()}
    rows, off = samples.inputs["m"], np.abs(gemm_seconds(samples, coefficients) / samples.measured_s - 1)
    apart = samples.left_out & ~narrow(samples)
    classes = {"all": rows > 0, "m >= 512": rows >= 512, "m <= 64": rows <= 64}
    return {name: float(off[apart & where].mean()) for name, where in classes.items()}


@measured
@pytest.mark.parametrize(
    ("calibration", "accelerator", "dtype", "stack", "limits"),
    [
        ("h100-sxm-vllm", "h100-sxm", "bf16", "vllm", (0.065, 0.075, 0.055)),
        ("h100-sxm-trtllm", "h100-sxm", "bf16", "trtllm", (0.055, 0.065, 0.05)),
        ("h100-sxm-sglang", "h100-sxm", "bf16", "sglang", (0.065, 0.075, 0.055)),
        ("a100-sxm-vllm", "a100-sxm-80gb", "bf16", "vllm", (0.07, 0.05, 0.07)),
        ("a100-sxm-trtllm", "a100-sxm-80gb", "bf16", "trtllm", (0.065, 0.055, 0.055)),
        ("h100-sxm-trtllm", "h100-sxm", "fp8", "trtllm", (0.05, 0.05, 0.05)),
        ("h100-sxm-vllm", "h100-sxm", "fp8", "vllm", (0.20, 0.20, 0.11)),
    ],
)
def test_shipped_coefficients_hold_on_left_out_pairs(
    calibration: str, accelerator: str, dtype: str, stack: str, limits: tuple[float, float, float]
) -> None:
    found = left_out_errors(calibration, accelerator, dtype, (stack,))
    for (name, error), limit in zip(found.items(), limits, strict=True):
        assert error < limit, (name, found)


@measured
def test_mean_over_stacks_holds_against_their_geometric_mean() -> None:
    samples = gemm_samples(MEASUREMENTS, "h100-sxm", "bf16")
    coefficients = load_calibration("h100-sxm-serving").kernels.own("matmul")["bf16"].coefficients()
    frame = pd.DataFrame({name: samples.inputs[name] for name in ("m", "n", "k")}).assign(
        measured=np.log(samples.measured_s),
        predicted=np.log(gemm_seconds(samples, coefficients)),
        apart=samples.left_out & ~narrow(samples),
        stacks=1,
    )
    shapes = frame.groupby(["m", "n", "k"], as_index=False).agg(
        measured=("measured", "mean"),
        predicted=("predicted", "mean"),
        apart=("apart", "all"),
        stacks=("stacks", "sum"),
    )
    shapes = shapes[shapes.apart & (shapes.stacks == 3)]
    off = np.abs(np.expm1(shapes.predicted - shapes.measured))
    limits = ((shapes.m > 0, 0.053), (shapes.m >= 512, 0.055), (shapes.m <= 64, 0.045))
    for where, limit in limits:
        assert where.sum() > 20 and off[where].mean() < limit, off[where].mean()


@measured
def test_fits_are_reproduced() -> None:
    shipped = load_calibration("a100-sxm-trtllm").kernels.own("matmul")["bf16"].coefficients()
    found = fit_gemm(MEASUREMENTS, "a100-sxm-80gb", "bf16", ("trtllm",)).gemm.coefficients()
    assert found == pytest.approx(shipped, rel=0.02, abs=1e-9)

"""Fits of memory-bound kernels, and of layer sums: coefficients are found back from tables that they made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardware_specs.kernel_fits import GemmFit, StreamingFit
from simulator.fitting.devices import A100
from simulator.fitting.fit_streaming import fit_streaming, fit_streaming_families
from simulator.fitting.layer_sums import OPERATORS_OF_A_LAYER, layer_rows, layer_sums, stack_factor
from simulator.fitting.measured_streaming import (
    EAGER_READS,
    LAYER_FAMILIES,
    eager_samples,
    layer_samples,
)
from simulator.fitting.samples import KernelSamples, predict_samples

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

BANDWIDTH = 1.5e12
PLAIN = {
    **StreamingFit.ideal(),
    "resident_row_bytes": 1e12,
    "resident_bytes": 1e15,
    "read_efficiency": 0.85,
    "write_efficiency": 0.93,
}
TRUTH = {
    "pointwise": {**PLAIN, "fixed_s": 17e-6},
    "activation": {**PLAIN, "fixed_s": 17e-6},
    "layer_norm": {
        **PLAIN,
        "fixed_s": 30e-6,
        "rereads": 1.0,
        "resident_row_bytes": 13e3,
        "row_sharpness": 5.0,
    },
    "softmax": {**PLAIN, "fixed_s": 20e-6, "rereads": 2.0, "resident_row_bytes": 40e3, "row_sharpness": 3.0},
}
LAYER_TRUTH = {
    **PLAIN,
    "read_efficiency": 0.4,
    "write_efficiency": 0.4,
    "fixed_s": 2e-6,
    "saturating_rows": 120.0,
}
PRODUCTS = {
    # Plain products: no tiles, splits or ramps beside the four numbers.
    **GemmFit.ideal(),
    "compute_efficiency": 0.6,
    "memory_efficiency": 0.8,
    "fixed_s": 5e-6,
    "sharpness": 2.0,
}


def timed(samples: KernelSamples, truth: dict[str, float], noise: float = 0.01) -> np.ndarray:
    """Seconds of samples under the truth, with noise."""
    random = np.random.default_rng(7)
    return predict_samples(samples, truth) * np.exp(noise * random.standard_normal(len(samples)))


@pytest.fixture
def eager_folder(tmp_path: Path) -> Path:
    """A table of eager kernels of one device, made by the truth."""
    frame = pd.DataFrame(
        [
            {"device": "made up", "op": op, "dtype": "fp32", "rows": rows, "cols": cols, "latency_us": 1.0}
            for op in ("add", "addu", "gelu", "relu", "ln", "softmax")
            for rows in (2**13, 2**15, 2**17, 2**18)
            for cols in (768, 1024, 1280, 2048, 3072, 4096, 6400, 8192, 12288, 16384)
        ]
    )
    frame.to_parquet(tmp_path / "kernels_elementwise.parquet")
    for family, reads in EAGER_READS.items():
        samples = eager_samples(tmp_path, "made up", BANDWIDTH, family)
        if family not in TRUTH or family == "activation":
            continue  # no row here, or its operators are among the plain ones
        chosen = frame.op.isin(tuple(reads))
        frame.loc[chosen, "latency_us"] = timed(samples, TRUTH[family]) * 1e6
    frame.to_parquet(tmp_path / "kernels_elementwise.parquet")
    return tmp_path


def test_reads_and_writes_are_told_apart(eager_folder: Path) -> None:
    samples = eager_samples(eager_folder, "made up", BANDWIDTH, "pointwise")
    fit = fit_streaming(samples, source="made up for a test")
    assert fit.read_efficiency == pytest.approx(0.85, rel=0.03)
    assert fit.write_efficiency == pytest.approx(0.93, rel=0.04)
    assert fit.fixed_s == pytest.approx(17e-6, rel=0.1)
    assert fit.error["large_left_out"] < 0.02
    one = samples.where(samples.inputs["read_bytes"] == samples.inputs["written_bytes"])
    tied = fit_streaming(one, source="made up for a test")
    assert tied.read_efficiency == tied.write_efficiency  # rows of one kind cannot tell


@pytest.mark.parametrize("family", ["layer_norm", "softmax"])
def test_the_row_that_leaves_the_cache_is_found(eager_folder: Path, family: str) -> None:
    plain = StreamingFit.of(PLAIN, basis="assumed", source="made up for a test")
    samples = eager_samples(eager_folder, "made up", BANDWIDTH, family)
    fit = fit_streaming(samples, source="made up for a test", like=plain)
    assert (fit.read_efficiency, fit.write_efficiency) == (0.85, 0.93)
    assert fit.resident_row_bytes == pytest.approx(TRUTH[family]["resident_row_bytes"], rel=0.05)
    assert fit.rereads == TRUTH[family]["rereads"]
    assert fit.error["large_left_out"] < 0.02


def layer_table(factor: float = 1.0, products: dict[str, float] = PRODUCTS) -> pd.DataFrame:
    """Layers of three made-up models on A100 with every operator; times to be filled in."""
    shapes = {"one": (4096, 11008, 32, 32), "two": (8192, 22016, 64, 8), "three": (4096, 14336, 32, 8)}
    operators = [*(op for ops in LAYER_FAMILIES.values() for op in ops), *PROJECTIONS]
    return pd.DataFrame(
        [
            {
                "device": A100.layer_table, "model": model, "tp": tp, "tokens": tokens, "op": op, "median_us": 1.0,
                "hidden": hidden, "ffn": ffn, "heads": heads, "kv_heads": kv_heads, "vocab": 32768, "gated": True,
            }
            for model, (hidden, ffn, heads, kv_heads) in shapes.items()
            for tp in (1, 2)
            for tokens in (1, 16, 64, 256, 512, 1024, 4096)
            for op in operators
        ]
    )  # fmt: skip


PROJECTIONS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")


@pytest.fixture
def layer_folder(tmp_path: Path) -> Path:
    """A layer table whose products follow PRODUCTS and whose other operators follow LAYER_TRUTH."""
    frame = layer_table()
    path = tmp_path / "layer_ops.parquet"
    frame.to_parquet(path)
    from simulator.fitting.layer_sums import layer_product_samples

    parts = [(layer_product_samples(tmp_path, A100), PRODUCTS)]
    for family in LAYER_FAMILIES:
        flat = {**LAYER_TRUTH, "saturating_rows": 0.0}
        samples = layer_samples(tmp_path, A100.layer_table, A100.bandwidth_bytes_per_s, family)
        parts.append((samples, flat if family in ("pointwise", "embedding") else LAYER_TRUTH))
    for samples, truth in parts:
        frame.loc[samples.row, "median_us"] = timed(samples, truth, noise=0.002) * 1e6
    frame.to_parquet(path)
    return tmp_path


def test_rows_that_occupy_the_device_are_found(layer_folder: Path) -> None:
    samples = layer_samples(layer_folder, A100.layer_table, A100.bandwidth_bytes_per_s, "rms_norm")
    assert set(samples.stack) == {"layer-input_layernorm", "layer-post_attention_layernorm"}
    fit = fit_streaming(samples, source="made up for a test", by_row=True)
    assert fit.saturating_rows == pytest.approx(120.0, rel=0.05)
    assert fit.read_efficiency == pytest.approx(0.4, rel=0.03)
    assert fit.fixed_s == pytest.approx(2e-6, rel=0.1)


def test_work_of_layer_operators_by_hand(layer_folder: Path) -> None:
    """4096 tokens of 4096 in fp16; an activation of 11008 reads two tensors, rotary turns 32 + 32 heads of 128."""
    for family, read, written in (
        ("pointwise", 2 * 2 * 4096 * 4096, 2 * 4096 * 4096),
        ("activation", 2 * 2 * 4096 * 11008, 2 * 4096 * 11008),
        ("rotary", 2 * 4096 * 64 * 128, 2 * 4096 * 64 * 128),
        ("rms_norm", 2 * 4096 * 4096, 2 * 4096 * 4096),
    ):
        samples = layer_samples(layer_folder, A100.layer_table, A100.bandwidth_bytes_per_s, family)
        here = (samples.group == "one/1") & (samples.inputs["rows"] == 4096)
        assert set(samples.inputs["read_bytes"][here]) == {float(read)}, family
        assert set(samples.inputs["written_bytes"][here]) == {float(written)}, family


def test_products_of_another_stack_are_carried_over_by_one_factor(layer_folder: Path) -> None:
    rows = layer_rows(layer_folder, A100)
    own = layer_sums(rows, PRODUCTS)
    assert len(own.measured_s) == 3 * 2 * 7 and set(own.size_class) == {"decode", "middle", "prefill"}
    assert np.abs(own.log_ratio()).mean() < 0.01
    found = stack_factor(rows, {**PRODUCTS, "compute_efficiency": 0.75})
    assert found.factor == pytest.approx(0.8)
    assert found.by_model == {"one": 0.8, "two": 0.8, "three": 0.8}
    assert found.unscaled["prefill"] > 0.1 > 0.02 > found.left_out["prefill"]
    assert found.left_out["decode"] < 0.02


def test_a_model_does_not_fit_the_factor_that_it_is_scored_with(layer_folder: Path) -> None:
    frame = pd.read_parquet(layer_folder / "layer_ops.parquet")
    frame.loc[(frame.model == "three") & frame.op.isin(PROJECTIONS), "median_us"] *= 1.5
    frame.to_parquet(layer_folder / "layer_ops.parquet")
    found = stack_factor(layer_rows(layer_folder, A100), PRODUCTS)
    assert found.by_model["three"] == 1.0 and found.left_out["prefill"] > found.fitted["prefill"]


def test_a_layer_without_all_operators_is_no_sum(layer_folder: Path) -> None:
    frame = pd.read_parquet(layer_folder / "layer_ops.parquet")
    gone = (frame.op == "mlp_act") & (frame.tokens == 64)
    frame[~gone].reset_index(drop=True).to_parquet(layer_folder / "layer_ops.parquet")
    sums = layer_sums(layer_rows(layer_folder, A100), PRODUCTS)
    assert len(sums.measured_s) == 3 * 2 * 6
    assert OPERATORS_OF_A_LAYER == 9


def test_families_of_a_device_say_what_they_are(eager_folder: Path, layer_folder: Path) -> None:
    """Both tables are in one folder: plain kernels take efficiencies from the eager rows, fixed cost from layers."""
    frame = pd.read_parquet(eager_folder / "kernels_elementwise.parquet")
    frame["device"] = "NVIDIA A100-PCIE-40GB"
    frame.to_parquet(eager_folder / "kernels_elementwise.parquet")
    for task, reads in (("training", 0.85), ("inference", 0.4)):
        found = {f.family: f.fit for f in fit_streaming_families(layer_folder, A100, task)}
        assert next(iter(found)) == "pointwise"
        assert found["pointwise"].fixed_s == pytest.approx(2e-6, rel=0.2)
        assert found["pointwise"].read_efficiency == pytest.approx(0.85 * BANDWIDTH / 1.555e12, rel=0.03)
        # Plain activations in training, gated ones with a block per token in serving.
        expected = 0.88 * BANDWIDTH / 1.555e12 if task == "training" else reads
        assert found["activation"].read_efficiency == pytest.approx(expected, rel=0.03)
        assert found["optimizer"].basis == "assumed" and found["rms_norm"].basis == "measured"


def test_neutral_coefficients_are_the_defaults_of_the_class() -> None:
    plain = StreamingFit.of(
        {"read_efficiency": 0.5, "write_efficiency": 0.5, "fixed_s": 0.0},
        basis="assumed",
        source="made up for a test",
    )
    assert plain.rereads == plain.saturating_rows == 0.0

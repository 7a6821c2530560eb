"""Attention, elementwise and MoE tables of a user: coefficients that made them come back through the command."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardware_specs import CalibrationSpec, load_accelerator, load_calibration
from simulator import cli
from simulator.fitting.fit_moe import moe_layer_seconds
from simulator.fitting.measured_attention import AttentionDevice, AttentionRows, attention_samples
from simulator.fitting.measured_moe import moe_rows
from simulator.fitting.measured_streaming import eager_samples
from simulator.fitting.samples import KernelSamples, predict_samples

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

BOARD = "a100-sxm-80gb"
SIBLING = "a100-sxm-serving"
NOISE = 0.01


def calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame: pd.DataFrame, *more: str
) -> CalibrationSpec:
    data, out = tmp_path / "table.csv", tmp_path / "mine.yaml"
    frame.to_csv(data, index=False)
    arguments = ["calibrate", "--data", str(data), "--device", BOARD, "--out", str(out), *more]
    monkeypatch.setattr(sys, "argv", ["llmsim", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    return load_calibration(out)


def noisy(seconds: np.ndarray, seed: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    return seconds * np.exp(NOISE * random.standard_normal(seconds.shape)) * 1e6


def close(samples: KernelSamples, found: dict[str, float], truth: dict[str, float]) -> None:
    """Both sets of coefficients give the same times: some of them are only known together."""
    ratio = predict_samples(samples, found) / predict_samples(samples, truth)
    assert np.abs(ratio - 1).max() < 0.05
    assert np.abs(ratio - 1).mean() < 0.01


def elementwise(count: int = 240) -> pd.DataFrame:
    random = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "device": BOARD,
            "op": random.choice(["add", "tanh", "mul"], count),
            "dtype": random.choice(["fp32", "bf16"], count),
            "rows": 2 ** random.integers(4, 16, count),
            "cols": 128 * random.integers(1, 65, count),
            "latency_us": 1.0,
        }
    )


def test_elementwise_of_two_widths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = {**load_calibration(SIBLING).kernels.own("pointwise")["any"].coefficients()}
    truth |= {"read_efficiency": 0.7, "write_efficiency": 0.8, "fixed_s": 4e-6}
    frame = elementwise()
    plain = frame.assign(framework="torch", version="")
    bandwidth = load_accelerator(BOARD).memory_bandwidth.value
    samples = eager_samples({"kernels_elementwise": plain}, BOARD, bandwidth, "pointwise", ("fp32", "bf16"))
    assert len(samples) == len(frame)
    frame["latency_us"] = noisy(predict_samples(samples, truth))
    mine = calibrated(tmp_path, monkeypatch, frame)
    fit = mine.kernels.own("pointwise")["any"]
    assert fit.basis == "measured"
    assert fit.coefficients()["read_efficiency"] == pytest.approx(0.7, rel=0.03)
    assert fit.coefficients()["write_efficiency"] == pytest.approx(0.8, rel=0.06)
    assert fit.coefficients()["fixed_s"] == pytest.approx(4e-6, rel=0.05)
    close(samples, fit.coefficients(), truth)


def attention(phase: str, count: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(3)
    prefill = phase == "prefill"
    length = 2 ** random.integers(5, 14, count)
    groups = 2 ** random.integers(0, 4, count)
    heads = 8 * 2 ** random.integers(0, 4, count)
    return pd.DataFrame(
        {
            "device": BOARD,
            "framework": "vllm",
            "version": "1",
            "phase": phase,
            "dtype": "bf16",
            "batch": 2 ** random.integers(0, 5, count),
            "q_len": length if prefill else 1,
            "kv_len": length,
            "heads": heads,
            "kv_heads": np.maximum(heads // groups, 1),
            "head_dim": random.choice([64, 128], count),
            "latency_us": 1e9,  # until it is known: a row that beats the memory is left away
        }
    )


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_attention(phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = dict(load_calibration(SIBLING).kernels.own(f"attention_{phase}")["bf16"].coefficients())
    frame = attention(phase)
    device = AttentionDevice(table=BOARD, accelerator=BOARD)
    plain = frame.assign(kind="gqa", kv_dtype="bf16", quality="ok")
    samples = attention_samples(
        {"kernels_attention": plain}, AttentionRows(device=device, phase=phase, dtype="bf16")
    )
    assert len(samples) > 0.9 * len(frame)
    frame = frame.iloc[samples.row].assign(latency_us=noisy(predict_samples(samples, truth)))
    mine = calibrated(tmp_path, monkeypatch, frame, "--task", "inference")
    fit = mine.kernels.own(f"attention_{phase}")["bf16"]
    assert fit.basis == "measured" and fit.rows < len(frame)
    ratio = predict_samples(samples, fit.coefficients()) / predict_samples(samples, truth)
    assert np.abs(ratio - 1).mean() < 0.03


def moe(count: int = 500) -> pd.DataFrame:
    random = np.random.default_rng(4)
    shapes = [(2048, 1024, 64), (4096, 2048, 64), (4096, 1536, 128), (7168, 2048, 256), (2048, 768, 128)]
    pick = random.integers(0, len(shapes), count)
    hidden, inter, experts = (np.array([shape[i] for shape in shapes])[pick] for i in range(3))
    return pd.DataFrame(
        {
            "device": BOARD,
            "dtype": "bf16",
            "tokens": 2 ** random.integers(0, 15, count),
            "hidden": hidden,
            "inter": inter,
            "topk": random.choice([4, 8], count),
            "experts": experts,
            "moe_tp": random.choice([1, 2], count),
            "moe_ep": random.choice([1, 4, 8], count),
            "latency_us": 1.0,
        }
    )


def test_moe_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = load_calibration(SIBLING).kernels
    truth = {
        **{f"grouped.{k}": v for k, v in kernels.own("grouped_matmul")["bf16"].coefficients().items()},
        **{f"dispatch.{k}": v for k, v in kernels.own("moe_dispatch")["bf16"].coefficients().items()},
    }
    frame = moe()
    plain = frame.assign(framework="", version="", kernel="", distribution="balanced", gated=True)
    layers = moe_rows({"kernels_moe": plain}, BOARD, "bf16")
    frame["latency_us"] = noisy(moe_layer_seconds(layers, truth))
    mine = calibrated(tmp_path, monkeypatch, frame)
    found = {
        **{f"grouped.{k}": v for k, v in mine.kernels.own("grouped_matmul")["bf16"].coefficients().items()},
        **{f"dispatch.{k}": v for k, v in mine.kernels.own("moe_dispatch")["bf16"].coefficients().items()},
    }
    ratio = moe_layer_seconds(layers, found) / moe_layer_seconds(layers, truth)
    assert np.abs(ratio - 1).mean() < 0.02


def test_few_attention_rows_like_a_sibling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = load_calibration(SIBLING).kernels.own("attention_decode")["bf16"]
    truth = {**sibling.coefficients(), "memory_efficiency": 0.6}
    frame = attention("decode", 300)
    device = AttentionDevice(table=BOARD, accelerator=BOARD)
    plain = frame.assign(kind="gqa", kv_dtype="bf16", quality="ok")
    samples = attention_samples(
        {"kernels_attention": plain}, AttentionRows(device=device, phase="decode", dtype="bf16")
    )
    frame = frame.iloc[samples.row].assign(latency_us=noisy(predict_samples(samples, truth)))
    mine = calibrated(tmp_path, monkeypatch, frame.iloc[:30], "--like", SIBLING)
    fit = mine.kernels.own("attention_decode")["bf16"]
    close(samples, fit.coefficients(), truth)
    assert fit.coefficients()["stream_fraction"] == sibling.coefficients()["stream_fraction"]

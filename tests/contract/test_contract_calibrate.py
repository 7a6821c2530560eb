"""`llmsim calibrate`: coefficients that made a table come back, and a table that is wrong is refused as a whole."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hardware_specs import CalibrationSpec, load_accelerator, load_calibration
from simulator import simulate
from simulator.fitting.measured_gemm import gemm_samples
from simulator.kernels.models import KERNEL_MODELS

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

REPOSITORY = Path(__file__).resolve().parents[2]
MEASUREMENTS = Path(os.environ.get("LLMSIM_MEASUREMENTS", REPOSITORY.parent / "shared" / "measurements"))
# What a made-up table of products comes from: the coefficients of the family as they are in a shipped calibration,
# some of them changed. The test holds for any closed form that the family runs on.
SIBLING = "a100-sxm-serving"
FILE = "gemms.csv"


def matmul_truth(**changes: float) -> dict[str, float]:
    fit = load_calibration(SIBLING).kernels.own("matmul")["bf16"]
    return {**fit.coefficients(), **changes}


def gemms(truth: Mapping[str, float], count: int = 600, seed: int = 1, dtype: str = "bf16") -> pd.DataFrame:
    """Products of a language model on an A100 under some coefficients, with 1 % of noise."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "device": "a100_sxm",
            "framework": "vllm",
            "version": "0.1",
            "dtype": dtype,
            "batch": 1,
            "m": 2 ** random.integers(0, 14, count),
            "n": 1024 * random.integers(1, 17, count),
            "k": 1024 * random.integers(1, 17, count),
            "latency_us": 1.0,
        }
    )
    board = load_accelerator("a100-sxm-80gb")
    plain = frame.assign(device=board.name, quality="ok", weights_rotated=True)
    samples = gemm_samples({"kernels_gemm": plain}, board, dtype)
    model = KERNEL_MODELS["matmul"]
    inputs = {name: v for name, v in samples.inputs.items() if name in model.inputs}
    seconds = model.rule(**inputs, **{name: np.full(1, v) for name, v in truth.items()})
    noise = np.exp(0.01 * random.standard_normal(count))
    return frame.assign(latency_us=(seconds * noise * 1e6).round(4))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / FILE
    gemms(matmul_truth()).to_csv(path, index=False)
    return path


@pytest.fixture
def calibrate(llmsim, tmp_path: Path):
    """``calibrate(*arguments)`` with an output file; nothing may stay behind a refusal."""
    out = tmp_path / "mine.yaml"

    def call(*arguments: object) -> Any:
        before = sorted(tmp_path.rglob("*"))
        found = llmsim("calibrate", "--out", out, *arguments)
        if found.status:
            assert found.status == 2
            assert sorted(tmp_path.rglob("*")) == before, "a refusal writes nothing"
            assert not found.out
        return found

    return call


def read(tmp_path: Path) -> CalibrationSpec:
    return load_calibration(tmp_path / "mine.yaml")


def predicted(fit: Any, frame: pd.DataFrame) -> np.ndarray:
    """Seconds of the table's rows under a fit."""
    board = load_accelerator("a100-sxm-80gb")
    plain = frame.assign(device=board.name, quality="ok", weights_rotated=True)
    samples = gemm_samples({"kernels_gemm": plain}, board, str(frame["dtype"].iloc[0]))
    model = KERNEL_MODELS["matmul"]
    inputs = {name: v for name, v in samples.inputs.items() if name in model.inputs}
    return model.rule(**inputs, **{name: np.full(1, v) for name, v in fit.coefficients().items()})


def test_coefficients_come_back(calibrate, table: Path, tmp_path: Path) -> None:
    truth = matmul_truth(compute_efficiency=0.66, memory_efficiency=0.8)
    frame = gemms(truth)
    frame.to_csv(table, index=False)
    found = calibrate("--data", table, "--device", "a100_sxm", "--name", "mine", "--task", "inference")
    assert found.status == 0, found.err
    assert "matmul bf16" in found.out and "system.calibration: " in found.out
    mine = read(tmp_path)
    fit = mine.kernels.own("matmul")["bf16"]
    assert fit.coefficients()["compute_efficiency"] == pytest.approx(0.66, rel=0.02)
    assert fit.coefficients()["memory_efficiency"] == pytest.approx(0.8, rel=0.03)
    exact = predicted(type(fit).of(truth, basis="measured", source="made up for a test"), frame)
    assert np.abs(predicted(fit, frame) / exact - 1).max() < 0.04  # noise of 1 %, 600 rows
    # What the file says of itself.
    assert (mine.name, mine.tasks, mine.stack) == ("mine", ["inference"], "vllm-0.1")
    assert mine.applies_to == ["a100-sxm-80gb"] and mine.date.startswith("20")
    assert FILE in fit.source and "vllm-0.1" in fit.source
    assert fit.basis == "measured" and 0 < fit.rows < 600  # some are left out
    assert set(fit.error) > {"decode", "decode_left_out", "large", "large_left_out"}
    assert fit.spread["all"] < 0.03
    assert mine.kernels.own("matmul")["fp16"].coefficients() == fit.coefficients()
    # Nothing else was measured.
    others = [f for name, own in mine.kernels.by_family().items() if name != "matmul" for f in own.values()]
    assert {f.basis for f in others} <= {"assumed", "derived"} and not any(f.rows for f in others)


def test_a_run_uses_the_file_and_says_fitted(calibrate, llmsim, table: Path, tmp_path: Path) -> None:
    assert calibrate("--data", table, "--device", "a100_sxm").status == 0
    scenario = tmp_path / "decode.yaml"
    text = (
        "model: llama-3.1-8b\ntask: {kind: decode, batch_size: 8, context_length: 1024}\n"
        "system: dgx-a100-80gb\ndevices: 1\n"
    )
    scenario.write_text(text)
    before = llmsim("run", scenario, "--format", "json").json()
    scenario.write_text(f"{text}system.calibration: mine.yaml\n")  # beside the scenario
    result = llmsim("run", scenario, "--format", "json").json()
    evidence = {op["name"]: op["evidence"] for op in result["operators"]}
    assert evidence["layer.qkv"] == "fitted"
    assert evidence["layer.attention"] == "assumed"
    interval = result["interval"]["step_time_s"]
    assert interval["low"] < result["step_time_s"] < interval["high"]
    assert result["step_time_s"] != before["step_time_s"]
    assert any("only matmul" in note for note in result["notes"])
    missing = llmsim("run", scenario, "--set", "system.calibration=other.yaml")
    assert missing.status == 2 and "other.yaml: does not exist" in missing.err
    # A file that has changed is read again.
    slow = gemms(matmul_truth())
    slow.assign(latency_us=slow["latency_us"] * 2).to_csv(table, index=False)
    assert calibrate("--data", table, "--device", "a100_sxm").status == 0
    again = llmsim("run", scenario, "--format", "json").json()
    assert again["step_time_s"] > 1.3 * result["step_time_s"]


@pytest.mark.parametrize("foreign", ["a100-sxm-serving", "a100-sxm-vllm", "a100-sxm-fsdp"])
def test_a_calibration_of_another_device_is_noted(foreign: str) -> None:
    scenario = {
        "model": "llama-3.1-8b",
        "task": {"kind": "decode", "batch_size": 1, "context_length": 128},
        "system": "dgx-h100",
        "devices": 1,
        "system.calibration": foreign,
    }
    guessed = simulate(scenario)
    assert any(f"calibration {foreign} is of a100-sxm-40gb" in note for note in guessed.notes)
    kernels = guessed.operators[guessed.operators["phase"] != "communication"]
    assert not (kernels["evidence"] == "fitted").any()
    at_home = simulate({**scenario, "system": "dgx-a100-80gb"})
    assert (at_home.operators["evidence"] == "fitted").any()

    def width(estimate: Any) -> float:
        step = estimate.interval["step_time_s"]
        return step["high"] / step["low"]

    # Fits moved to another generation are off by 12 to 23 % on average: a 90 % interval of a factor 1.5 each way.
    assert width(guessed) > max(1.4 * width(at_home), 1.9)
    for name in ("h100-sxm-serving", "h100-sxm-vllm"):
        own = simulate({**scenario, "system.calibration": name})
        assert not any("is of" in note for note in own.notes)


def test_few_rows_keep_the_curve_of_a_sibling(calibrate, table: Path, tmp_path: Path) -> None:
    truth = matmul_truth(compute_efficiency=0.6)
    frame = gemms(truth, count=400, seed=3)
    frame.iloc[:24].to_csv(table, index=False)
    refused = calibrate("--data", table, "--device", "a100_sxm")
    assert "matmul bf16 = 24" in refused.err and "needs 100" in refused.err and "--like" in refused.err
    found = calibrate("--data", table, "--device", "a100_sxm", "--like", SIBLING)
    assert found.status == 0, found.err
    fit = read(tmp_path).kernels.own("matmul")["bf16"]
    kept = {
        name: v for name, v in fit.coefficients().items() if name not in ("fixed_s", "feed_bytes_per_clock")
    }
    kept = {name: v for name, v in kept.items() if not name.endswith("_efficiency")}
    assert kept == {name: truth[name] for name in kept}  # the shape of the curve
    assert fit.coefficients()["compute_efficiency"] == pytest.approx(0.6, rel=0.05)
    off = np.abs(predicted(fit, frame) / (frame["latency_us"].to_numpy() * 1e-6) - 1)
    assert off.mean() < 0.05  # rows that it never saw
    sibling = load_calibration(SIBLING).kernels.own("matmul")["bf16"]
    assert fit.spread["all"] >= sibling.spread["all"]
    assert fit.rows == 24 and SIBLING in fit.source


def test_eleven_rows_are_refused_with_a_sibling_too(calibrate, table: Path) -> None:
    gemms(matmul_truth(), count=11).to_csv(table, index=False)
    found = calibrate("--data", table, "--device", "a100_sxm", "--like", SIBLING)
    assert "matmul bf16 = 11: rows are too few" in found.err and "12" in found.err


def edited(table: Path, **columns: Any) -> Path:
    frame = gemms(matmul_truth()).assign(**columns)
    frame.to_csv(table, index=False)
    return table


def with_cell(table: Path, row: int, column: str, value: object) -> Path:
    frame = gemms(matmul_truth()).astype({column: object})
    frame.loc[row - 1, column] = value
    frame.to_csv(table, index=False)
    return table


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (7, "latency_us", 0, f"{FILE}, row 7, column latency_us = 0: must be above 0"),
        (7, "latency_us", -3.5, f"{FILE}, row 7, column latency_us = -3.5: must be above 0"),
        (7, "latency_us", "fast", f"{FILE}, row 7, column latency_us = fast: must be a number"),
        (7, "latency_us", "", f"{FILE}, row 7, column latency_us: is blank"),
        (9, "m", 1.5, f"{FILE}, row 9, column m = 1.5: must be a whole number"),
        (2, "dtype", "bf16/fp8", f"{FILE}, row 2, column dtype = bf16/fp8: mixes types"),
        (
            2,
            "dtype",
            "bfloat16",
            f"{FILE}, row 2, column dtype = bfloat16: is no known type; did you mean bf16",
        ),
        (3, "device", "h1000", f"{FILE}, row 3, column device = h1000: is not a known device"),
        (
            4,
            "dtype",
            "nvfp4",
            "row 4, column dtype = nvfp4: a100-sxm-80gb has no matmul units for fp4 (1 rows)",
        ),
        # Weights may be stored in it.
        (4, "dtype", "fp8", "matmul fp8_wo = 1: rows are too few"),
    ],
)
def test_wrong_cells(calibrate, table: Path, row: int, column: str, value: object, message: str) -> None:
    found = calibrate("--data", with_cell(table, row, column, value), "--device", "a100_sxm")
    assert message in found.err


def test_a_missing_column(calibrate, table: Path) -> None:
    gemms(matmul_truth()).drop(columns="k").to_csv(table, index=False)
    found = calibrate("--data", table, "--device", "a100_sxm")
    assert FILE in found.err and "kernels_gemm" in found.err and "also needs k" in found.err


@pytest.mark.parametrize(
    ("factor", "unit", "times"),
    [
        (1e-3, "milliseconds", "about 1000 times too short"),
        (1e-6, "seconds", "about a million times too short"),
        (1e3, "nanoseconds", "about 1000 times too long"),
    ],
)
@pytest.mark.parametrize("small", [False, True])
def test_times_in_another_unit(
    calibrate, table: Path, factor: float, unit: str, times: str, small: bool
) -> None:
    frame = gemms(matmul_truth())
    if small and factor < 1:  # where all kernels are short, none is a multiple of its roofline
        frame = frame[frame["m"] <= 16]
    frame.assign(latency_us=frame["latency_us"] * factor).to_csv(table, index=False)
    found = calibrate("--data", table, "--device", "a100_sxm")
    assert times in found.err and unit in found.err and "column latency_us (such as row " in found.err


@pytest.mark.parametrize("factor", [1e-3, 1e-6, 1e6])
def test_some_rows_in_another_unit(calibrate, table: Path, factor: float) -> None:
    frame = gemms(matmul_truth())
    wrong = frame.index[100:140]  # too few for a median to show it
    frame.loc[wrong, "latency_us"] *= factor
    frame.to_csv(table, index=False)
    found = calibrate("--data", table, "--device", "a100_sxm")
    assert (
        f"{FILE}, row 101, column latency_us" in found.err and "another unit than the other rows" in found.err
    )
    assert "and 30 more cells are wrong" in found.err


def test_repeats_of_few_shapes_are_no_rows_of_a_fit(calibrate, table: Path) -> None:
    frame = gemms(matmul_truth())
    pd.concat([frame.head(3)] * 50).to_csv(table, index=False)
    found = calibrate("--data", table, "--device", "a100_sxm")
    assert "150 rows are repeats of 3 shapes: a fit needs 12 different ones" in found.err


def test_a_limit_on_errors_does_not_hold_where_nothing_is_scored(llmsim, tmp_path: Path) -> None:
    path = tmp_path / FILE
    gemms(matmul_truth(), count=5).assign(device="no-such-chip").to_csv(path, index=False)
    found = llmsim("validate", "--data", path, "--max-mape", 0.1)
    assert found.status == 1 and "no row was scored" in found.err


def test_every_mistake_at_once(calibrate, tmp_path: Path, table: Path) -> None:
    with_cell(table, 5, "latency_us", -1)
    other = tmp_path / "more.csv"
    gemms(matmul_truth()).drop(columns="latency_us").to_csv(other, index=False)
    found = calibrate(
        "--data", table, "--data", other, "--data", tmp_path / "none.csv",
        "--device", "a100-smx", "--like", "a100-sxm-servin", "--name", "My Name",
    )  # fmt: skip
    assert "a100-sxm" in found.err.split("--device = a100-smx")[1].splitlines()[0]  # near names
    for part in (
        "row 5, column latency_us", "also needs latency_us", "none.csv: does not exist",
        "--like = a100-sxm-servin: is an unknown calibration; did you mean a100-sxm-serving", "--name = My Name",
    ):  # fmt: skip
        assert part in found.err
    assert len(found.messages) == 6


def test_rows_of_other_devices_and_stacks(calibrate, table: Path, tmp_path: Path) -> None:
    frame = gemms(matmul_truth())
    slow = frame.assign(framework="sglang", latency_us=frame["latency_us"] * 1.5)
    pd.concat([frame, slow, frame.assign(device="b60", dtype="fp8")]).to_csv(table, index=False)
    assert calibrate("--data", table, "--device", "a100-sxm-80gb", "--stack", "vLLM 0.1, CUDA 13").status == 0
    alone = read(tmp_path)
    assert alone.stack == "vLLM 0.1, CUDA 13"
    assert calibrate("--data", table, "--device", "a100-sxm-80gb").status == 0
    both = read(tmp_path)
    assert both.stack == "sglang-0.1, vllm-0.1"
    assert both.kernels.own("matmul")["bf16"].common > alone.kernels.own("matmul")["bf16"].common
    found = calibrate("--data", table, "--device", "a100-sxm-80gb", "--stack", "trtllm")
    assert "--stack = trtllm" in found.err and "sglang, vllm" in found.err
    found = calibrate("--data", table, "--device", "h100-sxm")
    assert "--device = h100-sxm: has no row in the data" in found.err


def test_outputs_that_cannot_be_written(llmsim, table: Path, tmp_path: Path) -> None:
    arguments = ["calibrate", "--data", table, "--device", "a100_sxm", "--out"]
    for out, message in (
        (tmp_path / "mine.csv", "must end in .yaml"),
        (table / "mine.yaml", "is a file"),
        (tmp_path / "folder.yaml", "is a folder"),
        (tmp_path / "scenario.yaml", "exists and is no calibration"),
    ):
        (tmp_path / "folder.yaml").mkdir(exist_ok=True)
        (tmp_path / "scenario.yaml").write_text("model: llama-3.1-8b\n")
        found = llmsim(*arguments, out)
        assert found.status == 2 and message in found.err, found.err
    assert (tmp_path / "scenario.yaml").read_text() == "model: llama-3.1-8b\n"


def test_a_table_of_runs_is_no_table_of_kernels(calibrate, tmp_path: Path) -> None:
    path = tmp_path / "layers.csv"
    path.write_text("device,model,phase,seq,batch,measured_ms\nt4,bert-large,inference,512,1,9.1\n")
    found = calibrate("--data", path, "--device", "t4")
    assert "models_e2e: is a table that a fit cannot use" in found.err


def test_without_scipy(calibrate, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "scipy" else real(name, *a)
    )
    found = calibrate("--data", table, "--device", "a100_sxm")
    assert "needs scipy" in found.err and "llmsim[calibrate]" in found.err


@pytest.mark.skipif(
    not (MEASUREMENTS / "kernels_gemm.parquet").is_file(),
    reason=f"no measured tables in {MEASUREMENTS}; set LLMSIM_MEASUREMENTS",
)
def test_a_table_gets_the_families_that_ship(calibrate, tmp_path: Path) -> None:
    """The same rows through `calibrate` and through the shipped fit: one reader, the same coefficients."""
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    data = MEASUREMENTS / "kernels_gemm.parquet"
    found = calibrate("--data", data, "--device", "rtx_pro_6000_server", "--stack", "sglang")
    assert found.status == 0, found.err
    own, shipped = read(tmp_path).kernels, load_calibration("rtx-pro-6000-sglang").kernels
    for family in ("matmul", "quantise"):
        measured = {name: fit for name, fit in shipped.own(family).items() if fit.basis == "measured"}
        assert set(measured) >= {"fp8", "nvfp4"}
        for dtype, fit in measured.items():
            mine = own.own(family)[dtype]
            assert mine.coefficients() == pytest.approx(fit.coefficients(), rel=0.02, abs=1e-9), (
                family,
                dtype,
            )
            assert (mine.rows, mine.error.keys()) == (fit.rows, fit.error.keys())
            assert "kernels_gemm.parquet" in mine.source
    assert own.own("matmul")["bf16"].error["large_left_out"] < 0.08


@pytest.mark.skipif(
    not (MEASUREMENTS / "kernels_gemm.parquet").is_file(),
    reason=f"no measured tables in {MEASUREMENTS}; set LLMSIM_MEASUREMENTS",
)
def test_weights_that_are_only_stored_in_a_type(calibrate, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    found = calibrate("--data", MEASUREMENTS / "kernels_gemm.parquet", "--device", "b60")
    assert found.status == 0, found.err
    mine = read(tmp_path).kernels.own("matmul")["fp8_wo"]
    shipped = load_calibration("arc-b60-vllm").kernels.own("matmul")["fp8_wo"]
    assert mine.coefficients() == pytest.approx(shipped.coefficients(), rel=0.02, abs=1e-9)


@pytest.mark.parametrize(
    ("factor", "unit", "times"),
    [(1e-3, "milliseconds", "about 1000 times too short"), (1e3, "nanoseconds", "about 1000 times too long")],
)
def test_validate_tells_another_unit_as_calibrate_does(
    llmsim, calibrate, table: Path, factor: float, unit: str, times: str
) -> None:
    frame = gemms(matmul_truth())
    assert llmsim("validate", "--data", table).status == 0
    frame.assign(latency_us=frame["latency_us"] * factor).to_csv(table, index=False)
    refused = calibrate("--data", table, "--device", "a100_sxm")
    found = llmsim("validate", "--data", table)
    assert found.status == 2 and not found.out
    assert times in found.err and unit in found.err
    assert found.err == refused.err


def test_validate_tells_whole_runs_in_another_unit(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    text = "device,model,phase,seq,batch,measured_ms\nNVIDIA A100-PCIE-40GB,bert_large,inference,512,8,{}\n"
    path.write_text(text.format(300.0))
    assert llmsim("validate", "--data", path).status == 0
    path.write_text(text.format(0.3))
    found = llmsim("validate", "--data", path)
    assert found.status == 2 and "about 1000 times too short" in found.err and "forward_time" in found.err

"""From measured tables to a device, a system and a calibration; and every folder that none can be made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from measured_machine import MACHINE, products

from hardware_specs import load_calibration, load_system
from simulator import simulate
from simulator.measuring.machine import Machine, write_machine

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

NAME = MACHINE["name"]


def test_a_device_a_system_and_a_calibration(folder, llmsim) -> None:
    out = folder / "mine.yaml"
    done = llmsim("calibrate", "--data", folder, "--out", out, "--figure", "memory_bandwidth=25 GB/s")
    assert done.status == 0, done.err
    system = load_system(folder / f"{NAME}-system.yaml")
    device, frame = system.accelerator, products(Machine(**MACHINE))
    rate = (2.0 * frame.m * frame.n * frame.k / frame.latency_us * 1e6).max()
    peak = device.units.value * device.clock.value * device.matmul_flop_per_unit_clock["fp32"].value
    assert rate <= peak <= 1.1 * rate  # two digits, rounded up: no row is above its device
    assert device.matmul_flop_per_unit_clock["fp32"].basis == "measured"
    assert device.memory_bandwidth.value == 25e9 and device.memory_bandwidth.basis == "datasheet"
    assert device.power_limit.basis == "assumed" and "placeholder" in device.power_limit.source
    fit = load_calibration(out).kernels.own("matmul")["fp32"]
    assert fit.panel_copies == pytest.approx(2.0 * 25 / 10, rel=0.1)  # at 10 GB/s, in units of 25
    assert fit.fixed_s == pytest.approx(5e-6, rel=0.1)
    scenario = {
        "model": "gpt2-large",
        "task": {"kind": "prefill", "batch_size": 1, "prompt_length": 16},
        "system": str(folder / f"{NAME}-system.yaml"),
        "devices": 1,
        "plan": {"precision": "fp32"},
    }
    assert simulate(scenario).step_time_s > 0


def test_rows_of_the_machine_are_scored_by_its_own_calibration(folder, llmsim) -> None:
    assert llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml").status == 0
    done = llmsim("validate", "--data", folder / "kernels_gemm.csv", "--format", "json", "--max-mape", "0.05")
    assert done.status == 0, done.err
    assert '"skipped_because": null' in done.out and "left out" in done.out


def test_collectives_become_a_fabric(folder, llmsim) -> None:
    """A ring of two processes with 3 GB/s, 100 us and 50 us for each of the steps."""
    machine = replace(Machine(**MACHINE), processes=2)
    write_machine(folder, machine)
    size = np.geomspace(1e3, 1e8, 14).round()
    rows = []
    for op, passes in (("all_reduce", 2.0), ("all_gather", 1.0), ("reduce_scatter", 1.0)):
        seconds = 100e-6 + passes * 50e-6 + passes * 0.5 * size / 3e9
        rows.append(pd.DataFrame({"op": op, "bytes": size, "latency_us": seconds * 1e6}))
    frame = pd.concat(rows).assign(device=NAME, impl="gloo", n_gpus=2, dtype="fp32", quality="ok")
    frame.to_csv(folder / "collectives.csv", index=False)
    done = llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml")
    assert done.status == 0, done.err
    system = load_system(folder / f"{NAME}-system.yaml")
    assert system.accelerators_per_node.value == 2
    assert 3e9 * 0.95 <= system.scale_up.link_bandwidth.value <= 3.3e9
    plan = {"data_parallel": 2, "precision": "fp32", "overlap_grad_reduce": False, "micro_batch_size": 1}
    model = {"n_layers": 2, "hidden": 256, "heads": 4, "ffn": 512, "vocab": 1000, "max_positions": 64}
    done = simulate(
        {
            "model": model,
            "task": {"kind": "training", "sequence_length": 64, "global_batch_size": 2},
            "system": str(folder / f"{NAME}-system.yaml"),
            "devices": 2,
            "plan": plan,
        }
    )
    parameters = done.memory["weights_bytes"] / 4
    # all-reduce: two steps, and every parameter's four bytes once over the link
    expected = 200e-6 + 4 * parameters / 3e9
    assert done.time["data_parallel_s"] == pytest.approx(expected, rel=0.1)


def test_a_noisy_machine_is_refused_with_its_noise(folder, llmsim) -> None:
    path = folder / "kernels_gemm.csv"
    frame = pd.read_csv(path)
    frame.loc[: len(frame) // 2, "quality"] = "noisy"
    frame.assign(spread=0.3).to_csv(path, index=False)
    done = llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml")
    assert done.status == 2 and not (folder / "mine.yaml").exists()
    assert "51% where at most 25% may be" in done.err and "30%" in done.err and "stop other work" in done.err
    assert "not a known device" not in done.err  # what follows from the refusal alone is not told


def test_a_few_noisy_rows_are_left_aside_and_told(folder, llmsim) -> None:
    path = folder / "kernels_gemm.csv"
    frame = pd.read_csv(path)
    frame.loc[:4, ["quality", "latency_us"]] = ["noisy", 1e5]
    frame.to_csv(path, index=False)
    done = llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml")
    assert done.status == 0 and "5 rows (noisy" in done.out.replace("\n", " ")


def test_two_machines_are_never_mixed(folder, tmp_path: Path, llmsim) -> None:
    path = folder / "kernels_gemm.csv"
    frame = pd.read_csv(path)
    frame.loc[:9, "machine"] = "0123456789"
    frame.to_csv(path, index=False)
    done = llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml")
    assert done.status == 2 and "0123456789 (10 rows)" in done.err
    done = llmsim("validate", "--data", path)
    assert done.status == 2 and "mixes rows of 2 machines" in done.err
    other = replace(Machine(**MACHINE), threads=2)
    write_machine(tmp_path / "other", other)
    products(other).to_csv(tmp_path / "other" / "kernels_gemm.csv", index=False)
    done = llmsim("calibrate", "--data", folder, "--data", tmp_path / "other", "--out", folder / "mine.yaml")
    assert done.status == 2 and "two machines' rows do not belong together" in done.err


def test_what_is_missing_is_told_with_the_way_out(folder, tmp_path: Path, llmsim) -> None:
    (tmp_path / "empty").mkdir()
    done = llmsim("calibrate", "--data", tmp_path / "empty")
    assert done.status == 2 and "llmsim measure --out" in done.err
    done = llmsim("calibrate", "--data", folder, "--figure", "bandwith=1 GB/s", "--figure", "clock")
    assert done.status == 2 and "KEY=VALUE" in done.err
    done = llmsim("calibrate", "--data", folder, "--figure", "memory_bandwith=1 GB/s")
    assert done.status == 2 and "memory_bandwidth" in done.err
    done = llmsim("calibrate", "--data", folder, "--device", "h100-sxm", "--figure", "clock=1 GHz")
    assert done.status == 2 and "leave --device out" in done.err
    (folder / "machine.yaml").unlink()
    done = llmsim("calibrate", "--data", folder)
    assert done.status == 2 and "--device" in done.err


def test_rows_of_a_drifting_machine_are_moved_to_one_pace(folder, llmsim) -> None:
    """Half of the rows at a pace of 1.2, their reference too: the fit is that of the machine at one pace."""
    path = folder / "kernels_gemm.csv"
    frame = pd.read_csv(path)
    assert llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml").status == 0
    before = load_calibration(folder / "mine.yaml").kernels.own("matmul")["fp32"]
    pace = np.where(np.arange(len(frame)) % 2, 1.2, 1.0)
    slow = frame.assign(latency_us=frame.latency_us * pace, reference_us=400.0 * pace)
    slow.to_csv(path, index=False)
    assert llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml").status == 0
    after = load_calibration(folder / "mine.yaml").kernels.own("matmul")["fp32"]
    # The usual reference is the median of two as frequent paces, so between them.
    assert after.fixed_s == pytest.approx(1.1 * before.fixed_s, rel=0.05)
    assert max(after.error.values()) < 0.02
    # Without the reference the same rows lie a fifth apart.
    slow.drop(columns="reference_us").to_csv(path, index=False)
    assert llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml").status == 0
    unmoved = load_calibration(folder / "mine.yaml").kernels.own("matmul")["fp32"]
    assert max(unmoved.error.values()) > 0.05


def test_a_row_of_another_machine_s_pace_is_noisy(folder, llmsim) -> None:
    path = folder / "kernels_gemm.csv"
    frame = pd.read_csv(path).assign(reference_us=400.0)
    frame.loc[:4, "reference_us"] = 600.0
    frame.to_csv(path, index=False)
    done = llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml")
    assert done.status == 0 and "5 rows (noisy" in done.out.replace("\n", " ")


def host_rounds(folder, between_us: list[float], reference_us: float = 400.0) -> None:
    rows = {"round": range(len(between_us)), "between_us": between_us, "reference_us": reference_us}
    pd.DataFrame(rows).assign(machine="x", operators=12).to_csv(folder / "host_time.csv", index=False)


def test_time_between_operators_is_part_of_eager_code_alone(folder, llmsim) -> None:
    """30 us at a pace of 1.2 are 25; eager steps pay it for each operator, fused ones do not."""
    pd.read_csv(folder / "kernels_gemm.csv").assign(reference_us=400.0).to_csv(
        folder / "kernels_gemm.csv", index=False
    )
    system = str(folder / f"{NAME}-system.yaml")
    model = {"n_layers": 2, "hidden": 256, "heads": 4, "ffn": 512, "vocab": 1000, "max_positions": 64}

    def step(fusion: str):
        return simulate(
            {
                "model": {**model, "gated_mlp": False, "activation": "gelu"},
                "task": {"kind": "decode", "context_length": 32, "batch_size": 1},
                "system": system,
                "plan": {"precision": "fp32", "kernel_fusion": fusion},
                "devices": 1,
            }
        )

    def calibrated() -> float | None:
        done = llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml")
        assert done.status == 0, done.err
        host = load_calibration(folder / "mine.yaml").host
        return None if host is None else host.between_s

    assert calibrated() is None
    plain = {fusion: step(fusion) for fusion in ("eager", "fused")}
    host_rounds(folder, [30.0, 24.0, 36.0], reference_us=480.0)
    assert calibrated() == pytest.approx(25e-6)
    eager = step("eager")
    times = plain["eager"].operators
    ran = int(times["count"][(times.busy_s > 0) & (times.phase != "communication")].sum())
    assert ran > 20
    assert eager.step_time_s - plain["eager"].step_time_s == pytest.approx(ran * 25e-6, rel=1e-6)
    assert step("fused").step_time_s == pytest.approx(plain["fused"].step_time_s, rel=1e-12)


def test_a_machine_whose_pace_wanders_has_wider_intervals(folder, llmsim) -> None:
    path, frame = folder / "kernels_gemm.csv", pd.read_csv(folder / "kernels_gemm.csv")
    common = []
    for wander in (0.0, 0.1):
        pace = np.exp(wander * np.where(np.arange(len(frame)) % 2, 1.0, -1.0))
        frame.assign(latency_us=frame.latency_us * pace, reference_us=400.0 * pace).to_csv(path, index=False)
        assert llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml").status == 0
        common.append(load_calibration(folder / "mine.yaml").kernels.own("matmul")["fp32"].common)
    # 5 % of one stack, and a deviation of 10 % of the pace: 0.05 and sqrt(0.05^2 + 0.1^2)
    assert common == [pytest.approx(0.05, rel=1e-3), pytest.approx(0.1118, rel=1e-3)]


def test_runs_are_scored_at_the_pace_of_the_calibration(folder, llmsim) -> None:
    """A step at a pace of 1.25 that took 10 ms is one of 8 ms at the usual pace; both are told."""
    pd.read_csv(folder / "kernels_gemm.csv").assign(reference_us=400.0).to_csv(
        folder / "kernels_gemm.csv", index=False
    )
    assert llmsim("calibrate", "--data", folder, "--out", folder / "mine.yaml").status == 0
    sizes = "n_layers,hidden,heads,ffn,vocab"
    runs = folder / "measured_runs.csv"
    runs.write_text(
        f"id,device,phase,mode,dtype,seq_len,batch,{sizes},measured_ms,reference_us,spread\n"
        f"a,{NAME},prefill,eager,fp32,32,1,1,64,2,128,256,10.0,500.0,0.02\n"
        f"b,{NAME},prefill,eager,fp32,32,1,1,64,2,128,256,10.0,,0.2\n"
    )
    done = llmsim("validate", "--data", runs, "--format", "json")
    assert done.status == 0, done.err
    rows = {(row["id"], row["quantity"]): row["measured"] for row in json.loads(done.out)["rows"]}
    assert rows == {
        ("a", "step_time"): pytest.approx(8e-3),
        ("a", "step_time_as_it_ran"): pytest.approx(10e-3),
        ("b", "step_time"): pytest.approx(10e-3),
    }
    assert {group["size_class"] for group in json.loads(done.out)["groups"]} == {"prefill", "prefill, noisy"}

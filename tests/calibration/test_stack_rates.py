"""Rates of a software stack over kernels that were measured alone: what they change, and how they are fitted."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hardware_specs import load_calibration
from hardware_specs.errors import SpecError
from simulator import simulate
from simulator.validation.constants_of_runs import Runs, coordinate, fit_family, fit_rates
from simulator.validation.fit_stack_rates import main, read_runs
from simulator.validation.stack_runs import STACKS

REPOSITORY = Path(__file__).resolve().parents[2]
MEASUREMENTS = Path(os.environ.get("LLMSIM_MEASUREMENTS", REPOSITORY.parent / "shared" / "measurements"))
RUNS = MEASUREMENTS / "training_runs.csv"
SHIPPED = [of.name for of in STACKS]

RATES: dict[str, Any] = {
    "schema_version": 1,
    "name": "mine",
    "like": "a100-sxm-pytorch",
    "tasks": ["training"],
    "stack": "a stack of a test",
    "date": "2026-11-22",
    "rates": {
        "matmul": {"value": 0.5, "basis": "assumed", "source": "half, for this test"},
        "attention": {"value": 0.25, "basis": "assumed", "source": "a quarter, for this test"},
    },
    "rows": 1,
    "error": {"fitted": 0.0},
    "common": 0.1,
}


def test_products_and_attention_run_at_their_rates() -> None:
    base, slow = load_calibration("a100-sxm-pytorch"), load_calibration(RATES)
    for family, rate in (("matmul", 0.5), ("attention_prefill", 0.25)):
        before, after = (getattr(c.kernels, family)["bf16"].coefficients() for c in (base, slow))
        expected = {**before, "compute_efficiency": before["compute_efficiency"] * rate}
        for clocks in ("score_clocks", "mask_clocks"):
            if clocks in before:
                expected[clocks] = before[clocks] / rate
        assert after == pytest.approx(expected, rel=1e-12)
    assert (
        slow.kernels.rms_norm == base.kernels.rms_norm
        and slow.kernels.attention_decode == base.kernels.attention_decode
    )
    assert slow.kernels.matmul["bf16"].common == 0.1
    assert slow.stack.startswith("a stack of a test") and not slow.applies_to


def test_efficiencies_stay_fractions() -> None:
    fast = {**RATES, "rates": {"matmul": {**RATES["rates"]["matmul"], "value": 5.0}}}
    assert load_calibration(fast).kernels.matmul["bf16"].coefficients()["compute_efficiency"] == 1.0


def test_a_scenario_asks_for_them_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(RATES))
    base = {
        "model": "llama-3.1-8b",
        "task": {"kind": "training", "sequence_length": 4096, "global_batch_size": 8},
        "system": "dgx-a100-80gb",
        "devices": 8,
        "plan": {"zero_stage": 3},
    }
    usual, slow = simulate(base), simulate({**base, "system.calibration": str(path)})
    assert 1.5 < slow.step_time_s / usual.step_time_s < 2.5
    assert simulate({**base, "system.calibration": "a100-sxm-fsdp"}).step_time_s != usual.step_time_s


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"like": "a100-sxm-pytorhc"}, "a100-sxm-pytorch"),
        ({"like": "h100-sxm-fsdp"}, "is itself a stack's rates"),
        ({"rates": {}}, "rates"),
        ({"rates": {"softmax": RATES["rates"]["matmul"]}}, "rates.softmax"),
        ({"rates": {"matmul": {**RATES["rates"]["matmul"], "value": 0.0}}}, "rates.matmul.value"),
        ({"applies_to": ["a100-sxm-80gb"]}, "applies_to"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_calibration({**RATES, **change})


def _runs(true: tuple[float, float], wrong: float = 1.0) -> Runs:
    """Runs of three models whose time is products over one rate and attention over the other."""
    share = np.array([0.0, 0.1, 0.3, 0.6, 0.1, 0.4, 0.2, 0.5])  # of attention
    model = ("a", "a", "a", "a", "b", "b", "c", "c")
    axes = (np.array([0.5, 0.7, 0.9, 1.1]), np.array([0.2, 0.4, 0.7, 1.0]))
    grid = (1 - share) / axes[0][:, None, None] + share / axes[1][:, None]
    measured = (1 - share) / true[0] + share / true[1]
    measured[-1] *= wrong
    ids = tuple(f"row-{n}" for n in range(len(share)))
    return Runs(
        ids=ids,
        model=model,
        device=("card",) * len(share),
        axes=tuple(np.log(axis) for axis in axes),
        log_ratio=np.log(grid / measured),
    )


@pytest.mark.parametrize("true", [(0.9, 0.4), (0.7, 0.7)])
def test_rates_are_found_on_runs_that_have_them(true: tuple[float, float]) -> None:
    pytest.importorskip("scipy", reason="fitting needs the calibrate extra")
    of = replace(STACKS[0], rates=("matmul", "attention"), shared=())
    fitted = fit_rates(of, _runs(true))
    assert tuple(fitted.rates.values()) == pytest.approx(true, rel=0.02)
    assert fitted.error["fitted"] < 0.01 and fitted.error["left_out"] < 0.03
    # One run that went wrong bends little.
    assert tuple(fit_rates(of, _runs(true, wrong=2.0)).rates.values()) == pytest.approx(true, rel=0.1)


def test_a_shared_constant_is_told_by_the_runs_of_another_stack() -> None:
    pytest.importorskip("scipy", reason="fitting needs the calibrate extra")
    both = [_runs((rate, 0.4)) for rate in (0.9, 0.7)]
    # The second stack has short runs alone, which say nothing of attention.
    short = replace(both[1], device=("other",) * 8, log_ratio=both[1].log_ratio[..., [0] * 8])
    of = replace(STACKS[0], rates=("matmul",), shared=("attention",))
    first, second = fit_family([(of, both[0]), (of, short)])
    assert tuple(first.rates.values()) == pytest.approx((0.9, 0.4), rel=0.02)
    assert tuple(second.rates.values()) == pytest.approx((0.7, 0.4), rel=0.02)
    assert set(first.error) == {"before", "fitted", "left_out", "left_out_card", "left_out_other"}
    assert first.error["left_out_card"] < 0.03 and second.error["before"] == pytest.approx(0.3, rel=1e-3)


def test_a_host_that_waits_is_found_on_runs_that_wait() -> None:
    """Seconds are 1 / rate, and 0.1 s more of the host where a run has small kernels."""
    pytest.importorskip("scipy", reason="fitting needs the calibrate extra")
    rates, hosts = np.array([0.7, 0.8, 0.9, 1.0]), np.array([0.0, 1e-4, 2e-4, 4e-4])
    kernels = np.array([0.0, 200.0, 1000.0, 2000.0])
    seconds = 1 / rates[:, None, None] + hosts[:, None] * kernels
    runs = Runs(
        ids=("r0", "r1", "r2", "r3"),
        model=("a", "a", "b", "b"),
        device=("card",) * 4,
        axes=(coordinate("matmul", rates), coordinate("host", hosts)),
        log_ratio=np.log(seconds / (1 / 0.8 + 1.5e-4 * kernels)),
    )
    fitted = fit_rates(replace(STACKS[0], rates=("matmul", "host"), shared=()), runs)
    assert fitted.rates["matmul"] == pytest.approx(0.8, rel=0.02)
    assert fitted.rates["host"] == pytest.approx(1.5e-4, rel=0.1)


WAITING = {**RATES, "host": {"between_s": 1e-3, "basis": "assumed", "source": "a slow host of a test"}}


@pytest.mark.parametrize(
    ("waits", "fusion"), [(True, "fused"), (True, "eager"), (False, "fused"), (False, "eager")]
)
def test_a_host_that_waits_adds_its_time_to_each_kernel(tmp_path: Path, waits: bool, fusion: str) -> None:
    slow = {**WAITING, "host": {**WAITING["host"], "waits": waits}}
    for name, data in (("plain", RATES), ("slow", slow)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    base = {
        "model": "llama-3.1-8b",
        "task": {"kind": "training", "sequence_length": 512, "global_batch_size": 4},
        "system": "dgx-a100-80gb",
        "devices": 4,
        "plan": {"tensor_parallel": 2, "zero_stage": 1, "kernel_fusion": fusion},
    }
    plain, waiting = (
        simulate({**base, "system.calibration": str(tmp_path / f"{name}.yaml")}).operators
        for name in ("plain", "slow")
    )
    kernels = (plain["phase"] != "communication") & (plain["busy_s"] > 0) & (plain["kind"] != "bubble")
    expected = plain["busy_s"] + np.where(kernels & (waits or fusion == "eager"), 1e-3 * plain["count"], 0.0)
    layers = plain["name"].str.startswith(("layer", "head"))
    assert waiting["busy_s"][layers].to_numpy() == pytest.approx(expected[layers].to_numpy(), rel=1e-9)
    for fidelity in ("datasheet", "bound"):
        without = {**base, "fidelity": fidelity}
        same = simulate({**without, "system.calibration": str(tmp_path / "slow.yaml")})
        assert same.step_time_s == simulate(without).step_time_s


@pytest.mark.skipif(not RUNS.is_file(), reason=f"no measured runs in {MEASUREMENTS}; set LLMSIM_MEASUREMENTS")
def test_shipped_rates_are_reproduced() -> None:
    pytest.importorskip("scipy", reason="fitting needs the calibrate extra")
    of = next(of for of in STACKS if of.name == "h100-sxm-fsdp")
    fitted = fit_rates(of, read_runs(RUNS, of))
    file = REPOSITORY / "hardware_specs" / "calibrations" / f"{of.name}.yaml"
    shipped = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert {kind: rate["value"] for kind, rate in shipped["rates"].items()} == pytest.approx(
        dict(fitted.rates), rel=0.03
    )
    assert shipped["error"] == pytest.approx(dict(fitted.error), abs=0.005)
    assert fitted.error["left_out"] < 0.05 < fitted.error["before"]


@pytest.mark.skipif(not RUNS.is_file(), reason=f"no measured runs in {MEASUREMENTS}; set LLMSIM_MEASUREMENTS")
def test_shipped_stacks_that_share_attention_are_reproduced() -> None:
    pytest.importorskip("scipy", reason="fitting needs the calibrate extra")
    family = [of for of in STACKS if of.family == "a100-sxm-fsdp"]
    found = fit_family([(of, read_runs(RUNS, of)) for of in family])
    assert len(found) == 2 and found[0].rates["attention"] == found[1].rates["attention"]
    for fitted in found:
        file = REPOSITORY / "hardware_specs" / "calibrations" / f"{fitted.runs.name}.yaml"
        shipped = yaml.safe_load(file.read_text(encoding="utf-8"))
        values = {kind: rate["value"] for kind, rate in shipped["rates"].items()}
        assert values == pytest.approx(dict(fitted.rates), rel=0.03)
        # A model with the constants of the others, by part.
        assert max(fitted.error[f"left_out_a100_sxm_{size}gb"] for size in (40, 80)) < 0.05


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_say_where_they_are_from(name: str) -> None:
    calibration = load_calibration(name)
    assert calibration.name == name and calibration.tasks == ["training"]
    assert "in whole runs" in calibration.kernels.matmul["bf16"].source


def test_the_command_needs_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2 and "table" in capsys.readouterr().err


def test_casts_that_a_compiler_writes_stream_as_pointwise_kernels() -> None:
    plain, compiled = (load_calibration(name) for name in ("h100-sxm-pytorch", "h100-sxm-torchtitan"))
    pointwise = plain.kernels.pointwise["any"].coefficients()
    cast = compiled.kernels.quantise["fp8"].coefficients()
    assert cast["row_unit_s"] == 0.0 and plain.kernels.quantise["fp8"].coefficients()["row_unit_s"] > 0.0
    assert cast["memory_efficiency"] == min(pointwise["read_efficiency"], pointwise["write_efficiency"])


def test_one_rate_may_hold_for_products_and_attention() -> None:
    plain, slower = (load_calibration(name) for name in ("a100-sxm-pytorch", "a100-sxm-torchtitan"))
    file = REPOSITORY / "hardware_specs" / "calibrations" / "a100-sxm-torchtitan.yaml"
    rate = yaml.safe_load(file.read_text(encoding="utf-8"))["rates"]["compute"]["value"]
    for family in ("matmul", "attention_prefill"):
        before, after = (getattr(c.kernels, family)["bf16"].coefficients() for c in (plain, slower))
        assert after["compute_efficiency"] == pytest.approx(rate * before["compute_efficiency"], rel=1e-6)

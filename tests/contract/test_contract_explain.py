"""``llmsim explain``: every number has its formula, inputs and sources, and they are true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from simulator import explain, simulate
from simulator.estimates.explanation import paths_of
from simulator.estimates.explanation_parts import value_at
from simulator.rules import RULES


def total(explanation) -> float:
    return sum(part.value for part in explanation.parts)


@pytest.mark.parametrize("name", ["training", "decode", "generation"])
def test_every_listed_path_is_explained(request, name: str) -> None:
    """Value as in to_dict(), a formula, and rules whose recorded inputs give their recorded values."""
    path = request.getfixturevalue(name)
    data = simulate(path).to_dict()
    listed = paths_of(data)
    operators = [p for p in listed if p.startswith("operators.")]
    chosen = [p for p in listed if p not in operators] + operators[:: max(1, len(operators) // 12)]
    for place in chosen:
        found = explain(path, place)
        assert found.value == value_at(data, place)
        assert found.formula, place
        if "sum of" in found.formula and isinstance(found.value, float):
            assert total(found) == pytest.approx(found.value, rel=1e-9), place
        if "exposed time of" in found.formula:
            assert total(found) == pytest.approx(found.value, rel=1e-6), place
        for step in found.steps:
            assert step.formula
            assert step.source
            inputs = {i.name: np.asarray(i.value, dtype=float) for i in step.inputs}
            if step.rule != "ranks_per_node" and "topology" not in inputs:
                again = RULES[step.rule].function(**inputs)
                assert np.asarray(again).reshape(-1)[0] == pytest.approx(
                    np.asarray(step.value).reshape(-1)[0]
                )


@pytest.mark.parametrize("name", ["training", "decode", "generation"])
def test_the_command_shows_the_value_of_every_total(llmsim, request, name: str) -> None:
    path = request.getfixturevalue(name)
    for place in (
        "step_time_s",
        "memory.peak_bytes",
        "energy_j",
        "mfu",
        "tokens_per_s",
        "feasible",
        "time",
        "devices",
    ):
        found = llmsim("explain", path, place)
        assert found.status == 0, found.err
        assert found.out.startswith(place)
        assert max(map(len, found.out.splitlines())) <= 80
        value = value_at(simulate(path).to_dict(), place)
        if isinstance(value, float):
            assert repr(value) in found.out
        assert "np.float64" not in found.out


def test_the_number_itself_comes_first(training: Path) -> None:
    data = simulate(training).to_dict()
    for place, rule in (
        ("step_time_s", "step_seconds"),
        ("memory.weights_bytes", "state_bytes"),
        ("memory.optimizer_bytes", "state_bytes"),
        ("memory.activations_bytes", "activation_bytes"),
        ("energy.static_j", "standing_energy"),
        ("time.pipeline_p2p_s", "exposed_p2p"),
        ("tokens_per_s", "token_rate"),
        ("mfu", "flop_utilisation"),
        ("peak_flop_per_s", "derived_peak"),
    ):
        first = explain(training, place).steps[0]
        assert first.rule == rule, place
        assert first.value == pytest.approx(value_at(data, place), rel=1e-12), place


def test_an_operator(llmsim, training: Path) -> None:
    row = value_at(simulate(training).to_dict(), "operators.layer.qkv")
    found = explain(training, "operators.layer.qkv")
    kernel = found.steps[0]
    assert kernel.rule == "gemm_time"
    assert kernel.value == pytest.approx(row["busy_s"] / row["count"], rel=1e-12)
    origins = {i.name: i.origin for i in kernel.inputs}
    assert origins["flop"] == "matmul_flop, below"
    assert origins["bandwidth_bytes_per_s"].startswith(
        "system.accelerator.memory_bandwidth = 3.35 TB/s (datasheet: "
    )
    assert origins["compute_efficiency"].startswith("h100-sxm-pytorch.kernels.matmul")
    assert "measured" in origins["compute_efficiency"]
    flop = explain(training, "operators.layer.qkv.flop")
    assert flop.value == row["flop"]
    shown = llmsim("explain", training, "operators.layer.qkv").out
    for part in ("gemm_time", "matmul_flop", "2 b m n k", "3.350 TB/s", "count", "source:"):
        assert part in shown


def test_the_bubble(training: Path) -> None:
    """Pipeline time less micro-batches x slowest stage, from the recorded inputs."""
    found = explain(training, "time.bubble_s")
    assert found.formula == "pipeline time - micro-batches x slowest stage"
    inputs = {i.name: i.value for i in found.steps[0].inputs}
    expected = found.steps[0].value - inputs["micro_batches"] * inputs["slowest_stage_s"]
    assert found.value == pytest.approx(expected, rel=1e-9)


def test_generation_tells_its_two_passes_apart(generation: Path) -> None:
    prefill = explain(generation, "operators.prefill.layer.qkv").steps[1]
    decode = explain(generation, "operators.decode.layer.qkv").steps[1]
    assert {i.name: i.value for i in prefill.inputs}["m"] == 8000
    assert {i.name: i.value for i in decode.inputs}["m"] == 8
    first = explain(generation, "time_to_first_token_s")
    assert first.steps[0].value == pytest.approx(first.value, rel=1e-12)
    whole = explain(generation, "step_time_s")
    assert whole.formula == "first token + 49 decode steps"
    assert whole.value == pytest.approx(whole.parts[0].value + 49 * whole.parts[1].value, rel=1e-9)


def test_other_plans_leave_no_trace(training: Path) -> None:
    """A plan that does not fit is explained by itself, not by the plans that were tried for it."""
    scenario = {"plan.micro_batch_size": 8, "plan.recompute": "none"}
    import yaml

    data = {**yaml.safe_load(training.read_text()), **scenario}
    estimate = simulate(data)
    assert not estimate.feasible
    found = explain(data, "step_time_s")
    assert [s.rule for s in found.steps].count("step_seconds") == 1
    assert found.steps[0].value == pytest.approx(estimate.step_time_s, rel=1e-12)


@pytest.mark.parametrize(
    "path",
    [
        "foo",
        "step_time",
        "operators.layer.qk",
        "",
        "operators",
        "scenario",
        "notes",
        "time.",
        "operators.layer.qkv.foo",
    ],
)
def test_an_unknown_path(llmsim, training: Path, path: str) -> None:
    found = llmsim("explain", training, path)
    assert (found.status, len(found.messages), found.out) == (2, 1, "")
    assert "is not a number of the estimate; did you mean" in found.err


def test_depth(llmsim, training: Path) -> None:
    short, whole = (
        llmsim("explain", training, "step_time_s"),
        llmsim("explain", training, "step_time_s", "--depth", "0"),
    )
    assert len(short.out.splitlines()) < 70
    assert len(whole.out) > len(short.out)
    assert "more rules behind these: --depth 0 shows all." in short.out
    assert "more rules" not in whole.out


def test_settings_and_fidelity_are_explained_too(llmsim, decode: Path) -> None:
    found = llmsim(
        "explain", decode, "operators.layer.mlp_up", "--set", "system.accelerator.memory_bandwidth=2 TB/s"
    )
    assert "2.000 TB/s" in found.out
    found = llmsim("explain", decode, "operators.layer.mlp_up", "--fidelity", "bound")
    assert found.status == 0
    assert "measured" not in found.out


def test_equal_numbers_are_not_taken_for_each_other(training: Path) -> None:
    """262,144 bytes of statistics are not the 256 KiB of SRAM that an H100 has in each unit."""
    for place in ("memory.activations_bytes", "operators.layer.attention", "energy_j", "mfu"):
        for step in explain(training, place).steps:
            for item in step.inputs:
                if item.origin.startswith("system."):
                    figure = item.origin.split(" = ")[0].replace(".", "_").split("_")
                    assert set(item.name.split("_")) & set(figure) - {"per", "s", "bytes", "flop"}, item


def test_both_limits_of_an_interval(training) -> None:
    found = {
        p: explain(training, f"interval.{p}") for p in ("step_time_s", "step_time_s.low", "step_time_s.high")
    }
    limits = found["step_time_s"].value
    (width,) = {e.steps[0].value for e in found.values()}
    assert {e.steps[0].rule for e in found.values()} == {"half_width"}
    middle = found["step_time_s"].parts[0].value
    assert limits["low"] == pytest.approx(middle / np.exp(width)) and found["step_time_s.low"].unit == "s"
    assert (
        limits["high"]
        == pytest.approx(middle * np.exp(width))
        == pytest.approx(found["step_time_s.high"].value)
    )


def test_what_is_kept_outside_is_explained(training: Path) -> None:
    """Paths of ``offload`` say what they hold, its time has the rule of copies, and fitting names the host."""
    scenario = yaml.safe_load(training.read_text())
    scenario = scenario | {"system": "dgx-h100", "devices": 8, "plan": {"offload": "optimizer"}}
    data = simulate(scenario).to_dict()
    assert data["offload"]["host_bytes"] > 0
    for place in ("offload", "offload.host_bytes", "offload.nvme_bytes", "offload.host_capacity_bytes"):
        assert "nothing of this kind" not in explain(scenario, place).formula
    assert "optimizer:host" in explain(scenario, "offload.host_bytes").formula
    assert "copy_time" in {step.rule for step in explain(scenario, "time.offload_s").steps}
    limits = {part.path: part.value for part in explain(scenario, "feasible").parts}
    assert limits["offload.host_capacity_bytes"] == data["offload"]["host_capacity_bytes"]

"""``llmsim search``: what it keeps, what it enumerates, what it says when nothing fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator import Plan, Scenario, search, simulate
from simulator.scenarios.scenario import Training
from simulator.scenarios.scenario_reading import mapping_from
from simulator.searching.plan_search import generated_space
from simulator.sweeps.sweeping import run_space

SMALL = """\
model: llama-3.1-8b
task: {kind: training, sequence_length: 4096, global_batch_size: 64}
system: dgx-h100
devices: 8
plan: {virtual_pipeline: 1, recompute: [none, full]}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_the_best_plans_come_first(llmsim, small: Path) -> None:
    found = llmsim("search", small, "--top", "4")
    assert found.status == 0
    assert "Best 4 by step time" in found.out
    assert max(map(len, found.out.splitlines())) <= 80
    result = search(small, top=4)
    assert result.best["step_time_s"].is_monotonic_increasing
    everything = run_space(generated_space(mapping_from(small)))
    feasible = everything.columns["feasible"] > 0
    assert result.best["step_time_s"].tolist() == sorted(everything.columns["step_time_s"][feasible])[:4]
    assert (result.n_legal, result.n_fit) == (len(feasible), feasible.sum())
    for row, scenario in zip(result.best.to_dict("records"), result.scenarios, strict=True):
        estimate = simulate(scenario)
        assert estimate.feasible
        assert estimate.step_time_s == pytest.approx(row["step_time_s"], rel=1e-12)
        assert scenario["plan"]["virtual_pipeline"] == 1
        assert scenario["plan"]["recompute"] in ("none", "full")


def test_a_wide_table_fits_the_terminal(llmsim, training: Path) -> None:
    """Eight keys that differ: initials as in the plan's line, every value whole."""
    training.write_text(training.read_text().split("plan:")[0])
    found = llmsim("search", training, "--top", "10")
    assert found.status == 0, found.err
    assert max(map(len, found.out.splitlines())) <= 80
    assert "…" not in found.out
    for heading in ("TP", "PP", "ZeRO", "memory"):
        assert heading in found.out


def test_energy_is_an_objective(small: Path) -> None:
    found = search(small, objective="energy", top=1)
    everything = run_space(generated_space(mapping_from(small)))
    feasible = everything.columns["feasible"] > 0
    assert found.best["energy_j"].iloc[0] == np.min(everything.columns["energy_j"][feasible])


def test_devices_replace_those_of_the_file(llmsim, small: Path) -> None:
    assert search(small, devices=4).scenarios[0]["devices"] == 4
    assert llmsim("search", small, "--devices", "4").status == 0


def test_axes_conditions_and_zip_restrict_a_search(llmsim, small: Path) -> None:
    small.write_text(
        SMALL.replace("devices: 8", "devices: [4, 8]")
        + "plan.zero_stage: 1\nwhere: plan.tensor_parallel <= 2\n"
    )
    found = search(small, top=100)
    assert {s["devices"] for s in found.scenarios} == {4, 8}
    assert {s["plan"]["zero_stage"] for s in found.scenarios} == {1}
    assert {s["plan"]["tensor_parallel"] for s in found.scenarios} <= {1, 2}
    small.write_text(SMALL + "zip: [{plan.tensor_parallel: [2, 4], plan.zero_stage: [0, 1]}]\n")
    pairs = {
        (s["plan"]["tensor_parallel"], s["plan"]["zero_stage"]) for s in search(small, top=1000).scenarios
    }
    assert pairs <= {(2, 0), (4, 1)}


def test_inference_is_searched_too(llmsim, decode: Path) -> None:
    decode.write_text(decode.read_text().replace("plan: {tensor_parallel: 8}", "plan: {}"))
    found = llmsim("search", decode)
    assert found.status == 0, found.err
    assert "tensor" in found.out


def test_nothing_fits(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text(SMALL.replace("llama-3.1-8b", "llama-3.1-405b"))
    found = llmsim("search", path)
    assert (found.status, len(found.messages), found.out) == (1, 1, "")
    for part in (
        "none of the",
        "legal plans fits",
        "the nearest needs",
        "GB per device but there are 80.0 GB",
        "tensor_parallel: 8",
        "more devices",
    ):
        assert part in found.err


def test_nothing_is_legal(llmsim, small: Path) -> None:
    small.write_text(SMALL.replace("64}", "63}") + "plan.micro_batch_size: 2\n")
    found = llmsim("search", small)
    assert found.status == 2
    assert "no combination is legal" in found.err


def test_devices_in_the_billions_do_not_hang(llmsim, small: Path) -> None:
    assert llmsim("search", small, "--devices", "1000000000").status == 2


def test_defaults_of_a_scenario_object_are_free() -> None:
    """Only what was set by hand is fixed; the kind of a task is always there."""
    task = Training(sequence_length=4096, global_batch_size=64)
    scenario = Scenario(
        model="llama-3.1-8b", task=task, system="dgx-h100", devices=8, plan=Plan(zero_stage=1)
    )
    found = search(scenario, top=1000)
    assert {s["plan"]["zero_stage"] for s in found.scenarios} == {1}
    assert len({s["plan"]["tensor_parallel"] for s in found.scenarios}) > 1

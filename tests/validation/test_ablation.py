"""The ablation table: a run that the model predicts exactly is off by what a term takes when the term is gone."""

from __future__ import annotations

import pytest

from simulator import simulate
from simulator.validation.ablation import TERMS, ablate, table_lines
from simulator.validation.cases import Case, Quantity

SCENARIO = {
    "model": "gpt3-175b",
    "task.sequence_length": 2048,
    "task.global_batch_size": 64,
    "system": "dgx-a100-80gb",
    "devices": 128,
    "plan.tensor_parallel": 8,
    "plan.pipeline_parallel": 8,
    "plan.recompute": "full",
    "plan.sequence_parallel": True,
}


def nested():
    plan = {k.removeprefix("plan."): v for k, v in SCENARIO.items() if k.startswith("plan.")}
    task = {"kind": "training", "sequence_length": 2048, "global_batch_size": 64}
    return {"model": "gpt3-175b", "task": task, "system": "dgx-a100-80gb", "devices": 128, "plan": plan}


def case(measured: float) -> Case:
    quantity = Quantity(name="step_time", unit="s", measured=measured, column="step_time_s")
    return Case(
        id="made-1",
        source="made",
        device="A100",
        stack="none",
        dtype="bf16",
        size_class="large",
        assumed="",
        quantities=(quantity,),
        kind="training",
        scenario=SCENARIO,
    )


@pytest.fixture(scope="module")
def found():
    return {one.term: one for one in ablate([case(simulate(nested()).step_time_s)])}


def test_the_whole_model_is_its_own_prediction(found):
    assert found["whole model"].errors["made"] == pytest.approx(0.0, abs=1e-12)
    assert found["whole model"].rows == {"made": 1, "all": 1}
    assert len(found) == len(TERMS) + 1


def test_terms_of_the_sum_are_their_share_of_the_step(found):
    time, step_s = simulate(nested()).time, simulate(nested()).step_time_s
    exchanges = sum(time[f"{axis}_s"] for axis in ("tensor_parallel", "data_parallel", "pipeline_p2p"))
    for term, seconds in (
        ("waiting for other stages", time["bubble_s"]),
        ("optimizer update", time["optimizer_s"]),
        ("exchanges that compute waits for", exchanges),
    ):
        assert found[term].errors["made"] == pytest.approx(seconds / step_s, rel=1e-9)
        assert seconds > 0


def test_terms_of_the_scenario_are_other_scenarios(found):
    plan = nested()["plan"]
    for term, changes in (
        ("recomputation", {"recompute": "none"}),
        ("exchanges run beside compute", {"overlap_grad_reduce": False, "overlap_param_gather": False}),
    ):
        other = simulate({**nested(), "plan": {**plan, **changes}}).step_time_s
        expected = abs(other / simulate(nested()).step_time_s - 1)
        assert found[term].errors["made"] == pytest.approx(expected, rel=1e-9)


def test_terms_of_the_machine_leave_it_as_it_was(found):
    """Without fixed costs the step is shorter; afterwards the engine is whole again."""
    assert 0 < found["fixed cost of each kernel"].errors["made"] < 0.05
    assert found["fitted coefficients (datasheet instead)"].errors["made"] > 0.05
    again = ablate([case(simulate(nested()).step_time_s)], terms=())
    assert again[0].errors["made"] == pytest.approx(0.0, abs=1e-12)


def test_the_table_states_points(found):
    lines = table_lines(list(found.values()))
    assert lines[0] == "| without | made (1) | all (1) |"
    assert lines[2] == "| nothing, error in % | 0.0 | 0.0 |"
    share = 100 * found["recomputation"].errors["made"]
    assert f"| recomputation | {share:+.1f} | {share:+.1f} |" in lines

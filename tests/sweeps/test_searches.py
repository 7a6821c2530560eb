"""Searches find what an exhaustive sweep finds, and say why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware_specs import InfeasibleError, ScenarioError
from simulator import search, simulate
from simulator.searching.hardware_search import search_hardware
from simulator.searching.named_spaces import NAMED_SPACES
from simulator.searching.plan_search import OBJECTIVES, generated_space, search_space
from simulator.sweeps.querying import HEADROOM
from simulator.sweeps.sweeping import run_space

TRAINING = {
    "model": "llama-3.1-8b",
    "task": {"kind": "training", "sequence_length": 4096, "global_batch_size": 32},
    "system": "dgx-h100",
    "devices": 8,
    "plan": {"virtual_pipeline": [1, 2], "micro_batch_size": [1, 2, 4]},
}
DECODE = {
    "model": "llama-3.1-70b",
    "task": {"kind": "decode", "batch_size": [16, 64, 256], "context_length": [1024, 8192]},
    "system": "dgx-h100",
    "devices": [8, 16],
}


RESULTS = {}


def everything(scenario, name="plans"):
    """All rows of a search's space that fit: their numbers, and results."""
    key = (scenario["task"]["kind"], name)
    if key not in RESULTS:
        RESULTS[key] = run_space(generated_space(scenario, name=name))
    result = RESULTS[key]
    fits = np.flatnonzero(result.columns["feasible"] > 0)
    columns = {name: values[fits] for name, values in result.columns.items()}
    columns[HEADROOM] = columns["capacity_bytes"] - columns["peak_bytes"]
    return result, result.rows[fits], columns


@pytest.mark.parametrize("scenario", [TRAINING, DECODE], ids=["training", "decode"])
@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if o != "latency"])
def test_the_best_are_those_of_the_whole_space(scenario, objective) -> None:
    """Pruned by memory and by the least time, chunk by chunk, it is the sorted list all the same."""
    _, rows, columns = everything(scenario)
    column, sign = OBJECTIVES[objective]
    order = np.lexsort((rows, columns["step_time_s"], sign * columns[column]))[:7]
    space = generated_space(scenario)
    found = search_space(space, objective=objective, top=7)
    assert found.best["step_time_s"].tolist() == columns["step_time_s"][order].tolist()
    assert found.scenarios == [space.scenario_mapping(int(row)) for row in rows[order]]
    assert len(found.reasons) == 7 and all(found.reasons[:-1])


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([TRAINING, DECODE]),
    st.sampled_from(["step_time", "throughput", "throughput_per_device", "energy"]),
    st.integers(1, 20),
    st.sampled_from([64, 500, 10**6]),
    st.sampled_from([1, 30, 10**6]),
)
def test_chunks_and_bounds_lose_nothing(scenario, objective: str, top: int, chunk: int, seed: int) -> None:
    from unittest import mock

    from simulator.searching import plan_search

    _, _, columns = everything(scenario)
    column, sign = OBJECTIVES[objective]
    with mock.patch.multiple(plan_search, CHUNK_ROWS=chunk, SEED_ROWS=seed):
        found = search_space(generated_space(scenario), objective=objective, top=top)
    assert (sign * found.best[column]).tolist() == sorted(sign * columns[column])[:top]
    assert found.n_timed <= found.n_fit == len(columns["step_time_s"])


def test_no_plan_costs_less_than_its_bound() -> None:
    from simulator.composition.layer_cache import LayerCache
    from simulator.searching.best_rows import Objective
    from simulator.searching.pruning import promising
    from simulator.spaces.legal_rows import LegalRows
    from simulator.spaces.partition import Splitter

    for scenario in (TRAINING, DECODE):
        space = generated_space(scenario)
        result = run_space(space)
        splitter, cache = Splitter(space), LayerCache()
        for column, sign in (("step_time_s", 1.0), ("tokens_per_s", -1.0), ("tokens_per_s_per_device", -1.0)):
            for partition in LegalRows(splitter).partitions(0, space.n_rows, 10**6):
                found = promising(partition, cache, splitter, Objective(column=column, sign=sign))
                costs = sign * result.columns[column][np.searchsorted(result.rows, partition.numbers)]
                least = np.broadcast_to(np.asarray(found.least), costs.shape)
                assert np.all(least <= costs) and np.all(
                    least > 10 * costs if sign < 0 else least > costs / 10
                )
                assert found.fits.sum() == len(found.rows(np.inf))


def test_plans_that_cannot_win_are_not_timed() -> None:
    found = search_space(generated_space(DECODE, name="plans"), top=1)
    assert found.n_fit == len(everything(DECODE)[1])
    from unittest import mock

    from simulator.searching import plan_search

    with mock.patch.object(plan_search, "SEED_ROWS", 4):
        again = search_space(generated_space(DECODE), top=1)
    assert again.n_timed < again.n_fit / 2
    assert again.scenarios == found.scenarios


def test_a_front_of_three() -> None:
    _, _, columns = everything(TRAINING)
    names = ["step_time", "memory_headroom", "energy"]
    costs = np.stack([OBJECTIVES[n][1] * columns[OBJECTIVES[n][0]] for n in names], axis=1)
    beaten = np.array([np.any(np.all(costs <= c, axis=1) & np.any(costs < c, axis=1)) for c in costs])
    found = search(TRAINING, objective=",".join(names), top=1000)
    assert sorted(set(found.best["step_time_s"])) == sorted(set(columns["step_time_s"][~beaten]))
    assert found.reasons == []


def test_constraints_over_results() -> None:
    _, _, columns = everything(TRAINING)
    kept = columns["peak_bytes"] <= 60e9
    found = search(TRAINING, constraints=["peak_bytes <= 60e9"], top=5)
    assert 0 < kept.sum() < kept.size
    assert found.best["step_time_s"].tolist() == sorted(columns["step_time_s"][kept])[:5]
    with pytest.raises(InfeasibleError, match="keeps peak_bytes <= 1"):
        search(TRAINING, constraints=["peak_bytes <= 1"])


def test_why_a_plan_beats_the_next() -> None:
    found = search(TRAINING, top=3)
    first, second = found.best.iloc[0], found.best.iloc[1]
    share = second["step_time_s"] / first["step_time_s"] - 1
    assert found.reasons[0].startswith(f"better by {share:.2%} in step_time_s (")
    assert found.reasons[-1] == ""
    changed = {k for k in found.best if k.startswith("plan.") and first[k] != second[k]}
    assert changed and all(k.removeprefix("plan.") in found.reasons[0] for k in changed)


@pytest.mark.parametrize("name", NAMED_SPACES)
def test_named_spaces(name: str) -> None:
    found = search(TRAINING, space=name, top=1)
    assert simulate(found.scenarios[0]).step_time_s == pytest.approx(found.best["step_time_s"][0], rel=1e-12)
    if name == "fsdp":
        assert found.scenarios[0]["plan"]["pipeline_parallel"] == 1


def test_wishes_that_are_not_known() -> None:
    with pytest.raises(ScenarioError) as refused:
        search(TRAINING, objective="cost,stepp", constraints=["step < 3", "__import__('os')"])
    text = str(refused.value)
    for words in ("price per device and hour", "stepp", "step is not a result", "are understood"):
        assert words in text
    with pytest.raises(ScenarioError, match="is not a named space"):
        search(TRAINING, space="everything")


def test_open_ranges_of_a_machine() -> None:
    """Decode is bound by memory: the front reaches the highest bandwidth, and trades it against the units."""
    keys = ("system.accelerator.memory_bandwidth", "system.accelerator.units")
    scenario = {
        "model": "llama-3.1-8b",
        "task": {"kind": "decode", "batch_size": 8, "context_length": 2048},
        "system": "dgx-h100",
        "devices": 1,
    }
    options = {"population": 16, "generations": 6, "objective": "step_time"}
    front = search_hardware(
        scenario, dict(zip(keys, (["1 TB/s", "8 TB/s"], ["20", "200"]), strict=True)), **options
    )
    assert front[keys[0]].iloc[0] > 7e12
    small = search_hardware(
        scenario, {keys[0]: ["0.5x", "2x"], keys[1]: ["20", "200"]}, smallest=keys, **options
    )
    assert len(small) > 5
    assert set(small[keys[1]] % 1) == {0}
    row = small.iloc[0]
    alone = simulate({**scenario, keys[0]: row[keys[0]], keys[1]: str(int(row[keys[1]]))})
    assert alone.step_time_s == pytest.approx(row["step_time_s"], rel=1e-12)
    for ranges, words in (
        ({"model.hidden": ["1", "2"]}, "is not a numeric figure"),
        ({keys[1]: ["200", "20"]}, "lower and a higher"),
        ({keys[1]: ["0.5x", "200"]}, "of one sort"),
        ({keys[0]: ["1 kg", "2 kg"]}, "is not a range"),
        ({}, "needs a range"),
    ):
        with pytest.raises(ScenarioError, match=words):
            search_hardware(scenario, ranges)

"""One engine: a sweep is the loop of scalars, a row fed back gives itself, rules give their recorded values."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import TASKS, changed, laws, scenarios

import simulator.sweeps.sweeping
from simulator import RULES, simulate, sweep
from simulator.arrays.axis_tables import Factor, Rows
from simulator.arrays.shared_columns import dense
from simulator.composition.layer_cache import LayerCache
from simulator.composition.layer_table import LayerTable
from simulator.estimates.estimate import simulate_recorded
from simulator.spaces.space import space_from
from simulator.sweeps.sweeping import run_space

SAME = 1e-12
PLAN_AXES = {
    "plan.tensor_parallel": [1, 2, 4, 8],
    "plan.pipeline_parallel": [1, 2, 4],
    "plan.micro_batch_size": [1, 2, 4],
    "plan.sequence_parallel": [False, True],
    "plan.overlap_tensor_parallel": [False, True],
    "plan.overlap_pipeline_p2p": [True, False],
    "plan.attention_kernel": ["flash", "unfused"],
    "plan.placement": [
        "tensor, context, expert, data, pipeline",
        "pipeline data expert context tensor",
        "tensor pipeline data context expert",
        "data tensor pipeline context expert",
    ],
    "plan.collective_algorithm": ["auto", "ring", "hierarchical", "in_switch"],
    "plan.precision": ["bf16", "fp16", {"weights": "bf16", "activations": "bf16", "gradients": "bf16"}],
}
TRAINING_AXES = {
    "plan.virtual_pipeline": [1, 2],
    "plan.zero_stage": [0, 1, 2, 3],
    "plan.zero_group": [None, 1, 2],
    "plan.context_parallel": [1, 2, 4],
    "plan.context_parallel_kind": ["ring", "all_gather", "ulysses"],
    "plan.recompute": ["none", "selective", "full"],
    "plan.overlap_grad_reduce": [True, False],
    "plan.overlap_param_gather": [True, False],
    "plan.precision": ["bf16", "fp8", "fp16"],
    "task.global_batch_size": [16, 32, 48],
    "task.sequence_length": [128, 512, 1024],
}
INFERENCE_AXES = {
    "plan.precision": ["bf16", "w8a8", "w4a16", "fp8"],
    "plan.compression": [[], [{"name": "sparsity_2_4"}], [{"name": "layer_drop", "fraction": 0.25}]],
    "task.batch_size": [16, 32, 40],
}
OTHER_AXES = {
    "model": ["gpt2-xl", "llama-2-7b", "qwen3-8b", "mpt-7b", "mistral-7b"],
    "system": ["dgx-h100", "dgx-a100-80gb", "mi300x-8"],
    "devices": [8, 16],
    "fidelity": ["calibrated", "datasheet", "bound"],
    "system.accelerator.memory_bandwidth": ["1.5x", "2 TB/s", "0.7x"],
    "system.accelerator.units": ["1.1x", 96],
    "system.scale_up.link_bandwidth": ["40 GB/s", "0.5x"],
    "system.scale_up.latency": ["2x", "3 us"],
    "system.scale_out.link_bandwidth": ["200 Gbit/s", "3x"],
}
ZIPS = (
    {"plan.tensor_parallel": [1, 2, 8], "plan.pipeline_parallel": [4, 2, 1]},
    {
        "system.accelerator.clock": ["1.2x", "1 GHz"],
        "system.accelerator.memory_bandwidth": ["0.9x", "1 TB/s"],
    },
    {"devices": [8, 16, 32], "plan.micro_batch_size": [1, 2, 1]},
)


def base_and_axes(kind):
    """A scenario of a task, and the axes that make sense with it."""
    axes = {**PLAN_AXES, **(TRAINING_AXES if kind == "training" else INFERENCE_AXES), **OTHER_AXES}
    data = {"model": "llama-2-7b", "system": "dgx-a100-80gb", "devices": 16, "plan.fallback": "allow"}
    if kind == "training":
        data |= {"task": {"kind": kind, "sequence_length": 256, "global_batch_size": 32}}
    elif kind == "decode":
        data |= {"task": {"kind": kind, "batch_size": 32, "context_length": 300}}
    else:
        data |= {"task": {"kind": kind, "batch_size": 32, "prompt_length": 256}}
        if kind == "generation":
            data["task"]["output_length"] = 5
            axes["task.output_length"] = [1, 7, 40]
            # The window of one model fills while tokens are generated.
            axes["task.prompt_length"] = [256, 4080]
    return data, axes


def with_axis(data, key, values):
    """Sweep a key, inside its section where it has one."""
    section, _, inner = key.partition(".")
    if section in ("task", "plan") and inner:
        data[section] = {**data.get(section, {}), inner: {"sweep": values}}
    else:
        data[key] = {"sweep": values}


@st.composite
def spaces(draw, kind):
    """A sweep file with up to six axes of mixed sorts, in any order, perhaps a group and a condition."""
    data, axes = base_and_axes(kind)
    keys = draw(st.lists(st.sampled_from(sorted(axes)), min_size=2, max_size=5, unique=True))
    for key in keys:
        values = draw(st.lists(st.sampled_from(axes[key]), min_size=1, max_size=3))
        with_axis(data, key, values)
    group = draw(st.one_of(st.none(), st.sampled_from(ZIPS)))
    if group and not set(group) & set(keys):
        data["zip"] = [group]
    if draw(st.booleans()):
        data["where"] = ["plan.tensor_parallel * plan.pipeline_parallel <= 16", "devices >= 8"]
    return data


def same(one, other):
    """Equal to 1e-12, with NaN equal to NaN and to None."""
    if other is None or (isinstance(other, float) and math.isnan(other)):
        return one is None or math.isnan(one)
    return one == pytest.approx(float(other), rel=SAME, abs=1e-300)


def row_of(estimate):
    """Columns of a sweep's row, from an estimate."""
    d = estimate.to_dict()
    return {
        **{
            k: d[k]
            for k in ("step_time_s", "tokens_per_s", "tokens_per_s_per_device", "mfu", "hfu", "energy_j")
        },
        **{k: d[k] for k in ("time_to_first_token_s", "time_per_output_token_s", "feasible")},
        **{k: v for k, v in d["memory"].items() if k != "heaviest_stage"},
        "average_power_w_per_device": d["energy"]["average_power_w_per_device"],
    }


def assert_row_is_scalar(result, i):
    """Row i of a sweep equals the estimate of its scenario."""
    row = int(result.rows[i])
    estimate = simulate(result.space.scenario_mapping(row))
    for name, value in row_of(estimate).items():
        assert same(float(result.columns[name][i]), value), (name, row)
    step = estimate.step_time_s
    for name, value in estimate.time.items():
        assert float(result.columns[name][i]) == pytest.approx(value, rel=SAME, abs=step * SAME), (name, row)


@pytest.mark.parametrize("kind", TASKS)
def test_every_axis_by_itself_is_the_loop_of_scalars(kind):
    """Each key with all its values beside a plan axis, so that no key can be forgotten where blocks are shared."""
    for key, values in base_and_axes(kind)[1].items():
        data, _ = base_and_axes(kind)
        if key != "plan.tensor_parallel":
            with_axis(data, "plan.tensor_parallel", [2, 4])
        with_axis(data, key, values)
        result = run_space(space_from(data))
        assert len(result.rows) >= 2, key
        for i in range(len(result.rows)):
            assert_row_is_scalar(result, i)


@pytest.mark.parametrize("kind", TASKS)
def test_sweep_is_the_loop_of_scalars(kind):
    @laws(20)
    @given(spaces(kind), st.randoms(use_true_random=False))
    def law(data, random):
        space = space_from(data)
        result = run_space(space)
        n = len(result.rows)
        assert n + sum(result.excluded.values()) == space.n_rows
        for i in sorted(random.sample(range(n), min(n, 8))):
            assert_row_is_scalar(result, i)

    law()


@pytest.mark.parametrize("kind", TASKS)
def test_chunks_and_shared_blocks_change_nothing(kind):
    """Blocks are kept from chunk to chunk: chunks of seven rows give what one chunk gives."""

    @laws(15)
    @given(spaces(kind))
    def law(data):
        space = space_from(data)
        whole = run_space(space)
        with mock.patch.object(simulator.sweeps.sweeping, "CHUNK_ROWS", 7):
            parts = run_space(space)
        assert parts.rows.tolist() == whole.rows.tolist()
        assert parts.excluded == whole.excluded
        for name, column in whole.columns.items():
            assert parts.columns[name] == pytest.approx(column, rel=SAME, abs=1e-300, nan_ok=True), name

    law()


@laws(40)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), min_size=1, max_size=6))
def test_kept_blocks_are_found_again_in_any_order(chunks):
    """Positions come in any order over the chunks; each is evaluated once and gives its own block."""
    cache, seen = LayerCache(), []

    def evaluate(positions, n):
        seen.extend(positions[0].tolist())
        return LayerTable(**{f.name: positions[0] * 1.0 for f in dataclasses.fields(LayerTable)})

    for chunk in chunks:
        rows = Rows([31, 2], [Factor([0, 1], [np.array(chunk), np.array(chunk) % 2])], len(chunk))
        table = cache.table("structure", rows, [0], evaluate)
        assert np.broadcast_to(dense(table.layer_forward_s), (len(chunk),)).tolist() == chunk
    assert len(seen) == len(set(seen)) == cache.n_evaluated


@pytest.mark.parametrize("kind", TASKS)
def test_rows_left_out_are_refused_one_by_one(kind):
    from hardware_specs import ScenarioError

    @laws(4)
    @given(spaces(kind), st.randoms(use_true_random=False))
    def law(data, random):
        data.pop("where", None)
        space = space_from(data)
        kept = set(run_space(space).rows.tolist())
        left_out = [row for row in range(space.n_rows) if row not in kept]
        for row in random.sample(left_out, min(len(left_out), 4)):
            with pytest.raises(ScenarioError):
                simulate(space.scenario_mapping(row))

    law()


def test_order_of_axes_changes_the_order_of_rows_only():
    task = {"kind": "training", "sequence_length": 128, "global_batch_size": 64}
    keys = {"tensor_parallel": [1, 2, 4], "pipeline_parallel": [1, 2], "zero_stage": [0, 1]}
    frames = []
    for order in (list(keys), list(keys)[::-1]):
        plan = {k: keys[k] for k in order}
        frame = sweep(
            {"plan": plan, "task": task, "model": "llama-3.1-8b", "system": "dgx-h100", "devices": 8}
        )
        frames.append(frame.set_index([f"plan.{k}" for k in keys]).sort_index())
    assert len(frames[0]) == len(frames[1]) > 4
    for name in frames[0].columns:
        pd.testing.assert_series_equal(frames[0][name], frames[1][name], check_exact=True)


def test_last_axis_runs_fastest():
    task = {"kind": "decode", "batch_size": [8, 16], "context_length": [100, 200, 300]}
    frame = sweep({"model": "llama-2-7b", "task": task, "system": "dgx-h100", "devices": 1})
    assert frame["task.batch_size"].tolist() == [8, 8, 8, 16, 16, 16]
    assert frame["task.context_length"].tolist() == [100, 200, 300] * 2


@laws(25)
@given(scenarios(), st.randoms(use_true_random=False))
def test_order_of_keys_changes_nothing(scenario, random):
    def shuffled(mapping):
        items = [(k, shuffled(v) if isinstance(v, dict) else v) for k, v in mapping.items()]
        random.shuffle(items)
        return dict(items)

    here, there = simulate(scenario).to_dict(), simulate(shuffled(scenario)).to_dict()
    assert here == there


@laws(25)
@given(scenarios())
def test_the_resolved_scenario_gives_the_estimate_again(scenario):
    """A change that would fit names the replicas only where they were written; a resolved scenario writes them."""
    first = simulate(scenario).to_dict()
    again = simulate(json.loads(json.dumps(first["scenario"]))).to_dict()
    changes = [
        re.sub(r", plan\.data_parallel: \d+", "", e.pop("smallest_change") or "") for e in (first, again)
    ]
    assert changes[0] == changes[1]
    assert first == again


def test_replicas_that_are_written_follow_the_change_that_fits():
    scenario = {
        "model": "gpt3-175b",
        "task": {"kind": "decode", "batch_size": 4, "context_length": 64},
        "system": "tpu-v5p",
        "devices": 4,
    }
    assert simulate(scenario).smallest_change == "plan.tensor_parallel: 4"
    written = {**scenario, "plan": {"data_parallel": 4}}
    change = simulate(written).smallest_change
    assert change == "plan.tensor_parallel: 4, plan.data_parallel: 1"
    followed = {"tensor_parallel": 4, "data_parallel": 1}
    assert simulate({**written, "plan": followed}).feasible


@laws(15)
@given(scenarios(tasks=("training",), models=("gpt2-xl",)))
def test_switches_that_mean_nothing_change_nothing(scenario):
    """One tensor rank: no sequence parallelism. One replica: nothing to shard. One stage: no messages."""
    alone = changed(scenario, plan__tensor_parallel=1, plan__pipeline_parallel=1, plan__virtual_pipeline=1)
    alone["plan"] |= {"uneven_stages": False, "sequence_parallel": False, "zero_stage": 0}
    for degree in (
        "zero_group",
        "context_parallel",
        "expert_parallel",
        "expert_tensor_parallel",
        "expert_imbalance",
        "expert_capacity",
        "expert_padding",
        "reshard_after_forward",
        "prefetch_layers",
        "gradient_bucket",
        "tensor_parallel_split",
    ):
        alone["plan"].pop(degree, None)
    alone |= {"devices": 1, "task": {**scenario["task"], "global_batch_size": 8}}
    if scenario["system"] == "tpu-v5p":
        alone["system"] = "dgx-h100"
    plain = simulate(alone)
    for key, value in (
        ("sequence_parallel", True),
        ("zero_stage", 3),
        ("overlap_tensor_parallel", True),
        ("overlap_pipeline_p2p", True),
        ("overlap_grad_reduce", not alone["plan"]["overlap_grad_reduce"]),
    ):
        other = simulate(changed(alone, **{f"plan__{key}": value}))
        assert other.step_time_s == pytest.approx(plain.step_time_s, rel=SAME), key
        assert other.memory["peak_bytes"] == pytest.approx(plain.memory["peak_bytes"], rel=SAME), key
        assert other.energy_j == pytest.approx(plain.energy_j, rel=SAME), key


@laws(20)
@given(scenarios())
def test_recorded_inputs_give_the_recorded_value(scenario):
    estimate, _, recorder = simulate_recorded(scenario)
    assert recorder.records
    for record in recorder.records:
        again = RULES[record.rule].function(**record.inputs)
        assert np.array_equal(again, record.output, equal_nan=True), record.path
    steps = [r for r in recorder.under("step_time_s") if r.rule == "step_seconds"]
    if scenario["task"]["kind"] != "generation":
        assert float(np.ravel(steps[0].output)[0]) == estimate.step_time_s

"""Every rule of legality is broken by an example, and its message says where, what, why and what to do."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import yaml
from hypothesis import given
from law_scenarios import changed, laws, scenarios

from hardware_specs import ScenarioError
from simulator import simulate, sweep
from simulator.legality.registry import RULES, first_broken, problems
from simulator.scenarios.scenario import Plan
from simulator.spaces import nearest_plans
from simulator.spaces.partition import Splitter
from simulator.spaces.refusals import way_out
from simulator.spaces.space import space_from


def training(**changes):
    """A legal training step of GPT-3 on one node, with changes."""
    base = {
        "model": "gpt3-175b",
        "task": {"kind": "training", "sequence_length": 1024, "global_batch_size": 16},
        "system": "dgx-a100-80gb",
        "devices": 8,
        "plan": {"tensor_parallel": 4, "pipeline_parallel": 2},
    }
    return changed(base, **changes)


def prefill(**changes):
    return training(task={"kind": "prefill", "batch_size": 4, "prompt_length": 64}, **changes)


DEEP = {"base": "deepseek-v2-lite", "n_layers": 6, "first_dense_layers": 2}


def mixture(**changes):
    """A legal training step of a model with 8 experts on one node, with changes."""
    base = training(model="mixtral-8x7b", plan={"tensor_parallel": 1})
    return changed(base, **changes)


BROKEN = {
    "degrees multiply to devices": [training(plan__tensor_parallel=3), training(plan__data_parallel=2)],
    "devices fill whole nodes": [training(devices=12, plan__tensor_parallel=6)],
    "system has the devices": [training(devices=2**20, task__global_batch_size=2**20)],
    "torus slice is listed": [
        training(system="tpu-v5p", devices=24, plan__tensor_parallel=12, task__global_batch_size=16)
    ],
    "switch adds up": [training(plan__collective_algorithm="in_switch")],
    "tensor divides heads": [training(plan__tensor_parallel=5, plan__pipeline_parallel=1, devices=5)],
    "tensor fits kv heads": [
        training(model="llama-3.1-70b", plan__tensor_parallel=32, devices=64)
        | {"model": {"base": "llama-3.1-70b", "kv_heads": 8, "heads": 48, "hidden": 6144}, "devices": 24}
        | {"plan": {"tensor_parallel": 12, "pipeline_parallel": 2}}
    ],
    "tensor divides ffn": [
        training(model="qwen2.5-7b", plan__tensor_parallel=7, plan__pipeline_parallel=1, devices=7),
        # The layers without experts have an MLP of their own width.
        mixture(model={"base": "llama-4-scout", "experts_every": 2, "ffn": 16385}, plan__tensor_parallel=2),
    ],
    "tensor divides sequence": [training(plan__sequence_parallel=True, task__sequence_length=1023)],
    "layers divide into stages": [
        training(plan__pipeline_parallel=5, devices=40, plan__tensor_parallel=8, task__global_batch_size=15),
        training(plan__pipeline_parallel=2, plan__virtual_pipeline=5, plan__uneven_stages=True),
    ],
    "the first stage holds the first dense layers": [
        mixture(model=DEEP, devices=32, plan__pipeline_parallel=4, plan__uneven_stages=True),
        mixture(model=DEEP, devices=16, plan__pipeline_parallel=2, plan__stage_layers="1 5"),
    ],
    "latent attention is trained": [
        changed(mixture(model=DEEP), task={"kind": "prefill", "batch_size": 8, "prompt_length": 64})
    ],
    "latent attention is fused": [mixture(model=DEEP, plan__attention_kernel="unfused")],
    "stages have layers": [
        training(plan__pipeline_parallel=128, plan__tensor_parallel=1, devices=128, plan__uneven_stages=True)
    ],
    "batch divides": [training(plan__micro_batch_size=3), prefill(plan__pipeline_parallel=1, devices=24)],
    "micro-batch within replica": [prefill(plan__micro_batch_size=8)],
    "interleaving needs stages and micro-batches": [
        training(plan__virtual_pipeline=2, task__global_batch_size=15),
        training(plan__virtual_pipeline=2, plan__pipeline_parallel=1, devices=4),
        prefill(plan__virtual_pipeline=2),
    ],
    "layers by hand add up": [
        training(plan__first_stage_layers=90, plan__last_stage_layers=5),
        training(plan__first_stage_layers=5, plan__virtual_pipeline=2),
        training(devices=16, plan__pipeline_parallel=4, plan__first_stage_layers=22),
        # Chunks of 30, 32 and 32: the first one has two layers less.
        training(plan__first_stage_layers=46, plan__virtual_pipeline=3),
    ],
    "layers of every stage add up": [
        training(plan__stage_layers="32 32 32"),
        training(plan__stage_layers="48 47"),
        training(plan__stage_layers="48 48", plan__virtual_pipeline=2),
        training(plan__stage_layers="48 48", plan__last_stage_layers=48),
        training(plan__stage_layers="96", plan__pipeline_parallel=1, devices=4),
    ],
    "schedules are for pipelines that train": [
        prefill(plan__schedule="gpipe"),
        training(devices=4, plan__pipeline_parallel=1, plan__schedule="zb_h1"),
    ],
    "schedule has its chunks": [
        training(plan__schedule="zb_v"),
        training(plan__schedule="zb_h1", plan__virtual_pipeline=2),
    ],
    "dualpipe pairs stages and micro-batches": [
        training(devices=12, plan__pipeline_parallel=3, plan__schedule="dualpipe", system="gb200-nvl72"),
        training(task__global_batch_size=15, plan__schedule="dualpipe"),
    ],
    "schedule has its micro-batches": [
        training(task__global_batch_size=2, plan__schedule="dualpipe"),
        training(devices=32, plan__pipeline_parallel=8, task__global_batch_size=8, plan__schedule="zb_h2"),
    ],
    "a V has its ends on one stage": [
        training(plan__schedule="zb_v", plan__virtual_pipeline=2, plan__first_stage_layers=48),
    ],
    "offload has its tier": [
        training(system="mi300x-8", plan__offload="optimizer"),
        training(
            system="gh200-1",
            devices=1,
            plan__tensor_parallel=1,
            plan__pipeline_parallel=1,
            plan__offload="weights:nvme",
        ),
    ],
    "a host updates what it holds": [training(plan__optimizer_step="host")],
    "a host that updates is described": [
        training(
            system={
                "base": "mi300x-8",
                "host_memory": {"capacity": "1 TB", "bandwidth": "50 GB/s"},
            },
            plan__offload="optimizer",
            plan__optimizer_step="host",
        )
    ],
    "muon updates on the device": [
        training(plan__offload="optimizer", plan__optimizer_step="host", plan__optimizer="muon")
    ],
    "offload is for training": [prefill(plan__offload="weights")],
    "layers that recompute have a way to": [training(plan__recompute_layers=2)],
    "named modules need recompute: modules": [
        training(plan__recompute_modules="core_attn"),
        training(plan__recompute_modules="core_attn", plan__recompute="selective"),
        training(plan__recompute="modules"),
    ],
    "recomputed modules are in the model": [
        training(plan__recompute="modules", plan__recompute_modules="mla_up_proj moe moe_act shared_experts"),
        mixture(plan__recompute="modules", plan__recompute_modules="mlp"),
        mixture(plan__recompute="modules", plan__recompute_modules="moe shared_experts"),
    ],
    "kept results are in the model": [
        training(plan__recompute="needed", plan__recompute_keeps="gate"),
        mixture(plan__recompute="needed", plan__recompute_keeps="query up mlp_out"),
    ],
    "training options need training": [
        prefill(plan__zero_stage=1),
        prefill(plan__recompute="full"),
        prefill(plan__optimizer="sgd"),
        prefill(plan__loss="plain"),
        prefill(plan__loss="compiled"),
        prefill(plan__loss="chunked"),
        prefill(plan__engine="deepspeed"),
        prefill(plan__fragmentation=0.1),
        prefill(plan__free_gradients=True),
        prefill(plan__optimizer_step="host"),
        prefill(plan__recompute="modules", plan__recompute_modules="core_attn"),
        prefill(plan__gradient_bucket=10**7),
    ],
    "kept results need recompute: needed": [training(plan__recompute_keeps="gate")],
    "sharing ranks divide the replicas": [training(devices=32, plan__zero_stage=1, plan__zero_group=3)],
    "products are cut where they overlap": [
        training(plan__sequence_parallel=True, plan__tensor_parallel_split="ring"),
        training(plan__overlap_tensor_parallel=True, plan__tensor_parallel_split="pipelined"),
    ],
    "gathered weights are sharded": [
        training(devices=32, plan__zero_stage=1, plan__reshard_after_forward=False),
        training(devices=32, plan__zero_stage=2, plan__prefetch_layers=2),
    ],
    "buckets are exchanged at the end": [
        training(devices=32, plan__zero_stage=2, plan__gradient_bucket=10**7)
    ],
    "sharing ranks share something": [training(devices=32, plan__zero_group=2)],
    "inference types are not trained": [
        training(plan__precision="w4a16"),
        training(plan__compression=[{"name": "sparsity_2_4"}]),
    ],
    "device has the compute type": [
        training(plan__precision="fp8"),
        # Hopper's units take fp8, but no scale per block.
        training(plan__precision="mxfp8", system="dgx-h100"),
    ],
    "positions cover the sequence": [training(task__sequence_length=4096)],
    "experts run in grouped kernels": [
        prefill(model="mixtral-8x7b", plan__kernel_fusion="eager", plan__attention_kernel="unfused")
    ],
    "an encoder writes no tokens": [
        training(
            model="bert-large",
            task={"kind": "decode", "batch_size": 4, "context_length": 64},
            plan__pipeline_parallel=1,
            devices=4,
        )
    ],
    "context parallelism trains": [prefill(plan__context_parallel=2, devices=16)],
    "context divides the sequence": [
        training(plan__context_parallel=2, devices=16, task__sequence_length=1022),
        training(plan__context_parallel=3, devices=24, plan__context_parallel_kind="ulysses"),
    ],
    "context ranks use fused attention": [
        training(plan__context_parallel=2, devices=16, plan__attention_kernel="unfused")
    ],
    "ulysses divides heads": [
        training(plan__context_parallel=16, devices=128, plan__context_parallel_kind="ulysses")
    ],
    "ulysses fits kv heads": [
        training(model="llama-3.1-70b", plan__context_parallel=4, devices=32)
        | {"model": {"base": "llama-3.1-70b", "kv_heads": 12, "heads": 48, "hidden": 6144}}
        | {"plan": {"tensor_parallel": 2, "context_parallel": 4, "context_parallel_kind": "ulysses"}}
    ],
    "expert parallelism needs experts": [
        training(plan__expert_parallel=2),
        training(plan__expert_tensor_parallel=1),
    ],
    "expert parallelism divides the experts": [
        mixture(plan__expert_parallel=16),
        mixture(plan__expert_parallel=3),
    ],
    "expert ranks divide the ranks of a stage": [
        mixture(plan__expert_parallel=8, plan__tensor_parallel=1, plan__pipeline_parallel=2)
    ],
    "experts are whole or split as attention is": [
        mixture(plan__tensor_parallel=4, plan__expert_tensor_parallel=2, plan__sequence_parallel=True)
    ],
    "tensor ranks route tokens of their own": [mixture(plan__tensor_parallel=2, plan__expert_parallel=2)],
    "rows come from other ranks": [
        mixture(plan__expert_imbalance=1.5),
        mixture(plan__expert_parallel=2, plan__expert_imbalance=3.0),
    ],
    "rows pass beside another micro-batch": [
        mixture(plan__expert_parallel=2, plan__overlap_expert_parallel=True, task__global_batch_size=8)
    ],
    "rows pass beside shared experts": [
        mixture(plan__expert_parallel=2, plan__overlap_shared_experts=True),
    ],
    "capacity is of experts": [training(plan__expert_capacity=1.25), mixture(plan__expert_padding=True)],
    "limited nodes hold a token's experts": [
        mixture(plan__expert_parallel=8, plan__expert_node_limit=1),
        mixture(
            model={"base": "mixtral-8x7b", "topk": 5},
            devices=16,
            plan__expert_parallel=8,
            plan__expert_dispatch="per_node",
            system={"base": "dgx-a100-80gb", "accelerators_per_node": 4},
            plan__expert_node_limit=1,
        ),
    ],
    "shards of experts are not grouped": [
        mixture(plan__expert_parallel=2, plan__zero_stage=1, plan__zero_group=2)
    ],
}

# Broken only where two axes meet: a file with one such pair is refused as it is read.
BETWEEN_AXES = {
    "tiers join whole domains": training(
        system="grand-teton-h100-24k", devices=24, task__global_batch_size=24
    )
    | {"system.accelerators_per_node": [8, 6], "system.scale_out.domain": [3072, 3080]},
}


def combination(scenario):
    return Splitter(space_from(scenario)).combination(np.zeros(1, dtype=np.int64))


def test_the_scenarios_are_legal_before_they_are_broken():
    assert problems(combination(training())) == []
    assert problems(combination(prefill())) == []
    assert problems(combination(mixture())) == []
    assert simulate(training()).step_time_s > 0


@pytest.mark.parametrize("name", BETWEEN_AXES)
def test_a_combination_of_axes_is_left_out_by_name(name):
    found = sweep(BETWEEN_AXES[name])
    assert found.attrs["excluded"] == {name: 1} and len(found) == 3


@pytest.mark.parametrize("name", [rule.name for rule in RULES if rule.name not in BETWEEN_AXES])
def test_every_rule_is_broken_by_an_example(name):
    assert BROKEN.get(name)
    (rule,) = [r for r in RULES if r.name == name]
    for scenario in BROKEN[name]:
        c = combination(scenario)
        assert bool(np.any(rule.broken(c))), scenario
        said = rule.explain(c)
        with pytest.raises(ScenarioError) as refused:
            simulate(scenario)
        # The names of types and machines are filled in where the scenario is known.
        assert said.path in [problem.path for problem in refused.value.problems]
        for problem in refused.value.problems:
            assert problem.path.split(".")[0] in ("plan", "task", "devices", "model", "system")
            for part in (problem.path, problem.value, problem.rule, problem.fix):
                assert part and part in str(refused.value), problem


def plans_named(hint):
    """Changes of the plan that a hint names, each as a mapping."""
    named = re.findall(r"\(\d\) (.*?) \(tensor", hint)
    return [
        {key: yaml.safe_load(value) for key, value in re.findall(r"plan\.(\w+)=([^,]+)", one)}
        for one in named
    ]


@pytest.mark.parametrize("name", BROKEN)
def test_the_nearest_plans_are_legal(name):
    """One key is changed before two; whatever is named breaks no rule."""
    for scenario in BROKEN[name]:
        plans = plans_named(way_out(space_from(scenario)))
        for plan in plans:
            said = {**scenario, "plan": {**scenario.get("plan", {}), **plan}}
            assert problems(combination(said)) == [], plan


NEAREST = [
    (mixture(plan__expert_parallel=16), [{"expert_parallel": 8}]),
    (mixture(plan__expert_parallel=3), [{"expert_parallel": 4}, {"expert_parallel": 2}]),
    (
        training(
            model="llama-3.1-70b",
            devices=128,
            plan={"tensor_parallel": 16, "context_parallel": 8, "context_parallel_kind": "ulysses"},
        ),
        [{"tensor_parallel": 8}, {"context_parallel": 4}],
    ),
    (
        training(devices=12, plan__pipeline_parallel=3, plan__schedule="dualpipe", system="gb200-nvl72"),
        [{"schedule": "1f1b"}],
    ),
    (training(system="mi300x-8", plan__offload="optimizer"), [{"offload": "none"}]),
    (training(plan__data_parallel=2), [{"data_parallel": 1}]),
    # Far from 1, which is the only legal number.
    (training(plan__expert_parallel=16), [{"expert_parallel": 1}]),
    (training(plan__expert_tensor_parallel=3), [{"expert_tensor_parallel": None}]),
    (training(plan__optimizer_step="host"), [{"optimizer_step": "device"}]),
    (training(plan__stage_layers="3 4"), [{"stage_layers": ""}]),
]


@pytest.mark.parametrize(("scenario", "first"), NEAREST)
def test_the_nearest_plans_by_hand(scenario, first):
    assert plans_named(way_out(space_from(scenario)))[: len(first)] == first


def test_experts_in_parts_of_their_own_are_one_mistake():
    """Three parts divide neither the columns of an expert nor the ranks of a stage, and that is not said apart."""
    plan = {
        "tensor_parallel": 4,
        "sequence_parallel": True,
        "expert_parallel": 2,
        "expert_tensor_parallel": 3,
    }
    with pytest.raises(ScenarioError) as refused:
        simulate(mixture(plan=plan))
    assert [problem.path for problem in refused.value.problems] == ["plan.expert_tensor_parallel"]
    with pytest.raises(ScenarioError) as refused:
        simulate(training(plan__expert_tensor_parallel=3))
    assert [problem.path for problem in refused.value.problems] == ["plan.expert_tensor_parallel"]


def test_the_nearest_plans_look_at_every_key():
    """Of the others ``data_parallel`` follows the degrees, ``compression`` stays, and the rest breaks no rule."""
    tried = {*nearest_plans.DEGREES, *nearest_plans.CHOICES, *nearest_plans.LEFT_OUT}
    others = {"data_parallel", "overlap_grad_reduce", "overlap_param_gather", "overlap_pipeline_p2p"}
    others |= {"overlap_offload", "tensor_parallel_chunks", "placement", "fallback", "compression"}
    assert tried | others == set(Plan.model_fields) and not tried & others


def test_a_refused_scenario_says_the_nearest_plans_behind_its_last_mistake():
    with pytest.raises(ScenarioError) as refused:
        simulate(mixture(plan__expert_parallel=16))
    first, last = str(refused.value).splitlines()
    assert "more than the 8 experts" in first
    rule, hint = last.split("; nearest legal plans: ")
    assert rule == str(refused.value.problems[-1])
    assert hint.startswith("(1) plan.expert_parallel=8 (tensor 1, expert 8, data 8); (2) ")
    assert refused.value.hint == f"nearest legal plans: {hint}"
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
    # Nothing near: only the rules are said.
    with pytest.raises(ScenarioError) as refused:
        simulate(training(devices=12, plan__tensor_parallel=6))
    assert refused.value.hint == ""


def test_no_example_is_for_a_rule_that_is_gone():
    assert BROKEN.keys() | BETWEEN_AXES.keys() == {rule.name for rule in RULES}


def test_a_scenario_that_breaks_many_rules_hears_of_all():
    wrong = training(plan__precision="fp8", plan__expert_parallel=2, task__sequence_length=4096)
    with pytest.raises(ScenarioError) as refused:
        simulate(wrong)
    assert len(refused.value.problems) == 3


@laws(60)
@given(scenarios())
def test_legal_scenarios_break_nothing(scenario):
    c = combination(scenario)
    assert first_broken(c, 1).tolist() == [-1]
    assert problems(c) == []


@pytest.mark.parametrize(
    ("scenario", "way_out"),
    [
        (training(plan__data_parallel=2), {"plan__data_parallel": 1}),
        (training(plan__micro_batch_size=3), {"task__global_batch_size": 15}),
        (
            training(plan__sequence_parallel=True, task__sequence_length=1023),
            {"plan__sequence_parallel": False},
        ),
        (training(plan__precision="fp8"), {"plan__fallback": "allow"}),
        (training(plan__schedule="zb_v"), {"plan__virtual_pipeline": 2}),
        (training(plan__schedule="dualpipe", task__global_batch_size=2), {"task__global_batch_size": 4}),
        (
            training(devices=16, plan__pipeline_parallel=4, plan__first_stage_layers=22),
            {"plan__first_stage_layers": 21},
        ),
        # Three stages pair with nobody: the nearest even numbers divide layers and devices.
        (
            training(devices=12, plan__pipeline_parallel=3, plan__schedule="dualpipe", system="gb200-nvl72"),
            {"plan__pipeline_parallel": 2, "plan__tensor_parallel": 6, "plan__data_parallel": 1},
        ),
        (training(plan__stage_layers="48 47"), {"plan__stage_layers": "48 48"}),
        (training(plan__stage_layers="32 32 32"), {"plan__stage_layers": "48 48"}),
        (training(plan__stage_layers="48 48", plan__last_stage_layers=48), {"plan__last_stage_layers": None}),
        (
            training(plan__first_stage_layers=46, plan__virtual_pipeline=3),
            {"plan__first_stage_layers": 45},
        ),
        (
            training(model={"base": "gpt3-175b", "n_layers": 94}, plan__virtual_pipeline=4),
            {"plan__first_stage_layers": 47, "plan__last_stage_layers": 47},
        ),
        (training(plan__virtual_pipeline=2, task__global_batch_size=15), {"task__global_batch_size": 14}),
        (
            training(plan__schedule="zb_v", plan__virtual_pipeline=2, plan__first_stage_layers=50),
            {"plan__first_stage_layers": None, "plan__stage_layers": "25 23 23 25"},
        ),
        (prefill(plan__recompute="full"), {"plan__recompute": "none"}),
    ],
)
def test_the_way_out_leads_out(scenario, way_out):
    with pytest.raises(ScenarioError):
        simulate(scenario)
    assert simulate(changed(scenario, **way_out)).step_time_s > 0


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"plan__first_stage_layers": 10, "plan__last_stage_layers": 10}, "makes 20 layers.*give 96 in all"),
        ({"plan__first_stage_layers": 100}, "makes 100 layers.*give at most 96"),
        ({"plan__pipeline_parallel": 1, "plan__first_stage_layers": 96}, "is for pipelines.*leave it out"),
        ({"plan__stage_layers": "48 47"}, "makes 95 layers.*has 96; use `48 48`"),
        ({"plan__stage_layers": "32 32 32"}, "are 3 numbers, and there are 2 stages; use `48 48`"),
        ({"plan__stage_layers": "40 57"}, "use `40 56`"),
        ({"plan__stage_layers": "40 x"}, "x: must be whole numbers"),
        ({"plan__stage_layers": 48}, "must be text, the layers of all stages in quotes"),
        (
            {"plan__stage_layers": "96", "plan__pipeline_parallel": 1},
            "is for pipelines, and the one stage has all layers; leave it out",
        ),
        (
            {"plan__virtual_pipeline": 3, "plan__first_stage_layers": 46},
            "hold as many layers each, or the first one has one less; use 45 or 47",
        ),
        (
            {"plan__virtual_pipeline": 5},
            "must divide the 96 layers; use .*or write 10 numbers into plan.stage_layers",
        ),
        ({"plan__virtual_pipeline": 7}, "or set first_stage_layers and last_stage_layers to 48"),
        ({"plan__virtual_pipeline": 2, "task__global_batch_size": 15}, "use 14 or 16 sequences"),
    ],
)
def test_layers_by_hand_that_no_other_stage_takes(plan, message):
    """No stages are left to share anything: the way out is not to leave them 0 layers."""
    with pytest.raises(ScenarioError, match=message):
        simulate(training(**plan))

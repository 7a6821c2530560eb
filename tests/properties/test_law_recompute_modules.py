"""Parts of a layer run again by name: what runs twice, what is kept, and how named parts meet the other choices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from blocks_of import partition_of
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import changed, laws

from simulator import ScenarioError, simulate, sweep
from simulator.composition.activations import saved_bytes
from simulator.composition.blocks import cost_blocks
from workloads.rematerialisation import MODULES

STEP = {
    "model": "llama-3.1-8b",
    "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": 16},
    "system": "dgx-h100",
    "devices": 16,
    "plan": {"tensor_parallel": 4, "sequence_parallel": True, "pipeline_parallel": 2},
}
# Latent attention, routed and shared experts, and dense layers in front: every module is there.
EVERYTHING = changed(
    STEP,
    model={"base": "deepseek-v3", "n_layers": 4, "first_dense_layers": 1},
    plan__pipeline_parallel=1,
    plan__tensor_parallel=1,
    plan__sequence_parallel=False,
    plan__expert_parallel=8,
    plan__expert_tensor_parallel=1,
    plan__zero_stage=1,
    devices=16,
)
OF_DENSE = ("core_attn", "layernorm", "mlp")


def named(scenario, words, **changes):
    return changed(
        scenario,
        plan__recompute="modules" if words else "none",
        plan__recompute_modules=" ".join(words),
        **changes,
    )


def again(scenario, block="layer"):
    """Operators of a block that run a second time, without exchanges."""
    partition = partition_of(scenario)
    found = cost_blocks(partition.structure, partition.inputs).backward[block].operators
    return {
        c.operator.name.removeprefix("recompute.")
        for c in found
        if c.operator.phase == "recompute" and c.operator.kind != "collective"
    }


def kept(scenario, words, block="layer"):
    """Bytes of one block by tensor, and what stays of them under named modules [byte]."""
    partition = partition_of(scenario)
    operators = cost_blocks(partition.structure, partition.inputs).forward_operators[block]
    found = saved_bytes(operators, partition.inputs.precision, dict.fromkeys(words, np.ones(1)))
    return float((found.everything - found.dropped)[0])


@pytest.mark.parametrize("attention", ["flash", "unfused"])
def test_selective_is_the_attention_core(attention):
    """Every number of the estimate is the same, to the last bit."""
    one = simulate(changed(STEP, plan__recompute="selective", plan__attention_kernel=attention))
    other = simulate(named(STEP, ["core_attn"], plan__attention_kernel=attention))
    for field in ("step_time_s", "time", "memory", "energy_j", "mfu", "hfu"):
        assert getattr(one, field) == getattr(other, field)
    assert one.operators.equals(other.operators)


def test_a_module_runs_its_own_operators_again():
    assert again(named(STEP, ["core_attn"])) == {"attention"}
    assert again(named(STEP, ["layernorm"])) == {"attention_norm", "mlp_norm"}
    assert again(named(STEP, ["mlp"])) == {"mlp_up", "mlp_activation", "mlp_down"}
    routed = {f"experts_{n}" for n in ("dispatch", "up", "activation", "down", "combine")}
    routed |= {"experts_dispatch.rows.sort", "experts_combine.rows.sort"}
    router, shared = {"router", "router_topk"}, {"mlp_up", "mlp_activation", "mlp_down"}
    assert again(named(EVERYTHING, ["moe"])) == {*routed, *router, *shared, "shared_experts_add"}
    assert again(named(EVERYTHING, ["shared_experts"])) == shared
    assert again(named(EVERYTHING, ["moe_act"])) == {"experts_activation"}
    assert again(named(EVERYTHING, ["mla_up_proj"])) == {"query_up", "kv_up", "rotary"}
    # Layers in front of those with experts have the one MLP, and neither has the other's.
    assert again(named(EVERYTHING, ["mlp"])) == set()
    assert again(named(EVERYTHING, ["mlp"]), "dense_layer") == shared
    assert again(named(EVERYTHING, ["moe", "shared_experts"]), "dense_layer") == set()


def test_bytes_of_a_dense_layer_by_hand():
    """Llama 3.1 8B, 4 tensor ranks with sequence parallelism, 2048 tokens, in bf16."""
    tokens, hidden, ffn, heads, groups, width = 2048, 4096, 14336, 32, 8, 128
    shard = tokens / 4 * hidden * 2
    projected = tokens * (heads + 2 * groups) * width / 4 * 2
    context, statistics = tokens * heads * width / 4 * 2, tokens * heads / 4 * 4
    gate_and_up, activated = tokens * 2 * ffn / 4 * 2, tokens * ffn / 4 * 2
    norms, streams = 2 * shard, 2 * shard
    everything = streams + norms + projected + context + statistics + gate_and_up + activated
    assert kept(STEP, []) == everything
    assert kept(STEP, ["core_attn"]) == everything - statistics
    # Norms give their results back; an MLP keeps its input, unless the norm gives that back.
    assert kept(STEP, ["layernorm"]) == everything - norms
    assert kept(STEP, ["mlp"]) == everything - gate_and_up - activated
    # All of them: what enters modules stays, and nothing else.
    assert kept(STEP, OF_DENSE) == streams + projected + context


def test_bytes_of_experts_by_hand():
    """DeepSeek-V3, one sequence of 2048 tokens on each of 16 ranks, experts on 8 of them, in bf16."""
    tokens, picks, inner, heads, width = 2048, 8, 2048, 128, 128
    rows, everything = tokens * picks, kept(EVERYTHING, [])
    assert everything - kept(EVERYTHING, ["moe_act"]) == rows * inner * 2
    # Query and keys with 64 more for positions, and values.
    assert everything - kept(EVERYTHING, ["mla_up_proj"]) == tokens * heads * (2 * (width + 64) + width) * 2
    shared = tokens * 3 * inner * 2
    assert everything - kept(EVERYTHING, ["shared_experts"]) == shared
    gates = tokens * (256 + picks) * 2
    routed = rows * (7168 + 2 * inner + inner + 7168) * 2
    assert everything - kept(EVERYTHING, ["moe"]) == shared + gates + routed
    assert kept(EVERYTHING, ["moe", "shared_experts", "moe_act"]) == kept(EVERYTHING, ["moe"])


@laws(25)
@given(st.sets(st.sampled_from(tuple(MODULES))), st.sampled_from(tuple(MODULES)))
def test_one_module_more_keeps_no_more_and_takes_no_less(words, more):
    few, many = (simulate(named(EVERYTHING, w)) for w in (words, words | {more}))
    assert many.hfu * many.step_time_s >= few.hfu * few.step_time_s * (1 - 1e-12)
    assert many.time["compute_s"] >= few.time["compute_s"] * (1 - 1e-12)
    assert kept(EVERYTHING, words | {more}) <= kept(EVERYTHING, words)
    # Never more than whole layers, of which nothing but the input stays.
    full = simulate(changed(EVERYTHING, plan__recompute="full"))
    assert many.hfu * many.step_time_s <= full.hfu * full.step_time_s * (1 + 1e-12)
    assert many.time["compute_s"] <= full.time["compute_s"] * (1 + 1e-12)


def test_hardware_flop_count_what_runs_again():
    """An MLP of three matrices and the attention core, counted by hand beside three passes over everything."""
    none, some = simulate(named(STEP, [])), simulate(named(STEP, ["mlp", "core_attn"]))
    tokens, peak = 2048 * 16, none.mfu * none.step_time_s
    layers, hidden, ffn, heads, width = 32, 4096, 14336, 32, 128
    flop = tokens * layers * (2 * 3 * hidden * ffn + 4 * heads * width * 2048)
    per_flop = none.hfu * none.step_time_s / peak
    assert per_flop == pytest.approx(1.0)
    more = some.hfu * some.step_time_s - none.hfu * none.step_time_s
    devices, dense = 16, 989.4e12
    assert more == pytest.approx(flop / devices / dense, rel=2e-3)


def test_layers_that_name_modules_add_their_share():
    none, half, every = (
        simulate(named(STEP, words, plan__recompute_layers=n))
        for words, n in (([], None), (["mlp"], 8), (["mlp"], None))
    )
    for value in (lambda e: e.time["compute_s"], lambda e: e.hfu * e.step_time_s):
        assert value(half) == pytest.approx((value(none) + value(every)) / 2, rel=1e-9)


def test_layers_that_recompute_what_is_needed_add_their_share():
    none, half, every = (
        simulate(changed(STEP, plan__recompute=word, plan__recompute_layers=n))
        for word, n in (("none", None), ("needed", 8), ("needed", None))
    )
    for value in (lambda e: e.time["compute_s"], lambda e: e.hfu * e.step_time_s):
        assert value(half) == pytest.approx((value(none) + value(every)) / 2, rel=1e-9)
    assert none.hfu < half.hfu


@pytest.mark.parametrize("overlap", [False, True])
def test_a_sweep_over_named_modules_is_one_plan_after_the_other(overlap):
    """What other rows run again leaves no trace, though the operators are there for all."""
    texts = [" ".join(w) for n in (1, 2, 3) for w in itertools.combinations(OF_DENSE, n)]
    switch = {"plan__overlap_tensor_parallel": overlap}
    found = sweep(named(STEP, ["core_attn"], **switch) | {"plan.recompute_modules": texts})
    assert len(found) == len(texts)
    for row in found.to_dict("records"):
        alone = simulate(named(STEP, row["plan.recompute_modules"].split(), **switch))
        assert row["step_time_s"] == pytest.approx(alone.step_time_s, rel=1e-12)
        assert row["peak_bytes"] == pytest.approx(alone.memory["peak_bytes"], rel=1e-12)


def test_an_unknown_module_is_named_with_the_known_ones():
    with pytest.raises(ScenarioError) as refused:
        simulate(named(STEP, ["core_attn", "attention"]))
    assert "attention" in str(refused.value) and "mla_up_proj" in str(refused.value)

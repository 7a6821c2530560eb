"""Rows to experts: capacities, tokens that cross a tier once for each place, and shared experts beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from blocks_of import blocks_of, partition_of
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import changed, laws
from test_law_one_engine import assert_row_is_scalar

from simulator import simulate
from simulator.communication.token_dispatch import distinct_places
from simulator.spaces.space import space_from
from simulator.sweeps.sweeping import run_space

SHAPES = {"n_layers": 4, "hidden": 1024, "heads": 16, "kv_heads": 4, "ffn": 2048, "vocab": 32000}
EXPERTS = {**SHAPES, "experts": 64, "topk": 6, "moe_ffn": 512, "shared_experts": 2}
TOKENS, BYTES = 1024, 2
ROW = 1024 * BYTES


def step(ranks=16, **plan):
    return {
        "model": {**EXPERTS, "max_positions": 4096},
        "task": {"kind": "training", "sequence_length": TOKENS, "global_batch_size": 16},
        "system": "dgx-a100-80gb",
        "devices": 16,
        "plan": {"expert_parallel": ranks, **plan},
    }


def a(value):
    return np.array([float(value)])


@laws(40)
@given(st.integers(1, 8), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.data())
def test_distinct_places_are_the_share_of_choices_that_hit(topk, places, of_place, data):
    """A place is missed by C(pool - e, k) of the C(pool, k) ways to pick k different experts."""
    experts = places * of_place
    allowed = data.draw(st.integers(1, places))
    pool = allowed * of_place
    if topk > pool:
        return
    found = float(distinct_places(topk=a(topk), experts=a(experts), pool=a(pool), places=a(places))[0])
    missed = math.comb(pool - of_place, topk) / math.comb(pool, topk)
    assert found == pytest.approx(allowed * (1 - missed), rel=1e-12)
    assert 1 - 1e-12 <= found <= min(topk, allowed) + 1e-12


def test_distinct_nodes_played_out():
    """DeepSeek-V3: 8 of 256 experts over 8 nodes; of 4 nodes that are drawn first."""
    rng = np.random.default_rng(3)
    free = np.mean([len({e // 32 for e in rng.permutation(256)[:8]}) for _ in range(4000)])
    few = []
    for _ in range(4000):
        nodes = rng.permutation(8)[:4]
        pool = np.concatenate([np.arange(32) + 32 * n for n in nodes])
        few.append(len({e // 32 for e in rng.permutation(pool)[:8]}))
    both = distinct_places(topk=a(8), experts=a(256), pool=np.array([256.0, 128.0]), places=a(8))
    assert both == pytest.approx([free, np.mean(few)], rel=0.01)


def rows(scenario, name="experts_dispatch.rows.all_to_all"):
    (found,) = [c for c in blocks_of(scenario).forward["layer"].operators if c.operator.name == name]
    return float(found.inner_bytes[0]), float(found.across_bytes[0][0]), float(found.busy_s[0])


def test_bytes_of_both_ways_by_hand():
    """16 ranks on two nodes: a library sends 6 copies, one of 16 to itself; else one to each node and rank."""
    inside, across, _ = rows(step())
    assert inside == pytest.approx(TOKENS * ROW * 6 * 7 / 16, rel=1e-12)
    assert across == pytest.approx(TOKENS * ROW * 6 * 8 / 16, rel=1e-12)
    missed = math.comb(60, 6) / math.comb(64, 6), math.comb(32, 6) / math.comb(64, 6)
    inside, across, _ = rows(step(expert_dispatch="per_node"))
    assert inside == pytest.approx(TOKENS * ROW * 16 * (1 - missed[0]) * 7 / 8, rel=1e-12)
    assert across == pytest.approx(TOKENS * ROW * 2 * (1 - missed[1]) / 2, rel=1e-12)
    # One of two nodes: the token stays in its node half of the time.
    inside, across, _ = rows(step(expert_dispatch="per_node", expert_node_limit=1))
    missed = math.comb(28, 6) / math.comb(32, 6)
    assert inside == pytest.approx(TOKENS * ROW * 8 * (1 - missed) * 7 / 8, rel=1e-12)
    assert across == pytest.approx(TOKENS * ROW / 2, rel=1e-12)


def test_once_to_a_node_is_faster_between_nodes_and_a_limit_faster_still():
    plain, once, limited = (
        rows(step(**plan))[2]
        for plan in (
            {},
            {"expert_dispatch": "per_node"},
            {"expert_dispatch": "per_node", "expert_node_limit": 1},
        )
    )
    assert limited < once < plain
    # In one node nothing but copies for two experts of one rank is saved.
    near = [rows(step(8, expert_dispatch=way))[0] for way in ("per_expert", "per_node")]
    assert near[0] / near[1] == pytest.approx(6 / (8 * (1 - math.comb(56, 6) / math.comb(64, 6))), rel=1e-12)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_shared_experts_hide_rows_of_their_phase(recompute):
    plan = step(recompute=recompute)
    alone, beside = (simulate(changed(plan, plan__overlap_shared_experts=o)) for o in (False, True))
    share = partition_of(plan).inputs.fabric.inner.compute_share[0]
    expected = 0.0
    blocks = blocks_of(plan)
    for block in (blocks.forward["layer"], blocks.backward["layer"]):
        for phase in ("forward", "recompute", "backward"):
            here = [c for c in block.operators if c.operator.phase == phase]
            sent = sum(float(c.busy_s[0]) for c in here if c.operator.axis == "expert")
            hides = sum(
                float(c.busy_s[0])
                for c in here
                if c.operator.module == "mlp" and c.operator.kind != "collective"
            )
            waiting = max(sent - hides, 0.0)
            expected += 4 * (waiting + share * (sent - waiting))
    assert beside.time["expert_parallel_s"] == pytest.approx(expected, rel=1e-9)
    assert beside.step_time_s < alone.step_time_s
    assert beside.operators["exposed_s"].sum() == pytest.approx(beside.step_time_s, rel=1e-9)
    # Another micro-batch has more kernels to hide them: the switch of shared experts then changes nothing.
    plan["task"]["global_batch_size"] = 64
    other = simulate(changed(plan, plan__overlap_expert_parallel=True))
    plan["plan"]["overlap_expert_parallel"] = True
    assert simulate(changed(plan, plan__overlap_shared_experts=True)).step_time_s == other.step_time_s


def test_a_capacity_drops_what_is_beyond_and_padding_fills_up():
    def grouped(**plan):
        ops = blocks_of(step(**plan)).forward["layer"].operators
        return sum(float(c.work.flop[0]) for c in ops if c.operator.kind == "grouped_matmul")

    even = grouped()
    assert grouped(expert_imbalance=2.0) == pytest.approx(2 * even, rel=1e-12)
    assert grouped(expert_imbalance=2.0, expert_capacity=1.25) == pytest.approx(1.25 * even, rel=1e-12)
    assert grouped(expert_imbalance=1.0, expert_capacity=1.25) == pytest.approx(even, rel=1e-12)
    assert grouped(expert_capacity=1.25, expert_padding=True) == pytest.approx(1.25 * even, rel=1e-12)
    # Rows travel as they are computed.
    assert rows(step(expert_capacity=0.5))[1] == pytest.approx(rows(step())[1] / 2, rel=1e-12)


def test_a_sweep_of_routing_is_the_loop_of_scalars():
    data = step(zero_stage=1)
    data["task"]["global_batch_size"] = 64
    data["plan"] |= {
        "expert_parallel": [1, 8, 16],
        "expert_capacity": [None, 0.5, 1.25],
        "expert_padding": [False, True],
        "expert_dispatch": ["per_expert", "per_node"],
        "expert_node_limit": [None, 1],
        "overlap_shared_experts": [False, True],
        "overlap_expert_parallel": [False, True],
    }
    result = run_space(space_from(data))
    assert len(result.rows) == 3 * 5 * 3 * 4
    for i in range(0, len(result.rows), 17):
        assert_row_is_scalar(result, i)

"""Expert parallelism: whose rows a rank computes, what it sends, and who holds the same experts."""

from __future__ import annotations

import numpy as np
import pytest
from blocks_of import blocks_of, flop_of, partition_of
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import changed, laws
from test_law_one_engine import assert_row_is_scalar

from simulator import simulate, sweep
from simulator.spaces.space import space_from
from simulator.sweeps.sweeping import run_space

SHAPES = {"n_layers": 4, "hidden": 1024, "heads": 16, "kv_heads": 4, "ffn": 2048, "vocab": 32000}
EXPERTS = {**SHAPES, "experts": 16, "topk": 2, "moe_ffn": 512, "max_positions": 4096}
TOKENS, BYTES = 1024, 2


def step(ranks: int, *, tensor: int = 1, data: int = 16, **plan):
    return {
        "model": EXPERTS,
        "task": {"kind": "training", "sequence_length": TOKENS, "global_batch_size": data},
        "system": "dgx-a100-80gb",
        "devices": tensor * data,
        "plan": {
            "expert_parallel": ranks,
            "tensor_parallel": tensor,
            "sequence_parallel": tensor > 1,
            **plan,
        },
    }


def sent(block, axis="expert"):
    return sorted(
        (c.operator.collective, float(c.work.message_bytes[0]))
        for c in block.operators
        if c.operator.axis == axis and c.operator.scale[0] > 0
    )


@laws(20)
@given(
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([(1, 1), (2, 2), (2, 1), (4, 1)]),
    st.sampled_from([1, 1.25]),
)
def test_a_rank_computes_as_many_rows_for_fewer_experts(ranks, degrees, imbalance):
    """Each rank brings its tokens: T k rows, over the ranks of one expert; matrices are those of E/n experts."""
    tensor, parts = degrees
    if ranks == 1:
        imbalance = 1
    plan = step(
        ranks,
        tensor=tensor,
        expert_tensor_parallel=parts,
        expert_imbalance=imbalance,
        data=16 // tensor * parts,
    )
    blocks = blocks_of(plan)
    rows = TOKENS * 2 / tensor * parts * imbalance
    expected = 2 * rows * 3 * 1024 * 512 / parts
    assert flop_of(blocks.forward["layer"], "grouped_matmul") == pytest.approx(expected, rel=1e-12)
    assert flop_of(blocks.backward["layer"], "grouped_matmul") == pytest.approx(2 * expected, rel=1e-12)
    held = 3 * 1024 * 512 * 16 / ranks / parts
    assert float(blocks.experts["layer"].count[0]) == held
    read = {c.operator.name: float(c.work.moved_bytes[0]) for c in blocks.forward["layer"].operators}
    hit = 16 / ranks * (1 - (1 - 2 / 16) ** (TOKENS / tensor * parts * ranks * imbalance))
    up = BYTES * (hit * 1024 * 1024 / parts + rows * (1024 + 1024 / parts))
    assert read["experts_up"] == pytest.approx(up, rel=1e-9)


def test_routing_played_out_matches_the_mean():
    """Tokens of four ranks drawn at random: rows that arrive at a rank are as many as its own tokens' rows."""
    rng = np.random.default_rng(7)
    picks = np.array([rng.permutation(16)[:2] for _ in range(4 * TOKENS)]).reshape(4, TOKENS * 2)
    arriving = np.array([(picks // 4 == rank).sum() for rank in range(4)])
    assert arriving.sum() == 4 * TOKENS * 2
    assert arriving == pytest.approx(np.full(4, TOKENS * 2), rel=0.06)
    leaving = np.mean([(picks[rank] // 4 != rank).sum() for rank in range(4)])
    assert leaving == pytest.approx(
        TOKENS * 2 * 3 / 4, rel=0.03
    )  # an all-to-all sends (n - 1)/n of its message


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_messages_by_hand(recompute):
    """Rows go there and come back, forward and backward, and once more where the layer is computed again."""
    whole = TOKENS * 2 * 1024 * BYTES
    again = 2 if recompute == "full" else 0
    for tensor, parts, message in ((1, None, whole), (4, 1, whole / 4), (4, None, whole / 4)):
        blocks = blocks_of(step(8, tensor=tensor, expert_tensor_parallel=parts, recompute=recompute, data=8))
        assert sent(blocks.forward["layer"]) == [("all_to_all", message)] * 2
        assert sent(blocks.backward["layer"]) == [("all_to_all", message)] * (2 + again)
    # Four tensor ranks that split each expert gather the rows that they received; the way back is a reduce-scatter.
    rows = [s for s in sent(blocks.forward["layer"], "tensor") if s[1] == whole]
    assert rows == [("all_gather", whole), ("reduce_scatter", whole)]
    # Whole experts: tensor ranks exchange for attention alone, one gathering in front and one scattering behind.
    blocks = blocks_of(step(8, tensor=4, expert_tensor_parallel=1, data=8))
    message = TOKENS * 1024 * BYTES
    assert sent(blocks.forward["layer"], "tensor") == [("all_gather", message), ("reduce_scatter", message)]


def sorted_bytes(block):
    """Bytes that copies of rows move, by operator."""
    return {
        c.operator.name: float(c.work.moved_bytes[0])
        for c in block.operators
        if c.operator.name.endswith(".rows.sort") and c.operator.scale[0] > 0
    }


@pytest.mark.parametrize("ranks", [1, 2, 8, 16])
@pytest.mark.parametrize(("tensor", "parts"), [(1, None), (4, 1), (4, None)])
def test_rows_that_arrive_are_put_in_the_order_of_the_experts(ranks, tensor, parts):
    """Each row is read and written once in each direction and pass, unless one expert, or every rank's, is there."""
    data = 64 // tensor
    blocks = blocks_of(step(ranks, tensor=tensor, expert_tensor_parallel=parts, recompute="none", data=data))
    # T k rows of 1,024 bf16; four tensor ranks route a quarter each, and gather all where experts are split.
    copied = TOKENS * 2 * 1024 * BYTES * 2 / (tensor if parts == 1 else 1)
    passes = {"forward": ("", blocks.forward), "backward": (".grad", blocks.backward)}
    for suffix, found in passes.values():
        expected = {f"experts_{side}{suffix}.rows.sort": copied for side in ("dispatch", "combine")}
        assert sorted_bytes(found["layer"]) == (expected if 1 < ranks < 16 else {})


def test_kernels_of_serving_follow_indices_instead():
    prefill = {**step(8), "task": {"kind": "prefill", "batch_size": 16, "prompt_length": TOKENS}}
    assert sorted_bytes(blocks_of(prefill).forward["layer"]) == {}
    order = [c.operator.name for c in blocks_of(step(8)).forward["layer"].operators]
    for earlier, later in (
        ("experts_dispatch.rows.all_to_all", "experts_dispatch.rows.sort"),
        ("experts_dispatch.rows.sort", "experts_up"),
        ("experts_down", "experts_combine.rows.sort"),
        ("experts_combine.rows.sort", "experts_combine.rows.all_to_all"),
    ):
        assert order.index(earlier) < order.index(later)


@laws(15)
@given(st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 3))
def test_states_are_shared_among_the_ranks_that_hold_them_alike(ranks, stage):
    """16 replicas: dense parameters are held by all, an expert's by 16/n; all of them once over the replicas."""
    memory = simulate(step(ranks, zero_stage=stage)).memory
    blocks = blocks_of(step(1))
    one, experts = blocks.parameters, 4 * float(blocks.experts["layer"].count[0])
    total = sum(float(one[b].count[0]) for b in ("embedding", "head")) + 4 * float(one["layer"].count[0])
    dense = total - experts
    for owner, width, first in (("weights", 2, 3), ("gradients", 4, 2), ("optimizer", 12, 1)):
        copies = (16, 16 / ranks) if stage >= first else (1, 1)
        held = width * (dense / copies[0] + experts / ranks / copies[1])
        assert memory[f"{owner}_bytes"] == pytest.approx(held, rel=1e-9), owner


def test_gradients_of_experts_are_summed_over_their_copies():
    """Bytes of the end of a step, all-reduced in fp32: dense ones over 16 ranks, of experts over 16/n."""
    single, split = (step(n, zero_stage=0) for n in (1, 16))
    experts = 4 * float(blocks_of(single).experts["layer"].count[0])
    ends = [simulate(s).operators.set_index("name").loc["gradients.exchange"].busy_s for s in (single, split)]
    assert ends[1] < ends[0]
    alone = simulate(step(16, zero_stage=0)).memory["gradients_bytes"]
    assert simulate(single).memory["gradients_bytes"] - alone == pytest.approx(
        4 * experts * 15 / 16, rel=1e-9
    )


def test_the_fullest_rank_decides():
    even, skewed = (simulate(step(8, expert_imbalance=i, recompute="none")) for i in (1.0, 2.0))
    assert skewed.time["expert_parallel_s"] > 1.5 * even.time["expert_parallel_s"]
    assert skewed.time["compute_s"] > even.time["compute_s"]
    assert skewed.memory["activations_bytes"] > even.memory["activations_bytes"]


@pytest.mark.parametrize("ranks", [8, 16])
def test_rows_pass_beside_another_micro_batch(ranks):
    """Each pass waits for what its own kernels' time does not cover, and the hidden part costs its share of units."""
    plan = step(ranks, recompute="none")
    plan["task"]["global_batch_size"] = 32
    alone, beside = (simulate(changed(plan, plan__overlap_expert_parallel=o)) for o in (False, True))
    share = partition_of(plan).inputs.fabric.inner.compute_share[0]
    expected = whole = 0.0
    blocks = blocks_of(plan)
    for block in (blocks.forward["layer"], blocks.backward["layer"]):
        rows = sum(float(c.busy_s[0]) for c in block.operators if c.operator.axis == "expert")
        kernels = sum(float(c.busy_s[0]) for c in block.operators if c.operator.kind != "collective")
        waiting = max(rows - kernels, 0.0)
        whole += 2 * 4 * rows
        expected += 2 * 4 * (waiting + share * (rows - waiting))
    assert beside.time["expert_parallel_s"] == pytest.approx(expected, rel=1e-9)
    assert alone.time["expert_parallel_s"] == pytest.approx(whole, rel=1e-9)
    assert beside.operators["exposed_s"].sum() == pytest.approx(beside.step_time_s, rel=1e-9)
    assert beside.memory["activations_bytes"] > 1.4 * alone.memory["activations_bytes"]


@laws(20)
@given(
    micro_batch=st.sampled_from([1, 2]),
    tensor=st.sampled_from([2, 4]),
    ranks=st.sampled_from([8, 16]),
    split=st.sampled_from(["none", "ring", "pipelined"]),
    figure=st.sampled_from(["clock", "units", "memory_bandwidth"]),
)
def test_no_step_is_longer_on_a_faster_chip(micro_batch, tensor, ranks, split, figure):
    """Tensor ranks wait longer for exchanges that faster kernels no longer hide, where rows bound a pass too."""
    plan = {
        "model": "qwen3-30b-a3b",
        "task": {"kind": "training", "sequence_length": 8192, "global_batch_size": 64},
        "system": "dgx-h800",
        "devices": 16,
        "fidelity": "datasheet",
        "plan": {
            "tensor_parallel": tensor,
            "sequence_parallel": True,
            "expert_parallel": ranks,
            "expert_tensor_parallel": 1,
            "overlap_expert_parallel": True,
            "overlap_tensor_parallel": True,
            "tensor_parallel_split": split,
            "micro_batch_size": micro_batch,
        },
    }
    key = f"system.accelerator.{figure}"
    seconds = sweep({**plan, key: ["1x", "1.5x", "2x", "4x"]})["step_time_s"].to_numpy()
    assert (np.diff(seconds) <= 1e-12 * seconds[0]).all()


def test_rows_over_nodes_take_longer():
    near, far = (simulate(step(n, data=16)).time["expert_parallel_s"] for n in (8, 16))
    assert far > 2 * near


def test_a_sweep_of_expert_ranks_is_the_loop_of_scalars():
    data = step(1, tensor=1, zero_stage=1)
    data["task"]["global_batch_size"] = 64
    data["plan"] = {
        "expert_parallel": [1, 2, 4],
        "expert_tensor_parallel": [None, 1],
        "expert_imbalance": [1.0, 1.5],
        "overlap_expert_parallel": [False, True],
        "tensor_parallel": [1, 2],
        "sequence_parallel": [True, False],
        "zero_stage": [1, 3],
        "context_parallel": [1, 2],
    }
    result = run_space(space_from(data))
    assert len(result.rows) > 50
    for i in range(0, len(result.rows), 13):
        assert_row_is_scalar(result, i)


def test_prompts_and_tokens_are_split_too():
    task = {"kind": "decode", "batch_size": 64, "context_length": 512}
    one, split = (simulate(changed(step(n, data=8), task=task)) for n in (1, 8))
    assert split.memory["weights_bytes"] < one.memory["weights_bytes"]
    assert split.time["expert_parallel_s"] > 0

"""Context parallelism: what each rank attends to, what ranks exchange, and what a rank keeps."""

from __future__ import annotations

import numpy as np
import pytest
from blocks_of import blocks_of, flop_of, partition_of, saved_by
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import changed, laws

from hardware_specs import ScenarioError
from simulator import simulate
from workloads.attention import attended_pairs

SHAPES = {"n_layers": 4, "hidden": 1024, "heads": 16, "kv_heads": 4, "ffn": 2048, "vocab": 32000}
KINDS = ("ring", "all_gather", "ulysses")
BYTES = 2


def step(context: int, kind: str = "ring", *, tensor: int = 1, length: int = 4096, **plan):
    return {
        "model": {**SHAPES, "max_positions": 65536},
        "task": {"kind": "training", "sequence_length": length, "global_batch_size": 2},
        "system": "dgx-a100-80gb",
        "devices": tensor * context,
        "plan": {
            "tensor_parallel": tensor,
            "context_parallel": context,
            "context_parallel_kind": kind,
            **plan,
        },
    }


def exchanges(block, collective):
    return [c for c in block.operators if c.operator.collective == collective]


@laws(40)
@given(st.integers(1, 6), st.integers(1, 6))
def test_zigzag_chunks_give_every_rank_and_pass_the_same_pairs(ranks, chunk):
    """Played out: 2 c chunks, the i-th and the last but i-th to rank i; each pass attends to another rank's two.

    Off the diagonal the masks of two chunks leave one whole chunk of pairs for each; on it two triangles and a square.
    """
    owner = [(i, 2 * ranks - 1 - i) for i in range(ranks)]
    visible = np.tril(np.ones((2 * ranks * chunk, 2 * ranks * chunk)))

    def rows(i):
        return np.concatenate([np.arange(part * chunk, (part + 1) * chunk) for part in owner[i]])

    pairs = np.array([[visible[np.ix_(rows(q), rows(k))].sum() for k in range(ranks)] for q in range(ranks)])
    off = pairs[~np.eye(ranks, dtype=bool)]
    assert np.all(off == 2 * chunk**2)
    assert np.all(np.diag(pairs) == 2 * chunk**2 + chunk)
    whole = attended_pairs(
        np.array([2.0 * ranks * chunk]), np.array([2.0 * ranks * chunk]), np.array([np.inf])
    )
    assert pairs.sum() == whole[0]
    # The engine gives all passes the mean: off by the diagonal's c / (2 L).
    assert whole[0] / ranks**2 == pytest.approx(2 * chunk**2, rel=1 / chunk)


@laws(30)
@given(st.sampled_from(KINDS), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.booleans())
def test_the_work_of_a_layer_is_divided(kind, context, tensor, sequence):
    """Products and attention of all context ranks are those of one; parameters are the same on each."""
    one = blocks_of(step(1, tensor=tensor, sequence_parallel=sequence))
    split = blocks_of(step(context, kind, tensor=tensor, sequence_parallel=sequence))
    for side in ("forward", "backward"):
        for block in ("embedding", "layer", "head"):
            for operation in ("matmul", "wide_matmul", "attention", "attention_backward"):
                whole = flop_of(getattr(one, side)[block], operation)
                assert flop_of(getattr(split, side)[block], operation) * context == pytest.approx(
                    whole, rel=1e-12
                )
    for block in ("embedding", "layer", "head"):
        assert float(split.parameters[block].count[0]) == float(one.parameters[block].count[0])


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_messages_by_hand(recompute):
    """Four ranks of 1024 tokens, two sequences; keys and values of 4 heads x 64 each, queries of 16 x 64."""
    context, tokens = 4, 2 * 4096 // 4
    kv, query = tokens * 2 * 4 * 64 * BYTES, tokens * 16 * 64 * BYTES
    again = 0 if recompute == "none" else 1

    def sent(kind, side):
        blocks = blocks_of(step(context, kind, recompute=recompute, micro_batch_size=2))
        found = {}
        for c in getattr(blocks, side)["layer"].operators:
            if c.operator.axis == "context":
                name = c.operator.collective
                found.setdefault(name, []).append(float(c.work.message_bytes[0]))
        return {name: sorted(sizes) for name, sizes in found.items()}

    # A hop of the ring carries a rank's keys and values, on the way back their gradients too.
    assert sent("ring", "forward") == {"ring_exchange": [kv]}
    assert sent("ring", "backward") == {"ring_exchange": sorted([kv] * again + [2 * kv])}
    # An all-gather's message is its output, a reduce-scatter's its input: those of all ranks.
    assert sent("all_gather", "forward") == {"all_gather": [4 * kv]}
    assert sent("all_gather", "backward") == {
        "all_gather": [4 * kv] * (1 + again),
        "reduce_scatter": [4 * kv],
    }
    # Queries, keys and values there, the result back; their gradients the other way round.
    assert sent("ulysses", "forward") == {"all_to_all": sorted([query, query + kv])}
    assert sent("ulysses", "backward") == {"all_to_all": sorted([query, query + kv] * (1 + again))}


def test_keys_of_few_heads_are_copied_for_ulysses():
    """Eight ranks share 4 key heads: two hold a copy of each, so twice as many keys and values arrive."""
    block = blocks_of(step(8, "ulysses", micro_batch_size=2)).forward["layer"]
    tokens = 2 * 4096 // 8
    there = max(float(c.work.message_bytes[0]) for c in exchanges(block, "all_to_all"))
    assert there == tokens * BYTES * (16 * 64 + 2 * 2 * 4 * 64)
    (kernel,) = (c.operator for c in block.operators if c.operator.kind == "attention")
    assert {role: float(kernel.extents[role][0].size[0]) for role in ("heads", "kv_heads", "query_length")} == {
        "heads": 2, "kv_heads": 1, "query_length": 4096,
    }  # fmt: skip


@laws(20)
@given(st.sampled_from(["none", "selective", "full"]), st.sampled_from(KINDS), st.sampled_from([2, 4]))
def test_what_is_kept_is_divided(recompute, kind, context):
    one = saved_by(step(1, recompute=recompute))
    split = saved_by(step(context, kind, recompute=recompute))
    for choice, size in one.items():
        assert split[choice] * context == pytest.approx(size, rel=1e-12)


def test_a_ring_hides_behind_attention_once_sequences_are_long():
    """A hop grows with the tokens of a rank and its attention with their square."""

    def rows(length, **system):
        operators = simulate(step(4, length=length) | system).operators.set_index("name")
        return operators.loc["layer.attention.ring_exchange"], operators.loc["layer.attention"]

    # Beside the kernel it costs what it takes of the units, and nothing else.
    share = partition_of(step(4)).inputs.fabric.inner.compute_share[0]
    ring, _ = rows(65536)
    assert ring.exposed_s == pytest.approx(share * ring.busy_s, rel=1e-9)
    # Over slow links each of three hops waits for what a kernel does not hide.
    ring, kernel = rows(2048, **{"system.scale_up.link_bandwidth": "0.01x"})
    waiting = ring.busy_s - kernel.busy_s * 3 / 4
    assert waiting > 0
    assert ring.exposed_s == pytest.approx(waiting + share * (ring.busy_s - waiting), rel=1e-9)


@laws(15)
@given(st.sampled_from(KINDS), st.sampled_from([2, 4]), st.integers(1, 3))
def test_gradients_are_summed_and_states_sharded_over_context_ranks_too(kind, context, stage):
    """Context ranks hold the same parameters: what ZeRO divides is that of as many replicas."""
    split = simulate(changed(step(context, kind), plan__zero_stage=stage)).memory
    replicas = step(1)
    replicas |= {"devices": context, "task": {**replicas["task"], "global_batch_size": 2 * context}}
    plain = simulate(changed(replicas, plan__zero_stage=stage)).memory
    for owner in ("weights_bytes", "gradients_bytes", "optimizer_bytes"):
        assert split[owner] == pytest.approx(plain[owner], rel=1e-12)


def test_one_context_rank_is_no_context_parallelism():
    for kind in KINDS:
        assert simulate(step(1, kind)).to_dict()["time"] == simulate(step(1)).to_dict()["time"]
    assert partition_of(step(1, "ulysses")).inputs.plan.ulysses[0] == 0


def test_a_ring_over_nodes_is_slower_than_inside():
    inside = simulate(step(4, length=2048, tensor=2)).time["context_parallel_s"]
    spread = step(4, length=2048, tensor=2, placement="data tensor expert pipeline context")
    spread |= {"devices": 32, "task": {**spread["task"], "global_batch_size": 8}}
    assert simulate(spread).time["context_parallel_s"] > 1.5 * inside


@pytest.mark.parametrize("kind", ["ring", "all_gather", "ulysses"])
def test_without_a_zigzag_the_last_rank_has_most_pairs(kind):
    """Of 4 parts of a causal sequence the last has (2 x 4 - 1)/4 of the mean, nearly; in Ulysses heads are split."""
    plan = step(4, kind)
    length = plan["task"]["sequence_length"]
    dealt, whole = (
        flop_of(blocks_of(changed(plan, plan__context_zigzag=z)).forward["layer"], "attention")
        for z in (True, False)
    )
    part = length / 4
    last = part * (length - part) + part * (part + 1) / 2
    expected = 1.0 if kind == "ulysses" else 4 * last / (length * (length + 1) / 2)
    assert whole / dealt == pytest.approx(expected, rel=1e-12)
    slower = [simulate(changed(plan, plan__context_zigzag=z)).step_time_s for z in (True, False)]
    assert slower[1] > slower[0] or kind == "ulysses"


def test_whole_parts_need_half_as_many_chunks():
    """1,028 tokens are four parts, but no eight chunks."""
    plan = step(4, "ring")
    plan["task"]["sequence_length"] = 1028
    with pytest.raises(ScenarioError, match="into 8 chunks"):
        simulate(plan)
    assert simulate(changed(plan, plan__context_zigzag=False)).step_time_s > 0

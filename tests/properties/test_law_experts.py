"""Layers with experts: what is computed, read, sent and kept."""

from __future__ import annotations

import pytest
from blocks_of import blocks_of, flop_of, training
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from hardware_specs.errors import LlmsimError
from simulator import simulate, sweep

SHAPES = {
    "n_layers": 4,
    "hidden": 1024,
    "heads": 16,
    "kv_heads": 4,
    "ffn": 2048,
    "vocab": 32000,
    "max_positions": 4096,
}
EXPERTS = {**SHAPES, "experts": 8, "topk": 2, "moe_ffn": 512}


def messages(block, collective):
    return [float(c.work.message_bytes[0]) for c in block.operators if c.operator.collective == collective]


def inference(model, kind="decode", tensor=1, **task):
    return {
        "model": model,
        "task": {"kind": kind, **task},
        "system": "dgx-h100",
        "devices": tensor,
        "plan": {"tensor_parallel": tensor},
    }


@laws(15)
@given(st.integers(1, 8), st.integers(0, 3), st.sampled_from([1, 2, 4]), st.booleans())
def test_products_are_those_of_the_experts_in_use(topk, shared, t, gated):
    model = {**EXPERTS, "topk": topk, "shared_experts": shared, "gated_mlp": gated}
    blocks, tokens = blocks_of(training(model, tensor=t, length=256)), 256
    matrices = 3 if gated else 2
    expected = 2 * tokens * topk * matrices * 1024 * 512 / t
    assert flop_of(blocks.forward["layer"], "grouped_matmul") == pytest.approx(expected, rel=1e-12)
    assert flop_of(blocks.backward["layer"], "grouped_matmul") == pytest.approx(2 * expected, rel=1e-12)
    # Attention's two products, and the MLP that all tokens pass.
    attention = 1024 * (1024 + 2 * 4 * 64) + 1024 * 1024
    plain = 2 * tokens * (attention + matrices * 1024 * 512 * shared) / t
    assert flop_of(blocks.forward["layer"], "matmul") == pytest.approx(plain, rel=1e-12)
    assert flop_of(blocks.forward["layer"], "wide_matmul") == 2 * tokens * 1024 * 8  # every rank routes


def test_one_expert_for_all_is_the_plain_mlp():
    one = blocks_of(training({**SHAPES, "experts": 1, "topk": 1}, length=256))
    plain = blocks_of(training(SHAPES, length=256))
    products = flop_of(one.forward["layer"], "grouped_matmul", "matmul")
    assert products == flop_of(plain.forward["layer"], "matmul")
    router = 1024
    assert float(one.parameters["layer"].count[0]) == float(plain.parameters["layer"].count[0]) + router


@pytest.mark.parametrize(("batch", "hit"), [(1, 2.0), (2, 8 * (1 - 0.75**2)), (4096, 8.0)])
def test_matrices_of_the_experts_hit_are_read(batch, hit):
    """Products read H of 8 matrices of 1024 x 1024 and of 512 x 1024, and read and write two rows for a token."""
    blocks = blocks_of(inference(EXPERTS, batch_size=batch, context_length=128))
    moved = {c.operator.name: float(c.work.moved_bytes[0]) for c in blocks.forward["layer"].operators}
    rows = 2 * batch
    assert moved["experts_up"] == pytest.approx(2 * (hit * 1024 * 1024 + rows * (1024 + 1024)), rel=1e-9)
    assert moved["experts_down"] == pytest.approx(2 * (hit * 512 * 1024 + rows * (512 + 1024)), rel=1e-9)
    assert moved["experts_dispatch"] == 2 * (batch + rows) * 1024
    assert moved["experts_activation"] == 2 * rows * (1024 + 512)
    assert moved["experts_combine"] == 2 * ((batch + rows) * 1024 + rows)


@pytest.mark.parametrize("t", [2, 4])
def test_ranks_exchange_one_row_for_a_token(t):
    """Partial sums are added after the weighted sum: messages are those of a dense layer, not topk times them."""
    message = 2 * 256 * 1024
    split = blocks_of(training(EXPERTS, tensor=t, length=256))
    for side in ("forward", "backward"):
        assert messages(getattr(split, side)["layer"], "all_reduce") == [message] * 2
    shards = blocks_of(training(EXPERTS, tensor=t, length=256, sequence_parallel=True))
    assert messages(shards.forward["layer"], "reduce_scatter") == [message] * 2
    gathered = messages(shards.forward["layer"], "all_gather")
    # Tokens for attention and for the experts, and the gates of two picks each.
    assert sorted(gathered) == [2 * 256 * 2, message, message]


def test_memory_holds_all_experts_and_kept_rows():
    dense, mixed = (simulate(training(m, length=512)) for m in (SHAPES, {**EXPERTS, "experts": 64}))
    experts, router, mlp = 64 * 3 * 1024 * 512, 1024 * 64, 3 * 1024 * 2048
    grown = 4 * (experts + router - mlp)
    assert mixed.memory["weights_bytes"] - dense.memory["weights_bytes"] == pytest.approx(
        2 * grown, rel=1e-12
    )
    # Two rows for a token: its input, both projections, the activated one and the output; logits and gates.
    tokens, rows = 512, 1024
    kept = rows * (1024 + 2 * 512 + 512 + 1024) + tokens * (64 + 2)
    plain = tokens * (1024 + 2 * 2048 + 2048)  # normed input, both projections, the activated one
    difference = mixed.memory["activations_bytes"] - dense.memory["activations_bytes"]
    # The normed input is kept by the router too.
    assert difference == pytest.approx(4 * 2 * (kept + tokens * 1024 - plain), rel=1e-9)


def test_utilisation_counts_the_experts_in_use():
    few, many = (simulate(training({**EXPERTS, "experts": n}, length=512)) for n in (8, 64))
    flops = [e.mfu * e.step_time_s for e in (few, many)]
    router = 2 * 3 * 512 * 4 * 1024 * 56
    assert (flops[1] - flops[0]) * few.peak_flop_per_s == pytest.approx(router, rel=1e-6)


@laws(8)
@given(st.sampled_from(["training", "prefill", "decode"]), st.sampled_from(["dgx-h100", "dgx-a100-80gb"]))
def test_more_experts_or_picks_are_never_faster(kind, system):
    task = {
        "training": {"kind": kind, "sequence_length": 512, "global_batch_size": 4},
        "prefill": {"kind": kind, "prompt_length": 512, "batch_size": 4},
        "decode": {"kind": kind, "context_length": 512, "batch_size": 4},
    }[kind]
    for key, values in (
        ("topk", [1, 2, 3, 4, 8]),
        ("experts", [8, 16, 32, 64]),
        ("moe_ffn", [256, 512, 1024]),
    ):
        base = {**EXPERTS, "experts": 16} if key == "topk" else EXPERTS
        frame = sweep({"model": {**base, key: values}, "task": task, "system": system, "devices": 1})
        times = frame["step_time_s"].to_numpy()
        assert (times[1:] >= times[:-1] * (1 - 1e-9)).all(), (key, times)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"expert_parallel": 2}, "must divide the 1 ranks of a stage"),
        ({"kernel_fusion": "eager"}, "one after the other"),
        ({"tensor_parallel": 3}, "must divide"),
    ],
)
def test_what_is_not_modelled_is_refused(plan, said):
    scenario = training({**EXPERTS, "heads": 12, "kv_heads": 12, "head_dim": 64}, length=128)
    scenario["devices"] = plan.get("tensor_parallel", 1)
    scenario["plan"].update(plan)
    with pytest.raises(LlmsimError, match=said):
        simulate(scenario)


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"topk": 9}, "model.topk"),
        ({"topk": 0}, "model.experts"),
        ({"experts_every": 99}, "model.experts_every"),
        ({"experts": 0, "topk": 0, "moe_ffn": 0, "experts_every": 2}, "model.experts_every"),
        ({"experts": 0, "topk": 0, "moe_ffn": 0, "router_bias": True}, "model.router_bias"),
        ({"experts": 0}, "model.topk"),
    ],
)
def test_experts_that_contradict_each_other_are_refused(keys, path):
    with pytest.raises(LlmsimError) as caught:
        simulate(training({**EXPERTS, **keys}, length=128))
    assert path in str(caught.value)

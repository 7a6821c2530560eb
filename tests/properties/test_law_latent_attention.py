"""Latent attention and first dense layers: parameters, products, exchanges, and what stages hold."""

from __future__ import annotations

import pytest
from blocks_of import blocks_of, flop_of, training
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import changed, laws
from test_law_one_engine import assert_row_is_scalar

from simulator import simulate
from simulator.spaces.space import space_from
from simulator.sweeps.sweeping import run_space
from workloads.catalog import load_model
from workloads.parameter_counts import active_parameters, layer_parameters

HEADS, NOPE, ROPE, VALUE, KV, QUERY, HIDDEN = 8, 64, 32, 48, 128, 192, 512
SHAPES = {
    "n_layers": 6, "hidden": HIDDEN, "heads": HEADS, "head_dim": NOPE + ROPE, "rope_head_dim": ROPE,
    "value_head_dim": VALUE, "kv_lora_rank": KV, "q_lora_rank": QUERY, "ffn": 1024, "vocab": 32000,
    "max_positions": 8192, "experts": 8, "topk": 2, "moe_ffn": 256, "shared_experts": 1, "first_dense_layers": 2,
}  # fmt: skip
PLAIN = {**SHAPES, "experts": 0, "topk": 0, "moe_ffn": 0, "shared_experts": 0, "first_dense_layers": 0}


@pytest.mark.parametrize(
    ("name", "active", "unit"),
    # arXiv:2405.04434 (21 and 2.4 billion), arXiv:2412.19437, arXiv:2507.20534; some leave the embedding out
    [
        ("deepseek-v2", 21e9, 1e9),
        ("deepseek-v2-lite", 2.4e9, 0.3e9),
        ("deepseek-v3", 37e9, 1e9),
        ("kimi-k2", 32.6e9, 1e9),
    ],
)
def test_published_counts_of_active_parameters(name, active, unit):
    assert abs(active_parameters(load_model(name)) - active) <= unit


@pytest.mark.parametrize("ranked", [True, False])
def test_parameters_by_hand_and_in_the_graph(ranked):
    model = {**PLAIN, "q_lora_rank": QUERY if ranked else 0}
    width = HEADS * (NOPE + ROPE)
    query = HIDDEN * QUERY + QUERY + QUERY * width if ranked else HIDDEN * width
    keys = HIDDEN * (KV + ROPE) + KV + KV * HEADS * (NOPE + VALUE)
    expected = query + keys + HEADS * VALUE * HIDDEN + 2 * HIDDEN + 3 * HIDDEN * 1024
    assert sum(layer_parameters(load_model(model)).values()) == expected
    assert float(blocks_of(training(model)).parameters["layer"].count[0]) == expected
    # Projections down and norms are on every tensor rank, the others are divided.
    split = float(blocks_of(training(model, tensor=4)).parameters["layer"].count[0])
    whole = HIDDEN * (KV + ROPE) + KV + 2 * HIDDEN + ((HIDDEN + 1) * QUERY if ranked else 0)
    assert split == whole + (expected - whole) / 4


@laws(12)
@given(st.sampled_from([1, 2, 4]), st.booleans(), st.sampled_from([1, 2]))
def test_flop_of_a_layer(tensor, sequence, context):
    """Two products of a key's and a value's width forward, five of their mean backward, for half of the pairs."""
    tokens = 1024
    scenario = training(
        PLAIN, tensor=tensor, length=tokens, sequence_parallel=sequence, context_parallel=context
    )
    scenario["devices"] *= context
    blocks = blocks_of(scenario)
    pairs = tokens * (tokens + 1) / 2
    forward = 2 * HEADS * pairs * (NOPE + ROPE + VALUE) / tensor / context
    assert flop_of(blocks.forward["layer"], "latent_attention") == pytest.approx(forward, rel=1e-12)
    backward = flop_of(blocks.backward["layer"], "latent_attention_backward")
    assert backward == pytest.approx(2.5 * forward, rel=1e-12)
    # Without sequence parallelism every tensor rank projects all tokens down.
    down = HIDDEN * (QUERY + KV + ROPE) / (tensor if sequence else 1)
    up = (
        QUERY * HEADS * (NOPE + ROPE)
        + KV * HEADS * (NOPE + VALUE)
        + HEADS * VALUE * HIDDEN
        + 3 * HIDDEN * 1024
    )
    products = flop_of(blocks.forward["layer"], "matmul")
    assert products == pytest.approx(2 * tokens / context * (down + up / tensor), rel=1e-12)


def test_latents_are_gathered_instead_of_wide_tensors():
    """Sequence shards: the two latents and the shared key are gathered, and the MLP's input; two outputs scattered."""
    block = blocks_of(training(PLAIN, tensor=4, length=1024, sequence_parallel=True)).forward["layer"]
    sent = sorted(
        (c.operator.collective, float(c.work.message_bytes[0]))
        for c in block.operators
        if c.operator.collective
    )
    rows = 1024 * 2
    assert sent == sorted(
        [("all_gather", rows * n) for n in (QUERY, KV, ROPE, HIDDEN)]
        + [("reduce_scatter", rows * HIDDEN)] * 2
    )


def test_gradients_of_the_shared_key_are_summed():
    block = blocks_of(training(PLAIN, tensor=4, length=1024)).backward["layer"]
    summed = [c for c in block.operators if c.operator.name == "rotary.grad.all_reduce"]
    assert [float(c.work.message_bytes[0]) for c in summed] == [1024 * 2 * ROPE]


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_a_dense_layer_in_front_is_a_layer_of_the_dense_model(recompute):
    """One stage: time and states of 2 dense layers and 4 with experts are those of the two models' layers."""

    def run(layers, dense, model):
        shapes = {**model, "n_layers": layers}
        if dense:
            shapes["first_dense_layers"] = dense
        scenario = training(shapes, length=1024, recompute=recompute)
        return simulate(scenario)

    experts = {**SHAPES, "first_dense_layers": 0}
    one, two = run(4, 0, experts), run(6, 2, SHAPES)
    plain, none = run(3, 0, PLAIN), run(1, 0, PLAIN)
    for part in ("compute_s",):
        per_layer = (plain.time[part] - none.time[part]) / 2
        assert two.time[part] == pytest.approx(one.time[part] + 2 * per_layer, rel=1e-9)
    for owner in ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes"):
        per_layer = (plain.memory[owner] - none.memory[owner]) / 2
        assert two.memory[owner] == pytest.approx(one.memory[owner] + 2 * per_layer, rel=1e-9), owner
    names = set(two.operators["name"])
    assert {"dense_layer.mlp_up", "layer.experts_up"} <= names or any(
        n.startswith("dense_layer.") for n in names
    )
    assert two.operators["exposed_s"].sum() == pytest.approx(two.step_time_s, rel=1e-9)


def test_stages_sum_to_the_step():
    scenario = training(
        SHAPES, length=512, pipeline_parallel=3, tensor=2, sequence_parallel=True, context_parallel=2
    )
    scenario |= {"devices": 24, "task": {**scenario["task"], "global_batch_size": 8}}
    scenario["plan"] |= {"expert_parallel": 4, "expert_tensor_parallel": 1, "zero_stage": 1}
    e = simulate(scenario)
    assert e.operators["exposed_s"].sum() == pytest.approx(e.step_time_s, rel=1e-9)
    assert sum(e.time.values()) == pytest.approx(e.step_time_s, rel=1e-9)
    for name in ("context", "expert"):
        rows = e.operators[e.operators["stream"] == f"{name}_parallel"]
        assert rows["exposed_s"].sum() == pytest.approx(e.time[f"{name}_parallel_s"], rel=1e-9)


def test_a_sweep_is_the_loop_of_scalars():
    data = changed(training(SHAPES, length=512), task__global_batch_size=16)
    data["model"] = {"sweep": [{**SHAPES, "first_dense_layers": n} for n in (0, 1, 2)]}
    data["devices"] = 8
    data["plan"] = {
        "tensor_parallel": [1, 2],
        "pipeline_parallel": [1, 2],
        "sequence_parallel": True,
        "expert_parallel": [1, 2],
        "recompute": ["none", "selective", "full"],
        "zero_stage": [1, 3],
    }
    result = run_space(space_from(data))
    assert len(result.rows) > 60
    for i in range(0, len(result.rows), 5):
        assert_row_is_scalar(result, i)

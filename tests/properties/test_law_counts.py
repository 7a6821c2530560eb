"""Parameters and FLOP of the graphs against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from blocks_of import blocks_of, flop_of, partition_of, training
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from simulator import simulate
from simulator.kernels.counting import WEIGHT_KINDS
from workloads.catalog import list_models, load_model
from workloads.layer_kinds import spec_layers
from workloads.operator_graph import elements
from workloads.parameter_counts import active_parameters, layer_parameters, parameters

MATRIX = ("matmul", "wide_matmul", "grouped_matmul")
UNFUSED = ("batched_matmul",)


def held(blocks, name, weight=""):
    """Parameters of a block on one device, each weight tensor once, or those of one tensor."""
    tensors = {t.name: t for op in blocks.forward_operators[name] for t in op.reads if t.kind in WEIGHT_KINDS}
    return sum(float(elements(t)[0]) for t in tensors.values() if weight in ("", t.name))


@pytest.mark.parametrize("name", list_models())
def test_parameters_of_the_graph_are_those_of_the_model(name):
    model = load_model(name)
    blocks = blocks_of(training(name, length=128))
    expected = parameters(model)
    assert held(blocks, "layer") == expected["layer"]
    assert held(blocks, "embedding") == expected["embedding"] + expected["position_embedding"]
    shared = held(blocks, "head", "head_weight") if model.tied_embeddings else 0.0
    assert held(blocks, "head") - shared == expected["final_norm"] + expected["head"]
    total = sum(layers * held(blocks, kind.name) for kind, layers in spec_layers(model).items()) - shared
    assert total + held(blocks, "embedding") + held(blocks, "head") == expected["total"]


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("t", [2, 4, 8])
def test_parameters_of_all_ranks_sum_to_the_model(name, t):
    """Every rank holds the norms and the biases of the products that sum over ranks; the rest is split."""
    model = load_model(name)
    if model.heads % t or model.kv_heads % t or (model.moe_ffn or model.ffn) % t:
        return
    scenario = training(name, tensor=t, length=128)
    blocks = blocks_of(scenario)
    everywhere = layer_parameters(model)["attention_norm"] + layer_parameters(model)["mlp_norm"]
    everywhere += layer_parameters(model)["qk_norm"] + layer_parameters(model).get("router", 0)
    everywhere += model.hidden * model.attention_out_bias
    everywhere += model.hidden * model.mlp_bias * (model.experts or 1)
    # Latents are made, and normed, on every rank.
    everywhere += (model.hidden + 1) * (
        model.q_lora_rank + model.kv_lora_rank
    ) + model.hidden * model.rope_head_dim
    assert t * held(blocks, "layer") == parameters(model)["layer"] + (t - 1) * everywhere
    vocabulary = t * -(-model.vocab // t)  # padded to a multiple of the ranks
    assert t * held(blocks, "embedding", "embedding_weight") == vocabulary * model.hidden


def test_key_value_heads_beyond_their_number_are_replicated():
    """Llama-2-70B, 16 ranks, 8 KV heads: each rank has 4 query heads, and a whole key and value head."""
    model = load_model("llama-2-70b")
    blocks = blocks_of(training("llama-2-70b", tensor=16, length=128))
    assert held(blocks, "layer", "qkv_weight") == model.hidden * (4 + 1 + 1) * 128


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("kernel", ["flash", "unfused"])
def test_forward_flop_is_two_per_weight_and_token_and_attention(name, kernel):
    model, b, s = load_model(name), 2, 128
    if model.kv_lora_rank and kernel == "unfused":
        return  # refused
    blocks = blocks_of(training(name, batch=b, length=s, attention_kernel=kernel))
    layer = layer_parameters(model)
    biases = model.qkv_bias * (model.heads + 2 * model.kv_heads) * model.head_dim
    biases += model.attention_out_bias * model.hidden
    inner = model.moe_ffn if model.experts else model.ffn
    biases += model.mlp_bias * (model.hidden + inner * (1 + model.gated_mlp)) * (model.experts or 1)
    biases += model.router_bias * model.experts
    matrices = sum(layer.get(k, 0) for k in ("qkv", "attention_out", "mlp_in", "mlp_out", "router")) - biases
    # A token passes topk of the experts.
    idle = (model.experts - model.topk) * (2 + model.gated_mlp) * model.hidden * model.moe_ffn
    mixed = sum(n for kind, n in spec_layers(model).items() if not kind.dense)
    unused = idle + (model.experts - model.topk) * model.mlp_bias * (model.hidden + 2 * model.moe_ffn)
    assert mixed * unused == parameters(model)["total"] - active_parameters(model)
    matrices -= idle
    matrices -= model.q_lora_rank + model.kv_lora_rank  # norms of the latents
    assert flop_of(blocks.forward["layer"], *MATRIX) == pytest.approx(2 * b * s * matrices, rel=1e-12)
    before_head = model.hidden * model.head_transform
    assert flop_of(blocks.forward["head"], *MATRIX) == 2 * b * s * model.hidden * (model.vocab + before_head)
    assert flop_of(blocks.forward["embedding"], *MATRIX) == 0
    width = model.heads * model.head_dim
    if kernel == "unfused":  # scores and weighted sum over the full square
        assert flop_of(blocks.forward["layer"], *UNFUSED) == 2 * 2 * b * s * s * width
    else:  # the causal half, diagonal included; all pairs in an encoder
        pairs = s * (s + 1) / 2 if model.causal else s * s
        if model.kv_lora_rank:  # a product of a key's width and one of a value's
            width = model.heads * (model.head_dim + model.value_head_dim) / 2
        assert flop_of(blocks.forward["layer"], "attention", "latent_attention") == 2 * 2 * b * pairs * width


@pytest.mark.parametrize("kernel", ["flash", "unfused"])
@pytest.mark.parametrize("name", ["gpt3-175b", "llama-2-70b", "qwen3-8b", "mpt-7b", "mixtral-8x7b"])
def test_backward_flop_is_twice_the_forward(name, kernel):
    """Two products for one; fused attention five for two, since it computes the scores again."""
    blocks = blocks_of(training(name, batch=2, length=128, attention_kernel=kernel))
    for block in ("layer", "head", "embedding"):
        forward, backward = blocks.forward[block], blocks.backward[block]
        assert flop_of(backward, *MATRIX) == pytest.approx(2 * flop_of(forward, *MATRIX), rel=1e-12)
        assert flop_of(backward, *UNFUSED) == pytest.approx(2 * flop_of(forward, *UNFUSED), rel=1e-12)
        fused = flop_of(forward, "attention")
        assert flop_of(backward, "attention_backward") == pytest.approx(2.5 * fused, rel=1e-12)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_recomputation_adds_the_forward_flop_it_repeats(recompute):
    blocks = blocks_of(training("gpt3-175b", length=512, attention_kernel="unfused", recompute=recompute))
    forward, backward = blocks.forward["layer"], blocks.backward["layer"]
    again = [c for c in backward.operators if c.operator.phase == "recompute"]
    repeated = sum(float(c.work.flop[0]) for c in again if "matmul" in c.operator.kind)
    expected = {
        "none": 0.0,
        "selective": flop_of(forward, *UNFUSED),
        "full": flop_of(forward, *MATRIX, *UNFUSED),
    }
    assert repeated == expected[recompute]


@pytest.mark.parametrize("name", ["gpt3-175b", "megatron-22b"])
def test_step_of_gpt_is_the_published_formula(name):
    """96 B s l h^2 (1 + s / 6h + V / 16 l h): Narayanan et al., arXiv:2104.04473, equation 3 (full recompute)."""
    model, b, s = load_model(name), 4, 2048
    scenario = training(name, length=s, attention_kernel="unfused", recompute="full", precision="fp16")
    scenario["task"]["global_batch_size"] = b
    e = simulate(scenario)
    products = sum(row["flop"] for row in e.operator_rows if "matmul" in row["kind"])
    h, n, v = model.hidden, model.n_layers, model.vocab
    published = 96 * b * s * n * h**2 * (1 + s / (6 * h) + v / (16 * n * h))
    assert products == pytest.approx(published, rel=1e-9)
    assert e.hfu * e.step_time_s * e.peak_flop_per_s == pytest.approx(published, rel=1e-9)
    # Model FLOP leave the repeated forward pass out: three passes of four, the head's three stay.
    model_flop = 72 * b * s * n * h**2 * (1 + s / (6 * h) + v / (12 * n * h))
    assert e.mfu * e.step_time_s * e.peak_flop_per_s == pytest.approx(model_flop, rel=1e-9)


@laws(20)
@given(st.sampled_from([1, 2, 4, 8]), st.booleans(), st.sampled_from(["none", "selective", "full"]))
def test_tensor_ranks_share_the_products(t, sequence_parallel, recompute):
    plan = {"sequence_parallel": sequence_parallel, "recompute": recompute, "attention_kernel": "unfused"}
    one = blocks_of(training("megatron-22b", length=512, **plan))
    many = blocks_of(training("megatron-22b", tensor=t, length=512, **plan))
    for side in ("forward", "backward"):
        for kinds in (MATRIX, UNFUSED):
            whole = flop_of(getattr(one, side)["layer"], *kinds)
            assert flop_of(getattr(many, side)["layer"], *kinds) == pytest.approx(whole / t, rel=1e-12)


def sum_of_messages(block, collective):
    return sum(float(c.work.message_bytes[0]) for c in block.operators if c.operator.collective == collective)


@pytest.mark.parametrize("t", [2, 8])
def test_tensor_parallel_messages_of_a_layer(t):
    """Two all-reduces of 2 s b h bytes forward, two backward; with sequence shards each is a pair of halves.

    The backward pass gathers four tensors then: the two arriving gradients, and the two saved inputs again.
    Korthikanti et al., arXiv:2205.05198, section 4.2.2.
    """
    s, model = 512, load_model("megatron-22b")
    message = 2 * s * model.hidden
    plain = blocks_of(training("megatron-22b", tensor=t, length=s))
    for side in ("forward", "backward"):
        assert sum_of_messages(getattr(plain, side)["layer"], "all_reduce") == 2 * message
        assert sum_of_messages(getattr(plain, side)["layer"], "all_gather") == 0
    split = blocks_of(training("megatron-22b", tensor=t, length=s, sequence_parallel=True))
    assert sum_of_messages(split.forward["layer"], "all_reduce") == 0
    assert sum_of_messages(split.forward["layer"], "all_gather") == 2 * message
    assert sum_of_messages(split.forward["layer"], "reduce_scatter") == 2 * message
    assert sum_of_messages(split.backward["layer"], "all_reduce") == 0
    assert sum_of_messages(split.backward["layer"], "all_gather") == 4 * message
    assert sum_of_messages(split.backward["layer"], "reduce_scatter") == 2 * message


def test_every_operator_kind_is_counted_and_runs_on_every_system():
    partition = partition_of(training("llama-2-7b", length=128))
    for block in blocks_of(training("llama-2-7b", length=128)).forward.values():
        for cost in block.operators:
            assert np.all(np.isfinite(cost.busy_s)), cost.operator.name
    assert partition.numbers.tolist() == [0]

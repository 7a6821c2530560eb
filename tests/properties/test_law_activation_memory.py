"""Activations kept for the backward pass: published formulas, and counts by hand where they do not reach."""

from __future__ import annotations

import pytest
from blocks_of import saved_by, training
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from simulator import simulate
from workloads.catalog import load_model

# 16-bit, dropout on, four times hidden in the MLP, as many KV heads as heads: what the formulas assume.
MEGATRON = ("megatron-22b", "megatron-175b", "megatron-530b", "megatron-1t", "gpt3-175b")
EXACT = 1e-9


@laws(60)
@given(
    st.sampled_from(MEGATRON),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([512, 1024, 2048]),
    st.booleans(),
)
def test_formulas_of_korthikanti(name, t, b, s, sequence_parallel):
    """Korthikanti et al., arXiv:2205.05198, equations 1 to 6 and table 2 (attention not fused)."""
    model = load_model(name)
    h, a = model.hidden, model.heads
    kept = saved_by(
        training(
            name, tensor=t, batch=b, length=s, sequence_parallel=sequence_parallel, attention_kernel="unfused",
            precision="fp16",
        )
    )  # fmt: skip
    sbh = s * b * h
    core = 5 * a * s / (h * t)
    if sequence_parallel:
        expected = {"none": sbh * (34 / t + core), "selective": sbh * 34 / t, "full": sbh * 2 / t}
    else:
        expected = {
            "none": sbh * (10 + 24 / t + core),
            "selective": sbh * (10 + 24 / t),
            "full": sbh * 2,
        }
    assert kept == pytest.approx(expected, rel=EXACT)


@laws(60)
@given(
    st.sampled_from(["llama-2-70b", "llama-3.1-8b", "qwen2.5-7b", "mistral-7b", "qwen3-8b", "qwen3-32b"]),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_grouped_queries_gated_mlp_fused_attention(name, t, b, sequence_parallel):
    """Per token, 2 bytes each unless stated.

    Norms and residuals: input of two norms and of two products, 4 h (in sequence shards, or whole). Attention:
    turned queries and the context, a d each; turned keys and values, k d each; one fp32 statistic per head (4 a
    bytes). MLP: gate and up, 2 f; their product, f. Norms on queries and keys keep those as well. Rotation
    keeps nothing. Beyond k ranks the key and value heads are replicated.
    """
    model = load_model(name)
    if model.heads % t or (model.kv_heads % t and t % model.kv_heads):
        return
    s = 512
    kept = saved_by(training(name, tensor=t, batch=b, length=s, sequence_parallel=sequence_parallel))
    queries = model.heads * model.head_dim / t
    keys = model.kv_heads * model.head_dim / min(t, model.kv_heads)
    split = 2 * (2 * queries + 2 * keys + 3 * model.ffn / t) + 4 * model.heads / t
    if model.qk_norm:
        split += 2 * (queries + keys)
    layout = t if sequence_parallel else 1
    whole = 2 * 4 * model.hidden / layout
    assert kept["none"] == pytest.approx(s * b * (whole + split), rel=EXACT)
    # The fused kernel keeps only its statistics beyond what the products around it keep.
    assert kept["selective"] == pytest.approx(s * b * (whole + split - 4 * model.heads / t), rel=EXACT)
    assert kept["full"] == pytest.approx(s * b * 2 * model.hidden / layout, rel=EXACT)


@laws(20)
@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2]))
def test_ends_of_the_stack(t, b):
    """Korthikanti et al., section 4.3: dropout mask of the embedding, final norm, head input, fp32 logits.

    Bytes, sequence parallel: mask s b h / t; norm and head 2 s b h / t each; logits 4 s b v / t. Token ids (8
    bytes) are kept besides.
    """
    model, s = load_model("megatron-22b"), 1024
    scenario = training("megatron-22b", tensor=t, batch=b, length=s, sequence_parallel=True)
    embedding, head = saved_by(scenario, "embedding"), saved_by(scenario, "head")
    assert embedding["none"] == pytest.approx(s * b * (model.hidden / t + 8), rel=EXACT)
    assert head["none"] == pytest.approx(s * b * (4 * model.hidden / t + 4 * model.vocab / t), rel=EXACT)


@laws(20)
@given(
    st.sampled_from(["none", "selective", "full"]),
    st.sampled_from([(1, 1, 4), (2, 1, 4), (4, 1, 2), (4, 2, 8), (8, 1, 32)]),
)
def test_activations_of_the_first_stage(recompute, shape):
    """First stage of 1F1B: min(p, m) micro-batches; interleaved p (1 + (p - 1) / (p v)) of them.

    Each holds l/p layers and the embedding's mask and ids; one layer is rebuilt at a time in recomputation.
    """
    p, v, m = shape
    model, t, s = load_model("megatron-22b"), 8, 2048
    scenario = training("megatron-22b", tensor=t, length=s, sequence_parallel=True, recompute=recompute)
    scenario["plan"] |= {"pipeline_parallel": p, "virtual_pipeline": v, "attention_kernel": "unfused"}
    scenario["devices"] = t * p
    scenario["task"]["global_batch_size"] = m
    memory = simulate(scenario).memory
    sbh = s * model.hidden
    whole = sbh * (34 / t + 5 * model.heads * s / (model.hidden * t))
    per_layer = {"none": whole, "selective": sbh * 34 / t, "full": sbh * 2 / t}[recompute]
    in_flight = min(p, m) if v == 1 else p * (1 + (p - 1) / (p * v))
    rebuilt = whole - per_layer
    if p == 1:
        rebuilt = max(rebuilt, s * (4 * model.hidden / t + 4 * model.vocab / t))
    ends = s * (model.hidden / t + 8)
    expected = in_flight * (model.n_layers / p * per_layer + ends) + rebuilt
    assert memory["heaviest_stage"] == "first"
    assert memory["activations_bytes"] == pytest.approx(expected, rel=EXACT)

"""Eager graphs: the same products as the fused ones, and the pointwise kernels counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from workloads.attention import AttentionShape
from workloads.backward_pass import backward
from workloads.decoder_graph import LayerSizes, LayerStructure, decoder_layer
from workloads.embedding_and_head import embedding, head
from workloads.operator_graph import WEIGHT_KINDS, elements, length, operators

B, S, H, HEADS, FFN, VOCAB = 2.0, 8.0, 12.0, 3.0, 48.0, 100.0
ONE = np.ones(1)


def sizes(kv_heads: float = HEADS) -> LayerSizes:
    """Two sequences of 8 tokens, 3 heads of 4."""
    return LayerSizes(
        hidden=H * ONE, ffn=FFN * ONE, vocab=VOCAB * ONE, positions=S * ONE, token_types=2.0 * ONE,
        attention=AttentionShape(
            batch=B * ONE, query_length=S * ONE, kv_length=S * ONE, heads=HEADS * ONE, kv_heads=kv_heads * ONE,
            head_dim=H / HEADS * ONE, window=np.inf * ONE,
        ),
    )  # fmt: skip


GPT2 = LayerStructure(
    gated_mlp=False, layer_norm=True, qk_norm=False, rotary=False, learned_positions=True, embedding_norm=False,
    dropout=False, tied=True, qkv_bias=True, attention_out_bias=True, mlp_bias=True, norm_bias=True, head_bias=False,
    flash_attention=False, computation="prefill", tanh_gelu=True, eager=True, logits="all",
)  # fmt: skip
BERT = replace(
    GPT2, causal=False, post_norm=True, separate_qkv=True, tanh_gelu=False, token_types=True, embedding_norm=True,
    head_transform=True, head_bias=True, logits="none",
)  # fmt: skip
LLAMA = replace(
    GPT2,
    gated_mlp=True,
    layer_norm=False,
    rotary=True,
    learned_positions=False,
    tanh_gelu=False,
    norm_bias=False,
)


def touched(
    graph, kinds=("pointwise", "power", "residual", "mask_addition", "softmax", "layer_norm", "activation")
):
    """Elements read and written by the kernels that are no products, weights left out."""
    total = 0.0
    for op in operators(graph):
        if op.kind in kinds:
            total += sum(
                float(elements(t)[0]) for t in (*op.reads, *op.writes) if t.kind not in WEIGHT_KINDS
            ) * float(op.scale[0])
    return total


def products(graph):
    """Multiply-adds of all products."""
    return sum(
        float(np.prod([length(op.extents[role])[0] for role in ("batch", "m", "n", "k")]))
        for op in operators(graph)
        if op.kind in ("matmul", "wide_matmul", "batched_matmul")
    )


def test_a_gpt2_layer_by_hand():
    """u = b s h, F = b s f, Q = b a s s.

    Two norms read and write: 4 u. Query, keys, values and context are copied: 8 u. Scale, mask and softmax: 6 Q. Two
    residual additions: 6 u. The activation: pow 2, times 2, add 3, times 2, tanh 2, plus one 2, half 2, times 3 = 18 F.
    """
    u, f, q = B * S * H, B * S * FFN, B * HEADS * S * S
    assert touched(decoder_layer(GPT2, sizes())) == 18 * u + 6 * q + 18 * f


def test_a_bert_layer_by_hand():
    """As GPT-2, but one kernel for the activation: 2 F."""
    u, f, q = B * S * H, B * S * FFN, B * HEADS * S * S
    assert touched(decoder_layer(BERT, sizes())) == 18 * u + 6 * q + 2 * f


@pytest.mark.parametrize("structure", [GPT2, BERT, LLAMA], ids=["gpt2", "bert", "llama"])
def test_products_are_those_of_the_fused_graph(structure):
    fused = replace(structure, eager=False)
    assert products(decoder_layer(structure, sizes())) == products(decoder_layer(fused, sizes()))


@pytest.mark.parametrize("structure", [GPT2, BERT, LLAMA], ids=["gpt2", "bert", "llama"])
@pytest.mark.parametrize("dropout", [False, True])
def test_eager_moves_more_and_has_a_backward_pass(structure, dropout):
    training = replace(structure, computation="training", dropout=dropout)
    everything = (
        "pointwise",
        "power",
        "residual",
        "mask_addition",
        "softmax",
        "layer_norm",
        "rms_norm",
        "rotary",
    )
    for graph in (decoder_layer, lambda *given: backward(decoder_layer(*given))):
        eager, fused = (graph(replace(training, eager=e), sizes()) for e in (True, False))
        assert touched(eager, (*everything, "activation")) >= touched(fused, (*everything, "activation"))
    assert products(backward(decoder_layer(training, sizes()))) == 2 * products(
        decoder_layer(training, sizes())
    )


def test_norms_stand_behind_the_additions_of_a_post_norm_layer():
    names = [op.name for op in operators(decoder_layer(BERT, sizes()))]
    assert names[0] == "query_projection" and names[-1] == "mlp_norm"
    assert names.index("attention_norm") == names.index("attention_residual") + 1
    assert [op.name for op in operators(decoder_layer(GPT2, sizes()))][0] == "attention_norm"


def test_an_encoder_attends_to_all_pairs_and_keeps_no_cache():
    fused = replace(BERT, eager=False, flash_attention=True)
    for structure, pairs in ((fused, S * S), (replace(fused, causal=True), S * (S + 1) / 2)):
        graph = {op.name: op for op in operators(decoder_layer(structure, sizes()))}
        assert float(length(graph["attention"].extents["pairs"])[0]) == pairs
        assert ("kv_append" in graph) == structure.causal


def test_repeated_keys_are_written_for_every_head():
    graph = {op.name: op for op in operators(decoder_layer(LLAMA, sizes(kv_heads=1.0)))}
    copy = next(op for name, op in graph.items() if name.startswith("keys") and name.endswith("_copy"))
    assert float(elements(copy.reads[0])[0]) == B * S * H / HEADS
    assert float(elements(copy.writes[0])[0]) == B * S * H


@pytest.mark.parametrize(("logits", "rows"), [("all", B * S), ("last", B), ("none", 0.0)])
def test_logits_of_a_prefill(logits, rows):
    ops = {op.name: op for op in operators(head(replace(GPT2, logits=logits), sizes()))}
    assert float((length(ops["head"].extents["m"]) * ops["head"].scale)[0]) == rows
    assert float(ops["final_norm"].scale[0]) == 1.0


def test_transform_and_token_types_of_an_encoder():
    names = [op.name for op in operators(head(replace(BERT, computation="training"), sizes()))]
    assert names[:4] == ["head_dense", "head_activation", "head_norm", "head"]
    assert "final_norm" not in names
    names = [op.name for op in operators(embedding(BERT, sizes()))]
    assert names == ["embedding", "position_embedding", "token_type_embedding", "embedding_norm"]


def test_gradients_are_handed_over_or_added():
    layer = decoder_layer(replace(GPT2, computation="training"), sizes())
    for accumulates in (0.0, 1.0):
        sums = [
            op
            for op in operators(backward(layer, accumulates=accumulates * ONE))
            if op.kind == "gradient_sum"
        ]
        assert sums and all(float(op.scale[0]) == accumulates for op in sums)

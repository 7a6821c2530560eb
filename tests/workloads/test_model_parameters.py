"""Every catalog model has its published count; each expected value is worked out here, factor by factor."""

from __future__ import annotations

import math

import pytest

from workloads.catalog import lint_model, list_models, load_model
from workloads.model_spec import ModelSpec
from workloads.parameter_counts import active_parameters, layer_parameters, parameters


def llama_like(layers, hidden, kv_width, ffn, vocab, *, q_width=None, qkv_bias=False, head_norm=0):
    """Untied Llama relative: Q, O of hidden x q_width, K, V of hidden x kv_width, three MLP matrices."""
    q_width = q_width or hidden
    layer = 2 * hidden * q_width + 2 * hidden * kv_width + 3 * hidden * ffn + 2 * hidden + 2 * head_norm
    if qkv_bias:
        layer += q_width + 2 * kv_width
    return layers * layer + 2 * vocab * hidden + hidden


def gpt_like(layers, hidden, vocab, positions):
    """GPT-2 relative: 12 h^2 weights, 9 h linear biases and 4 h of norms in a layer; tied head."""
    biases = 3 * hidden + hidden + 4 * hidden + hidden
    layer = 12 * hidden**2 + biases + 2 * (2 * hidden)
    return layers * layer + (vocab + positions) * hidden + 2 * hidden


def mpt_like(layers, hidden, vocab):
    """Released MPT: no biases at all, two norms of h, ALiBi, tied head."""
    return layers * (12 * hidden**2 + 2 * hidden) + vocab * hidden + hidden


def with_experts(layers, hidden, q_width, kv_width, experts, ffn, vocab, *, head_norm=0):
    """A Llama relative with ``experts`` MLPs of three matrices in each layer, and a router between them."""
    attention = 2 * hidden * q_width + 2 * hidden * kv_width + 2 * head_norm
    layer = attention + experts * 3 * hidden * ffn + hidden * experts + 2 * hidden
    return layers * layer + 2 * vocab * hidden + hidden


def latent_with_experts(layers, hidden, heads, experts, ffn, vocab, *, shared, dense, dense_ffn, rank=1536):
    """DeepSeek: keys of 128 + 64, values of 128, latents of 512 and ``rank`` with norms; ``dense`` plain layers."""
    query = hidden * rank + rank + rank * heads * 192 if rank else hidden * heads * 192
    attention = query + hidden * (512 + 64) + 512 + 512 * heads * 256 + heads * 128 * hidden + 2 * hidden
    mixed = attention + hidden * experts + (experts + shared) * 3 * hidden * ffn
    plain = attention + 3 * hidden * dense_ffn
    return dense * plain + (layers - dense) * mixed + 2 * vocab * hidden + hidden


def small_qwen3(layers, hidden, q_width, ffn):
    """Qwen3 with a tied head: one table instead of two."""
    whole = llama_like(layers, hidden, 8 * 128, ffn, 151936, q_width=q_width, head_norm=128)
    return whole - 151936 * hidden


def nemotron_like(layers, hidden, kv_width, ffn, *, q_width=None):
    """Nemotron-4: two MLP matrices, two norms with biases in a layer and one at the end, untied head of 256,000."""
    attention = 2 * hidden * (q_width or hidden) + 2 * hidden * kv_width
    layer = attention + 2 * hidden * ffn + 2 * (2 * hidden)
    return layers * layer + 2 * 256000 * hidden + 2 * hidden


def gpt_oss(layers, experts):
    """Biases everywhere, a sink for each of 64 heads of 64, experts as wide as the stream of 2880."""
    attention = 2880 * 4096 + 4096 + 2 * (2880 * 512 + 512) + 4096 * 2880 + 2880 + 64
    expert = 2880 * 2 * 2880 + 2 * 2880 + 2880 * 2880 + 2880
    layer = attention + (2880 + 1) * experts + experts * expert + 2 * 2880
    return layers * layer + 2 * 201088 * 2880 + 2880


def llama_4(mixed, plain, experts, *, head_norm=0):
    """40 heads of 128, 8 of keys; ``mixed`` layers with experts of 8192 and one for all, ``plain`` ones of 16384."""
    attention = 2 * 5120 * 5120 + 2 * 5120 * 1024 + 2 * 5120 + 2 * head_norm
    layers = mixed * (attention + 5120 * experts + (experts + 1) * 3 * 5120 * 8192)
    return layers + plain * (attention + 3 * 5120 * 16384) + 2 * 202048 * 5120 + 5120


EXPECTED = {
    "gpt-oss-20b": (gpt_oss(24, 32), None),
    "gpt-oss-120b": (gpt_oss(36, 128), None),
    "llama-4-scout": (llama_4(48, 0, 16, head_norm=128), None),
    "llama-4-maverick": (llama_4(24, 24, 128), None),
    "nemotron-mini-4b": (nemotron_like(32, 3072, 8 * 128, 9216), None),
    "minitron-8b": (nemotron_like(32, 4096, 8 * 128, 16384, q_width=48 * 128), None),
    "nemotron-3-8b": (nemotron_like(32, 4096, 4096, 16384), None),
    "qwen3-0.6b": (small_qwen3(28, 1024, 2048, 3072), None),
    "qwen3-1.7b": (small_qwen3(28, 2048, 2048, 6144), None),
    "qwen3-4b": (small_qwen3(36, 2560, 4096, 9728), None),
    "nemotron-4-15b": (nemotron_like(32, 6144, 8 * 128, 24576), None),
    "nemotron-4-340b": (nemotron_like(96, 18432, 8 * 192, 73728), None),
    # name: (count by hand, exact published count or None)
    "llama-2-7b": (llama_like(32, 4096, 4096, 11008, 32000), 6_738_415_616),
    "llama-2-13b": (llama_like(40, 5120, 5120, 13824, 32000), 13_015_864_320),
    "llama-2-70b": (llama_like(80, 8192, 8 * 128, 28672, 32000), 68_976_648_192),
    "llama-3.1-8b": (llama_like(32, 4096, 8 * 128, 14336, 128256), 8_030_261_248),
    "llama-3.1-70b": (llama_like(80, 8192, 8 * 128, 28672, 128256), 70_553_706_496),
    "llama-3.1-405b": (llama_like(126, 16384, 8 * 128, 53248, 128256), 405_853_388_800),
    "mistral-7b": (llama_like(32, 4096, 8 * 128, 14336, 32000), 7_241_732_096),
    "qwen2.5-7b": (llama_like(28, 3584, 4 * 128, 18944, 152064, qkv_bias=True), 7_615_616_512),
    "qwen2.5-72b": (llama_like(80, 8192, 8 * 128, 29568, 152064, qkv_bias=True), 72_706_203_648),
    "qwen3-8b": (llama_like(36, 4096, 8 * 128, 12288, 151936, head_norm=128), 8_190_735_360),
    "qwen3-14b": (llama_like(40, 5120, 8 * 128, 17408, 151936, head_norm=128), 14_768_307_200),
    "qwen3-32b": (
        llama_like(64, 5120, 8 * 128, 25600, 151936, q_width=64 * 128, head_norm=128),
        32_762_123_264,
    ),
    "mpt-7b": (mpt_like(32, 4096, 50432), 6_649_286_656),
    "mpt-30b": (mpt_like(48, 7168, 50432), None),
    # the benchmark variant has the biases and the position table of a GPT, but its norms have biases too
    "mpt-70b": (gpt_like(80, 8192, 50368, 2048), 64_862_437_376),
    "mixtral-8x7b": (with_experts(32, 4096, 4096, 1024, 8, 14336, 32000), 46_702_792_704),
    "mixtral-8x22b": (with_experts(56, 6144, 6144, 1024, 8, 16384, 32768), 140_630_071_296),
    "qwen3-30b-a3b": (with_experts(48, 2048, 4096, 512, 128, 768, 151936, head_norm=128), 30_532_122_624),
    "qwen3-235b-a22b": (with_experts(94, 4096, 8192, 512, 128, 1536, 151936, head_norm=128), 235_093_634_560),
    "deepseek-v2": (
        latent_with_experts(60, 5120, 128, 160, 1536, 102400, shared=2, dense=1, dense_ffn=12288),
        None,
    ),
    "deepseek-v2-lite": (
        latent_with_experts(27, 2048, 16, 64, 1408, 102400, shared=2, dense=1, dense_ffn=10944, rank=0),
        None,
    ),
    "deepseek-v3": (
        latent_with_experts(61, 7168, 128, 256, 2048, 129280, shared=1, dense=3, dense_ffn=18432),
        None,
    ),
    "kimi-k2": (
        latent_with_experts(61, 7168, 64, 384, 2048, 163840, shared=1, dense=1, dense_ffn=18432),
        None,
    ),
    "gpt2-xl": (gpt_like(48, 1600, 50257, 1024), 1_557_611_200),
    "gpt2-large": (gpt_like(36, 1280, 50257, 1024), 774_030_080),
    "gpt3-2.7b": (gpt_like(32, 2560, 50257, 2048), None),
    # the position table starts at 2
    "opt-1.3b": (gpt_like(24, 2048, 50272, 2 + 2048), 1_315_758_080),
    # a norm behind the embedding instead of one behind the layers, 2 segments, a transform and a bias of the head
    "bert-large": (gpt_like(24, 1024, 30522, 512 + 2) + 1024**2 + 3 * 1024 + 30522, None),
    "gpt3-175b": (gpt_like(96, 12288, 50257, 2048), None),
    "megatron-22b": (gpt_like(48, 6144, 51200, 2048), None),
    "megatron-175b": (gpt_like(96, 12288, 51200, 2048), None),
    "megatron-530b": (gpt_like(105, 20480, 51200, 2048), None),
    "megatron-1t": (gpt_like(128, 25600, 51200, 2048), None),
    # no position table, but a norm with bias behind the embedding
    "bloom-176b": (gpt_like(70, 14336, 250880, 0) + 2 * 14336, 176_247_271_424),
}

# The image encoder of Llama 4 that makers count: vision_config of both files, 34 layers of 1408 with biases and
# an MLP of 5632, patches of 3 x 14 x 14, the adapter of 4096 and the projection to 5120.
IMAGES = 34 * (4 * 1408**2 + 2 * 1408 * 5632) + 1408 * 588 + 5632 * 4096 + 4096**2 + 4096 * 5120

ROUNDED = {
    "gpt-oss-20b": (20.91e9, 4),  # arXiv:2508.10925, Table 1
    "gpt-oss-120b": (116.83e9, 5),
    "nemotron-mini-4b": (4.2e9, 2),  # arXiv:2407.14679: Minitron 4B has 4.2 billion
    "minitron-8b": (8.3e9, 2),
    "qwen3-0.6b": (0.6e9, 1),  # model cards of Qwen3
    "qwen3-1.7b": (1.7e9, 2),
    "qwen3-4b": (4.0e9, 2),
    "nemotron-4-15b": (15.7e9, 2),  # arXiv:2402.16819: 3.2 + 12.5 billion
    "nemotron-4-340b": (341.0e9, 4),  # arXiv:2406.11704: 9.4 + 331.6 billion
    # name: (published figure, digits it states)
    "deepseek-v2": (236e9, 3),  # arXiv:2405.04434, abstract
    "deepseek-v2-lite": (15.7e9, 3),  # arXiv:2405.04434, appendix B
    "deepseek-v3": (671e9, 3),  # arXiv:2412.19437, abstract
    "kimi-k2": (1.0e12, 2),  # arXiv:2507.20534, abstract: a trillion
    "gpt3-175b": (174.600e9, 4),  # arXiv:2005.14165, Table D.1: 174,600 million
    "megatron-175b": (174.6e9, 4),  # arXiv:2104.04473, Table 1
    "megatron-530b": (529.6e9, 4),
    "megatron-1t": (1008.0e9, 5),
    "megatron-22b": (22e9, 2),  # arXiv:2205.05198, Table 3
    "gpt3-2.7b": (2.7e9, 2),  # arXiv:2005.14165, Table 2.1
}


def test_expected_covers_the_catalog():
    assert sorted(EXPECTED) == list_models()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_count_is_the_published_one(name):
    model = load_model(name)
    by_hand, published = EXPECTED[name]
    assert parameters(model)["total"] == by_hand
    assert model.published_parameters == published
    assert published is None or published == by_hand


@pytest.mark.parametrize("name", sorted(ROUNDED))
def test_count_rounds_to_the_published_figure(name):
    figure, digits = ROUNDED[name]
    total = parameters(load_model(name))["total"]
    unit = 10 ** (math.floor(math.log10(figure)) + 1 - digits)
    assert abs(total - figure) <= unit / 2


ACTIVE = {
    # name: (layers, hidden, expert width, experts that a token is not sent to, published figure, digits it states)
    "mixtral-8x7b": (32, 4096, 14336, 6, 12.9e9, 3),  # arXiv:2401.04088, section 2: 13B; Mistral AI: 12.9B
    "mixtral-8x22b": (56, 6144, 16384, 6, 39e9, 2),  # Mistral AI, 17 April 2024: 39B
    "qwen3-30b-a3b": (48, 2048, 768, 120, 3.3e9, 2),  # Qwen/Qwen3-30B-A3B: 3.3B
    "qwen3-235b-a22b": (94, 4096, 1536, 120, 22e9, 2),  # arXiv:2505.09388: 22B
}


@pytest.mark.parametrize("name", sorted(ACTIVE))
def test_active_parameters_are_those_of_the_experts_in_use(name):
    layers, hidden, ffn, idle, figure, digits = ACTIVE[name]
    model = load_model(name)
    active = active_parameters(model)
    assert active == model.published_parameters - layers * idle * 3 * hidden * ffn
    unit = 10 ** (math.floor(math.log10(figure)) + 1 - digits)
    # Makers round to the digits that they state; one of them cuts 3.35 to 3.3.
    assert -unit / 2 <= active - figure <= unit * 0.6


@pytest.mark.parametrize(("name", "figure"), [("gpt-oss-120b", 5.13e9), ("gpt-oss-20b", 3.61e9)])
def test_active_parameters_without_the_embedding(name, figure):
    """arXiv:2508.10925, Table 1, counts the output matrix and leaves the embedding out."""
    model = load_model(name)
    assert active_parameters(model) - model.vocab * model.hidden == pytest.approx(figure, abs=0.005e9)


@pytest.mark.parametrize(("name", "total"), [("llama-4-scout", 109e9), ("llama-4-maverick", 400e9)])
def test_llama_4_with_its_encoder_of_images(name, total):
    """Meta AI, 5 April 2025: 109 and 400 billion, 17 billion active; Maverick's files hold 402."""
    model = load_model(name)
    assert 0.85e9 < IMAGES < 0.9e9
    assert parameters(model)["total"] + IMAGES == pytest.approx(total, rel=0.005)
    assert active_parameters(model) == pytest.approx(17e9, abs=0.5e9)


def test_layers_of_several_kinds_are_counted_one_by_one():
    """Layers 3, 6 of 7 have experts but for the 3 in front; the 7th, 5th and 4th have the one MLP."""
    shapes = {
        "n_layers": 7,
        "hidden": 6,
        "heads": 2,
        "head_dim": 4,
        "ffn": 9,
        "vocab": 11,
        "max_positions": 5,
    }
    experts = {"experts": 5, "topk": 2, "moe_ffn": 4, "experts_every": 3, "first_dense_layers": 3}
    model = ModelSpec(**shapes, **experts, mlp_bias=True, router_bias=True, attention_sinks=True)
    mixed, plain = layer_parameters(model), layer_parameters(model, dense=True)
    assert mixed["mlp_in"] == 5 * 2 * (6 * 4 + 4)
    assert mixed["mlp_out"] == 5 * (4 * 6 + 6)
    assert mixed["router"] == 6 * 5 + 5
    assert mixed["attention_sinks"] == plain["attention_sinks"] == 2
    assert plain["mlp_in"] == 2 * (6 * 9 + 9)
    assert parameters(model)["layers"] == sum(mixed.values()) + 6 * sum(plain.values())
    idle = (5 - 2) * (2 * (6 * 4 + 4) + 4 * 6 + 6)
    assert active_parameters(model) == parameters(model)["total"] - idle


def test_all_parameters_of_a_dense_model_are_active():
    model = load_model("llama-3.1-8b")
    assert active_parameters(model) == parameters(model)["total"]


def test_shared_experts_are_counted_and_active():
    """Hidden 6, 5 experts of width 4, 2 of them for a token, 3 for all: matrices of 6 x 4, three each."""
    shapes = {
        "n_layers": 2,
        "hidden": 6,
        "heads": 1,
        "head_dim": 6,
        "ffn": 9,
        "vocab": 11,
        "max_positions": 5,
    }
    model = ModelSpec(**shapes, experts=5, topk=2, moe_ffn=4, shared_experts=3)
    counted = layer_parameters(model)
    assert counted["mlp_in"] == 2 * 6 * (5 + 3) * 4
    assert counted["mlp_out"] == (5 + 3) * 4 * 6
    assert counted["router"] == 6 * 5
    assert parameters(model)["total"] - active_parameters(model) == 2 * 3 * 6 * (5 - 2) * 4


def test_mpt_benchmark_count_grows_with_the_position_table():
    """llm-foundry's table lists the 7B benchmark model at several lengths; 4096 weights for each position."""
    shapes = {"n_layers": 32, "hidden": 4096, "heads": 32, "ffn": 16384, "vocab": 50368, "gated_mlp": False}
    biases = dict.fromkeys(("qkv_bias", "attention_out_bias", "mlp_bias", "norm_bias"), True)
    kind = {"norm": "layer", "positions": "learned", "tied_embeddings": True}
    for positions, published in ((1024, 6654664704), (2048, 6658859008), (65536, 6918905856)):
        model = ModelSpec(**shapes, **biases, **kind, max_positions=positions)
        assert parameters(model)["total"] == published


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_parts_sum_to_the_total(name):
    model = load_model(name)
    parts = parameters(model)
    layer = parts.pop("layer")
    total = parts.pop("total")
    assert sum(parts.values()) == total
    mixed = sum(i % model.experts_every == 0 for i in range(model.first_dense_layers + 1, model.n_layers + 1))
    dense = (model.n_layers - mixed) * sum(layer_parameters(model, dense=True).values())
    assert parts["layers"] == mixed * layer + dense
    assert sum(layer_parameters(model).values()) == layer
    assert set(parts) == {"embedding", "position_embedding", "layers", "final_norm", "head"}


def test_modules_of_one_layer_by_hand():
    """Every switch on: hidden 6, 3 heads of 4, 1 KV head, MLP of 10."""
    model = ModelSpec(
        n_layers=3,
        hidden=6,
        heads=3,
        kv_heads=1,
        head_dim=4,
        ffn=10,
        vocab=11,
        max_positions=5,
        position_offset=2,
        positions="learned",
        norm="layer",
        norm_bias=True,
        qkv_bias=True,
        attention_out_bias=True,
        mlp_bias=True,
        head_bias=True,
        qk_norm=True,
        embedding_norm=True,
    )
    assert layer_parameters(model) == {
        "attention_norm": 6 + 6,
        "qkv": 6 * (12 + 4 + 4) + (12 + 4 + 4),
        "qk_norm": 4 + 4,
        "attention_out": 12 * 6 + 6,
        "mlp_norm": 6 + 6,
        "mlp_in": 2 * (6 * 10 + 10),
        "mlp_out": 10 * 6 + 6,
    }
    parts = parameters(model)
    assert parts["embedding"] == 11 * 6 + 12
    assert parts["position_embedding"] == (5 + 2) * 6
    assert parts["final_norm"] == 12
    assert parts["head"] == 11 * 6 + 11


def test_lint_finds_a_count_that_the_shapes_do_not_give(tmp_path):
    path = tmp_path / "mine.yaml"
    shapes = "n_layers: 1\nhidden: 8\nheads: 2\nffn: 16\nvocab: 10\nmax_positions: 4\n"
    path.write_text(shapes + "published_parameters: 824\n")  # 656 in the layer, 2 x 80, 8
    assert lint_model(path) == []
    path.write_text(shapes + "published_parameters: 825\n")
    (problem,) = lint_model(path)
    assert "824" in problem.rule
    path.write_text(shapes + "published_parameters: many\nhiden: 3\n")
    assert len(lint_model(path)) == 2

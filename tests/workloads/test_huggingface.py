"""config.json of each family: the published count, the defaults of the family, and what is refused."""

from __future__ import annotations

import json

import pytest

from hardware_specs.errors import SpecError
from workloads.catalog import load_model
from workloads.parameter_counts import parameters

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "max_position_embeddings": 40960,
    "max_window_layers": 64,
    "num_attention_heads": 64,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_inner": None,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "vocab_size": 50257,
}
MPT = {
    "architectures": ["MPTForCausalLM"],
    "model_type": "mpt",
    "attn_config": {"alibi": True, "attn_type": "multihead_attention", "clip_qkv": None, "qk_ln": False},
    "d_model": 4096,
    "emb_pdrop": 0,
    "expansion_ratio": 4,
    "learned_pos_emb": True,
    "max_seq_len": 2048,
    "n_heads": 32,
    "n_layers": 32,
    "no_bias": True,
    "norm_type": "low_precision_layernorm",
    "resid_pdrop": 0,
    "vocab_size": 50432,
}
OPT = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "_remove_final_layer_norm": False,
    "activation_function": "relu",
    "attention_dropout": 0.0,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "ffn_dim": 3072,
    "hidden_size": 768,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
}
BLOOM = {
    "architectures": ["BloomForCausalLM"],
    "model_type": "bloom",
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "n_embed": 1024,
    "n_layer": 24,
    "num_attention_heads": 16,
    "vocab_size": 250880,
}
ALL = [LLAMA, MISTRAL, QWEN2, QWEN3, GPT2, MPT, OPT, BLOOM]


def total(config):
    return parameters(load_model(config))["total"]


def problems_of(source):
    with pytest.raises(SpecError) as caught:
        load_model(source)
    assert all("\n" not in str(problem) for problem in caught.value.problems)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (LLAMA, 8_030_261_248),  # Llama-3.1-8B
        (MISTRAL, 7_241_732_096),  # Mistral-7B-v0.1
        (QWEN2, 494_032_768),  # Qwen2.5-0.5B, tied
        (QWEN3, 32_762_123_264),  # Qwen3-32B
        (GPT2, 124_439_808),  # gpt2
        (MPT, 6_649_286_656),  # mpt-7b
        (BLOOM, 559_214_592),  # bloom-560m
        # opt-125m: 12 layers of 12 h^2 + 13 h, 50272 + 2050 rows, the last norm
        (OPT, 12 * (12 * 768**2 + 13 * 768) + (50272 + 2050) * 768 + 2 * 768),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_published_counts(config, published):
    assert total(config) == published


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LLAMA, "llama-3.1-8b"),
        (MISTRAL, "mistral-7b"),
        (QWEN3, "qwen3-32b"),
        (MPT, "mpt-7b"),
        (MIXTRAL, "mixtral-8x7b"),
        (QWEN3_MOE, "qwen3-30b-a3b"),
    ],
)
def test_a_file_gives_the_catalog_entry(config, name):
    apart = {"name", "source", "published_parameters", "note"}
    assert load_model(config).model_dump(exclude=apart) == load_model(name).model_dump(exclude=apart)


def test_heads_default_by_family():
    tied = {config["model_type"]: True for config in (GPT2, MPT, OPT, BLOOM)}
    tied |= {config["model_type"]: False for config in (LLAMA, MISTRAL, QWEN2, QWEN3)}
    for config in ALL:
        bare = {key: value for key, value in config.items() if key != "tie_word_embeddings"}
        model = load_model(bare)
        assert model.tied_embeddings is tied[model.family]
        other = load_model({**bare, "tie_word_embeddings": not model.tied_embeddings})
        assert other.tied_embeddings is not model.tied_embeddings


def test_llama_switches():
    base = total(LLAMA)
    # q and o of 4096, k and v of 1024
    assert total({**LLAMA, "attention_bias": True}) - base == 32 * (4096 + 4096 + 2 * 1024)
    assert total({**LLAMA, "mlp_bias": True}) - base == 32 * (2 * 14336 + 4096)
    assert load_model({**LLAMA, "head_dim": 64}).head_dim == 64
    assert load_model({**LLAMA, "head_dim": None}).head_dim == 128
    assert set(problems_of({**LLAMA, "head_dim": "x", "hidden_size": 4100})) == {"model.head_dim"}
    assert set(problems_of({**LLAMA, "hidden_size": 4100})) == {"model.hidden_size"}
    assert set(problems_of({**LLAMA, "num_key_value_heads": 0})) == {"model.num_key_value_heads"}
    assert load_model({**LLAMA, "num_key_value_heads": None}).kv_heads == 32
    old = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert load_model(old).kv_heads == 32


def test_qwen3_without_head_dim_takes_128():
    model = load_model({key: value for key, value in QWEN3.items() if key != "head_dim"})
    assert (model.head_dim, model.qk_norm) == (128, True)


def test_windows():
    assert load_model(MISTRAL).sliding_window == 4096
    assert load_model({**MISTRAL, "sliding_window": None}).sliding_window is None
    assert load_model(QWEN2).sliding_window is None
    used = {**QWEN2, "use_sliding_window": True}
    assert load_model(used).sliding_window is None  # max_window_layers is the depth: no layer has the window
    assert load_model({**used, "max_window_layers": 0}).sliding_window == 32768
    assert "model.max_window_layers" in problems_of({**used, "max_window_layers": 12})
    assert load_model({**LLAMA, "layer_types": ["full_attention"] * 32}).sliding_window is None
    mixed = ["full_attention", "sliding_attention"]
    assert "model.layer_types" in problems_of({**used, "layer_types": mixed})
    assert "model.layer_types" in problems_of({**LLAMA, "layer_types": mixed})
    assert "model.layer_types" in problems_of({**MISTRAL, "layer_types": "all"})


def test_experts_of_mixtral_and_qwen():
    mixtral = load_model(MIXTRAL)
    assert (mixtral.experts, mixtral.topk, mixtral.moe_ffn, mixtral.sliding_window) == (8, 2, 14336, None)
    assert load_model({**MIXTRAL, "num_local_experts": None}).experts == 8
    qwen = load_model(QWEN3_MOE)
    assert (qwen.experts, qwen.topk, qwen.moe_ffn, qwen.ffn) == (128, 8, 768, 6144)
    assert "model.mlp_only_layers" in problems_of({**QWEN3_MOE, "mlp_only_layers": [0]})
    assert load_model({**QWEN3_MOE, "decoder_sparse_step": 2}).experts_every == 2
    assert "model.decoder_sparse_step" in problems_of({**QWEN3_MOE, "decoder_sparse_step": 0})
    assert "model.num_experts_per_tok" in problems_of({**QWEN3_MOE, "num_experts_per_tok": 129})
    assert "model.n_shared_experts" in problems_of({**QWEN3_MOE, "n_shared_experts": 1})
    # A dense file of the same maker has no experts, whatever its keys say.
    assert "model.num_experts" in problems_of({**QWEN3, "num_experts": 4})


def test_gpt2_inner_width():
    assert load_model(GPT2).ffn == 3072
    assert load_model({**GPT2, "n_inner": 1000}).ffn == 1000


def test_mpt_switches():
    h, layers = 4096, 32
    base = total(MPT)
    assert total({**MPT, "no_bias": False}) - base == layers * (9 * h + 2 * h) + h
    learned = {**MPT, "attn_config": {"alibi": False}}
    assert total(learned) - base == 2048 * h
    assert load_model({**learned, "learned_pos_emb": False}).positions == "none"
    assert load_model({**MPT, "attn_config": {"alibi": False, "rope": True}}).positions == "rotary"
    multi_query = {**MPT, "attn_config": {"alibi": True, "attn_type": "multiquery_attention"}}
    assert load_model(multi_query).kv_heads == 1
    assert base - total(multi_query) == layers * 2 * h * (h - 128)
    grouped = {"alibi": True, "attn_type": "grouped_query_attention", "kv_n_heads": 8}
    assert load_model({**MPT, "attn_config": grouped}).kv_heads == 8
    assert load_model({**MPT, "expansion_ratio": 2.5}).ffn == 10240
    assert load_model({**MPT, "ffn_config": {"ffn_type": "mptglu"}}).gated_mlp
    assert "model.expansion_ratio" in problems_of({**MPT, "expansion_ratio": 4.00001})
    assert "model.attn_config.qk_ln" in problems_of({**MPT, "attn_config": {"qk_ln": True}})
    assert "model.attn_config" in problems_of({**MPT, "attn_config": 3})


def test_opt_variants():
    assert load_model(OPT).position_rows == 2050
    assert load_model(OPT).dropout == 0.1
    base = total(OPT)
    assert base - total({**OPT, "enable_bias": False}) == 12 * 9 * 768
    assert "model.do_layer_norm_before" in problems_of({**OPT, "do_layer_norm_before": False})
    assert "model.word_embed_proj_dim" in problems_of({**OPT, "word_embed_proj_dim": 512})


@pytest.mark.parametrize(
    ("config", "looks"),
    [
        ({"model_type": "dbrx", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, "latent attention"),
        ({"model_type": "mamba", "state_size": 16}, "state-space"),
        ({"model_type": "falcon", "parallel_attn": True}, "parallel"),
        ({"model_type": "bert"}, ""),
        ({"architectures": ["T5ForConditionalGeneration"]}, ""),
        ({"model_type": 5}, ""),
        ({"model_type": None}, ""),
        ({"model_type": ["llama"]}, ""),
    ],
)
def test_unknown_architectures_are_one_error(config, looks):
    (problem,) = problems_of(config).values()
    for family in ("bloom", "gpt2", "llama", "mistral", "mpt", "opt", "qwen2", "qwen3"):
        assert family in problem.fix
    assert looks in problem.rule


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_local_experts", 8),
        ("moe_intermediate_size", 768),
        ("kv_lora_rank", 512),
        ("quantization_config", {"bits": 4}),
        ("vision_config", {"hidden_size": 3}),
    ],
)
def test_foreign_keys_are_refused_in_a_known_family(key, value):
    assert set(problems_of({**LLAMA, key: value})) == {f"model.{key}"}
    assert load_model({**LLAMA, key: None}).family == "llama"


def test_other_heads_are_refused():
    assert "model.architectures" in problems_of(
        {**LLAMA, "architectures": ["LlamaForSequenceClassification"]}
    )
    assert "model.architectures" in problems_of({**LLAMA, "architectures": "LlamaForCausalLM"})
    assert load_model({**LLAMA, "architectures": None}).family == "llama"
    only_class = {key: value for key, value in LLAMA.items() if key != "model_type"}
    assert load_model(only_class).family == "llama"


def test_all_mistakes_at_once_with_the_keys_of_the_file():
    wrong = {
        **LLAMA,
        "hidden_size": 4100,
        "num_hidden_layers": "32",
        "num_key_value_heads": 5,
        "vocab_size": -1,
        "intermediate_size": float("nan"),
        "hidden_act": "tanhshrink",
        "tie_word_embeddings": "no",
        "attention_dropout": -0.5,
        "num_experts": 4,
    }
    del wrong["max_position_embeddings"]
    keys = {"hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size", "intermediate_size"}
    keys |= {
        "hidden_act",
        "tie_word_embeddings",
        "attention_dropout",
        "num_experts",
        "max_position_embeddings",
    }
    assert set(problems_of(wrong)) == {f"model.{key}" for key in keys}


@pytest.mark.parametrize("config", ALL, ids=lambda config: config["model_type"])
@pytest.mark.parametrize("value", [0, -3, 1.5, True, "4", [4], {}, float("nan"), float("inf"), 2**40])
def test_every_dimension_is_checked(config, value):
    for key, good in config.items():
        if type(good) is int and good > 1 and key not in ("expansion_ratio", "n_ctx", "max_window_layers"):
            if config is QWEN2 and key == "sliding_window":
                continue  # switched off by use_sliding_window
            assert f"model.{key}" in problems_of({**config, key: value}), key


@pytest.mark.parametrize("config", ALL, ids=lambda config: config["model_type"])
def test_any_single_odd_value_is_a_spec_error_or_a_model(config):
    """No value of any key may end in another exception."""
    for key in config:
        for value in (None, 0, -1, 7, 0.5, True, "x", [], [1], {}, {"a": 1}, float("nan"), 10**400):
            try:
                load_model({**config, key: value})
            except SpecError as error:
                assert error.problems


def test_files_and_folders(tmp_path):
    folder = tmp_path / "My-Model"
    folder.mkdir()
    path = folder / "config.json"
    path.write_text(json.dumps(LLAMA))
    assert load_model(folder) == load_model(str(path)) == load_model(path)
    assert load_model(path).name == "My-Model"
    path.write_text(json.dumps({**LLAMA, "_name_or_path": "meta-llama/Llama-3.1-8B"}))
    assert load_model(path).name == "Llama-3.1-8B"
    path.write_text(json.dumps({**LLAMA, "hidden_size": 0}))
    # A long path is cut in the middle of the message, its key never.
    assert any(where.endswith(": hidden_size") for where in problems_of(path))

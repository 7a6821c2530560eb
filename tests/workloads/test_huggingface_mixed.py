"""Hugging Face files of models whose layers are of several kinds, and of Nemotron."""

from __future__ import annotations

import pytest

from hardware_specs.errors import SpecError
from workloads.catalog import load_model
from workloads.layer_patterns import every_nth

# Facts of the makers' files on the Hugging Face Hub; lists of kinds are those that the files spell out.
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "quantization_config": {"quant_method": "mxfp4"},
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}
MAVERICK = {
    "model_type": "llama4_text",
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "interleave_moe_layer_step": 2,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "max_position_embeddings": 1048576,
    "no_rope_layers": [1, 1, 1, 0] * 12,
    "num_attention_heads": 40,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "use_qk_norm": False,
    "vocab_size": 202048,
}
SCOUT = {
    **MAVERICK,
    "interleave_moe_layer_step": 1,
    "max_position_embeddings": 10485760,
    "num_local_experts": 16,
    "use_qk_norm": True,
}
NEMOTRON = {
    "architectures": ["NemotronForCausalLM"],
    "model_type": "nemotron",
    "head_dim": 128,
    "hidden_act": "relu2",
    "hidden_size": 3072,
    "intermediate_size": 9216,
    "max_position_embeddings": 4096,
    "num_attention_heads": 24,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.5,
    "tie_word_embeddings": False,
    "vocab_size": 256000,
}


def without_names(model):
    return {k: v for k, v in model.model_dump().items() if k not in ("name", "family", "source", "note")}


def problems_of(source):
    with pytest.raises(SpecError) as caught:
        load_model(source)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (GPT_OSS, "gpt-oss-120b"),
        ({**GPT_OSS, "num_hidden_layers": 24, "layer_types": None, "num_local_experts": 32}, "gpt-oss-20b"),
        (MAVERICK, "llama-4-maverick"),
        (SCOUT, "llama-4-scout"),
        ({"model_type": "llama4", "text_config": SCOUT, "vision_config": {"depth": 34}}, "llama-4-scout"),
        (NEMOTRON, "nemotron-mini-4b"),
        (
            {**NEMOTRON, "hidden_size": 4096, "intermediate_size": 16384, "num_attention_heads": 48},
            "minitron-8b",
        ),
    ],
)
def test_the_makers_file_is_the_catalog_entry(config, name):
    read, kept = without_names(load_model(config)), without_names(load_model(name))
    if name == "llama-4-scout":  # no layer has the dense MLP
        assert (read.pop("ffn"), kept.pop("ffn")) == (16384, 16384)
    assert read == kept


@pytest.mark.parametrize(
    ("marks", "n"),
    [("0101", 2), ("001001", 3), ("111", 1), ("000", 0), ("100", None), ("0110", None), ("0100", None)],
)
def test_every_nth(marks, n):
    assert every_nth([mark == "1" for mark in marks]) == n


def test_layers_of_one_kind_have_no_pattern():
    full = load_model({**GPT_OSS, "layer_types": ["full_attention"] * 36})
    assert (full.sliding_window, full.global_attention_every) == (None, None)
    local = load_model({**GPT_OSS, "layer_types": ["sliding_attention"] * 36})
    assert (local.sliding_window, local.global_attention_every) == (128, None)
    assert load_model({**GPT_OSS, "sliding_window": None, "layer_types": None}).sliding_window == 128
    turning = load_model({**SCOUT, "no_rope_layers": [1] * 48})
    assert (turning.attention_chunk, turning.global_attention_every, turning.global_rotary) == (
        8192,
        None,
        True,
    )
    still = load_model({**SCOUT, "no_rope_layers": [0] * 48})
    assert (still.attention_chunk, still.positions) == (None, "none")
    dense = load_model({**SCOUT, "moe_layers": []})
    assert (dense.experts, dense.ffn) == (0, 16384)
    listed = load_model({**MAVERICK, "moe_layers": list(range(1, 48, 2)), "interleave_moe_layer_step": None})
    assert listed.experts_every == 2


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({**GPT_OSS, "layer_types": ["full_attention", "sliding_attention"] * 18}, "layer_types"),
        ({**GPT_OSS, "layer_types": ["sliding_attention", "full_attention"] * 12}, "layer_types"),
        ({**GPT_OSS, "layer_types": ["linear_attention"] * 36}, "layer_types"),
        ({**GPT_OSS, "quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({**GPT_OSS, "attention_chunk_size": 4096}, "attention_chunk_size"),
        ({**GPT_OSS, "hidden_act": "gelu"}, "hidden_act"),
        ({**GPT_OSS, "num_local_experts": None}, "num_local_experts"),
        ({**SCOUT, "no_rope_layers": [0, 1, 1, 1] * 12}, "no_rope_layers"),
        ({**SCOUT, "no_rope_layers": [1, 1, 1, 0]}, "no_rope_layers"),
        ({**SCOUT, "no_rope_layers": "all"}, "no_rope_layers"),
        ({**SCOUT, "layer_types": ["chunked_attention"] * 48}, "no_rope_layers"),
        ({**SCOUT, "attention_chunk_size": None}, "no_rope_layers"),
        ({**SCOUT, "no_rope_layers": None, "no_rope_layer_interval": 0}, "no_rope_layer_interval"),
        ({**SCOUT, "interleave_moe_layer_step": "two"}, "interleave_moe_layer_step"),
        ({**SCOUT, "moe_layers": [0, 2, 4]}, "moe_layers"),
        ({**NEMOTRON, "hidden_act": "silu"}, "hidden_act"),
    ],
)
def test_what_no_key_of_ours_can_say_is_refused(config, key):
    assert f"model.{key}" in problems_of(config)


def test_the_path_of_a_mistake_names_the_text_part():
    nested = {"model_type": "llama4", "text_config": {**SCOUT, "hidden_size": 0}}
    assert "model.text_config.hidden_size" in problems_of(nested)


@pytest.mark.parametrize("config", [GPT_OSS, MAVERICK, NEMOTRON], ids=lambda config: config["model_type"])
def test_any_single_odd_value_is_a_spec_error_or_a_model(config):
    """No value of any key may end in another exception, and dimensions are whole and positive."""
    extra = {
        "moe_layers": None,
        "layer_types": None,
        "no_rope_layer_interval": None,
        "quantization_config": None,
    }
    for key, good in {**config, **extra}.items():
        for value in (None, 0, -1, 7, 0.5, True, "x", [], [1], {}, {"a": 1}, float("nan"), 10**400):
            try:
                load_model({**config, key: value})
            except SpecError as error:
                assert error.problems
        if type(good) is int and good > 2:
            assert f"model.{key}" in problems_of({**config, key: 0}), key

"""What the keys of a Hugging Face config.json mean, family by family.

Defaults for keys that a file leaves out are those of the configuration classes of transformers 4
(https://huggingface.co/docs/transformers, "Configuration" of each model); shapes have no default here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workloads.config_reader import REQUIRED, ConfigReader
from workloads.huggingface_mixed import read_gpt_oss, read_llama4
from workloads.huggingface_mpt import read_mpt
from workloads.layer_patterns import read_layer_types

__all__ = ["FAMILIES", "Family"]

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu",  # torch's own kernel
    "relu": "relu",
}
_ALL_LINEAR_BIASES = {"qkv_bias": True, "attention_out_bias": True, "mlp_bias": True}
_PLAIN_LAYER = {"gated_mlp": False, "norm": "layer", "norm_bias": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One architecture.

    Attributes
    ----------
    model_class : str
        The class that `architectures` names.
    read : callable
        The reader of its keys.
    experts : bool
        Whether it has experts.
    knows : tuple of str
        Keys that it understands and other families have no place for.
    """

    model_class: str
    read: Callable[[ConfigReader], None]
    experts: bool = False
    knows: tuple[str, ...] = ()


def _llama(reader: ConfigReader) -> None:
    _llama_shapes(reader, kv_optional=True)
    attention_bias = reader.flag("attention_bias", False)
    reader.values |= {
        "qkv_bias": attention_bias,
        "attention_out_bias": attention_bias,
        "mlp_bias": reader.flag("mlp_bias", False),
    }
    read_layer_types(reader, "sliding_attention", "")


def _mistral(reader: ConfigReader) -> None:
    _llama_shapes(reader)
    # absent means 4096 in MistralConfig; null means none
    window = 4096 if "sliding_window" not in reader.config else None
    reader.count("sliding_window", "sliding_window", default=window)
    read_layer_types(reader, "sliding_attention", "sliding_window")


def _qwen2(reader: ConfigReader) -> None:
    _llama_shapes(reader)
    reader.values |= {"qkv_bias": True}
    _qwen_window(reader)


def _qwen3(reader: ConfigReader) -> None:
    _llama_shapes(reader, head_dim_default=128)
    attention_bias = reader.flag("attention_bias", False)
    reader.values |= {"qk_norm": True, "qkv_bias": attention_bias, "attention_out_bias": attention_bias}
    _qwen_window(reader)


def _mixtral(reader: ConfigReader) -> None:
    _llama_shapes(reader)
    reader.count("sliding_window", "sliding_window", default=None)
    read_layer_types(reader, "sliding_attention", "sliding_window")
    reader.count("experts", "num_local_experts", default=8)
    reader.count("topk", "num_experts_per_tok", default=2)


def _qwen3_moe(reader: ConfigReader) -> None:
    _qwen3(reader)
    reader.count("experts", "num_experts", default=128)
    reader.count("topk", "num_experts_per_tok", default=8)
    reader.count("moe_ffn", "moe_intermediate_size")
    reader.count("experts_every", "decoder_sparse_step", default=1)
    if reader.config.get("mlp_only_layers"):
        reader.fail(
            "mlp_only_layers", "of layers with and without experts, only every n-th with them is known here"
        )


def _gpt2(reader: ConfigReader) -> None:
    hidden = reader.count("hidden", "n_embd", "hidden_size")
    reader.count("n_layers", "n_layer", "num_hidden_layers")
    reader.count("heads", "n_head", "num_attention_heads")
    reader.count("max_positions", "n_positions", "max_position_embeddings")
    reader.count("vocab", "vocab_size")
    reader.count("ffn", "n_inner", default=4 * hidden if hidden else None)
    reader.choice("activation", "activation_function", "gelu_new", _ACTIVATIONS)
    reader.dropout("resid_pdrop", "attn_pdrop", "embd_pdrop", default=0.1)
    reader.values |= {**_PLAIN_LAYER, **_ALL_LINEAR_BIASES, "positions": "learned"}
    reader.values["tied_embeddings"] = reader.flag("tie_word_embeddings", True)


def _opt(reader: ConfigReader) -> None:
    hidden = reader.count("hidden", "hidden_size")
    reader.count("n_layers", "num_hidden_layers")
    reader.count("heads", "num_attention_heads")
    reader.count("ffn", "ffn_dim")
    reader.count("max_positions", "max_position_embeddings")
    reader.count("vocab", "vocab_size")
    reader.choice("activation", "activation_function", "relu", _ACTIVATIONS)
    reader.dropout("dropout", "attention_dropout", default=0.0)
    biases = reader.flag("enable_bias", True)
    reader.values |= {**_PLAIN_LAYER, **dict.fromkeys(_ALL_LINEAR_BIASES, biases)}
    # the table of OPT starts at position 2, a leftover of its padding index
    reader.values |= {"positions": "learned", "position_offset": 2}
    reader.values["tied_embeddings"] = reader.flag("tie_word_embeddings", True)
    if reader.config.get("word_embed_proj_dim", hidden) not in (hidden, None):
        reader.fail("word_embed_proj_dim", "a projection between embedding and layers is not known here")
    for key, usual in (("do_layer_norm_before", True), ("_remove_final_layer_norm", False)):
        if reader.flag(key, usual) is not usual:
            reader.fail(key, "this place of the norms is not known here", f"only {str(usual).lower()} is")
    if not reader.flag("layer_norm_elementwise_affine", True):
        reader.fail("layer_norm_elementwise_affine", "norms without weights are not known here")


def _bloom(reader: ConfigReader) -> None:
    hidden = reader.count("hidden", "hidden_size", "n_embed")
    reader.count("n_layers", "n_layer", "num_hidden_layers")
    reader.count("heads", "n_head", "num_attention_heads")
    reader.count("vocab", "vocab_size")
    # ALiBi has no table; 2048 tokens is what the BLOOM models were trained with (arXiv:2211.05100, Table 3)
    reader.count("max_positions", "seq_length", default=2048)
    reader.dropout("hidden_dropout", "attention_dropout", default=0.0)
    reader.values |= {**_PLAIN_LAYER, **_ALL_LINEAR_BIASES, "positions": "alibi", "embedding_norm": True}
    reader.values |= {"activation": "gelu", "tied_embeddings": reader.flag("tie_word_embeddings", True)}
    if hidden:
        reader.values["ffn"] = 4 * hidden


def _llama_shapes(
    reader: ConfigReader,
    *,
    kv_optional: bool = False,
    head_dim_default: int | None = None,
    activations: Mapping[str, str] = _ACTIVATIONS,
) -> None:
    """Keys that all descendants of Llama share: gated MLP, RMS norm, rotary positions, no biases."""
    reader.count("hidden", "hidden_size")
    reader.count("n_layers", "num_hidden_layers")
    heads = reader.count("heads", "num_attention_heads")
    # null stands for one KV head per query head; where a class has another default, the key must be there
    may_be_absent = kv_optional or "num_key_value_heads" in reader.config
    reader.count("kv_heads", "num_key_value_heads", default=heads if may_be_absent else REQUIRED)
    reader.count("head_dim", "head_dim", default=head_dim_default)
    reader.count("ffn", "intermediate_size")
    reader.count("max_positions", "max_position_embeddings")
    reader.count("vocab", "vocab_size")
    reader.choice("activation", "hidden_act", next(iter(activations)), activations)
    reader.dropout("attention_dropout", default=0.0)
    reader.values |= {"gated_mlp": True, "norm": "rms", "positions": "rotary"}
    reader.values["tied_embeddings"] = reader.flag("tie_word_embeddings", False)


def _qwen_window(reader: ConfigReader) -> None:
    """A window applies to the layers from `max_window_layers` on; without a list the spec knows all layers or none."""
    if not reader.flag("use_sliding_window", False):
        return
    reader.count("sliding_window", "sliding_window", default=4096)
    if reader.config.get("layer_types") is not None:
        read_layer_types(reader, "sliding_attention", "sliding_window")
        return
    n_layers, first = reader.values.get("n_layers"), reader.config.get("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        reader.fail("max_window_layers", "must be a whole number, 0 or more")
    elif n_layers and first >= n_layers:
        reader.values["sliding_window"] = None
    elif first > 0:
        reader.fail("max_window_layers", "layers with and without a window in one model are not known here")


def _nemotron(reader: ConfigReader) -> None:
    """Llama's keys, with two matrices in the MLP and norms with a bias; part of each head is turned."""
    _llama_shapes(reader, kv_optional=True, activations={"relu2": "relu2"})
    bias = reader.flag("attention_bias", False)
    reader.values |= {
        "qkv_bias": bias,
        "attention_out_bias": bias,
        "mlp_bias": reader.flag("mlp_bias", False),
    }
    reader.values |= {"gated_mlp": False, "norm": "layer", "norm_bias": True}


FAMILIES: dict[str, Family] = {
    "llama": Family(model_class="LlamaForCausalLM", read=_llama),
    "mistral": Family(model_class="MistralForCausalLM", read=_mistral),
    "qwen2": Family(model_class="Qwen2ForCausalLM", read=_qwen2),
    "qwen3": Family(model_class="Qwen3ForCausalLM", read=_qwen3),
    "mixtral": Family(model_class="MixtralForCausalLM", read=_mixtral, experts=True),
    "qwen3_moe": Family(model_class="Qwen3MoeForCausalLM", read=_qwen3_moe, experts=True),
    "gpt_oss": Family(
        model_class="GptOssForCausalLM", read=read_gpt_oss, experts=True, knows=("quantization_config",)
    ),
    "llama4": Family(
        model_class="Llama4ForConditionalGeneration",
        read=read_llama4,
        experts=True,
        knows=("attention_chunk_size",),
    ),
    "llama4_text": Family(
        model_class="Llama4ForCausalLM", read=read_llama4, experts=True, knows=("attention_chunk_size",)
    ),
    "nemotron": Family(model_class="NemotronForCausalLM", read=_nemotron),
    "gpt2": Family(model_class="GPT2LMHeadModel", read=_gpt2),
    "mpt": Family(model_class="MPTForCausalLM", read=read_mpt),
    "opt": Family(model_class="OPTForCausalLM", read=_opt),
    "bloom": Family(model_class="BloomForCausalLM", read=_bloom),
}

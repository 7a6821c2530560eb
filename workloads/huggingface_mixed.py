"""Hugging Face families whose layers are of several kinds: GPT-OSS and Llama 4.

Defaults for keys that a file leaves out are those of the configuration classes of transformers 4
(https://huggingface.co/docs/transformers, "Configuration" of each model); shapes have no default here.
"""

from __future__ import annotations

from collections.abc import Mapping

from workloads.config_reader import ConfigReader
from workloads.layer_patterns import every_nth, read_layer_types

__all__ = ["read_gpt_oss", "read_llama4"]


def _shapes(reader: ConfigReader) -> None:
    for field, key in (
        ("hidden", "hidden_size"),
        ("n_layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("kv_heads", "num_key_value_heads"),
        ("head_dim", "head_dim"),
        ("max_positions", "max_position_embeddings"),
        ("vocab", "vocab_size"),
    ):
        reader.count(field, key)
    reader.choice("activation", "hidden_act", "silu", {"silu": "silu", "swish": "silu"})
    reader.dropout("attention_dropout", default=0.0)
    reader.values |= {"gated_mlp": True, "norm": "rms", "positions": "rotary"}
    reader.values["tied_embeddings"] = reader.flag("tie_word_embeddings", False)


def read_gpt_oss(reader: ConfigReader) -> None:
    """Read a file of GPT-OSS: windows by layer, sinks, experts with biases; notes mistakes in ``reader``."""
    _shapes(reader)
    reader.count("ffn", "intermediate_size")
    reader.count("experts", "num_local_experts")
    reader.count("topk", "num_experts_per_tok", "experts_per_token")
    reader.count("sliding_window", "sliding_window", default=128)
    biases = reader.flag("attention_bias", True)
    reader.values |= {"qkv_bias": biases, "attention_out_bias": biases}
    reader.values |= {"mlp_bias": True, "router_bias": True, "attention_sinks": True}
    if reader.config.get("layer_types") is None:
        reader.values["global_attention_every"] = 2
    read_layer_types(reader, "sliding_attention", "sliding_window")
    if reader.values.get("sliding_window") is None:
        reader.values.pop("global_attention_every", None)
    given = reader.config.get("quantization_config")
    # The released files are in MXFP4; which type weights have is the plan's business.
    if given and not (isinstance(given, Mapping) and given.get("quant_method") == "mxfp4"):
        rule = "belongs to a quantised checkpoint, of which mxfp4 is known here"
        reader.fail("quantization_config", rule, "take the released file, and set plan.precision")


def _switches(reader: ConfigReader, key: str) -> list[bool] | None:
    """A list of 0 and 1, one for each layer; None where it is absent or wrong, which is noted."""
    given, layers = reader.config.get(key), reader.values.get("n_layers")
    if given is None or given == []:
        return None
    if not isinstance(given, list) or not all(item in (0, 1) for item in given):
        reader.fail(key, "must be a list of 0 and 1")
    elif layers and len(given) != layers:
        reader.fail(key, f"must have an entry for each of the {layers} layers")
    else:
        return [bool(item) for item in given]
    return None


def _chunks(reader: ConfigReader) -> None:
    """Chunks, and layers that see all keys and have no rotary positions."""
    layers = reader.values.get("n_layers")
    absent = "attention_chunk_size" not in reader.config
    reader.count("attention_chunk", "attention_chunk_size", default=8192 if absent else None)
    turning = _switches(reader, "no_rope_layers")
    if turning is None and layers:
        interval = reader.config.get("no_rope_layer_interval", 4)
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            reader.fail("no_rope_layer_interval", "must be a whole number, 1 or more")
            return
        turning = [i % interval != 0 for i in range(1, layers + 1)]
    if turning is None:
        return
    kinds = ["chunked_attention" if turns else "full_attention" for turns in turning]
    given = reader.config.get("layer_types")
    if given is None:
        read_layer_types(reader, "chunked_attention", "attention_chunk", key="no_rope_layers", kinds=kinds)
    else:
        read_layer_types(reader, "chunked_attention", "attention_chunk")
    if reader.values.get("attention_chunk") is None:
        # Without chunks no layer sees more than others.
        reader.values.pop("global_attention_every", None)
    every, still = reader.values.get("global_attention_every"), not all(turning)
    if still and every and all(turns == (i % every != 0) for i, turns in enumerate(turning, start=1)):
        reader.values["global_rotary"] = False
    elif still and not any(turning):
        reader.values["positions"] = "none"
    elif still:
        rule = "layers without rotary positions must be those that see all keys"
        reader.fail("no_rope_layers", rule)


def _experts(reader: ConfigReader) -> None:
    """Experts with a shared one in every n-th layer; the other layers have an MLP of their own width."""
    layers, given = reader.values.get("n_layers"), reader.config.get("moe_layers")
    step = reader.config.get("interleave_moe_layer_step", 1)
    if given == [] or (given is None and step == 0):
        reader.count("ffn", "intermediate_size_mlp")
        return
    if given is not None and layers:
        places = given if isinstance(given, list) else []
        step = every_nth([i in places for i in range(layers)])
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        key = "interleave_moe_layer_step" if given is None else "moe_layers"
        reader.fail(key, "layers with experts must be every n-th one, counted from 1")
        return
    reader.count("experts", "num_local_experts")
    reader.count("topk", "num_experts_per_tok", default=1)
    reader.count("moe_ffn", "intermediate_size")
    reader.count("ffn", "intermediate_size_mlp")
    reader.values |= {"shared_experts": 1, "experts_every": step}


def read_llama4(reader: ConfigReader) -> None:
    """Read the text part of a file of Llama 4; notes mistakes in ``reader``."""
    _shapes(reader)
    bias = reader.flag("attention_bias", False)
    reader.values |= {"qkv_bias": bias, "attention_out_bias": bias}
    reader.values["qk_norm"] = reader.flag("use_qk_norm", True)
    _chunks(reader)
    _experts(reader)

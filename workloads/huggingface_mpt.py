"""What the keys of an MPT config.json mean.

MPT switches its attention, MLP, norms and biases in the file, where other families fix them. Defaults are
those of MptConfig in transformers 4; the code of MosaicML (https://github.com/mosaicml/llm-foundry) reads
more keys, and those are understood too.
"""

from __future__ import annotations

from workloads.config_reader import ConfigReader

__all__ = ["read_mpt"]


def read_mpt(reader: ConfigReader) -> None:
    """Read the keys of an MPT model into the reader's values, and its mistakes into the reader's problems."""
    hidden = reader.count("hidden", "d_model", "hidden_size")
    reader.count("n_layers", "n_layers", "num_hidden_layers")
    heads = reader.count("heads", "n_heads", "num_attention_heads")
    reader.count("max_positions", "max_seq_len")
    reader.count("vocab", "vocab_size")
    _read_ffn(reader, hidden)
    _read_attention(reader, heads)
    norms = {"low_precision_layernorm": "layer", "layernorm": "layer"}
    norms |= {"rmsnorm": "rms", "low_precision_rmsnorm": "rms"}
    reader.choice("norm", "norm_type", "low_precision_layernorm", norms)
    biases = not reader.flag("no_bias", True)
    reader.values |= dict.fromkeys(("qkv_bias", "attention_out_bias", "mlp_bias"), biases)
    reader.values["norm_bias"] = biases and reader.values.get("norm") == "layer"
    reader.values["tied_embeddings"] = reader.flag("tie_word_embeddings", True)
    reader.dropout("resid_pdrop", "attn_config.attn_pdrop", "emb_pdrop", default=0.0)


def _read_ffn(reader: ConfigReader, hidden: int | None) -> None:
    ratio = reader.number("expansion_ratio", 4.0)
    if hidden and ratio * hidden >= 1 and (ratio * hidden).is_integer():
        reader.values["ffn"] = int(ratio * hidden)
    elif hidden:
        reader.fail("expansion_ratio", f"times d_model = {hidden} must be a whole number of at least 1")
    if reader.config.get("ffn_config") is not None:
        reader.count("ffn", "ffn_config.ffn_hidden_size", default=reader.values.get("ffn"))
    reader.choice("ffn_type", "ffn_config.ffn_type", "mptmlp", {"mptmlp": "plain", "mptglu": "gated"})
    gated = reader.values.pop("ffn_type", "plain") == "gated"
    reader.values |= {"gated_mlp": gated, "activation": "gelu"}
    if reader.config.get("ffn_act_fn"):
        reader.fail("ffn_act_fn", "another activation than gelu is not known here")


def _read_attention(reader: ConfigReader, heads: int | None) -> None:
    attention = reader.config.get("attn_config")
    if attention is not None and not isinstance(attention, dict):
        reader.fail("attn_config", "must be an object")
        return
    if reader.flag("attn_config.alibi", True):
        reader.values["positions"] = "alibi"
    elif reader.flag("attn_config.rope", False):
        reader.values["positions"] = "rotary"
    else:
        reader.values["positions"] = "learned" if reader.flag("learned_pos_emb", True) else "none"
    kinds = {"multihead_attention": "all", "multiquery_attention": "one", "grouped_query_attention": "some"}
    reader.choice("kv_kind", "attn_config.attn_type", "multihead_attention", kinds)
    kind = reader.values.pop("kv_kind", "all")
    if kind == "some":
        reader.count("kv_heads", "attn_config.kv_n_heads")
    elif heads:
        reader.values["kv_heads"] = 1 if kind == "one" else heads
    for key in ("qk_ln", "qk_gn", "prefix_lm"):
        if reader.flag(f"attn_config.{key}", False):
            reader.fail(f"attn_config.{key}", "this variant of attention is not known here", "only false is")
    window = (attention or {}).get("sliding_window_size")
    if window not in (None, -1):  # -1 is "none" in the code of MPT
        reader.count("sliding_window", "attn_config.sliding_window_size")

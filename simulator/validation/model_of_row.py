"""The model that a measured row trained: its columns, and the facts of its family."""

from __future__ import annotations

from typing import Any

from hardware_specs.errors import LlmsimError
from simulator.validation.cases import RowReader
from simulator.validation.known_words import family_keys
from workloads import ModelSpec, load_model

__all__ = ["model_of"]


def model_of(reader: RowReader, sequence: int) -> ModelSpec | None:
    """Model of a row.

    Parameters
    ----------
    reader : RowReader
        The row; notes reasons and assumptions.
    sequence : int
        Tokens per sequence, which a table of learned positions has rows for [token].

    Returns
    -------
    ModelSpec or None
        None where a field is missing, the family is not known or the shapes contradict each other. A gated
        model of an unknown family is taken as Llama-like.

    Raises
    ------
    SpecError
        If the committed tables cannot be read.
    """
    row = reader.row
    name = row.text("model")
    gated = reader.need("gated_mlp")
    family = family_keys(name, row.text("framework"))
    if family is None and gated is False:
        reader.skip(f"model {name}: positions, norms and biases of its family are not known")
    shapes = {key: reader.need_count(key) for key in ("n_layers", "hidden", "heads", "ffn", "vocab")}
    if gated is None or sequence == 0 or 0 in shapes.values() or (family is None and not gated):
        return None
    experts = int(row.number_of("experts") or 0)
    topk = reader.need_count("topk") if experts else 0
    if experts and not topk:
        return None
    routed = {
        "experts": experts,
        "topk": topk,
        "moe_ffn": row.count("moe_ffn") or 0,
        "shared_experts": int(row.number_of("shared_experts") or 0),
        "first_dense_layers": int(row.number_of("first_dense_layers") or 0),
    }
    keys: dict[str, Any] = {
        "name": name,
        "gated_mlp": gated,
        "max_positions": sequence,
        **shapes,
        **{key: row.count(key) for key in ("kv_heads", "head_dim")},
        **(routed if experts else {}),
        "source": f"measured table, {row.text('source')}",
        **(family or {}),
    }
    try:
        return load_model(keys)
    except LlmsimError as error:
        reader.skip(f"model: {error.problems[0]}")
        return None

"""How many weights a model has, counted from its shapes."""

from __future__ import annotations

from workloads.layer_kinds import LAYER, LayerKind, spec_layers
from workloads.model_spec import ModelSpec

__all__ = ["active_parameters", "layer_parameters", "parameters"]


def layer_parameters(model: ModelSpec, *, dense: bool = False) -> dict[str, int]:
    """Weights of one layer, by module.

    Parameters
    ----------
    model : ModelSpec
        The model.
    dense : bool
        A layer with the one MLP, in a model where others have experts.

    Returns
    -------
    dict
        ``attention_norm``, ``qkv``, ``qk_norm``, ``attention_out``, ``mlp_norm``, ``mlp_in``, ``mlp_out``;
        each with its biases, and ``attention_sinks`` where there are any. With experts, ``mlp_in`` and ``mlp_out``
        count all of them, the shared ones too, and there is the ``router``. [parameter]

    Notes
    -----
    ``qkv`` has ``heads + 2 kv_heads`` heads of ``head_dim`` columns; ``mlp_in`` has two matrices in a gated
    MLP. With latent attention ``qkv`` are the projections down and up and the norms of latents between them.
    """
    query_width = model.heads * model.head_dim
    qkv_width = query_width + 2 * model.kv_heads * model.head_dim
    inner = model.ffn if dense else _inner_width(model, model.experts)
    mlp_in_width = inner * (2 if model.gated_mlp else 1)
    # Each expert adds a bias of its own; the shared ones are one MLP.
    mlps = 1 if dense or not model.experts else model.experts + (model.shared_experts > 0)
    router = (
        {"router": (model.hidden + model.router_bias) * model.experts} if model.experts and not dense else {}
    )
    sinks = {"attention_sinks": model.heads} if model.attention_sinks else {}
    out_width = model.heads * model.value_head_dim if model.kv_lora_rank else query_width
    return {
        "attention_norm": _norm(model),
        "qkv": _latent_projections(model)
        if model.kv_lora_rank
        else model.hidden * qkv_width + (qkv_width if model.qkv_bias else 0),
        "qk_norm": 2 * model.head_dim if model.qk_norm else 0,
        "attention_out": out_width * model.hidden + (model.hidden if model.attention_out_bias else 0),
        "mlp_norm": _norm(model),
        "mlp_in": model.hidden * mlp_in_width + (mlp_in_width if model.mlp_bias else 0),
        "mlp_out": inner * model.hidden + (mlps * model.hidden if model.mlp_bias else 0),
        **sinks,
        **router,
    }


def _latent_projections(model: ModelSpec) -> int:
    """Projections to the latents, their norms, and projections from them to heads."""
    rank, query_width = model.kv_lora_rank, model.heads * model.head_dim
    query = model.hidden * query_width
    if model.q_lora_rank:
        query = model.q_lora_rank * (model.hidden + 1 + query_width)
    unfolded = model.heads * (model.head_dim - model.rope_head_dim + model.value_head_dim)
    return query + model.hidden * (rank + model.rope_head_dim) + rank * (1 + unfolded)


def _inner_width(model: ModelSpec, experts: int) -> int:
    """Columns between the matrices of the MLP: of ``experts`` experts and the shared ones, or of the one MLP."""
    return experts * model.moe_ffn + model.shared_ffn if model.experts else model.ffn


def active_parameters(model: ModelSpec) -> int:
    """Weights that one token meets: all but those of the experts that it is not sent to. [parameter]

    The embedding table counts in full, as makers count it. Raises nothing.
    """
    ways_in = 2 if model.gated_mlp else 1
    idle = model.experts - model.topk
    expert = (ways_in + 1) * model.hidden * model.moe_ffn
    if model.mlp_bias:
        expert += ways_in * model.moe_ffn + model.hidden
    layers = sum(n for kind, n in spec_layers(model).items() if not kind.dense)
    return parameters(model)["total"] - layers * idle * expert


def parameters(model: ModelSpec) -> dict[str, int]:
    """Weights of the whole model, by part.

    Parameters
    ----------
    model : ModelSpec
        The model.

    Returns
    -------
    dict
        ``embedding`` (with the norm that may follow it), ``position_embedding``, ``layer`` (one, with experts where
        there are any), ``layers`` (all), ``final_norm`` (0 behind post-norm layers), ``head`` (where it shares the
        embedding, only its bias; with the transform in front of it) and ``total``, which is the sum of the others
        except ``layer``. [parameter] Raises nothing.

    Examples
    --------
    >>> tiny = ModelSpec(n_layers=2, hidden=8, heads=2, ffn=16, vocab=10, max_positions=4)
    >>> parameters(tiny)["layer"]  # 2 norms of 8, 4 matrices of 8 x 8, 3 of 8 x 16
    656
    """
    each = {kind: _layer(model, kind) for kind in spec_layers(model)}
    table = model.vocab * model.hidden
    # A square projection with its bias, and a norm.
    transform = model.hidden * (model.hidden + 1) + _norm(model) if model.head_transform else 0
    parts = {
        "embedding": table + (_norm(model) if model.embedding_norm else 0),
        "position_embedding": (model.position_rows + model.token_types) * model.hidden,
        "layers": sum(n * each[kind] for kind, n in spec_layers(model).items()),
        "final_norm": _norm(model) if model.norm_position == "pre" else 0,
        "head": (0 if model.tied_embeddings else table) + (model.vocab if model.head_bias else 0) + transform,
    }
    return {**parts, "layer": _layer(model, LAYER), "total": sum(parts.values())}


def _layer(model: ModelSpec, kind: LayerKind) -> int:
    return sum(layer_parameters(model, dense=kind.dense).values())


def _norm(model: ModelSpec) -> int:
    return model.hidden * (2 if model.norm_bias else 1)

"""The forward graph of one decoder layer.

Two layouts of the token dimension appear. ``tokens`` is the whole micro-batch; ``sequence_shard`` is the
same tokens where sequence parallelism may split them (norms, residuals, dropout). Where a tensor is written
in one layout and read in the other, sharding inserts the exchange.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workloads.attention import (
    AttentionShape,
    add_decode_attention,
    add_flash_attention,
    add_unfused_attention,
    query_and_kv_widths,
)
from workloads.operator_graph import Extent, FloatArray, Graph, GraphBuilder, Operator, Tensor, dim

Pass = Literal["training", "prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStructure:
    """What decides which operators there are; everything else about a layer is a number.

    Attributes
    ----------
    gated_mlp, layer_norm, qk_norm, rotary, learned_positions, embedding_norm, dropout, tied : bool
        Features of the architecture.
    qkv_bias, attention_out_bias, mlp_bias, norm_bias, head_bias : bool
        Which projections and norms carry a bias.
    flash_attention : bool
        One fused attention kernel instead of the operators it replaces.
    computation : str
        "training", "prefill" or "decode".
    """

    gated_mlp: bool
    layer_norm: bool
    qk_norm: bool
    rotary: bool
    learned_positions: bool
    embedding_norm: bool
    dropout: bool
    tied: bool
    qkv_bias: bool
    attention_out_bias: bool
    mlp_bias: bool
    norm_bias: bool
    head_bias: bool
    flash_attention: bool
    computation: Pass


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSizes:
    """Sizes of the model [1], each an array that broadcasts against the others."""

    hidden: FloatArray
    ffn: FloatArray
    vocab: FloatArray
    positions: FloatArray
    attention: AttentionShape


def token_layouts(sizes: LayerSizes) -> tuple[Extent, Extent]:
    """The micro-batch's tokens, whole and in the layout that sequence parallelism may split."""
    count = sizes.attention.batch * sizes.attention.query_length
    return dim("tokens", count), dim("sequence_shard", count)


def plain_weight(name: str, *extents: Extent) -> Tensor:
    """A parameter that narrow recipes leave wide (norm, bias, embedding, head); extents [1]. Raises nothing."""
    return Tensor(name, "plain_weights", extents)


def add_norm(
    build: GraphBuilder, structure: LayerStructure, name: str, module: str, source: Tensor, hidden: Extent
) -> Tensor:
    out = Tensor(f"{name}_out", "activations", source.extents)
    parameters = [plain_weight(f"{name}_weight", hidden)]
    if structure.norm_bias:
        parameters.append(plain_weight(f"{name}_bias", hidden))
    build.add(
        Operator(
            name=name,
            kind="layer_norm" if structure.layer_norm else "rms_norm",
            module=module,
            reads=(source, *parameters),
            writes=(out,),
            saved=(source,),
        )
    )
    return out


def add_matmul(
    build: GraphBuilder,
    name: str,
    module: str,
    source: Tensor,
    *,
    m: Extent,
    n: Extent,
    k: Extent,
    bias: bool,
    writes: tuple[Tensor, ...],
    wide: bool = False,
) -> None:
    """Add y = x W (+ b): x is read in the layout that the product needs, kept in the one it is stored in.

    ``wide`` keeps both operands in the activations' type whatever the recipe (the output head).
    """
    operand = Tensor(source.name, "activations" if wide else "operand", (m, k))
    matrix = Tensor(f"{name}_weight", "plain_weights" if wide else "weights", (k, n))
    parameters: tuple[Tensor, ...] = (matrix,)
    if bias:
        parameters += (plain_weight(f"{name}_bias", n),)
    build.add(
        Operator(
            name=name,
            kind="wide_matmul" if wide else "matmul",
            module=module,
            extents={"batch": dim("one", 1.0), "m": m, "n": n, "k": k},
            contracted=("k",),
            reads=(operand, *parameters),
            writes=writes,
            saved=(source,),
        )
    )


def _add_residual(
    build: GraphBuilder, structure: LayerStructure, name: str, module: str, branch: Tensor, stream: Tensor
) -> Tensor:
    """Add dropout of the branch and its sum with the residual stream, one fused kernel."""
    out = Tensor(f"{name}_out", "activations", stream.extents)
    arriving = Tensor(branch.name, "activations", stream.extents)
    mask = (Tensor(f"{name}_mask", "mask", stream.extents),) if structure.dropout else ()
    build.add(
        Operator(
            name=name,
            kind="residual",
            module=module,
            reads=(arriving, stream),
            writes=(out, *mask),
            saved=mask,
        )
    )
    return out


def _add_attention(
    build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor
) -> Tensor:
    tokens, _ = token_layouts(sizes)
    shape = sizes.attention
    width, kv_width = query_and_kv_widths(shape)
    query, keys, values = (
        Tensor(name, "activations", (tokens, size))
        for name, size in (("query", width), ("keys", kv_width), ("values", kv_width))
    )
    add_matmul(
        build,
        "qkv",
        "attention",
        normed,
        m=tokens,
        n=(*width, *kv_width, *kv_width),
        k=dim("hidden", sizes.hidden),
        bias=structure.qkv_bias,
        writes=(query, keys, values),
    )
    if structure.qk_norm:
        normed_query, normed_keys = (Tensor(f"{t.name}_normed", t.kind, t.extents) for t in (query, keys))
        # One weight of head_dim each, shared by the heads.
        scales = tuple(
            plain_weight(f"{t}_norm_weight", dim("head_dim", shape.head_dim)) for t in ("query", "keys")
        )
        build.add(
            Operator(
                name="qk_norm",
                kind="rms_norm",
                module="attention",
                reads=(query, keys, *scales),
                writes=(normed_query, normed_keys),
                saved=(query, keys),
            )
        )
        query, keys = normed_query, normed_keys
    if structure.rotary:
        turned_query, turned_keys = (Tensor(f"{t.name}_turned", t.kind, t.extents) for t in (query, keys))
        build.add(
            Operator(
                name="rotary",
                kind="rotary",
                module="attention",
                reads=(query, keys),
                writes=(turned_query, turned_keys),
            )
        )
        query, keys = turned_query, turned_keys
    if structure.computation != "training":
        added = Tensor("kv_cache_added", "kv_cache", (tokens, (*kv_width, *kv_width)))
        build.add(
            Operator(
                name="kv_append", kind="pointwise", module="attention", reads=(keys, values), writes=(added,)
            )
        )
    if structure.computation == "decode":
        context = add_decode_attention(build, shape, tokens, query)
    elif structure.flash_attention:
        context = add_flash_attention(build, shape, tokens, query, keys, values)
    else:
        context = add_unfused_attention(build, shape, tokens, query, keys, values, dropout=structure.dropout)
    out = Tensor("attention_out", "activations", (tokens, dim("hidden", sizes.hidden)))
    add_matmul(
        build,
        "attention_projection",
        "attention",
        context,
        m=tokens,
        n=dim("hidden", sizes.hidden),
        k=width,
        bias=structure.attention_out_bias,
        writes=(out,),
    )
    return out


def _add_mlp(build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, normed: Tensor) -> Tensor:
    tokens, _ = token_layouts(sizes)
    hidden, ffn = dim("hidden", sizes.hidden), dim("ffn", sizes.ffn)
    wide = (*ffn, *ffn) if structure.gated_mlp else ffn
    up = Tensor("mlp_up_out", "activations", (tokens, wide))
    activated = Tensor("mlp_activated", "activations", (tokens, ffn))
    down = Tensor("mlp_out", "activations", (tokens, hidden))
    add_matmul(
        build, "mlp_up", "mlp", normed, m=tokens, n=wide, k=hidden, bias=structure.mlp_bias, writes=(up,)
    )
    build.add(
        Operator(
            name="mlp_activation",
            kind="activation",
            module="mlp",
            reads=(up,),
            writes=(activated,),
            saved=(up,),
        )
    )
    add_matmul(
        build,
        "mlp_down",
        "mlp",
        activated,
        m=tokens,
        n=hidden,
        k=ffn,
        bias=structure.mlp_bias,
        writes=(down,),
    )
    return down


def decoder_layer(structure: LayerStructure, sizes: LayerSizes) -> Graph:
    """Forward graph of one pre-norm decoder layer.

    Parameters
    ----------
    structure : LayerStructure
        Which operators there are.
    sizes : LayerSizes
        Arrays [1] that broadcast against each other.

    Returns
    -------
    networkx.DiGraph
        Nodes carry an ``operator``, edges the ``tensors`` that pass; insertion order is issue order.
        ``graph["kind"]`` is "layer"; the input is ``layer_input``, the output ``layer_output``.

    Raises
    ------
    ValueError
        If two operators get one name, which would be a fault of this module.
    """
    _, shard = token_layouts(sizes)
    hidden = dim("hidden", sizes.hidden)
    stream = Tensor("layer_input", "activations", (shard, hidden))
    build = GraphBuilder(inputs=(stream,))
    normed = add_norm(build, structure, "attention_norm", "attention", stream, hidden)
    attended = _add_attention(build, structure, sizes, normed)
    middle = _add_residual(build, structure, "attention_residual", "attention", attended, stream)
    normed = add_norm(build, structure, "mlp_norm", "mlp", middle, hidden)
    mlp = _add_mlp(build, structure, sizes, normed)
    _add_residual(build, structure, "mlp_residual", "mlp", mlp, middle)
    build.graph.graph["kind"] = "layer"
    return build.graph

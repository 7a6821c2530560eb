"""The forward graphs in front of the decoder layers and behind them: embedding, final norm, head, loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from workloads.layer_parts import (
    LayerSizes,
    LayerStructure,
    add_matmul,
    add_norm,
    plain_weight,
    token_layouts,
)
from workloads.operator_graph import FloatArray, Graph, GraphBuilder, Operator, Tensor, dim

NEVER: FloatArray = np.zeros(1)


def embedding(structure: LayerStructure, sizes: LayerSizes) -> Graph:
    """Forward graph of the token (and position) embedding; see :func:`decoder_layer` for the form.

    Sizes [1] may be arrays of shape (n,) or (1,), which broadcast; raises nothing.
    """
    tokens, shard = token_layouts(sizes)
    hidden = dim("hidden", sizes.hidden)
    ids = Tensor("token_ids", "token_ids", (tokens,))
    build = GraphBuilder(inputs=(ids,))
    looked_up = Tensor("embedded", "activations", (tokens, hidden))
    rows = Tensor("embedding_rows", "activations", (tokens, hidden))
    table = plain_weight("embedding_weight", dim("vocab", sizes.vocab), hidden)
    build.add(
        Operator(
            name="embedding",
            kind="embedding",
            module="embedding",
            extents={"vocab": dim("vocab", sizes.vocab)},
            contracted=("vocab",),
            reads=(ids, rows, table),
            writes=(looked_up,),
            saved=(ids,),
        )
    )
    stream = Tensor("embedded", "activations", (shard, hidden))
    if structure.learned_positions:
        placed = Tensor("positioned", "activations", (shard, hidden))
        positions = plain_weight("position_weight", dim("positions", sizes.positions), hidden)
        build.add(
            Operator(
                name="position_embedding",
                kind="position_embedding",
                module="embedding",
                reads=(stream, positions),
                writes=(placed,),
            )
        )
        stream = placed
    if structure.token_types:
        typed = Tensor("typed", "activations", (shard, hidden))
        types = plain_weight("token_type_weight", dim("token_types", sizes.token_types), hidden)
        build.add(
            Operator(
                name="token_type_embedding",
                kind="position_embedding",
                module="embedding",
                reads=(stream, types),
                writes=(typed,),
            )
        )
        stream = typed
    if structure.embedding_norm:
        stream = add_norm(build, structure, "embedding_norm", "embedding", stream, hidden)
    if structure.dropout:
        mask = Tensor("embedding_mask", "mask", (shard, hidden))
        dropped = Tensor("embedding_dropped", "activations", (shard, hidden))
        build.add(
            Operator(
                name="embedding_dropout",
                kind="pointwise",
                module="embedding",
                reads=(stream,),
                writes=(dropped, mask),
                saved=(mask,),
            )
        )
        stream = dropped
    build.graph.graph["kind"] = "embedding"
    build.graph.graph["outputs"] = {stream.name: stream}
    return build.graph


def _transformed(build: GraphBuilder, structure: LayerStructure, sizes: LayerSizes, stream: Tensor) -> Tensor:
    """Add the square projection, activation and norm in front of the head."""
    tokens, shard = token_layouts(sizes)
    hidden = dim("hidden", sizes.hidden)
    dense = Tensor("head_dense_out", "activations", (tokens, hidden))
    add_matmul(build, "head_dense", "head", stream, m=tokens, n=hidden, k=hidden, bias=True, writes=(dense,))
    activated = Tensor("head_activated", "activations", (shard, hidden))
    build.add(
        Operator(
            name="head_activation",
            kind="activation",
            module="head",
            reads=(Tensor(dense.name, dense.kind, (shard, hidden)),),
            writes=(activated,),
            saved=(dense,),
        )
    )
    return add_norm(build, structure, "head_norm", "head", activated, hidden)


def head(structure: LayerStructure, sizes: LayerSizes) -> Graph:
    """Forward graph of the final norm, the output head and, in training, the loss.

    Inference computes the logits of all positions, of one per sequence, or none (then the operators are there
    with a scale of 0). The logits are kept in fp32 for the loss (kind "statistics"), as training frameworks do.
    Sizes [1] may be arrays of shape (n,) or (1,); raises nothing.
    """
    tokens, shard = token_layouts(sizes)
    hidden, vocab = dim("hidden", sizes.hidden), dim("vocab", sizes.vocab)
    training = structure.computation == "training"
    stream = Tensor("stack_output", "activations", (shard, hidden))
    build = GraphBuilder(inputs=(stream,))
    if not structure.post_norm:
        stream = add_norm(build, structure, "final_norm", "head", stream, hidden)
    normed = build.graph.number_of_nodes()
    if structure.head_transform:
        stream = _transformed(build, structure, sizes, stream)
    everywhere = training or structure.logits == "all"
    rows = tokens if everywhere else dim("tokens", sizes.attention.batch)
    logits = Tensor("logits", "activations", (rows, vocab))
    add_matmul(
        build,
        "head",
        "head",
        stream,
        m=rows,
        n=vocab,
        k=hidden,
        bias=structure.head_bias,
        writes=(logits,),
        wide=True,
    )
    if training:
        _add_loss(build, logits)
    elif structure.logits == "none":
        for data in list(build.graph.nodes.values())[normed:]:
            data["operator"] = replace(data["operator"], scale=NEVER)
    build.graph.graph["kind"] = "head"
    return build.graph


def _add_loss(build: GraphBuilder, logits: Tensor) -> None:
    """Add softmax, its logarithm at the target, and the mean over tokens."""
    rows, vocab = logits.extents
    softmax = Tensor("logits_fp32", "statistics", (rows, vocab))
    # Maximum, sum of exponentials and the target's logit are exchanged between vocabulary shards.
    per_token = Tensor("loss_terms", "statistics", (rows, dim("terms", 3.0)))
    loss = Tensor("loss", "statistics", (rows,))
    build.add(
        Operator(
            name="cross_entropy",
            kind="cross_entropy",
            module="head",
            extents={"vocab": vocab},
            contracted=("vocab",),
            reads=(logits,),
            writes=(softmax, per_token),
            saved=(softmax,),
        )
    )
    build.add(Operator(name="loss_mean", kind="pointwise", module="head", reads=(per_token,), writes=(loss,)))

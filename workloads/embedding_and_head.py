"""The forward graphs in front of the decoder layers and behind them: embedding, final norm, head, loss."""

from __future__ import annotations

from workloads.decoder_graph import (
    LayerSizes,
    LayerStructure,
    add_matmul,
    add_norm,
    plain_weight,
    token_layouts,
)
from workloads.operator_graph import Graph, GraphBuilder, Operator, Tensor, dim


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


def head(structure: LayerStructure, sizes: LayerSizes) -> Graph:
    """Forward graph of the final norm, the output head and, in training, the loss.

    Inference computes the logits of one position per sequence. The logits are kept in fp32 for the loss
    (kind "statistics"), as training frameworks do. Sizes [1] may be arrays of shape (n,) or (1,); raises nothing.
    """
    tokens, shard = token_layouts(sizes)
    hidden, vocab = dim("hidden", sizes.hidden), dim("vocab", sizes.vocab)
    training = structure.computation == "training"
    stream = Tensor("stack_output", "activations", (shard, hidden))
    build = GraphBuilder(inputs=(stream,))
    normed = add_norm(build, structure, "final_norm", "head", stream, hidden)
    rows = tokens if training else dim("tokens", sizes.attention.batch)
    logits = Tensor("logits", "activations", (rows, vocab))
    add_matmul(
        build,
        "head",
        "head",
        normed,
        m=rows,
        n=vocab,
        k=hidden,
        bias=structure.head_bias,
        writes=(logits,),
        wide=True,
    )
    if training:
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
        build.add(
            Operator(name="loss_mean", kind="pointwise", module="head", reads=(per_token,), writes=(loss,))
        )
    build.graph.graph["kind"] = "head"
    return build.graph

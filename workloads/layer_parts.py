"""What the branches of a layer are built of: its structure and sizes, norms, products and residual additions.

Two layouts of the token dimension appear. ``tokens`` is the whole micro-batch; ``sequence_shard`` is the
same tokens where sequence parallelism may split them (norms, residuals, dropout). Where a tensor is written
in one layout and read in the other, sharding inserts the exchange.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from workloads.attention import AttentionShape
from workloads.eager_steps import add_dropout, add_rms_norm_steps, add_step
from workloads.layer_kinds import LAYER, LayerKind
from workloads.operator_graph import Extent, FloatArray, GraphBuilder, Operator, Tensor, dim

Pass = Literal["training", "prefill", "decode"]
Logits = Literal["all", "last", "none"]


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
    causal, post_norm, separate_qkv, tanh_gelu, token_types, head_transform : bool
        Further features of the architecture, see `ModelSpec`.
    experts, shared_experts : bool
        Whether the MLP is a choice of experts, and whether some of them serve every token.
    kinds : tuple of LayerKind
        Kinds of layers in the stack.
    global_rotary, sinks, router_bias : bool
        Further features of the architecture, see `ModelSpec`.
    latent, latent_query : bool
        Multi-head latent attention, and whether its query has a latent too.
    eager : bool
        Each pointwise step is a kernel of its own.
    logits : str
        Positions that the output head computes outside training: "all", "last" of each sequence, or "none".
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
    causal: bool = True
    post_norm: bool = False
    separate_qkv: bool = False
    tanh_gelu: bool = False
    token_types: bool = False
    head_transform: bool = False
    experts: bool = False
    shared_experts: bool = False
    kinds: tuple[LayerKind, ...] = (LAYER,)
    global_rotary: bool = True
    sinks: bool = False
    router_bias: bool = False
    latent: bool = False
    latent_query: bool = False
    eager: bool = False
    logits: Logits = "last"

    def of_kind(self, kind: LayerKind) -> LayerStructure:
        """What one layer of a kind is made of."""
        return replace(
            self,
            kinds=(kind,),
            experts=self.experts and not kind.dense,
            shared_experts=self.shared_experts and not kind.dense,
            rotary=self.rotary and (self.global_rotary or not kind.sees_all),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSizes:
    """Sizes of the model [1], each an array that broadcasts against the others.

    ``experts``, ``topk``, ``moe_ffn`` and ``shared_ffn`` are as in `ModelSpec`, 0 without experts; ranks of latents,
    ``rope_dim`` and ``value_dim`` are 0 without latent attention.
    """

    hidden: FloatArray
    ffn: FloatArray
    vocab: FloatArray
    positions: FloatArray
    token_types: FloatArray
    attention: AttentionShape
    experts: FloatArray = field(default_factory=lambda: np.zeros(1))
    topk: FloatArray = field(default_factory=lambda: np.zeros(1))
    moe_ffn: FloatArray = field(default_factory=lambda: np.zeros(1))
    shared_ffn: FloatArray = field(default_factory=lambda: np.zeros(1))
    query_rank: FloatArray = field(default_factory=lambda: np.zeros(1))
    kv_rank: FloatArray = field(default_factory=lambda: np.zeros(1))
    rope_dim: FloatArray = field(default_factory=lambda: np.zeros(1))
    value_dim: FloatArray = field(default_factory=lambda: np.zeros(1))

    def of_kind(self, kind: LayerKind) -> LayerSizes:
        """The sizes as a layer of a kind has them."""
        return replace(self, attention=self.attention.seeing_all()) if kind.sees_all else self


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
    if structure.eager and not structure.layer_norm:
        return add_rms_norm_steps(build, name, module, source, plain_weight(f"{name}_weight", hidden))
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


def add_residual(
    build: GraphBuilder, structure: LayerStructure, name: str, module: str, branch: Tensor, stream: Tensor
) -> Tensor:
    """Add dropout of the branch and its sum with the residual stream, in one kernel unless eager."""
    out = Tensor(f"{name}_out", "activations", stream.extents)
    arriving = Tensor(branch.name, "activations", stream.extents)
    if structure.eager:
        if structure.dropout:
            arriving = add_dropout(build, f"{name}_dropout", module, arriving)
        return add_step(build, name, module, (arriving, stream), kind="residual")
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

"""Models, tasks, plans and precisions of many rows as columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import ModelColumns, PlanColumns, PrecisionColumns, TaskColumns
from simulator.communication.collective_algorithms import ALGORITHMS
from simulator.per_device.optimizers import OPTIMIZERS
from simulator.pipelines.schedules import SCHEDULES
from simulator.scenarios.offload import OFFLOADED, TIERS, offload_tiers
from simulator.scenarios.precision import DTYPE_BYTES, Precision, operand_dtypes
from simulator.scenarios.scenario import AXES, ContextKind, Plan, layers_given
from simulator.spaces.row_values import RowValues
from simulator.spaces.variants import Graphical
from workloads.decoder_graph import LayerStructure, Pass
from workloads.layer_kinds import both_every, kinds_of
from workloads.model_spec import ModelSpec
from workloads.rematerialisation import KEPT_WORDS, MODULES

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

TASK_KEYS = {
    "training": ("sequence_length", "global_batch_size"),
    "prefill": ("prompt_length", "batch_size"),
    "decode": ("context_length", "batch_size"),
    "generation": ("prompt_length", "batch_size", "output_length"),
}
CONTEXT_KINDS = get_args(ContextKind)
RECOMPUTE = {
    "none": (0.0, 0.0),
    "selective": (1.0, 0.0),
    "full": (1.0, 1.0),
    "needed": (1.0, 1.0),
    "modules": (0.0, 0.0),
}
CORE_ATTENTION = 2.0 ** list(MODULES).index("core_attn")


def layer_structure(model: ModelSpec, graphical: Graphical) -> LayerStructure:
    """Operators of a model's layers under the structural choices; generation starts as its prefill."""
    computation: Pass = (
        "training" if graphical.kind == "training" else "decode" if graphical.kind == "decode" else "prefill"
    )
    return LayerStructure(
        gated_mlp=model.gated_mlp,
        layer_norm=model.norm == "layer",
        qk_norm=model.qk_norm,
        rotary=model.positions == "rotary",
        learned_positions=model.positions == "learned",
        embedding_norm=model.embedding_norm,
        dropout=model.dropout > 0 and computation == "training",
        tied=model.tied_embeddings,
        qkv_bias=model.qkv_bias,
        attention_out_bias=model.attention_out_bias,
        mlp_bias=model.mlp_bias,
        norm_bias=model.norm_bias,
        head_bias=model.head_bias,
        flash_attention=graphical.flash,
        computation=computation,
        causal=model.causal,
        post_norm=model.norm_position == "post",
        separate_qkv=model.separate_qkv,
        tanh_gelu=model.activation == "gelu_tanh",
        token_types=model.token_types > 0,
        head_transform=model.head_transform,
        experts=model.experts > 0,
        shared_experts=model.shared_experts > 0,
        kinds=tuple(kinds_of(model)),
        global_rotary=model.global_rotary,
        sinks=model.attention_sinks,
        router_bias=model.router_bias,
        latent=model.kv_lora_rank > 0,
        latent_query=model.q_lora_rank > 0,
        eager=graphical.eager,
        logits=graphical.logits,
    )


def model_columns(models: Sequence[ModelSpec], index: IndexArray, layers_kept: float) -> ModelColumns:
    """Sizes of the models that rows refer to; dropped layers are rounded to the nearest whole one."""

    def spread(name: str) -> FloatArray:
        return np.array([float(getattr(m, name)) for m in models])[index]

    def limit(name: str) -> FloatArray:
        given = [getattr(m, name) for m in models]
        return np.array([np.inf if value is None else float(value) for value in given])[index]

    both = [both_every(m.global_attention_every, m.experts_every) for m in models]
    return ModelColumns(
        n_layers=np.maximum(np.round(spread("n_layers") * layers_kept), 1.0),
        hidden=spread("hidden"),
        ffn=spread("ffn"),
        experts=spread("experts"),
        topk=spread("topk"),
        moe_ffn=spread("moe_ffn"),
        shared_ffn=spread("shared_ffn"),
        first_dense=spread("first_dense_layers"),
        experts_every=spread("experts_every"),
        global_every=limit("global_attention_every"),
        both_every=np.array(both)[index],
        query_rank=spread("q_lora_rank"),
        kv_rank=spread("kv_lora_rank"),
        rope_dim=spread("rope_head_dim"),
        value_dim=spread("value_head_dim"),
        vocab=spread("vocab"),
        positions=spread("position_rows"),
        token_types=spread("token_types"),
        heads=spread("heads"),
        kv_heads=spread("kv_heads"),
        head_dim=spread("head_dim"),
        window=limit("sliding_window"),
        chunk=limit("attention_chunk"),
    )


def precision_columns(precisions: Sequence[Precision], index: IndexArray) -> PrecisionColumns:
    """Bytes per element by class for the precisions (as they run) that rows refer to."""

    def spread(values: list[float]) -> FloatArray:
        return np.array(values)[index]

    def width(name: str) -> FloatArray:
        return spread([DTYPE_BYTES[getattr(p, name)] for p in precisions])

    operands = [operand_dtypes(p) for p in precisions]
    return PrecisionColumns(
        weights=width("weights"),
        plain_weights=np.maximum(width("weights"), width("activations")),
        weights_operand=spread([w for _, w in operands]),
        activations=width("activations"),
        operand=spread([a for a, _ in operands]),
        kv_cache=width("kv_cache"),
        gradients=width("gradients"),
        master=spread([p.master_bytes for p in precisions]),
        moment=width("optimizer"),
        optimizer=spread([p.optimizer_bytes for p in precisions]),
        optimizer_ends=spread([p.optimizer_bytes for p in precisions]),
        gradient_communication=width("communication"),
        activation_communication=width("activations"),
        quantised=spread([float(p.quantises) for p in precisions]),
    )


def _pair(
    chunk: RowValues, table: Mapping[str, tuple[float, float]], key: str, default: str
) -> tuple[FloatArray, FloatArray]:
    values, axis = chunk.raw(key, default)
    both = np.array([table[v] for v in values]).T
    return chunk.spread(both[0], axis), chunk.spread(both[1], axis)


def task_columns(chunk: RowValues, kind: str) -> tuple[TaskColumns, FloatArray]:
    length, batch = (chunk.number(f"task.{k}") for k in TASK_KEYS[kind][:2])
    output = chunk.number("task.output_length", 1.0) if kind == "generation" else np.ones(1)
    if kind == "decode":
        return TaskColumns(
            batch=batch, query_length=np.ones(1), kv_length=length + 1.0, cached_length=length + 1.0
        ), output
    # The last generated token is never read back, so it needs no place in the cache.
    cached = length + output - 1.0 if kind == "generation" else length
    return TaskColumns(batch=batch, query_length=length, kv_length=length, cached_length=cached), output


def _code(chunk: RowValues, key: str, names: Sequence[str]) -> FloatArray:
    """Place of a row's word in a list of words [1]."""
    values, axis = chunk.raw(key, names[0])
    return chunk.spread(np.array([float(names.index(v)) for v in values]), axis)


def _offload(chunk: RowValues) -> dict[str, FloatArray]:
    """Code of the tier of each owner that may be offloaded [1]."""
    values, whole = chunk.raw("plan.offload", "none")
    tiers = [offload_tiers(v) for v in values]
    found = {}
    for owner in OFFLOADED:
        # One owner may be an axis of its own: plan.offload.optimizer.
        words, own = chunk.raw(f"plan.offload.{owner}")
        axis = whole if own is None else own
        words = words if own is not None else [t.get(owner, "none") for t in tiers]
        found[owner] = chunk.spread(np.array([float(TIERS.index(word)) for word in words]), axis)
    return found


def _matches(chunk: RowValues, key: str, default: str, word: str) -> FloatArray:
    """1 where a row's word is the given one, else 0 [1]."""
    values, axis = chunk.raw(key, default)
    return chunk.spread(np.array([float(v == word) for v in values]), axis)


def _words(chunk: RowValues, key: str, known: Collection[str]) -> FloatArray:
    """Words of a row's text, as the sum of 2^i over their places in a list of words [1]."""
    values, axis = chunk.raw(key, "")
    words = [value.replace(",", " ").split() for value in values]
    return chunk.spread(np.array([sum(2.0**i for i, w in enumerate(known) if w in v) for v in words]), axis)


def _layers_by_hand(chunk: RowValues) -> dict[str, FloatArray]:
    """Layers of every chunk of the model by place from the embedding, empty where no plan gives them [1]."""
    values, axis = chunk.raw("plan.stage_layers", "")
    counts = [layers_given(value) for value in values]
    return {
        str(place): chunk.spread(
            np.array([float(c[place]) if place < len(c) else np.nan for c in counts]), axis
        )
        for place in range(max(map(len, counts)))
    }


def _names(chunk: RowValues, key: str, default: str, word: str) -> FloatArray:
    """1 where the given word is one of those that a row's value joins by an underscore, else 0 [1]."""
    values, axis = chunk.raw(key, default)
    return chunk.spread(np.array([float(word in v.split("_")) for v in values]), axis)


def axis_strides(chunk: RowValues, degrees: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Distance of neighbours on each axis, in devices: the product of the degrees of the axes inside it [1]."""
    orders, order_axis = chunk.raw("plan.placement", " ".join(AXES))
    places = [{name: k for k, name in enumerate(order.replace(",", " ").split())} for order in orders]
    strides = {}
    for axis in degrees:
        stride: FloatArray = np.ones(1)
        for other, degree in degrees.items():
            inside = np.array([float(place[other] < place[axis]) for place in places])
            if not inside.any():  # a column would be said to depend on a degree that it never sees
                continue
            stride = stride * np.where(chunk.spread(inside, order_axis) > 0.0, degree, 1.0)
        strides[axis] = stride
    return strides


def plan_columns(chunk: RowValues, kind: str, batch: FloatArray) -> PlanColumns:
    def plan(key: str) -> FloatArray:
        default = Plan.model_fields[key].default
        return chunk.number(f"plan.{key}", np.nan if default is None else float(default))

    devices = chunk.number("devices")
    tensor, pipeline, given = plan("tensor_parallel"), plan("pipeline_parallel"), plan("data_parallel")
    context = plan("context_parallel")
    data = np.where(np.isnan(given), devices / (tensor * pipeline * context), given)
    micro, sharing = plan("micro_batch_size"), plan("zero_group")
    core, everything = _pair(chunk, RECOMPUTE, "plan.recompute", "none")
    named = _matches(chunk, "plan.recompute", "none", "modules")
    modules = _words(chunk, "plan.recompute_modules", MODULES)
    strides = axis_strides(chunk, {"tensor": tensor, "context": context, "data": data, "pipeline": pipeline})
    experts, parts = plan("expert_parallel"), plan("expert_tensor_parallel")
    parts = np.where(np.isnan(parts), tensor, parts)
    kind_of_context = _code(chunk, "plan.context_parallel_kind", CONTEXT_KINDS)
    ring, gathered, ulysses = ((context > 1) * (kind_of_context == k) for k in range(len(CONTEXT_KINDS)))
    return PlanColumns(
        devices=devices,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        virtual_pipeline=plan("virtual_pipeline"),
        data_parallel=data,
        context_parallel=context,
        ring=ring.astype(np.float64),
        gathered=gathered.astype(np.float64),
        ulysses=ulysses.astype(np.float64),
        zigzag=plan("context_zigzag"),
        gradient_ranks=data * context,
        expert_parallel=experts,
        expert_tensor_parallel=parts,
        expert_imbalance=plan("expert_imbalance"),
        expert_capacity=plan("expert_capacity"),
        expert_padding=plan("expert_padding"),
        expert_node_limit=plan("expert_node_limit"),
        dispatch_by_node=_matches(chunk, "plan.expert_dispatch", "per_expert", "per_node"),
        expert_copies=tensor * data * context / (parts * experts),
        experts_apart=((experts > 1) | (parts != tensor)).astype(np.float64),
        schedule=_code(chunk, "plan.schedule", SCHEDULES),
        optimizer=_code(chunk, "plan.optimizer", OPTIMIZERS),
        first_stage_layers=plan("first_stage_layers"),
        last_stage_layers=plan("last_stage_layers"),
        micro_batch_size=np.where(
            np.isnan(micro), 1.0 if kind == "training" else np.maximum(batch / data, 1.0), micro
        ),
        zero_stage=plan("zero_stage"),
        zero_group=np.where(np.isnan(sharing), data * context, sharing),
        reshard_after_forward=plan("reshard_after_forward"),
        prefetch_layers=plan("prefetch_layers"),
        gradient_bucket=plan("gradient_bucket"),
        sequence_parallel=plan("sequence_parallel"),
        recompute_core=core + named * np.mod(np.floor(modules / CORE_ATTENTION), 2.0),
        recompute_all=everything,
        recompute_layers=plan("recompute_layers"),
        recompute_share=np.ones(1),
        recompute_needed=_matches(chunk, "plan.recompute", "none", "needed"),
        recompute_kept=_words(chunk, "plan.recompute_keeps", KEPT_WORDS),
        recompute_named=named,
        recompute_modules=modules,
        overlap_grad_reduce=plan("overlap_grad_reduce"),
        overlap_param_gather=plan("overlap_param_gather"),
        overlap_tensor_parallel=plan("overlap_tensor_parallel"),
        split_ring=_names(chunk, "plan.tensor_parallel_split", "none", "ring"),
        split_pipelined=_names(chunk, "plan.tensor_parallel_split", "none", "pipelined"),
        tensor_chunks=plan("tensor_parallel_chunks"),
        overlap_expert_parallel=plan("overlap_expert_parallel") * (experts > 1),
        overlap_shared_experts=plan("overlap_shared_experts") * (experts > 1),
        overlap_pipeline_p2p=plan("overlap_pipeline_p2p"),
        overlap_offload=plan("overlap_offload"),
        free_gradients=plan("free_gradients"),
        deepspeed=_matches(chunk, "plan.engine", "plain", "deepspeed"),
        # Vocabulary-parallel loss takes one tensor more: the exponential is not fused with the gradient.
        loss_copies=_matches(chunk, "plan.loss", "in_place", "plain") * (2.0 + (tensor > 1)),
        loss_compiled=_matches(chunk, "plan.loss", "in_place", "compiled"),
        loss_chunked=_matches(chunk, "plan.loss", "in_place", "chunked"),
        fragmentation=plan("fragmentation"),
        collective_algorithm=_code(chunk, "plan.collective_algorithm", ALGORITHMS),
        tensor_stride=strides["tensor"],
        context_stride=strides["context"],
        data_stride=strides["data"],
        pipeline_stride=strides["pipeline"],
        update_on_host=_matches(chunk, "plan.optimizer_step", "device", "host"),
        offload=_offload(chunk),
        stage_layers=_layers_by_hand(chunk),
    )

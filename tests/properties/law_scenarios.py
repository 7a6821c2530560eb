"""Strategies that draw legal scenarios over several catalog models and systems, and how to read an estimate."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from workloads.catalog import load_model

EXACT = 1e-9


def laws(n: int) -> settings:
    """Settings of a law: ``n`` examples, always the same ones."""
    return settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


MODELS = (
    "gpt-oss-20b",
    "gpt2-xl",
    "gpt3-175b",
    "llama-2-7b",
    "llama-2-70b",
    "llama-3.1-8b",
    "megatron-22b",
    "mistral-7b",
    "mixtral-8x7b",
    "mpt-7b",
    "qwen2.5-7b",
    "qwen3-30b-a3b",
    "qwen3-8b",
)
# Encoders write no tokens; their positions end at 512.
ENCODERS = ("bert-large",)
NODES = {"dgx-a100-80gb": 8, "dgx-h100": 8, "dgx-b200": 8, "mi300x-8": 8, "xeon-2s": 2}
SLICES = (4, 8, 16, 32, 64, 128, 256)
SYSTEMS = (*NODES, "tpu-v5p")
TYPES = {"xeon-2s": ("bf16",), "tpu-v5p": ("bf16",)}
SHORT_SEQUENCES = (128, 512, 1024)  # within the learned positions of every model
TASKS = ("training", "prefill", "decode", "generation")


def _devices_exist(system: str, devices: int) -> bool:
    if system == "tpu-v5p":
        return devices in SLICES
    node = NODES[system]
    return devices <= node or devices % node == 0


def _tensor_degrees(model: str) -> list[int]:
    shape = load_model(model)
    return [
        t
        for t in (1, 2, 4, 5, 8, 16)
        if shape.heads % t == 0
        and shape.ffn % t == 0
        and (shape.kv_heads % t == 0 or t % shape.kv_heads == 0)
    ]


def _replicates(kv_heads: int, tensor: int, context: int) -> bool:
    """Whether key heads of a tensor rank are split over context ranks, or copied by whole numbers."""
    held = max(kv_heads // tensor, 1)
    return held % context == 0 or context % held == 0


@st.composite
def scenarios(
    draw: st.DrawFn,
    *,
    tasks: tuple[str, ...] = TASKS,
    models: tuple[str, ...] = MODELS,
    systems: tuple[str, ...] = SYSTEMS,
    fidelities: tuple[str, ...] = ("calibrated", "calibrated", "datasheet"),
    pipelines: tuple[int, ...] = (1, 1, 2, 3, 4, 6),
) -> dict[str, Any]:
    """A legal scenario: degrees that divide, batches in whole micro-batches, types that the device has."""
    kind = draw(st.sampled_from(tasks))
    known = models if models is not MODELS or kind in ("decode", "generation") else (*models, *ENCODERS)
    system, model = draw(st.sampled_from(systems)), draw(st.sampled_from(known))
    tensor = draw(st.sampled_from(_tensor_degrees(model)))
    pipeline = draw(st.sampled_from(pipelines))
    data = draw(
        st.sampled_from([1, 2, 3, 4, 8]).filter(lambda d: _devices_exist(system, d * tensor * pipeline))
        if any(_devices_exist(system, d * tensor * pipeline) for d in (1, 2, 3, 4, 8))
        else st.just(0)
    )
    if data == 0:
        tensor, pipeline, data = min(tensor, 2) if tensor != 5 else 1, 1, 4
        if not _devices_exist(system, tensor * data):
            tensor = 1
    shape = load_model(model)
    plan: dict[str, Any] = {
        "tensor_parallel": tensor,
        "pipeline_parallel": pipeline,
        "uneven_stages": shape.n_layers % pipeline != 0,
        "sequence_parallel": kind in ("training", "prefill") and tensor != 5 and draw(st.booleans()),
        "overlap_tensor_parallel": draw(st.booleans()),
        "overlap_pipeline_p2p": draw(st.booleans()),
        "precision": draw(st.sampled_from(TYPES.get(system, ("bf16", "fp16")))),
        "attention_kernel": draw(st.sampled_from(("flash", "flash", "unfused"))),
        "kernel_fusion": "fused" if shape.experts else draw(st.sampled_from(("fused", "fused", "eager"))),
    }
    if plan["overlap_tensor_parallel"] and plan["sequence_parallel"]:
        plan["tensor_parallel_split"] = draw(st.sampled_from(("none", "ring", "pipelined", "ring_pipelined")))
        plan["tensor_parallel_chunks"] = draw(st.sampled_from((2, 4)))
    sequence = draw(st.sampled_from([s for s in SHORT_SEQUENCES if s <= shape.max_positions]))
    context = 1
    if kind == "training":
        if plan["attention_kernel"] == "flash":
            possible = [c for c in (1, 1, 2, 4) if _devices_exist(system, c * tensor * pipeline * data)]
            context = draw(st.sampled_from(possible))
            ways = ["ring", "all_gather"]
            if shape.heads % (context * tensor) == 0 and _replicates(shape.kv_heads, tensor, context):
                ways.append("ulysses")
            plan |= {"context_parallel": context, "context_parallel_kind": draw(st.sampled_from(ways))}
            plan["context_zigzag"] = draw(st.booleans())
        if shape.experts and (tensor == 1 or plan["sequence_parallel"]):
            parts = draw(st.sampled_from((tensor, 1)))
            ranks = tensor * data * context
            experts = draw(
                st.sampled_from(
                    [e for e in (1, 2, 4, 8) if ranks % (e * parts) == 0 and shape.experts % e == 0]
                )
            )
            plan |= {"expert_parallel": experts, "expert_tensor_parallel": parts}
            plan["expert_imbalance"] = draw(st.sampled_from((1.0, min(1.25, experts))))
            plan["overlap_expert_parallel"] = experts > 1 and draw(st.booleans())
            plan["expert_capacity"] = draw(st.sampled_from((None, 0.75, 1.2)))
            plan["expert_padding"] = plan["expert_capacity"] is not None and draw(st.booleans())
            plan["expert_dispatch"] = draw(st.sampled_from(("per_expert", "per_node")))
            plan["overlap_shared_experts"] = shape.shared_experts > 0 and draw(st.booleans())
        chunks = [v for v in (1, 2, 4) if v == 1 or (pipeline > 1 and shape.n_layers % (pipeline * v) == 0)]
        v, micro = draw(st.sampled_from(chunks)), draw(st.sampled_from((1, 2, 4)))
        least = 2 if plan.get("overlap_expert_parallel") else 1
        count = draw(st.integers(least, 6)) * (pipeline if v > 1 else 1)
        plan |= {
            "virtual_pipeline": v,
            "micro_batch_size": micro,
            "zero_stage": draw(st.integers(0, 3)),
            "zero_group": draw(st.sampled_from([None, data * context, context])),
            "recompute": draw(st.sampled_from(("none", "selective", "full"))),
            "overlap_grad_reduce": draw(st.booleans()),
            "overlap_param_gather": draw(st.booleans()),
        }
        apart = plan.get("expert_parallel", 1) > 1 or plan.get("expert_tensor_parallel", tensor) != tensor
        if plan["zero_stage"] == 3:
            plan["reshard_after_forward"] = draw(st.booleans())
            plan["prefetch_layers"] = draw(st.integers(0, 3))
        if plan["zero_stage"] < 2:
            plan["gradient_bucket"] = draw(st.sampled_from((None, 10**6, 10**8)))
        if plan["zero_stage"] == 0 or apart:
            plan["zero_group"] = None
        task = {"kind": kind, "sequence_length": sequence, "global_batch_size": data * micro * count}
    else:
        task = {"kind": kind, "batch_size": data * draw(st.integers(1, 12))}
        if draw(st.booleans()):
            plan["micro_batch_size"] = draw(st.integers(1, task["batch_size"] // data))
        task["context_length" if kind == "decode" else "prompt_length"] = sequence - 64
        if kind == "prefill":
            task["logits"] = draw(st.sampled_from(("last", "last", "all", "none")))
        if kind == "generation":
            task["output_length"] = draw(st.integers(1, 64))
    return {
        "model": model,
        "task": task,
        "system": system,
        "devices": tensor * pipeline * data * context,
        "plan": plan,
        "fidelity": draw(st.sampled_from(fidelities)),
    }


def changed(scenario: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with keys replaced; ``plan__tensor_parallel=2`` changes a key of a section."""
    out = copy.deepcopy(scenario)
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            out[section][key] = value
        else:
            out[section] = value
    return out

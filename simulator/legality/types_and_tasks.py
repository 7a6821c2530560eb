"""Named rules of types, positions and tasks; importing this module registers them."""

from __future__ import annotations

import numpy as np

from hardware_specs.errors import Problem
from simulator.legality.registry import BoolArray, Combination, legality_rule, one_of

__all__: list[str] = []


@legality_rule(
    "inference types are not trained",
    lambda c: Problem(
        path="plan.precision",
        value="",
        rule="this precision, or the plan's compression, is for inference only",
        fix="train in bf16, fp16 or fp8, and without sparsity_2_4",
    ),
)
def _inference_types(c: Combination) -> BoolArray:
    return (c.training > 0) & (c.inference_only > 0)


@legality_rule(
    "device has the compute type",
    lambda c: Problem(
        path="plan.precision",
        value="",
        rule="the device has no units for this compute type",
        fix="use a type it has (llmsim show SYSTEM), or set plan.fallback: allow",
    ),
)
def _supported(c: Combination) -> BoolArray:
    return c.supported == 0


@legality_rule(
    "positions cover the sequence",
    lambda c: Problem(
        path="task",
        value=f"{float(np.maximum(c.task.cached_length, c.task.kv_length)[0]):g} tokens",
        rule=f"is more than the {one_of(c.model.positions)} learned positions of the model",
        fix="use shorter sequences",
    ),
)
def _positions(c: Combination) -> BoolArray:
    return (c.learned_positions > 0) & (
        np.maximum(c.task.kv_length, c.task.cached_length) > c.model.positions
    )


@legality_rule(
    "an encoder writes no tokens",
    lambda c: Problem(
        path="task.kind",
        value="decode or generation",
        rule="an encoder writes no tokens",
        fix="use prefill, its forward pass",
    ),
)
def _encoder(c: Combination) -> BoolArray:
    return (c.encoder > 0) & (c.generates > 0)


@legality_rule(
    "experts run in grouped kernels",
    lambda c: Problem(
        path="plan.kernel_fusion",
        value="eager",
        rule="experts that run one after the other, as eager code does, are not modelled",
        fix="use fused",
    ),
)
def _eager_experts(c: Combination) -> BoolArray:
    return (c.eager > 0) & (c.model.experts > 0)

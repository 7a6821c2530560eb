"""Named rules of latent attention; importing this module registers them."""

from __future__ import annotations

from hardware_specs.errors import Problem
from simulator.legality.registry import BoolArray, Combination, legality_rule

__all__: list[str] = []


@legality_rule(
    "latent attention is trained",
    lambda c: Problem(
        path="task.kind",
        value="prefill, decode or generation",
        rule="a cache of latents is not modelled yet",
        fix="use training",
    ),
)
def _latent(c: Combination) -> BoolArray:
    return (c.model.kv_rank > 0) & (c.training == 0)


@legality_rule(
    "latent attention is fused",
    lambda c: Problem(
        path="plan.attention_kernel",
        value="unfused or eager",
        rule="latent attention is modelled as a fused kernel",
        fix="use attention_kernel flash and kernel_fusion fused",
    ),
)
def _latent_fused(c: Combination) -> BoolArray:
    return (c.model.kv_rank > 0) & ((c.unfused > 0) | (c.eager > 0))

"""Named rules of what only training reads: shards, buckets, recomputation; importing this module registers them."""

from __future__ import annotations

from functools import reduce

import numpy as np

from hardware_specs.errors import Problem
from simulator.legality.registry import BoolArray, Combination, divisors, legality_rule, one_of

__all__ = ["recompute_word"]


def recompute_word(c: Combination) -> str:
    """What the one plan of a combination says of recomputation; raises nothing."""
    return (
        "needed"
        if c.plan.recompute_needed[0]
        else "modules"
        if c.plan.recompute_named[0]
        else "full"
        if c.plan.recompute_all[0]
        else "selective"
        if c.plan.recompute_core[0]
        else "none"
    )


def _training_keys(c: Combination) -> dict[str, BoolArray]:
    """Where keys that only training reads differ from their defaults."""
    p = c.plan
    return {
        "zero_stage": p.zero_stage > 0,
        "recompute": (p.recompute_core > 0) | (p.recompute_named > 0),
        "optimizer": p.optimizer > 0,
        "loss": (p.loss_copies + p.loss_compiled + p.loss_chunked) > 0,
        "engine": p.deepspeed > 0,
        "fragmentation": p.fragmentation > 0,
        "free_gradients": p.free_gradients > 0,
        "gradient_bucket": ~np.isnan(p.gradient_bucket),
        "optimizer_step": p.update_on_host > 0,
    }


def _training_only_problem(c: Combination) -> Problem:
    given = [name for name, broken in _training_keys(c).items() if broken[0]]
    values = {"zero_stage": one_of(c.plan.zero_stage), "recompute": recompute_word(c)}
    return Problem(
        path="plan",
        value=", ".join(f"{name} {values.get(name, '')}".strip() for name in given),
        rule=f"{' and '.join(given)} {'are' if len(given) > 1 else 'is'} for training",
        fix=f"leave {'them' if len(given) > 1 else 'it'} out of an inference plan",
    )


@legality_rule("training options need training", _training_only_problem)
def _training_only(c: Combination) -> BoolArray:
    return (c.training == 0) & reduce(np.logical_or, _training_keys(c).values())


@legality_rule(
    "sharing ranks divide the replicas",
    lambda c: Problem(
        path="plan.zero_group",
        value=one_of(c.plan.zero_group),
        rule=f"must divide the {one_of(c.plan.gradient_ranks)} ranks that hold the same parameters",
        fix=f"use {divisors(float(c.plan.gradient_ranks[0]))}, or leave it out",
    ),
)
def _zero_group(c: Combination) -> BoolArray:
    p = c.plan
    # Where the replicas are no whole number, the degrees are the mistake.
    return (np.mod(p.gradient_ranks, p.zero_group) != 0) & (p.data_parallel == np.floor(p.data_parallel))


def _weights_problem(c: Combination) -> Problem:
    keeps = bool(c.plan.reshard_after_forward[0] == 0)
    return Problem(
        path=f"plan.{'reshard_after_forward' if keeps else 'prefetch_layers'}",
        value="false" if keeps else one_of(c.plan.prefetch_layers),
        rule=f"is of weights that are gathered, and with zero_stage {one_of(c.plan.zero_stage)} none are",
        fix="leave it out, or use zero_stage 3",
    )


@legality_rule("gathered weights are sharded", _weights_problem)
def _gathered_weights(c: Combination) -> BoolArray:
    p = c.plan
    return (p.zero_stage < 3) & ((p.reshard_after_forward == 0) | (p.prefetch_layers != 1))


@legality_rule(
    "buckets are exchanged at the end",
    lambda c: Problem(
        path="plan.gradient_bucket",
        value=one_of(c.plan.gradient_bucket),
        rule=f"zero_stage {one_of(c.plan.zero_stage)} exchanges gradients layer by layer in every micro-batch",
        fix="leave it out, or use zero_stage 0 or 1",
    ),
)
def _buckets(c: Combination) -> BoolArray:
    return ~np.isnan(c.plan.gradient_bucket) & (c.plan.zero_stage >= 2)


@legality_rule(
    "sharing ranks share something",
    lambda c: Problem(
        path="plan.zero_group",
        value=one_of(c.plan.zero_group),
        rule="with zero_stage 0 every rank has a copy of its own",
        fix="leave it out, or use zero_stage 1, 2 or 3",
    ),
)
def _zero_group_without_zero(c: Combination) -> BoolArray:
    return (c.plan.zero_group != c.plan.gradient_ranks) & (c.plan.zero_stage == 0)

"""Named rules of expert parallelism; importing this module registers them."""

from __future__ import annotations

import numpy as np

from hardware_specs.errors import Problem
from simulator.arrays.columns import FloatArray
from simulator.legality.registry import BoolArray, Combination, divisors, legality_rule, one_of

__all__: list[str] = []


@legality_rule(
    "expert parallelism needs experts",
    lambda c: Problem(
        path="plan.expert_parallel" if c.plan.expert_parallel[0] > 1 else "plan.expert_tensor_parallel",
        value=one_of(
            c.plan.expert_parallel if c.plan.expert_parallel[0] > 1 else c.plan.expert_tensor_parallel
        ),
        rule="the model has no experts to split",
        fix="use 1, and leave expert_tensor_parallel out"
        if c.plan.expert_parallel[0] > 1
        else "leave it out",
    ),
)
def _experts(c: Combination) -> BoolArray:
    return (c.plan.experts_apart > 0) & (c.model.experts == 0)


@legality_rule(
    "expert parallelism divides the experts",
    lambda c: Problem(
        path="plan.expert_parallel",
        value=one_of(c.plan.expert_parallel),
        rule=("is more than" if c.plan.expert_parallel[0] > c.model.experts[0] else "must divide")
        + f" the {one_of(c.model.experts)} experts",
        fix=f"use {divisors(float(c.model.experts[0]))}",
    ),
)
def _divides(c: Combination) -> BoolArray:
    return (c.model.experts > 0) & (np.mod(c.model.experts, c.plan.expert_parallel) != 0)


def _ranks(c: Combination) -> Problem:
    p = c.plan
    ranks = float((p.tensor_parallel * p.gradient_ranks)[0])
    return Problem(
        path="plan.expert_parallel",
        value=f"{one_of(p.expert_parallel)} x {one_of(p.expert_tensor_parallel)} ranks of each expert",
        rule=f"must divide the {ranks:.10g} ranks of a stage: tensor x context x data",
        fix=f"use degrees whose product is one of {divisors(ranks)}",
    )


@legality_rule("expert ranks divide the ranks of a stage", _ranks)
def _stage(c: Combination) -> BoolArray:
    p = c.plan
    whole = p.data_parallel == np.floor(p.data_parallel)
    apart = (c.model.experts > 0) & (p.experts_apart > 0)
    # Where experts are split otherwise than attention is, that is the mistake.
    return whole & apart & ~_parts(c) & (p.expert_copies != np.floor(p.expert_copies))


@legality_rule(
    "experts are whole or split as attention is",
    lambda c: Problem(
        path="plan.expert_tensor_parallel",
        value=one_of(c.plan.expert_tensor_parallel),
        rule=f"an expert is kept whole or split over the {one_of(c.plan.tensor_parallel)} ranks of tensor_parallel; "
        "other splits are not modelled",
        fix="use 1, or leave it out",
    ),
)
def _parts(c: Combination) -> BoolArray:
    p = c.plan
    other = (p.expert_tensor_parallel != p.tensor_parallel) & (p.expert_tensor_parallel != 1)
    return other & (c.model.experts > 0)


@legality_rule(
    "tensor ranks route tokens of their own",
    lambda c: Problem(
        path="plan.sequence_parallel",
        value="false",
        rule=f"experts that are split over ranks need sequence parallelism beside tensor_parallel "
        f"{one_of(c.plan.tensor_parallel)}: each rank routes its own tokens",
        fix="switch it on, or use tensor_parallel 1",
    ),
)
def _own_tokens(c: Combination) -> BoolArray:
    p = c.plan
    return (
        (p.experts_apart > 0) & (p.tensor_parallel > 1) & (p.sequence_parallel == 0) & (c.model.experts > 0)
    )


@legality_rule(
    "rows come from other ranks",
    lambda c: Problem(
        path="plan.expert_imbalance",
        value=one_of(c.plan.expert_imbalance),
        rule=f"the fullest of {one_of(c.plan.expert_parallel)} expert ranks has at most that many times the mean",
        fix=f"use a number from 1 to {one_of(c.plan.expert_parallel)}",
    ),
)
def _imbalance(c: Combination) -> BoolArray:
    return c.plan.expert_imbalance > c.plan.expert_parallel


@legality_rule(
    "shards of experts are not grouped",
    lambda c: Problem(
        path="plan.zero_group",
        value=one_of(c.plan.zero_group),
        rule="sharding within groups of ranks is not modelled beside experts that are split over ranks",
        fix="leave it out, or use expert_parallel 1",
    ),
)
def _groups(c: Combination) -> BoolArray:
    return (c.plan.experts_apart > 0) & (c.plan.zero_group != c.plan.gradient_ranks) & (c.model.experts > 0)


@legality_rule(
    "rows pass beside another micro-batch",
    lambda c: Problem(
        path="plan.overlap_expert_parallel",
        value="true",
        rule="needs training with at least two micro-batches per replica: rows of one pass while the other computes",
        fix="switch it off, or use a smaller micro_batch_size",
    ),
)
def _two_micro_batches(c: Combination) -> BoolArray:
    several = c.task.batch >= 2.0 * c.plan.data_parallel * c.plan.micro_batch_size
    return (c.plan.overlap_expert_parallel > 0) & ~(several & (c.training > 0))


@legality_rule(
    "rows pass beside shared experts",
    lambda c: Problem(
        path="plan.overlap_shared_experts",
        value="true",
        rule="needs training of a model with shared experts: they compute while rows pass",
        fix="switch it off, or use overlap_expert_parallel",
    ),
)
def _shared_experts(c: Combination) -> BoolArray:
    return (c.plan.overlap_shared_experts > 0) & ((c.model.shared_ffn == 0) | (c.training == 0))


@legality_rule(
    "capacity is of experts",
    lambda c: Problem(
        path="plan.expert_capacity" if c.plan.expert_capacity[0] > 0 else "plan.expert_padding",
        value=one_of(c.plan.expert_capacity) if c.plan.expert_capacity[0] > 0 else "true",
        rule="the model has no experts" if c.model.experts[0] == 0 else "buffers are padded up to a capacity",
        fix="leave it out" if c.model.experts[0] == 0 else "give plan.expert_capacity, or leave it out",
    ),
)
def _capacity(c: Combination) -> BoolArray:
    given = ~np.isnan(c.plan.expert_capacity)
    return (given & (c.model.experts == 0)) | ((c.plan.expert_padding > 0) & ~given)


def _least_nodes(c: Combination) -> FloatArray:
    """Nodes that a token's experts need at least, all of a node's experts among them [1]."""
    nodes = np.maximum(c.plan.expert_parallel / c.fabric.accelerators_per_node, 1.0)
    return np.ceil(c.model.topk * nodes / np.maximum(c.model.experts, 1.0))


@legality_rule(
    "limited nodes hold a token's experts",
    lambda c: Problem(
        path="plan.expert_node_limit",
        value=one_of(c.plan.expert_node_limit),
        rule="is read where expert_dispatch is per_node only"
        if c.plan.dispatch_by_node[0] == 0
        else f"leaves fewer experts than the {one_of(c.model.topk)} that a token picks",
        fix="set plan.expert_dispatch to per_node, or leave it out"
        if c.plan.dispatch_by_node[0] == 0
        else f"use at least {one_of(_least_nodes(c))}",
    ),
)
def _node_limit(c: Combination) -> BoolArray:
    given = ~np.isnan(c.plan.expert_node_limit)
    few = (c.model.experts > 0) & (np.nan_to_num(c.plan.expert_node_limit) < _least_nodes(c))
    return given & ((c.plan.dispatch_by_node == 0) | few)

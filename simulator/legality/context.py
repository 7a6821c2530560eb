"""Named rules of context parallelism; importing this module registers them."""

from __future__ import annotations

import numpy as np

from hardware_specs.errors import Problem
from simulator.arrays.columns import FloatArray
from simulator.legality.registry import BoolArray, Combination, divisors, legality_rule, one_of

__all__: list[str] = []


@legality_rule(
    "context parallelism trains",
    lambda c: Problem(
        path="plan.context_parallel",
        value=one_of(c.plan.context_parallel),
        rule="is for training; prompts and caches that are split over ranks are not modelled",
        fix="use 1",
    ),
)
def _training(c: Combination) -> BoolArray:
    return (c.plan.context_parallel > 1) & (c.training == 0)


def _chunks(c: Combination) -> Problem:
    ranks, tokens = float(c.plan.context_parallel[0]), float(c.task.query_length[0])
    whole = bool((c.plan.ulysses[0] > 0) | (c.plan.zigzag[0] == 0))
    return Problem(
        path="plan.context_parallel",
        value=one_of(c.plan.context_parallel),
        rule=f"must divide the {tokens:.10g} tokens of a sequence"
        + ("" if whole else f" into {2 * ranks:g} chunks, two for each rank"),
        fix=f"use {divisors(tokens if whole else tokens / 2)}, or pad the sequence",
    )


@legality_rule("context divides the sequence", _chunks)
def _sequence(c: Combination) -> BoolArray:
    chunks = c.plan.context_parallel * np.where((c.plan.ulysses > 0) | (c.plan.zigzag == 0), 1.0, 2.0)
    return (c.plan.context_parallel > 1) & (np.mod(c.task.query_length, chunks) != 0)


@legality_rule(
    "context ranks use fused attention",
    lambda c: Problem(
        path="plan.attention_kernel",
        value="unfused",
        rule=f"scores are kept whole, which context_parallel {one_of(c.plan.context_parallel)} cannot split",
        fix="use flash, or context_parallel 1",
    ),
)
def _fused(c: Combination) -> BoolArray:
    return (c.plan.context_parallel > 1) & (c.unfused > 0)


@legality_rule(
    "ulysses divides heads",
    lambda c: Problem(
        path="plan.context_parallel",
        value=one_of(c.plan.context_parallel),
        rule=f"ulysses must divide the {one_of(c.model.heads / c.plan.tensor_parallel)} attention heads of a "
        "tensor rank",
        fix=f"use {divisors(float((c.model.heads / c.plan.tensor_parallel)[0]))}, or context_parallel_kind ring",
    ),
)
def _heads(c: Combination) -> BoolArray:
    ranks = c.plan.tensor_parallel * c.plan.context_parallel
    # Where tensor ranks do not divide the heads, they are the mistake.
    return (
        (c.plan.ulysses > 0)
        & (np.mod(c.model.heads, ranks) != 0)
        & (np.mod(c.model.heads, c.plan.tensor_parallel) == 0)
    )


def _held(c: Combination) -> FloatArray:
    """Key-value heads of a tensor rank, at least one [1]."""
    return np.maximum(c.model.kv_heads / c.plan.tensor_parallel, 1.0)


@legality_rule(
    "ulysses fits kv heads",
    lambda c: Problem(
        path="plan.context_parallel",
        value=one_of(c.plan.context_parallel),
        rule=f"ulysses must divide the {one_of(_held(c))} key-value heads of a tensor rank, or be a multiple of them "
        "and replicate them",
        fix="use another degree, or context_parallel_kind ring",
    ),
)
def _kv_heads(c: Combination) -> BoolArray:
    held, context = _held(c), c.plan.context_parallel
    return (c.plan.ulysses > 0) & (np.mod(held, context) != 0) & (np.mod(context, held) != 0)

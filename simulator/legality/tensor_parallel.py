"""Named rules of tensor parallelism; importing this module registers them."""

from __future__ import annotations

import numpy as np

from hardware_specs.errors import Problem
from simulator.arrays.columns import FloatArray
from simulator.legality.registry import BoolArray, Combination, divisors, legality_rule, one_of

__all__: list[str] = []


@legality_rule(
    "tensor divides heads",
    lambda c: Problem(
        path="plan.tensor_parallel",
        value=one_of(c.plan.tensor_parallel),
        rule=f"must divide the {one_of(c.model.heads)} attention heads",
        fix=f"use {divisors(float(c.model.heads[0]))}",
    ),
)
def _heads(c: Combination) -> BoolArray:
    return np.mod(c.model.heads, c.plan.tensor_parallel) != 0


@legality_rule(
    "tensor fits kv heads",
    lambda c: Problem(
        path="plan.tensor_parallel",
        value=one_of(c.plan.tensor_parallel),
        rule=f"must divide the {one_of(c.model.kv_heads)} key-value heads, or be a multiple of them and replicate them",
        fix=f"use {divisors(float(c.model.kv_heads[0]))} or a multiple of {one_of(c.model.kv_heads)}",
    ),
)
def _kv_heads(c: Combination) -> BoolArray:
    kv, tensor = c.model.kv_heads, c.plan.tensor_parallel
    return (np.mod(kv, tensor) != 0) & (np.mod(tensor, kv) != 0)


def _inner(c: Combination) -> FloatArray:
    """Inner width of the MLP, or of one expert."""
    return np.where(c.model.experts > 0, c.model.moe_ffn, c.model.ffn)


@legality_rule(
    "tensor divides ffn",
    lambda c: Problem(
        path="plan.tensor_parallel",
        value=one_of(c.plan.tensor_parallel),
        rule=f"must divide the {one_of(_undivided(c))} columns of "
        + ("an expert" if c.model.experts[0] and _undivided(c)[0] == _inner(c)[0] else "the MLP"),
        fix=f"use {divisors(float(_undivided(c)[0]))}",
    ),
)
def _ffn(c: Combination) -> BoolArray:
    m, p = c.model, c.plan
    parts = np.where(m.experts > 0, p.expert_tensor_parallel, p.tensor_parallel)
    plain = (np.mod(m.shared_ffn, p.tensor_parallel) != 0) | (np.mod(_beside(c), p.tensor_parallel) != 0)
    # Experts that are split otherwise than attention is are that mistake.
    other = (parts != p.tensor_parallel) & (parts != 1)
    return ((np.mod(_inner(c), parts) != 0) & ~other) | plain


def _beside(c: Combination) -> FloatArray:
    """Inner width of the MLP of layers without experts where others have some, else 0."""
    return np.where((c.model.first_dense > 0) | (c.model.experts_every > 1), c.model.ffn, 0.0)


def _undivided(c: Combination) -> FloatArray:
    """The width that tensor ranks do not divide: of layers without experts if it is theirs, else the inner one."""
    return np.where(np.mod(_beside(c), c.plan.tensor_parallel) != 0, c.model.ffn, _inner(c))


@legality_rule(
    "tensor divides sequence",
    lambda c: Problem(
        path="plan.sequence_parallel",
        value="true",
        rule=f"needs the {one_of(c.task.query_length / c.plan.context_parallel)} tokens of a sequence on a rank to "
        f"divide by tensor_parallel {one_of(c.plan.tensor_parallel)}",
        fix="pad the sequence or switch it off",
    ),
)
def _sequence(c: Combination) -> BoolArray:
    tokens = c.task.query_length / c.plan.context_parallel
    # Where context ranks do not divide the sequence, they are the mistake.
    per_sequence = (np.mod(tokens, c.plan.tensor_parallel) != 0) & (tokens == np.floor(tokens))
    per_pass = np.mod(c.plan.micro_batch_size * c.task.query_length, c.plan.tensor_parallel) != 0
    return (c.plan.sequence_parallel > 0) & np.where(c.training > 0, per_sequence, per_pass)


@legality_rule(
    "products are cut where they overlap",
    lambda c: Problem(
        path="plan.tensor_parallel_split",
        value="_".join(word for word in ("ring", "pipelined") if getattr(c.plan, f"split_{word}")[0] > 0),
        rule="cuts products with the all-gathers and reduce-scatters that overlap_tensor_parallel hides and that "
        "sequence parallelism makes",
        fix="switch plan.overlap_tensor_parallel and plan.sequence_parallel on, or leave it out",
    ),
)
def _cut_products(c: Combination) -> BoolArray:
    p = c.plan
    wanted = (p.split_ring + p.split_pipelined > 0) & (p.tensor_parallel > 1)
    return wanted & ((p.overlap_tensor_parallel == 0) | (p.sequence_parallel == 0))

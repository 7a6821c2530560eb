"""Expert parallelism: ranks hold some of the experts, and rows go where their experts are.

Expert ranks are the data, context and (where each expert is kept whole) tensor ranks of a layer in another role, as
in Megatron. Each brings tokens of its own, so a rank has as many rows as before, for fewer experts. Rows go to their
experts and back in all-to-all exchanges, forward and backward. With sequence parallelism a rank sends the rows of its
own shard of tokens; where each expert is split over tensor ranks these then gather the rows. Rows arrive by the rank
that sent them; a rank with several experts copies them into the order of its experts, and back before they return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule
from workloads.operator_graph import Dim, Operator, Tensor, dim

__all__ = [
    "ROUTED",
    "TAKEN_TOKENS",
    "ExpertRanks",
    "emit_routed",
    "expert_divisors",
    "exposed_rows",
    "rows_of_rank",
    "rows_over_mean",
]

FloatArray = NDArray[np.float64]
Emit = Callable[[Operator, dict[str, str]], None]

# Kernels that make rows of tokens and tokens of rows: exchanges come behind the first and in front of the second.
ROUTED = ("moe_dispatch", "moe_combine")
TAKEN_TOKENS = "expert_tokens"
# A copy of own rows walks over no row of others.
NO_FOREIGN = {"foreign_elements": dim("foreign", 0.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRanks:
    """How experts are split.

    Attributes
    ----------
    ranks, parts : ndarray
        Ranks that split the experts, and ranks that split each of them [1].
    imbalance : ndarray
        Rows of the fullest rank over the mean [1].
    takes_shards : ndarray
        1 where a rank routes its shard of the tokens alone, 0 where tensor ranks route all tokens [1].
    gathers_rows : ndarray
        1 where tensor ranks gather the rows that each of them received [1].
    sorts : ndarray
        1 where received rows are copied into the order of a rank's experts, whose products take them one below the
        other (Megatron-Core, MoEAlltoAllTokenDispatcher); kernels of serving stacks follow indices instead [1].
    """

    ranks: FloatArray
    parts: FloatArray
    imbalance: FloatArray
    takes_shards: FloatArray
    gathers_rows: FloatArray
    sorts: FloatArray

    def split(self) -> bool:
        """Whether any plan sends rows to other ranks."""
        return bool(np.any(self.ranks > 1))


@rule(
    symbol="i",
    formula="no capacity: i; else min(i, C); with padding: C",
    unit="1",
    source="Lepikhin et al., GShard, arXiv:2006.16668, section 3.2, Fedus et al., Switch, arXiv:2101.03961, "
    "section 2.2: an expert takes at most C times the mean and what is beyond passes by it; padded buffers are full",
)
def rows_over_mean(
    *, expert_imbalance: FloatArray, expert_capacity: FloatArray, expert_padding: FloatArray
) -> FloatArray:
    """Rows that the experts of the fullest rank compute over the mean [1].

    ``expert_imbalance`` is what routing sends there, ``expert_capacity`` the limit of an expert (NaN: none), both over
    the mean; ``expert_padding`` is 1 where buffers are filled up to it [1]. Broadcasts; raises nothing.
    """
    full = np.where(expert_padding > 0, expert_capacity, np.fmin(expert_imbalance, expert_capacity))
    return np.where(np.isnan(expert_capacity), expert_imbalance, full)


@rule(
    symbol="R",
    formula="T k i t_e/(c t)",
    unit="1",
    source="Lepikhin et al., GShard, arXiv:2006.16668, section 2.2: each of n ranks brings its tokens and holds 1/n of "
    "the experts; ranks are shared as by Liu et al., MoE Parallel Folding, arXiv:2504.14960, section 3.2",
)
def rows_of_rank(
    *,
    routed_rows: FloatArray,
    context_parallel: FloatArray,
    tensor_parallel: FloatArray,
    expert_tensor_parallel: FloatArray,
    expert_imbalance: FloatArray,
) -> FloatArray:
    """Rows that the experts of the fullest rank compute, for ``routed_rows`` of one micro-batch [1].

    Degrees and the imbalance [1] broadcast; more expert ranks change nothing, since each brings tokens; raises nothing.
    """
    return routed_rows * expert_imbalance * expert_tensor_parallel / (context_parallel * tensor_parallel)


@rule(
    symbol="Te",
    formula="max(T - C, 0)",
    unit="s",
    source="DeepSeek-AI, arXiv:2412.19437, section 3.2.1: rows of one micro-batch pass while another one computes; "
    "Megatron-LM, core/transformer/moe/shared_experts.py: rows pass while the shared experts compute",
)
def exposed_rows(*, exchange_s: FloatArray, kernels_s: FloatArray) -> FloatArray:
    """Part of a pass's exchanges of rows that kernels which do not wait for them do not hide [s].

    Those are the kernels of another micro-batch's equal pass, or those of the shared experts. Times [s] broadcast;
    raises nothing.
    """
    return np.maximum(exchange_s - kernels_s, 0.0)


def expert_divisors(
    experts: ExpertRanks, tensor: FloatArray, context: FloatArray
) -> Mapping[str, FloatArray]:
    """Divisor of each label of the experts' branch, those of tokens taken beside the context ranks; raises nothing."""
    one = np.ones(1)
    share = rows_of_rank(
        routed_rows=one,
        context_parallel=context,
        tensor_parallel=tensor,
        expert_tensor_parallel=experts.parts,
        expert_imbalance=experts.imbalance,
    )
    return {
        "experts": experts.ranks,
        "expert_ffn": experts.parts,
        "experts x hidden": experts.ranks,
        "experts x expert_ffn": experts.ranks * experts.parts,
        "routed": 1.0 / share,
        "rows_of_expert": 1.0 / (share * experts.ranks),
        "routed_tokens": 1.0 / (share * experts.ranks),
        "routed_picks": experts.ranks,
        TAKEN_TOKENS: np.where(experts.takes_shards > 0, tensor, one),
    }


def _message(name: str, rows: Tensor, factor: FloatArray) -> Tensor:
    """Rows as one message of ``factor`` times as many."""
    first = tuple(Dim("whole", part.size * factor) for part in rows.extents[0])
    rest = tuple(tuple(replace(part, label="whole") for part in extent) for extent in rows.extents[1:])
    return Tensor(name, "activations", (first, *rest))


def emit_routed(op: Operator, sources: dict[str, str], experts: ExpertRanks, emit: Emit) -> dict[str, str]:
    """Lay out a kernel of rows with its exchanges in issue order by ``emit(operator, producers by tensor)``.

    ``sources`` are the producers of what it reads; the last writers of its results are returned. Raises nothing.
    """
    there = op.kind == "moe_dispatch"
    (rows,) = op.writes[:1] if there else op.reads[:1]
    own = np.where(experts.gathers_rows > 0, 1.0 / experts.parts, 1.0)

    def exchange(collective: str, axis: str, factor: FloatArray, scale: FloatArray) -> Operator:
        message = _message(f"{op.name}.{collective}.message", rows, factor)
        return Operator(
            name=f"{op.name}.rows.{collective}",
            kind="collective",
            module=op.module,
            phase=op.phase,
            reads=(message,),
            writes=(message,),
            collective=collective,
            axis=axis,
            scale=op.scale * scale,
            group=op.group,
        )

    sent = exchange("all_to_all", "expert", own, (experts.ranks > 1) * np.ones(1))
    joined = exchange("all_gather" if there else "reduce_scatter", "tensor", np.ones(1), experts.gathers_rows)
    sorted_rows = Operator(
        name=f"{op.name}.rows.sort",
        kind="moe_dispatch",
        module=op.module,
        phase=op.phase,
        extents=NO_FOREIGN,
        reads=(rows,),
        writes=(rows,),
        scale=op.scale * experts.sorts,
        group=op.group,
    )
    moved = (sent, joined, sorted_rows) if there else (sorted_rows, joined, sent)
    exchanges = [e for e in moved if np.any(e.scale)]
    if there:
        emit(op, sources)
        last = op.name
        for one in exchanges:
            emit(one, {rows.name: last})
            last = one.name
        return {**{t.name: op.name for t in op.writes}, rows.name: last}
    for one in exchanges:
        producer = sources.get(rows.name)
        emit(one, {} if producer is None else {rows.name: producer})
        sources = {**sources, rows.name: one.name}
    emit(op, sources)
    return {t.name: op.name for t in op.writes}

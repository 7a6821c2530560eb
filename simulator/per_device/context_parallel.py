"""Context parallelism: ranks hold parts of every sequence and meet in attention only.

Three ways to meet. In a *ring* each rank keeps its queries and passes keys and values on, while it attends to those
that it has; chunks are dealt in a zigzag, so that a causal mask leaves every rank and every pass the same pairs
(otherwise the rank with the last part of the sequence has most, in every pass).
With an *all-gather* every rank first collects all keys and values. In *Ulysses* an all-to-all turns parts of the
sequence into parts of the heads, and a second one turns the result back.

Which way a plan takes is a 0/1 array; where a plan takes another way, or has one rank, its operators run 0 times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule
from workloads.attention import attended_pairs
from workloads.operator_graph import Dim, Extent, Operator, Tensor, length

FloatArray = NDArray[np.float64]
ONE: FloatArray = np.ones(1)

ATTENTION = ("attention", "attention_backward", "latent_attention", "latent_attention_backward")
RING_EXCHANGE = "ring_exchange"
KV_LABEL, QUERY_LABEL = "kv_heads", "heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRanks:
    """Context ranks [1], and which way they meet: 0/1 switches, all 0 for one rank.

    ``zigzag`` is 1 where chunks are dealt so that all ranks have the same pairs.
    """

    ranks: FloatArray
    ring: FloatArray
    gathered: FloatArray
    ulysses: FloatArray
    zigzag: FloatArray = field(default_factory=lambda: ONE)

    @classmethod
    def alone(cls) -> ContextRanks:
        """One rank; raises nothing."""
        one, zero = np.ones(1), np.zeros(1)
        return cls(ranks=one, ring=zero, gathered=zero, ulysses=zero)

    def split(self) -> bool:
        """Whether any plan has more than one rank."""
        return bool(np.any(self.ranks > 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitAttention:
    """An attention kernel of one context rank, and what runs in front of it and behind it, in order."""

    before: Sequence[Operator]
    kernel: Operator
    after: Sequence[Operator]


@rule(
    symbol="P",
    formula="ring: P/c^2 (c kernels); all-gather: P/c; Ulysses: P (heads/c)",
    unit="1",
    source="Liu et al., Ring Attention, arXiv:2310.01889, section 3; Grattafiori et al., arXiv:2407.21783, "
    "section 3.3.2 (all-gather; 2 c chunks, the i-th and the last but i-th to rank i); Jacobs et al., "
    "DeepSpeed Ulysses, arXiv:2309.14509, section 3",
)
def pairs_per_kernel(
    *, pairs: FloatArray, context_parallel: FloatArray, ring: FloatArray, gathered: FloatArray
) -> FloatArray:
    """Query-key pairs of one head that a kernel of a context rank computes [1].

    ``pairs`` of the whole sequence [1] under the mask; ``ring`` and ``gathered`` are 0/1. Chunks in a zigzag leave
    every rank and every pass of the ring the same share. Broadcasts; raises nothing.
    """
    return pairs / context_parallel ** (2.0 * ring + gathered)


@rule(
    symbol="Te",
    formula="max(T - (c - 1)/c A, 0)",
    unit="s",
    source="Liu et al., arXiv:2310.01889, section 3: keys and values pass on while those at hand are attended to; the "
    "last of the c passes has nothing to wait for",
)
def exposed_ring(
    *, exchange_s: FloatArray, attention_s: FloatArray, context_parallel: FloatArray
) -> FloatArray:
    """Part of a ring's c - 1 exchanges that its c attention kernels do not hide [s].

    ``exchange_s`` is the time of all exchanges and ``attention_s`` that of all kernels [s]; all exchanges and all
    kernels are alike, so each exchange hides behind one kernel. Broadcasts; raises nothing.
    """
    window_s = attention_s * (context_parallel - 1.0) / context_parallel
    return np.maximum(exchange_s - window_s, 0.0)


@rule(
    symbol="z",
    formula="zigzag or no mask: 1; else c P_last/P",
    unit="1",
    source="Grattafiori et al., arXiv:2407.21783, section 3.3.2: of whole parts under a causal mask the last one has "
    "most pairs, in every pass of a ring too",
)
def fullest_over_mean(
    *,
    pairs: FloatArray,
    last_pairs: FloatArray,
    context_parallel: FloatArray,
    masked: FloatArray,
    zigzag: FloatArray,
) -> FloatArray:
    """Query-key pairs of the fullest context rank over the mean [1].

    ``pairs`` of a sequence and ``last_pairs`` of its last part under the mask [1]; switches are 0/1. Broadcasts; raises
    nothing.
    """
    return np.where((zigzag > 0) | (masked == 0), 1.0, context_parallel * last_pairs / pairs)


def _fullest(e: Mapping[str, Extent], context: ContextRanks) -> FloatArray:
    """How much longer the fullest rank attends than the mean one [1]: whole sequences in Ulysses."""
    if np.all(context.zigzag > 0):
        return ONE
    queries, keys, span = (length(e[name]) for name in ("query_length", "kv_length", "kv_span"))
    return fullest_over_mean(
        pairs=attended_pairs(queries, keys, span),
        last_pairs=attended_pairs(queries / context.ranks, keys, span),
        context_parallel=context.ranks,
        masked=(length(e["pairs"]) < queries * keys) * (1.0 - context.ulysses),
        zigzag=context.zigzag,
    )


def _has(tensor: Tensor, label: str) -> bool:
    return any(part.label == label for extent in tensor.extents for part in extent)


def _times(extent: Extent, factor: FloatArray) -> Extent:
    return tuple(Dim(part.label, part.size * factor) for part in extent)


def _more_tokens(tensors: Sequence[Tensor], label: str, factor: FloatArray) -> tuple[Tensor, ...]:
    """Tensors with a width of this label hold ``factor`` times the rows."""
    return tuple(
        replace(t, extents=(_times(t.extents[0], factor), *t.extents[1:])) if _has(t, label) else t
        for t in tensors
    )


def _message(name: str, tensors: Sequence[Tensor], factors: Sequence[FloatArray]) -> Tensor:
    """Some tensors of the same tokens side by side, each ``factor`` times."""
    tokens = length(tensors[0].extents[0])
    widths = tuple(
        Dim("whole", length(t.extents[1]) * factor) for t, factor in zip(tensors, factors, strict=True)
    )
    return Tensor(name, "activations", ((Dim("whole", tokens),), widths))


def _local(op: Operator, context: ContextRanks) -> tuple[Operator, FloatArray]:
    """The kernel's sizes on one rank, and how often a rank of Ulysses holds a copy of key heads that others have."""
    c, ring, gathered, ulysses = context.ranks, context.ring, context.gathered, context.ulysses
    e = dict(op.extents)
    one = np.ones(1)
    kv_heads = length(e["kv_heads"])
    kv_parts = np.where(ulysses > 0, np.minimum(c, kv_heads), one)
    copies = np.where(ulysses > 0, c, one) / kv_parts
    e["query_length"] = _times(e["query_length"], 1.0 / np.where(ulysses > 0, one, c))
    e["kv_length"] = _times(e["kv_length"], 1.0 / np.where(ring > 0, c, one))
    span = np.minimum(length(e["kv_span"]), length(e["kv_length"]))
    e["kv_span"] = (Dim("kv_span", span),)
    pairs = pairs_per_kernel(pairs=length(e["pairs"]), context_parallel=c, ring=ring, gathered=gathered)
    e["pairs"] = (Dim("pairs", pairs * _fullest(op.extents, context)),)
    e["heads"] = _times(e["heads"], 1.0 / np.where(ulysses > 0, c, one))
    e["kv_heads"] = _times(e["kv_heads"], 1.0 / kv_parts)
    more = np.where(gathered > 0, c, one) * copies
    kernel = replace(
        op,
        extents=e,
        reads=_more_tokens(op.reads, KV_LABEL, more),
        writes=_more_tokens(op.writes, KV_LABEL, more),
        scale=op.scale * np.where(ring > 0, c, one),
    )
    return kernel, copies


def split_attention(op: Operator, context: ContextRanks) -> SplitAttention:
    """What one rank runs for an attention kernel, forward or backward.

    Parameters
    ----------
    op : Operator
        Kernel whose tokens and heads are divided by context and tensor ranks, and whose lengths and pairs are those
        of whole sequences.
    context : ContextRanks
        Ranks and switches [1].

    Returns
    -------
    SplitAttention
        Exchanges are of kind "collective" and axis "context"; a ring's is called ``ring_exchange``, its message is
        that of one hop, and it runs beside the kernel. Raises nothing.
    """
    kernel, copies = _local(op, context)
    backward = op.kind.endswith("_backward")
    keys = [t for t in (op.writes if backward else op.reads) if _has(t, KV_LABEL)]
    queries = [t for t in op.reads if _has(t, QUERY_LABEL) and t.kind != "statistics"]
    one = np.ones(1)

    def exchange(
        collective: str,
        tensors: Sequence[Tensor],
        factors: Sequence[FloatArray],
        scale: FloatArray,
        suffix: str = "",
    ) -> Operator:
        message = _message(f"{op.name}.{collective}{suffix}.message", tensors, factors)
        return Operator(
            name=f"{op.name}.{collective}{suffix}",
            kind="collective",
            module=op.module,
            phase=op.phase,
            reads=(message,),
            writes=(message,),
            attributes={"ranks": context.ranks},
            collective=collective,
            axis="context",
            scale=op.scale * scale,
            group=op.group,
        )

    whole = [context.ranks] * len(keys)
    replicated = [copies] * len(keys)
    if backward:
        arriving = [queries[0]]
        leaving = [t for t in op.writes if _has(t, QUERY_LABEL)]
        before = [
            exchange("all_gather", keys, whole, context.gathered),
            exchange("all_to_all", arriving, [one], context.ulysses),
        ]
        after = [
            # Keys and values go round, and their gradients with them; right behind the kernel, which hides them.
            exchange(RING_EXCHANGE, [*keys, *keys], [one, one] * len(keys), context.ring),
            exchange("reduce_scatter", keys, whole, context.gathered),
            exchange("all_to_all", [*leaving, *keys], [one, *replicated], context.ulysses, "_back"),
        ]
        merged = [*leaving, *keys]
    else:
        merged = [t for t in op.writes if t.kind == "activations"]
        before = [
            exchange("all_gather", keys, whole, context.gathered),
            exchange("all_to_all", [queries[0], *keys], [one, *replicated], context.ulysses),
        ]
        after = [
            exchange(RING_EXCHANGE, keys, [one] * len(keys), context.ring),
            exchange("all_to_all", merged, [one], context.ulysses, "_back"),
        ]
    merge = Operator(
        name=f"{op.name}.merge",
        kind="pointwise",
        module=op.module,
        phase=op.phase,
        reads=(*merged, *(replace(t, name=f"{t.name}_part") for t in merged)),
        writes=tuple(merged),
        # Results of all passes but the first are added to those before.
        scale=op.scale * context.ring * (context.ranks - 1.0),
        group=op.group,
    )

    def needed(made: Sequence[Operator]) -> list[Operator]:
        return [one_op for one_op in made if np.any(one_op.scale)]

    return SplitAttention(before=needed(before), kernel=kernel, after=needed([*after, merge]))


Emit = Callable[[Operator, dict[str, str]], None]


def emit_attention(
    op: Operator, sources: dict[str, str], context: ContextRanks, emit: Emit
) -> dict[str, str]:
    """Lay out a split kernel in issue order with ``emit(operator, producers by tensor)``.

    ``sources`` are the producers of what the kernel reads; the last writers of its results are returned. Raises
    nothing.
    """
    split = split_attention(op, context)
    for exchange in split.before:
        emit(exchange, dict(sources))
        sources = {t.name: exchange.name for t in op.reads}
    emit(split.kernel, sources)
    last = split.kernel.name
    for follower in split.after:
        emit(follower, {t.name: last for t in op.writes})
        last = follower.name
    return {t.name: last for t in op.writes}

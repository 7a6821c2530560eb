"""Tensor-parallel exchanges beside the product that needs them or makes them: both are cut into parts.

A *ring* passes shards on while the product of those at hand runs, a part for each rank (an all-gather in front of a
product, or partial sums behind it). *Pipelined* parts are exchanges and products of equal parts of the tokens, one
behind the other. A product of fewer rows is less efficient, which its kernel model says; where the parts together
take longer than product and exchange one after the other, they are not cut.

In the backward pass sums of gradients are left whole: they pass beside the product of the weights' gradient, which
does not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.composition.streams import Issue
from simulator.per_device.tensor_exchanges import TensorExchanges
from simulator.rules import at, rule
from workloads.operator_graph import Dim, Operator, Tensor, elements

__all__ = ["SplitPair", "exposed_parts", "split_pairs"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
TOKENS = "tokens"
# Copies between neighbours take one unit (user-buffer configurations of NeMo and Megatron-Bridge: num_sm 1 of a ring
# exchange), sums in parts as many as a library's exchange does (24 there).
RING_UNITS = 1.0
# Seconds of one execution of a kernel, from its operator [s].
KernelTime = Callable[[Operator], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPair:
    """An exchange and its product in parts, where ``chosen``: their seconds, and what the exchange adds [s].

    ``compute_share`` is the part of the compute units that the exchange takes meanwhile [1].
    """

    product: int
    chosen: BoolArray
    exchange_s: FloatArray
    product_s: FloatArray
    exposed_s: FloatArray
    compute_share: FloatArray


@rule(
    symbol="Te",
    formula="(q - 1) max(a - g, 0) + a [pipelined]",
    unit="s",
    source="Wang et al., Overlap Communication with Dependent Computation via Decomposition, ASPLOS 2023, "
    "doi:10.1145/3567955.3567959, section 5: q partial products and the exchanges between them; NVIDIA Transformer "
    "Engine, userbuffers: ring exchange and pipelined chunks",
)
def exposed_parts(
    *, part_exchange_s: FloatArray, part_product_s: FloatArray, parts: FloatArray, pipelined: FloatArray
) -> FloatArray:
    """What the exchange of a product in parts adds to the parts of the product [s].

    An exchange of a part takes ``part_exchange_s``, the product of a part ``part_product_s`` [s]. In a ring a rank has
    one of the ``parts`` [1] from the start; where ``pipelined`` is 1 the first exchange, or the last one, is in the
    open. Broadcasts; raises nothing.
    """
    return (parts - 1.0) * np.maximum(part_exchange_s - part_product_s, 0.0) + pipelined * part_exchange_s


def _pairs(issues: Sequence[Issue]) -> list[tuple[int, int]]:
    """Positions of exchanges among tensor ranks and of the product that each is cut with."""
    found: list[tuple[int, int]] = []
    taken: set[int] = set()
    for i, issue in enumerate(issues):
        op = issue.operator
        if not issue.is_exchange or op.axis != "tensor":
            continue
        if op.collective == "all_gather":
            near = [k for k in range(i + 1, len(issues)) if i in issues[k].after]
        elif op.collective == "reduce_scatter" and op.phase != "backward":
            near = _makers(issues, i)
        else:
            continue
        products = [k for k in near if _cuts(issues[k].operator) and k not in taken]
        if products:
            taken.add(products[0])
            found.append((i, products[0]))
    return found


def _makers(issues: Sequence[Issue], position: int) -> list[int]:
    """Kernels that make what an exchange sends, through exchanges that other plans have in front of it."""
    found: list[int] = []
    for k in issues[position].after:
        found += _makers(issues, k) if issues[k].is_exchange else [k]
    return found


def _cuts(operator: Operator) -> bool:
    """Whether an operator is a product of rows of tokens."""
    rows = operator.extents.get("m", ())
    return operator.kind == "matmul" and any(part.label == TOKENS for part in rows)


def _part(operator: Operator, parts: FloatArray) -> Operator:
    """The product of one part of the tokens; its matrix stays whole."""

    def cut(extent: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return tuple(replace(d, size=d.size / parts) if d.label == TOKENS else d for d in extent)

    def tensors(of: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(replace(t, extents=tuple(cut(e) for e in t.extents)) for t in of)

    extents = {role: cut(extent) for role, extent in operator.extents.items()}
    return replace(operator, extents=extents, reads=tensors(operator.reads), writes=tensors(operator.writes))


def split_pairs(
    issues: Sequence[Issue],
    durations: Sequence[FloatArray],
    inputs: Inputs,
    exchanges: TensorExchanges,
    kernel_s: KernelTime,
) -> Mapping[int, SplitPair]:
    """Exchanges of a block that are cut with their products, by position.

    Parameters
    ----------
    issues, durations : sequences
        Operators in issue order, and the seconds of each [s].
    inputs : Inputs
        Rows; empty where no plan cuts anything.
    exchanges : TensorExchanges
        Of the same rows.
    kernel_s : callable
        Seconds of one execution of a kernel [s].

    Returns
    -------
    mapping of int to SplitPair
        Raises nothing.
    """
    plan = inputs.plan
    wanted = plan.overlap_tensor_parallel * np.maximum(plan.split_ring, plan.split_pipelined)
    wanted = wanted * (plan.tensor_parallel > 1)
    if not np.any(wanted):
        return {}
    share = inputs.fabric.inner.compute_share
    found = {}
    for i, k in _pairs(issues):
        exchange, product = issues[i].operator, issues[k].operator
        # Where a plan has both, partial sums are pipelined.
        ring = plan.split_ring > 0
        if exchange.collective == "reduce_scatter":
            ring = ring & (plan.split_pipelined == 0)
        pipelined = np.where(ring, 0.0, 1.0)
        parts = np.where(ring, plan.tensor_parallel, plan.tensor_chunks)
        (message,) = exchange.reads
        message_bytes = elements(message) * inputs.precision.activation_communication
        with at("time.tensor_parallel_s"):
            part_s = kernel_s(_part(product, parts))
            once_s = exchanges.of(exchange.collective, message_bytes / parts).seconds
            hop_s = exchanges.hop_seconds(message_bytes / plan.tensor_parallel)
            each_s = np.where(ring, hop_s, once_s)
            exposed_s = exposed_parts(
                part_exchange_s=each_s, part_product_s=part_s, parts=parts, pipelined=pipelined
            )
        sent_s = np.where(ring, parts - 1.0, parts) * each_s
        # What is hidden takes its share of the units from the parts of the product.
        taken = np.where(ring, np.minimum(share, RING_UNITS / inputs.device.units), share)
        together_s = parts * part_s + exposed_s + taken * (sent_s - exposed_s)
        runs = exchange.scale > 0
        better = together_s < durations[i] + durations[k]
        found[i] = SplitPair(
            product=k,
            chosen=(wanted > 0) & runs & better,
            exchange_s=sent_s,
            product_s=parts * part_s,
            exposed_s=exposed_s,
            compute_share=taken,
        )
    return found

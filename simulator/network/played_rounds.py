"""Collectives step by step: who sends how much to whom in each round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from simulator.communication.collective_algorithms import RING_PASSES

__all__ = [
    "Branches",
    "Round",
    "all_pairs",
    "binary_tree_flows",
    "direct_rounds",
    "halving_doubling_rounds",
    "hierarchical_rounds",
    "layered_rounds",
    "ring_orders_over_rails",
    "ring_orders_through_meshes",
    "ring_rounds",
    "torus_rounds",
]

# Source, target, bytes; all messages of a round are under way at once.
Round = list[tuple[int, int, float]]
# Parts that run side by side, each through its own rounds; what follows waits for all of them.
Branches = tuple[list[Round], ...]


def ring_rounds(collective: str, orders: Sequence[Sequence[int]], message_bytes: float) -> list[Round]:
    """Rounds of rings side by side, each over the ranks in one order and with an equal part of the message [byte].

    Raises KeyError for a collective that is no ring.
    """
    n = len(orders[0])
    chunk = message_bytes / n / len(orders)
    once: Round = [(order[i], order[(i + 1) % n], chunk) for order in orders for i in range(n) if n > 1]
    return [list(once) for _ in range(int(RING_PASSES[collective]) * (n - 1))]


def ring_orders_through_meshes(nodes: Sequence[Sequence[int]]) -> list[list[int]]:
    """Orders of rings that pass node after node and, inside fully connected ones, take a different way each.

    Zigzag paths k, k + 1, k - 1, k + 2, ... for k below half of an even number of devices use every link once; their
    reversals use the other direction.
    """
    n = len(nodes[0])
    paths = []
    for k in range(max(n // 2, 1)):
        steps = [(k + (i + 1) // 2 * (1 if i % 2 else -1)) % n for i in range(n)]
        paths += [steps, steps[::-1]] if n > 1 else [steps]
    return [[node[i] for node in nodes for i in path] for path in paths]


def ring_orders_over_rails(nodes: Sequence[Sequence[int]]) -> list[list[int]]:
    """Orders of as many rings as a node has devices, each of which leaves and enters nodes on one rail.

    Every second node is passed backwards, so that a ring comes in on the rail that it left the last node by.
    """
    n = len(nodes[0])
    orders = []
    for rail in range(n):
        path = [(rail + i) % n for i in range(n)]
        orders.append([node[i] for k, node in enumerate(nodes) for i in (path if k % 2 == 0 else path[::-1])])
    return orders


def all_pairs(ranks: Sequence[int], size_bytes: float) -> Round:
    """A message of one size [byte] from each rank to each other."""
    return [(a, b, size_bytes) for a in ranks for b in ranks if a != b]


def direct_rounds(collective: str, ranks: Sequence[int], message_bytes: float) -> list[Round]:
    """Rounds in which each rank sends to each other: shards, twice for an all-reduce, or the parts of an all-to-all."""
    times = int(RING_PASSES.get(collective, 1.0)) if len(ranks) > 1 else 0
    return [all_pairs(ranks, message_bytes / len(ranks)) for _ in range(times)]


def halving_doubling_rounds(collective: str, ranks: Sequence[int], message_bytes: float) -> list[Round]:
    """Recursive halving and doubling over a power of two of ranks; ValueError for another number."""
    n = len(ranks)
    if n & (n - 1):
        raise ValueError(f"{n} ranks are no power of two")
    distances = [n >> (k + 1) for k in range(int(math.log2(n)))]
    halving = [[(ranks[i], ranks[i ^ d], message_bytes * d / n) for i in range(n)] for d in distances]
    doubling = [
        [(ranks[i], ranks[i ^ d], message_bytes * d / n) for i in range(n)] for d in reversed(distances)
    ]
    return {
        "reduce_scatter": halving,
        "all_gather": doubling,
        "all_reduce": [*halving, *doubling],
    }[collective]


def _parents(n: int) -> dict[int, int]:
    """A binary tree of ranks in which odd ranks are leaves: by the lowest set bit of the rank."""
    parents = {}
    for rank in range(1, n):
        low = rank & -rank
        parent = (rank ^ low) | (low << 1)
        parents[rank] = parent if parent < n else rank ^ low
    return parents


def binary_tree_flows(ranks: Sequence[int], message_bytes: float) -> Round:
    """All messages of an all-reduce by two binary trees, half of the message up and down each [byte].

    In the second tree the ranks are mirrored, or shifted where their number is odd, so that nearly all of them are a
    leaf in one of the two. Pipelined, all messages are under way at once.
    """
    n, half = len(ranks), message_bytes / 2.0
    flows: Round = []
    for order in (list(ranks), list(reversed(ranks)) if n % 2 == 0 else [*ranks[1:], ranks[0]]):
        for child, parent in _parents(n).items():
            flows.append((order[child], order[parent], half))
            flows.append((order[parent], order[child], half))
    return flows


def hierarchical_rounds(nodes: Sequence[Sequence[int]], message_bytes: float) -> list[Round]:
    """All-reduce: reduce-scatter inside each node, all-reduce of the shards across, all-gather inside."""
    inner = len(nodes[0])
    inside = _merged([ring_rounds("reduce_scatter", [node], message_bytes) for node in nodes])
    columns = [[node[i] for node in nodes] for i in range(inner)]
    across = _merged([ring_rounds("all_reduce", [column], message_bytes / inner) for column in columns])
    return [*inside, *across, *inside]


def layered_rounds(sizes: Sequence[int], message_bytes: float) -> list[Round]:
    """All-reduce over several tiers: reduce-scatters from the inside out, all-reduce at the top, all-gathers back.

    ``sizes`` are the members on each tier, from the inside out; ranks are numbered in this order.
    """
    n, stride, left = math.prod(sizes), 1, message_bytes
    inwards: list[Round] = []
    for size in sizes[:-1]:
        groups = _apart(n, size, stride)
        inwards += _merged([ring_rounds("reduce_scatter", [group], left) for group in groups])
        stride, left = stride * size, left / size
    top = _merged([ring_rounds("all_reduce", [g], left) for g in _apart(n, sizes[-1], stride)])
    return [*inwards, *top, *reversed(inwards)]


def _apart(n: int, size: int, stride: int) -> list[list[int]]:
    """Groups of ``size`` ranks ``stride`` apart among ``n``."""
    return [
        [block + offset + k * stride for k in range(size)]
        for block in range(0, n, size * stride)
        for offset in range(stride)
    ]


def _merged(parts: Sequence[list[Round]]) -> list[Round]:
    return [[flow for part in parts for flow in part[k]] for k in range(len(parts[0]))]


def _lines(shape: Sequence[int], axis: int) -> list[list[int]]:
    """Ranks along one axis of a torus, for each position on the others."""
    stride = math.prod(shape[:axis])
    starts = [r for r in range(math.prod(shape)) if (r // stride) % shape[axis] == 0]
    return [[start + k * stride for k in range(shape[axis])] for start in starts]


def _axis_rounds(line: Sequence[int], wrap: bool, message_bytes: float) -> list[Round]:
    """Reduce-scatter along one axis: half the message each way round, or towards both ends of a line."""
    n = len(line)
    chunk = message_bytes / n
    if wrap and n > 2:
        return ring_rounds("reduce_scatter", [line, list(reversed(line))], message_bytes)
    rounds: list[Round] = []
    for k in range(n - 1):
        # The partial sum of the chunk that ends at each rank moves on by one, from both ends.
        right = [(a, b, chunk) for i, (a, b) in enumerate(pairwise(line)) if n - 1 - i > k]
        left = [(b, a, chunk) for i, (a, b) in enumerate(pairwise(line)) if i + 1 > k]
        rounds.append([*right, *left])
    return rounds


def torus_rounds(
    collective: str, shape: Sequence[int], wrap: Sequence[bool], message_bytes: float
) -> list[Branches]:
    """Phases of a multi-ring: the message in one part per axis, part i on axes i, i + 1 and so on.

    ``wrap`` says for each axis whether its ends are joined. Lines of a phase run side by side, phases follow
    each other. Raises KeyError for a collective that is no ring.
    """
    axes = [k for k, side in enumerate(shape) if side > 1]
    part = message_bytes / max(len(axes), 1)
    phases: list[Branches] = []
    for step in range(len(axes)):
        side_by_side: list[list[Round]] = []
        for i in range(len(axes)):
            order = [axes[(i + k) % len(axes)] for k in range(len(axes))]
            left = part / math.prod([shape[a] for a in order[:step]])
            axis = order[step]
            side_by_side += [_axis_rounds(line, wrap[axis], left) for line in _lines(shape, axis)]
        phases.append(tuple(side_by_side))
    return [*phases, *reversed(phases)] if RING_PASSES[collective] > 1 else phases

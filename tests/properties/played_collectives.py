"""Ring collectives played out chunk by chunk on a graph of ranks: what is sent, by whom, in how many steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import networkx as nx


@dataclass
class Played:
    """Result of a collective that was played out.

    Attributes
    ----------
    n_steps : int
        Rounds in which all ranks exchange at once.
    sent, received : dict of rank to bytes
        Per rank.
    held : dict of rank to dict of chunk to frozenset of rank
        Whose contributions the copy of a chunk contains that a rank holds.
    link_bytes : dict of edge to bytes
        Over each directed link.
    """

    n_steps: int = 0
    sent: dict[int, float] = field(default_factory=dict)
    received: dict[int, float] = field(default_factory=dict)
    held: dict[int, dict[int, frozenset[int]]] = field(default_factory=dict)
    link_bytes: dict[tuple[int, int], float] = field(default_factory=dict)


def ring(ranks: list[int]) -> nx.DiGraph:
    """A one-way ring."""
    graph = nx.DiGraph()
    nx.add_cycle(graph, ranks)
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return graph


def start(ranks: list[int], chunks_of: dict[int, list[int]]) -> Played:
    """Every rank holds its own contribution to the chunks given."""
    return Played(
        sent=dict.fromkeys(ranks, 0.0),
        received=dict.fromkeys(ranks, 0.0),
        held={r: {c: frozenset([r]) for c in chunks_of[r]} for r in ranks},
    )


def one_step(state: Played, graph: nx.DiGraph, moves: list[tuple[int, int, int]], chunk_bytes: float) -> None:
    """Send chunk c from a to b for all (a, b, c) at once; what arrives is added to what is there."""
    before = {r: dict(chunks) for r, chunks in state.held.items()}
    for source, target, chunk in moves:
        assert graph.has_edge(source, target)
        arriving = before[source][chunk]
        state.held[target][chunk] = state.held[target].get(chunk, frozenset()) | arriving
        state.sent[source] += chunk_bytes
        state.received[target] += chunk_bytes
        state.link_bytes[source, target] = state.link_bytes.get((source, target), 0.0) + chunk_bytes
    state.n_steps += 1


def reduce_scatter(state: Played, ranks: list[int], chunks: list[int], chunk_bytes: float) -> dict[int, int]:
    """Ring reduce-scatter in place; returns the chunk that each rank then holds complete."""
    n, graph = len(ranks), ring(ranks)
    for step in range(n - 1):
        moves = [(ranks[i], ranks[(i + 1) % n], chunks[(i - step) % n]) for i in range(n)]
        one_step(state, graph, moves, chunk_bytes)
    return {ranks[i]: chunks[(i + 1) % n] for i in range(n)}


def all_gather(state: Played, ranks: list[int], owned: dict[int, int], chunk_bytes: float) -> None:
    """Ring all-gather of the chunk that each rank owns; other copies are replaced by what arrives."""
    n, graph = len(ranks), ring(ranks)
    for r in ranks:
        others = [owned[q] for q in ranks if q != r]
        for chunk in others:
            state.held[r].pop(chunk, None)
    for step in range(n - 1):
        moves = [(ranks[i], ranks[(i + 1) % n], owned[ranks[(i - step) % n]]) for i in range(n)]
        one_step(state, graph, moves, chunk_bytes)


def play_ring(collective: str, n: int, message_bytes: float) -> Played:
    """One of the three ring collectives over ranks 0 to n - 1; the message is the whole buffer [byte]."""
    ranks, chunk_bytes = list(range(n)), message_bytes / n
    if collective == "all_gather":
        state = start(ranks, {r: [r] for r in ranks})
        all_gather(state, ranks, {r: r for r in ranks}, chunk_bytes)
        return state
    state = start(ranks, dict.fromkeys(ranks, ranks))
    owned = reduce_scatter(state, ranks, ranks, chunk_bytes)
    if collective == "all_reduce":
        all_gather(state, ranks, owned, chunk_bytes)
    return state


def play_hierarchical_all_reduce(inner: int, outer: int, message_bytes: float) -> tuple[Played, Played]:
    """Reduce-scatter inside nodes, all-reduce of the shards across, all-gather inside.

    Returns what was sent on the inner links and on the outer ones; the second holds the final state. Steps are
    not counted: nodes, and the parts of a shard, move side by side.
    """
    n_chunks = inner * outer
    chunk_bytes = message_bytes / n_chunks
    everyone = list(range(n_chunks))
    state = start(everyone, dict.fromkeys(everyone, everyone))
    nodes = [[node * inner + i for i in range(inner)] for node in range(outer)]

    def parts(shard: int) -> list[int]:
        return [shard * outer + k for k in range(outer)]

    inner_state = Played(sent=dict.fromkeys(everyone, 0.0), received=dict.fromkeys(everyone, 0.0))

    def noting(run) -> None:
        """Run steps inside the nodes and book their bytes to the inner tier."""
        sent, received = dict(state.sent), dict(state.received)
        run()
        for r in everyone:
            inner_state.sent[r] += state.sent[r] - sent[r]
            inner_state.received[r] += state.received[r] - received[r]
        state.sent, state.received = sent, received

    owned: dict[int, int] = {}

    def scatter() -> None:
        for node in nodes:
            for k in range(outer):
                got = reduce_scatter(state, node, [parts(s)[k] for s in range(inner)], chunk_bytes)
                owned.update({r: c // outer for r, c in got.items()})

    def gather() -> None:
        for node in nodes:
            for k in range(outer):
                all_gather(state, node, {r: parts(owned[r])[k] for r in node}, chunk_bytes)

    noting(scatter)
    for i in range(inner):
        group = [node[i] for node in nodes]
        shards = {owned[r] for r in group}
        assert len(shards) == 1  # the same shard in every node
        got = reduce_scatter(state, group, parts(shards.pop()), chunk_bytes)
        all_gather(state, group, got, chunk_bytes)
    outer_state = Played(sent=dict(state.sent), received=dict(state.received))
    noting(gather)
    outer_state.held = state.held
    return inner_state, outer_state

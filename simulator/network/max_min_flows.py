"""Flows on a graph of links: routes, and fair rates between flows that share links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from simulator.network.topology_graph import LinkGraph

__all__ = ["Flow", "Routes", "link_seconds", "max_min_rates"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Bytes from one device to another [byte], over links with a share of each: its routes together."""

    source: int
    target: int
    size_bytes: float
    links: tuple[tuple[int, float], ...]
    latency_s: float


class Routes:
    """Shortest routes between the devices of a graph, with the links numbered.

    Of several shortest routes the bytes take all in equal parts on a ring's two ways, and along the axes in their order
    on a torus, as a network does that spreads packets.
    """

    def __init__(self, graph: LinkGraph) -> None:
        self.graph = graph
        self.index = {edge: k for k, edge in enumerate(graph.edges)}
        self.bytes_per_s: FloatArray = np.array([graph.edges[e]["bytes_per_s"] for e in graph.edges])
        self._found: dict[tuple[int, int], tuple[tuple[tuple[int, float], ...], float]] = {}

    def between(self, source: int, target: int) -> tuple[tuple[tuple[int, float], ...], float]:
        """Links with the share of the bytes on each, and the latency [s]; NetworkXNoPath if there is none."""
        key = (source, target)
        if key not in self._found:
            paths = self._paths(("device", source), ("device", target))
            shares: dict[int, float] = {}
            for path in paths:
                for edge in zip(path, path[1:], strict=False):
                    shares[self.index[edge]] = shares.get(self.index[edge], 0.0) + 1.0 / len(paths)
            latency = max(
                sum(self.graph.edges[e]["latency_s"] for e in zip(path, path[1:], strict=False))
                for path in paths
            )
            self._found[key] = (tuple(sorted(shares.items())), latency)
        return self._found[key]

    def _paths(
        self, source: tuple[object, ...], target: tuple[object, ...]
    ) -> list[list[tuple[object, ...]]]:
        """Shortest paths by the cost of their links; of a torus' those that finish one axis before the next."""
        shortest = list(nx.all_shortest_paths(self.graph, source, target, weight="cost"))
        if len(shortest) == 1:
            return shortest
        ordered = [path for path in shortest if self._axis_after_axis(path)]
        return ordered or shortest

    def _axis_after_axis(self, path: Sequence[tuple[object, ...]]) -> bool:
        """Whether a path takes the axes of a torus in their order; any other path does."""
        axes = [self.graph.edges[e].get("axis", 0) for e in zip(path, path[1:], strict=False)]
        return axes == sorted(axes)

    def flow(self, source: int, target: int, size_bytes: float) -> Flow:
        """Bytes [byte] from one device to another along the shortest routes."""
        links, latency = self.between(source, target)
        return Flow(source=source, target=target, size_bytes=size_bytes, links=links, latency_s=latency)


def max_min_rates(flows: Sequence[Flow], bytes_per_s: FloatArray) -> FloatArray:
    """Max-min fair rates: all rates rise together until a link is full, its flows stop there, the others go on.

    Parameters
    ----------
    flows : sequence of Flow
        Those that are under way.
    bytes_per_s : ndarray, shape (links,)
        One-way bandwidth of each link [byte/s].

    Returns
    -------
    ndarray, shape (flows,)
        Rate of each flow [byte/s]; infinite for one without links.

    Raises
    ------
    IndexError
        If a flow names a link that is not there.
    """
    rows = [k for k, f in enumerate(flows) for _ in f.links]
    columns = [link for f in flows for link, _ in f.links]
    shares = np.array([share for f in flows for _, share in f.links])
    use = np.zeros((len(flows), len(bytes_per_s)))
    use[rows, columns] = shares
    rates, left = np.full(len(flows), np.inf), bytes_per_s.astype(np.float64).copy()
    open_flows = use.any(axis=1)
    while open_flows.any():
        wanted = use[open_flows].sum(axis=0)
        busy = wanted > 0
        level = float(np.min(left[busy] / wanted[busy]))
        full = busy & (left <= level * wanted * (1 + 1e-12))
        stopped = open_flows & use[:, full].any(axis=1)
        rates[stopped] = level
        left = np.maximum(left - level * use[stopped].sum(axis=0), 0.0)
        open_flows &= ~stopped
    return rates


def link_seconds(messages: Sequence[tuple[int, int, float]], routes: Routes) -> float:
    """Time of the busiest link when all messages are under way at once, cut small and pipelined [s]."""
    load = np.zeros(len(routes.bytes_per_s))
    for source, target, size in messages:
        for link, share in routes.between(source, target)[0]:
            load[link] += size * share
    return float(np.max(load / routes.bytes_per_s)) if messages else 0.0

"""What links that are declared one by one give to groups: found once per node on its graph, by size and stride."""

from __future__ import annotations

from functools import lru_cache

import networkx as nx

from hardware_specs import FabricSpec
from simulator.network.max_min_flows import Routes, link_seconds
from simulator.network.played_rounds import Round, all_pairs
from simulator.network.topology_graph import LinkGraph, wire_hops

__all__ = ["wired_figures"]


def wired_figures(accelerators: float, fabric: FabricSpec) -> dict[str, float]:
    """Figures of a wired node for every size and stride of groups that fit it.

    Parameters
    ----------
    accelerators : float
        Of the node [1].
    fabric : FabricSpec
        Its links.

    Returns
    -------
    dict of str to float
        "ring N S": links that a rank of two rings through N ranks, S apart, one each way round, has to itself when
        all groups of the node run; "all N S": the same for an all-to-all; "hops N S": most hops of an exchange [1].

    Raises
    ------
    networkx.NetworkXNoPath
        If a group has no way; the schema refuses such a node.
    """
    return dict(_figures(int(accelerators), tuple((*wire.ends, wire.links) for wire in fabric.wiring or [])))


@lru_cache(maxsize=64)
def _figures(accelerators: int, wires: tuple[tuple[int | str, int | str, int], ...]) -> dict[str, float]:
    """With links of one byte per second and one second a hop."""
    graph: LinkGraph = nx.DiGraph()
    for one, other, links in wires:
        for a, b in ((one, other), (other, one)):
            source, target = (("device" if isinstance(end, int) else "wire", end) for end in (a, b))
            before = graph.edges[source, target]["bytes_per_s"] if graph.has_edge(source, target) else 0.0
            graph.add_edge(
                source, target, bytes_per_s=before + links, latency_s=wire_hops(one, other), cost=1
            )
    routes = Routes(graph)
    found = {}
    for stride in range(1, accelerators // 2 + 1):
        for ranks in range(2, accelerators // stride + 1):
            block = ranks * stride
            starts = [b + o for b in range(0, accelerators - block + 1, block) for o in range(stride)]
            groups = [list(range(start, start + block, stride)) for start in starts]
            rings: Round = [
                (a, b, 0.5)
                for group in groups
                for order in (group, group[::-1])
                for a, b in zip(order, [*order[1:], order[0]], strict=True)
            ]
            pairs: Round = [m for group in groups for m in all_pairs(group, 1.0 / (ranks - 1))]
            name = f"{ranks} {stride}"
            found[f"ring {name}"] = 1.0 / link_seconds(rings, routes)
            found[f"all {name}"] = 1.0 / link_seconds(pairs, routes)
            found[f"hops {name}"] = max(routes.between(a, b)[1] for a, b, _ in rings)
    return found

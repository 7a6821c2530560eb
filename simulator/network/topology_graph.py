"""A declared fabric as a directed graph of links, for systems small enough to draw or to play out.

Nodes are tuples: ``("device", i)``, ``("switch", node)``, ``("bridge", node, k)``, ``("nic", node, rail)``,
``("leaf", block, rail)``, ``("spine",)``, with the number of its domain where a further tier joins several; of a wired
node also ``("wire", node, name)``, a switch, and ``("idle", node, i)``, an accelerator that is not in use; of a tier
beyond ``("port", tier, domain inside)``, ``("hub", tier, block)`` and ``("core", tier, domain)``. An edge carries
one-way ``bytes_per_s`` [byte/s], ``latency_s`` [s], its ``tier``, "inner", "outer" or the name of one beyond, and a
``cost`` by which routes are chosen [1]. The engine never builds one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import networkx as nx

from hardware_specs import FabricSpec, Problem, ScenarioError, SystemSpec
from hardware_specs.fabric_rules import GRIDS

if TYPE_CHECKING:
    LinkGraph = nx.DiGraph[Any]
else:
    LinkGraph = nx.DiGraph

__all__ = ["MOST_DEVICES", "LinkGraph", "device_nodes", "is_connected", "topology_graph", "wire_hops"]

MOST_DEVICES = 1024
# Messages leave a node only where they must, and change rails inside it.
OUTER_COST = 1000
Node = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Links:
    """Where one tier puts its links: the graph and the figures of the tier, which is the ``level``-th from inside."""

    graph: LinkGraph
    fabric: FabricSpec
    tier: str
    level: int = 0
    latency_s: float | None = None

    def join(self, a: Node, b: Node, *, bytes_per_s: float | None = None, latency_share: float = 1.0) -> None:
        """A link each way; a link that is there already gets wider."""
        rate = self.fabric.link_bandwidth.value if bytes_per_s is None else bytes_per_s
        latency_s = self.fabric.latency.value if self.latency_s is None else self.latency_s
        for one, other in ((a, b), (b, a)):
            if self.graph.has_edge(one, other):
                self.graph.edges[one, other]["bytes_per_s"] += rate
            else:
                self.graph.add_edge(
                    one,
                    other,
                    bytes_per_s=rate,
                    latency_s=latency_s * latency_share,
                    tier=self.tier,
                    cost=OUTER_COST**self.level,
                )

    @property
    def port_bytes_per_s(self) -> float:
        """All links of one accelerator together [byte/s]."""
        return self.fabric.links.value * self.fabric.link_bandwidth.value


def device_nodes(graph: LinkGraph) -> list[Node]:
    """Devices of a graph, by number."""
    return sorted((n for n in graph if n[0] == "device"), key=lambda n: n[1])


def is_connected(graph: LinkGraph) -> bool:
    """Whether every device can reach every other."""
    devices = device_nodes(graph)
    return all(nx.has_path(graph, devices[0], d) and nx.has_path(graph, d, devices[0]) for d in devices[1:])


def _switch(links: _Links, node: int, devices: list[Node]) -> None:
    for device in devices:
        links.join(device, ("switch", node), bytes_per_s=links.port_bytes_per_s, latency_share=0.5)


def _fully_connected(links: _Links, node: int, devices: list[Node]) -> None:
    rate = links.port_bytes_per_s / max(len(devices) - 1, 1)
    for i, one in enumerate(devices):
        for other in devices[i + 1 :]:
            links.join(one, other, bytes_per_s=rate)


def _ring(links: _Links, node: int, devices: list[Node]) -> None:
    n = len(devices)
    for i in range(n if n > 2 else n - 1):
        links.join(devices[i], devices[(i + 1) % n])


def _host(links: _Links, node: int, devices: list[Node]) -> None:
    bridge = links.fabric.accelerators_per_bridge
    per_bridge = int(bridge.value) if bridge is not None else len(devices)
    for i, device in enumerate(devices):
        links.join(
            device, ("bridge", node, i // per_bridge), bytes_per_s=links.port_bytes_per_s, latency_share=0.5
        )
    n_bridges = math.ceil(len(devices) / per_bridge)
    for k in range(n_bridges if n_bridges > 1 else 0):
        assert links.fabric.bridge_bandwidth is not None
        rate = links.fabric.bridge_bandwidth.value
        links.join(("bridge", node, k), ("host", node), bytes_per_s=rate, latency_share=0.0)


def wire_hops(one: int | str, other: int | str) -> float:
    """Hops that a link counts as: one between accelerators, half to or from a switch [1]."""
    return 1.0 if isinstance(one, int) and isinstance(other, int) else 0.5


def _wired(links: _Links, node: int, devices: list[Node]) -> None:
    """Links one by one; accelerators of the node that are not in use pass messages on."""
    for wire in links.fabric.wiring or []:
        ends: list[Node] = []
        for end in wire.ends:
            if isinstance(end, str):
                ends.append(("wire", node, end))
            else:
                ends.append(devices[end] if end < len(devices) else ("idle", node, end))
        rate = wire.links * links.fabric.link_bandwidth.value
        links.join(ends[0], ends[1], bytes_per_s=rate, latency_share=wire_hops(*wire.ends))


_NODES: Mapping[str, Callable[[_Links, int, list[Node]], None]] = {
    "switch": _switch,
    "fat_tree": _switch,
    "fully_connected": _fully_connected,
    "ring": _ring,
    "host": _host,
    "wired": _wired,
}


def _grid(links: _Links, shape: list[int], wrap: bool, first: int) -> None:
    """A torus or mesh from the ``first`` device on; the first axis is the one along which device numbers run."""
    strides = [math.prod(shape[:k]) for k in range(len(shape))]
    for place in product(*(range(side) for side in shape)):
        here = first + sum(p * s for p, s in zip(place, strides, strict=True))
        for axis, side in enumerate(shape):
            last = place[axis] == side - 1
            if side == 1 or (last and not (wrap and side > 2)):
                continue
            there = here + strides[axis] * (1 - side if last else 1)
            links.join(("device", here), ("device", there))
            for edge in ((here, there), (there, here)):
                links.graph.edges[("device", edge[0]), ("device", edge[1])]["axis"] = axis


def _grid_shape(system: SystemSpec, devices: int) -> tuple[list[int], bool]:
    torus = system.scale_up.topology == "torus"
    shape, whole = system.scale_up.shape, system.slice_devices
    if shape is not None and (math.prod(shape) == devices or (whole is not None and devices % whole == 0)):
        return list(shape), torus
    for part in system.slices:
        if part.devices == devices and shape is None:
            return list(part.shape), part.wrap and torus
    known = [math.prod(shape)] if shape else [p.devices for p in system.slices]
    raise ScenarioError(
        [
            Problem(
                path="devices",
                value=str(devices),
                rule=f"is not the size of a listed slice of {system.name}",
                fix=f"use one of {', '.join(map(str, known))}",
            )
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """What a tier joins: a node, or a domain of the tier inside, by number; its devices and the switches they enter."""

    number: int
    devices: list[Node]
    switches: list[Node]


def _joined(links: _Links, units: list[_Unit], domain: int, n_domains: int, accelerators: float) -> _Unit:
    """Ports of the units of one domain, their first switches and what joins these.

    ``links`` of the tier count those of ``accelerators`` together: of a node, or of a host of a torus.
    """
    fabric = links.fabric
    share = len(units[0].devices) / accelerators if links.level == 1 else 1.0
    n_ports = fabric.links.value * share
    rails = int(fabric.rails.value) if fabric.rails is not None else 1
    block = int(fabric.nodes_per_block.value) if fabric.nodes_per_block is not None else 1
    devices = [d for unit in units for d in unit.devices]
    here = () if n_domains == 1 else (domain,)
    port_kind, leaf_kind, spine_kind = (
        ("nic", "leaf", "spine") if links.level == 1 else ("port", "hub", "core")
    )
    name: Node = () if links.level == 1 else (links.tier,)
    if fabric.topology == "ring":
        ports = [(port_kind, *name, unit.number, *((0,) if links.level == 1 else ())) for unit in units]
        for unit, port in zip(units, ports, strict=True):
            _share_ports(links, unit, port, n_ports, block)
        count = len(units) if len(units) > 2 else len(units) - 1
        for k in range(count):
            rate = n_ports * fabric.link_bandwidth.value / min(count, 2)
            links.join(ports[k], ports[(k + 1) % len(units)], bytes_per_s=rate, latency_share=0.5)
        return _Unit(number=domain, devices=devices, switches=[])
    leaves: dict[int, list[Node]] = {rail: [] for rail in range(rails)}
    first = domain * math.ceil(len(units) / block)
    for k, unit in enumerate(units):
        for rail in range(rails):
            per = len(unit.devices)
            mine = [d for i, d in enumerate(unit.devices) if i * rails // per == rail]
            place = (rail,) if links.level == 1 else ()
            port = (port_kind, *name, unit.number, *place)
            leaf = (leaf_kind, *name, first + k // block, *place)
            _share_ports(links, replace(unit, devices=mine), port, n_ports / rails, block)
            rate = n_ports / rails * fabric.link_bandwidth.value
            links.join(port, leaf, bytes_per_s=rate, latency_share=0.25)
            if leaf not in leaves[rail]:
                leaves[rail].append(leaf)
    uplink = block * n_ports * fabric.link_bandwidth.value / rails / fabric.oversubscription.value
    _between_blocks(links, list(leaves.values()), (spine_kind, *name, *here), uplink)
    return _Unit(number=domain, devices=devices, switches=[leaf for row in leaves.values() for leaf in row])


def _share_ports(links: _Links, unit: _Unit, port: Node, n_ports: float, block: int) -> None:
    """Devices, or with uplinks their switches, reach the ports of their unit at full rate: the port is what they
    share."""
    uplinks = links.fabric.ports == "uplinks"
    for one in unit.switches if uplinks else unit.devices:
        links.join(one, port, bytes_per_s=n_ports * links.fabric.link_bandwidth.value, latency_share=0.25)


def _between_blocks(links: _Links, leaves: list[list[Node]], spine: Node, uplink: float) -> None:
    """Links of ``uplink`` byte/s in all from each leaf, by rail, to the others."""
    n_blocks = len(leaves[0])
    if n_blocks == 1 and len(leaves) == 1:
        return
    if links.fabric.topology == "dragonfly":
        for one, other in combinations(leaves[0], 2):
            links.join(one, other, bytes_per_s=uplink / (n_blocks - 1), latency_share=0.0)
        return
    for k in range(n_blocks):
        for row in leaves:
            links.join(row[k], spine, bytes_per_s=uplink, latency_share=0.0)


def topology_graph(system: SystemSpec, devices: int) -> LinkGraph:
    """The links between the first ``devices`` accelerators of a system.

    Parameters
    ----------
    system : SystemSpec
        Declared fabrics.
    devices : int
        How many of its accelerators: part of one node, whole nodes, or a slice of a torus.

    Returns
    -------
    networkx.DiGraph
        One edge per direction of a link, with ``bytes_per_s`` [byte/s], ``latency_s`` [s] and ``tier``.

    Raises
    ------
    ScenarioError
        If there are more devices than the system or a drawing has, they do not fill nodes, or no slice has that
        many.

    Notes
    -----
    A switch is one node with all the links of a device to it in one edge. Latencies of the edges of a hop sum to the
    declared latency of the tier.
    """
    per_node = int(system.accelerators_per_node.value)
    grid = system.scale_up.topology in GRIDS
    _check(system, devices, per_node, grid)
    graph: LinkGraph = nx.DiGraph()
    graph.add_nodes_from(("device", i) for i in range(devices))
    inner = _Links(graph=graph, fabric=system.scale_up, tier="inner")
    if grid:
        shape, wrap = _grid_shape(system, devices)
        per_node = math.prod(shape)
    nodes: list[list[Node]] = [
        [("device", i) for i in range(first, min(first + per_node, devices))]
        for first in range(0, devices, per_node)
    ]
    for k, members in enumerate(nodes):
        if grid:
            _grid(inner, shape, wrap, k * per_node)
        else:
            _NODES[system.scale_up.topology](inner, k, members)
    _tiers_across(graph, system, nodes)
    return graph


def _tiers_across(graph: LinkGraph, system: SystemSpec, nodes: list[list[Node]]) -> None:
    """Every tier outside the nodes, as far as there is more than one thing to join."""
    units = [_Unit(number=k, devices=members, switches=[]) for k, members in enumerate(nodes)]
    devices, inside_s = sum(map(len, nodes)), 0.0
    for level, (path, fabric) in enumerate(list(system.tiers.items())[1:], start=1):
        if len(units) == 1:
            return
        # A message over uplinks has crossed the tier inside, and its latency is in that of the whole way.
        below_s = inside_s if fabric.ports == "uplinks" else 0.0
        links = _Links(
            graph=graph,
            fabric=fabric,
            tier="outer" if level == 1 else path.removeprefix("beyond."),
            level=level,
            latency_s=max(fabric.latency.value - below_s, 0.0),
        )
        size = int(fabric.domain.value) if fabric.domain is not None else devices
        per = max(size // len(units[0].devices), 1)
        domains = [units[k : k + per] for k in range(0, len(units), per)]
        accelerators = system.accelerators_per_node.value
        units = [_joined(links, some, k, len(domains), accelerators) for k, some in enumerate(domains)]
        inside_s = fabric.latency.value


def _check(system: SystemSpec, devices: int, per_node: int, grid: bool) -> None:
    most = int(system.max_devices.value)
    rule, fix = "", ""
    if devices < 1:
        rule, fix = "must be at least 1", "use 1 or more"
    elif devices > most:
        rule, fix = f"is more than the {most} that {system.name} joins", f"use at most {most}"
    elif devices > MOST_DEVICES:
        rule, fix = f"is more than a graph is built for, {MOST_DEVICES}", "use fewer; estimates need no graph"
    elif not grid and devices > per_node and devices % per_node:
        rule, fix = f"must be whole nodes of {per_node}", f"use a multiple of {per_node}"
    if rule:
        raise ScenarioError([Problem(path="devices", value=str(devices), rule=rule, fix=fix)])

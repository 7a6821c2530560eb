"""Where the nodes of a topology graph are drawn: plain rows for the reports."""

from __future__ import annotations

import math
from typing import Any

from hardware_specs import SystemSpec
from hardware_specs.fabric_rules import GRIDS
from simulator.network.topology_graph import LinkGraph, device_nodes

__all__ = ["picture_rows"]

HEIGHTS = {
    "device": 0.0,
    "idle": 0.0,
    "bridge": 1.0,
    "switch": 1.0,
    "wire": 1.0,
    "host": 2.0,
    "nic": 1.6,
    "leaf": 3.2,
    "spine": 4.2,
    "port": 5.2,
    "hub": 6.2,
    "core": 7.2,
}
TIER_HEIGHT = 3.0  # from one tier beyond to the next
OBLIQUE, LIFT = 0.35, 0.2  # how far the second axis of a torus leans, and the third one rises


def picture_rows(graph: LinkGraph, system: SystemSpec) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Nodes with name, kind and place, and one row per pair that is linked.

    Parameters
    ----------
    graph : networkx.DiGraph
        From ``topology_graph``.
    system : SystemSpec
        The same system.

    Returns
    -------
    tuple of two lists of dict
        ``name``, ``kind``, ``x``, ``y`` [1]; and ``source``, ``target``, ``bytes_per_s`` one way [byte/s], ``tier``
        and ``wraps``, whether it joins the two ends of an axis.

    Raises
    ------
    KeyError
        If the graph has a node of an unknown kind.
    """
    sliced = system.scale_up.topology in GRIDS and all(node[0] == "device" for node in graph)
    places = _grid(graph) if sliced else _layers(graph, system)
    nodes = [{"name": _name(node), "kind": str(node[0]), "x": x, "y": y} for node, (x, y) in places.items()]
    strides = _strides(graph) if sliced else []
    links = [
        {
            "source": _name(a),
            "target": _name(b),
            "bytes_per_s": data["bytes_per_s"],
            "tier": data["tier"],
            "wraps": _wraps(a, b, data, strides),
        }
        for a, b, data in graph.edges(data=True)
        if _name(a) < _name(b)
    ]
    return nodes, links


def _strides(graph: LinkGraph) -> list[int]:
    """Difference of device numbers of neighbours on each axis of a grid: the smallest step along it [1]."""
    n = len(device_nodes(graph))
    return [
        min((abs(int(a[1]) - int(b[1])) for a, b, d in graph.edges(data=True) if d["axis"] == k), default=n)
        for k in range(3)
    ]


def _wraps(a: tuple[Any, ...], b: tuple[Any, ...], data: dict[str, Any], strides: list[int]) -> bool:
    """Whether a link joins the two ends of an axis."""
    return bool(strides) and abs(int(a[1]) - int(b[1])) > strides[data["axis"]]


def _name(node: tuple[Any, ...]) -> str:
    return " ".join(str(part) for part in node)


def _layers(graph: LinkGraph, system: SystemSpec) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Devices in a row, or a circle per node where they are joined directly; what joins them above its middle."""
    devices = device_nodes(graph)
    node = int(system.accelerators_per_node.value)
    direct = system.scale_up.topology in ("fully_connected", "ring", "wired")
    places: dict[tuple[Any, ...], tuple[float, float]] = {}
    for device in devices:
        k, within = divmod(int(device[1]), node)
        if direct:
            angle = 2 * math.pi * within / min(node, len(devices))
            radius = max(node / 6.0, 0.6)
            across, up = math.sin(angle), math.cos(angle)
            places[device] = (k * (node + 1) + node / 2 + radius * across, -radius + radius * up)
        else:
            places[device] = (k * (node + 1) + within, HEIGHTS["device"])
    beyond = {name: k for k, name in enumerate(system.beyond)}
    levels = [
        *((kind, "") for kind in ("idle", "bridge", "switch", "wire", "host", "nic", "leaf", "spine")),
        *((kind, name) for name in beyond for kind in ("port", "hub", "core")),
    ]
    for kind, tier in levels:
        for one in sorted((n for n in graph if n[0] == kind and (not tier or n[1] == tier)), key=str):
            below = [places[n] for n in graph.predecessors(one) if n in places]
            across = sum(x for x, _ in below) / max(len(below), 1)
            # Ports stand beside the switch of their node, so that their links can be told apart.
            across += {"switch": -0.2, "nic": 0.2}.get(kind, 0.0) * node if not direct else 0.0
            places[one] = (across, HEIGHTS[kind] + TIER_HEIGHT * beyond.get(tier, 0))
    return places


def _grid(graph: LinkGraph) -> dict[tuple[Any, ...], tuple[float, float]]:
    """First axis to the right, second up, third aslant; read off the links, whose edges name their axis."""
    n = len(device_nodes(graph))
    # The step along an axis is the product of the sides of the axes before it.
    steps = _strides(graph)
    places = {}
    for device in device_nodes(graph):
        k = int(device[1])
        x = (k % steps[1]) // steps[0]
        y = (k % steps[2]) // steps[1] if steps[1] < n else 0
        z = k // steps[2] if steps[2] < n else 0
        width = steps[1] // steps[0] + 1
        places[device] = (x + z * width + OBLIQUE * y, y + LIFT * z)
    return places

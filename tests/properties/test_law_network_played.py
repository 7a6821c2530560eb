"""Algorithms played out on the topology graph, flow by flow, against their closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from hardware_specs import load_system
from simulator.arrays.columns import column
from simulator.communication.collective_algorithms import ALGORITHMS, RING_PASSES
from simulator.communication.collectives import exchange
from simulator.communication.direct_messages import all_to_all
from simulator.communication.placement import place
from simulator.communication.torus_rings import along_axes
from simulator.network.flow_replay import replay
from simulator.network.max_min_flows import Flow, Routes, link_seconds, max_min_rates
from simulator.network.played_rounds import (
    all_pairs,
    binary_tree_flows,
    direct_rounds,
    halving_doubling_rounds,
    hierarchical_rounds,
    ring_rounds,
    torus_rounds,
)
from simulator.network.system_table import system_fabric
from simulator.network.topology_graph import is_connected, topology_graph

BYTES = 3e8
COLLECTIVES = tuple(RING_PASSES)


def a(value):
    return np.array([float(value)])


def machine(topology="switch", per_node=8, nodes=1, *, latency="0 us", links=None, out=None, **up):
    """A made-up system of DGX accelerators on the fabrics given."""
    joined = {"link_bandwidth": "50 GB/s", "latency": latency, "energy_per_byte": "1 pJ/B"}
    default_links = {"fully_connected": max(per_node - 1, 1), "ring": 2}
    data = {
        "name": "made-up",
        "accelerator": "a100-sxm-80gb",
        "accelerators_per_node": str(per_node),
        "scale_up": {
            "topology": topology,
            "links": str(links or default_links.get(topology, 4)),
            **joined,
            **up,
        },
        "host_power": "1 kW",
        "max_devices": str(per_node * nodes),
    }
    if nodes > 1:
        data["scale_out"] = {"topology": "fat_tree", "links": str(per_node), **joined, **(out or {})}
    return load_system(data)


def torus(shape, wrap=True, latency="0 us"):
    n = int(np.prod(shape))
    kind = "torus" if wrap else "mesh"
    return machine(kind, n, latency=latency, links=2 * len(shape), shape=list(shape))


def placed(system, devices, ranks=None, stride=1):
    fabric = system_fabric(system, devices, fidelity="datasheet")
    return place(a(ranks or devices), a(stride), a(devices), fabric), fabric


def closed(system, devices, collective, algorithm="ring", **group):
    members, fabric = placed(system, devices, **group)
    forced = a(ALGORITHMS.index(algorithm))
    return float(exchange(collective, a(BYTES), members, fabric, forced).seconds[0])


def played(system, devices, *processes):
    return max(replay(processes, Routes(topology_graph(system, devices))).finish_s)


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_ring_on_a_switch(collective, n):
    system = machine(per_node=8, latency="5 us")
    rounds = ring_rounds(collective, [list(range(n))], BYTES)
    assert played(system, n, rounds) == pytest.approx(closed(system, n, collective), rel=1e-9)


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("n", [2, 4, 8, 16, 64])
def test_halving_and_doubling_on_a_switch(collective, n):
    system = machine(per_node=64, latency="5 us")
    rounds = halving_doubling_rounds(collective, list(range(n)), BYTES)
    form = closed(system, n, collective, "halving_doubling")
    assert played(system, n, rounds) == pytest.approx(form, rel=1e-9)


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize(("topology", "n"), [("switch", 6), ("fully_connected", 4), ("fully_connected", 7)])
def test_direct_messages(collective, topology, n):
    system = machine(topology, n, latency="5 us")
    rounds = direct_rounds(collective, list(range(n)), BYTES)
    assert played(system, n, rounds) == pytest.approx(closed(system, n, collective, "direct"), rel=1e-9)


@pytest.mark.parametrize("n", [3, 5, 7])
def test_rings_side_by_side_use_all_links_of_a_fully_connected_node(n):
    system = machine("fully_connected", n)
    orders = [[k * step % n for k in range(n)] for step in range(1, n)]
    rounds = ring_rounds("all_reduce", orders, BYTES)
    assert played(system, n, rounds) == pytest.approx(closed(system, n, "all_reduce"), rel=1e-9)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_one_exchange_of_whole_buffers(n):
    system = machine(per_node=8)
    form = closed(system, n, "all_reduce", "one_shot")
    assert played(system, n, [all_pairs(list(range(n)), BYTES)]) == pytest.approx(form, rel=1e-9)


@pytest.mark.parametrize("n", [4, 6, 8, 16, 32, 64])
def test_double_binary_tree_loads_no_port_more_than_its_form(n):
    """Pipelined, the busiest port sets the time: with an even number of ranks it sends twice the message."""
    system = machine(per_node=64)
    load = link_seconds(binary_tree_flows(list(range(n)), BYTES), Routes(topology_graph(system, n)))
    form = closed(system, n, "all_reduce", "tree")
    assert load <= form * (1 + 1e-9)
    assert load == pytest.approx(form, rel=1e-9) or n not in (4, 8, 16, 32, 64)


@pytest.mark.parametrize(
    "shape", [(4,), (2,), (4, 4), (2, 4), (3, 5), (4, 4, 4), (2, 2, 4), (4, 1, 4), (2, 3, 4)]
)
@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("collective", ["all_reduce", "reduce_scatter"])
def test_multi_ring_on_a_torus(shape, wrap, collective):
    n = int(np.prod(shape))
    system = torus(shape, wrap)
    rounds = torus_rounds(collective, shape, [wrap] * len(shape), BYTES)
    assert played(system, n, rounds) == pytest.approx(closed(system, n, collective), rel=1e-9)


@pytest.mark.parametrize("n", [4, 5, 8])
def test_both_ways_round_a_ring(n):
    system = machine("ring", n, latency="5 us")
    order = list(range(n))
    rounds = ring_rounds("all_reduce", [order, order[::-1]], BYTES)
    assert played(system, n, rounds) == pytest.approx(closed(system, n, "all_reduce"), rel=1e-9)


@pytest.mark.parametrize(("per_node", "nodes"), [(2, 2), (4, 2), (4, 4), (8, 3)])
def test_flat_ring_and_hierarchy_over_nodes(per_node, nodes):
    system = machine(per_node=per_node, nodes=nodes)
    n = per_node * nodes
    ring = ring_rounds("all_reduce", [list(range(n))], BYTES)
    assert played(system, n, ring) == pytest.approx(closed(system, n, "all_reduce"), rel=1e-9)
    members = [list(range(k * per_node, (k + 1) * per_node)) for k in range(nodes)]
    rounds = hierarchical_rounds(members, BYTES)
    assert played(system, n, rounds) == pytest.approx(
        closed(system, n, "all_reduce", "hierarchical"), rel=1e-9
    )


@pytest.mark.parametrize(
    ("system", "n"),
    [
        (machine(per_node=8), 8),
        (machine("fully_connected", 6), 6),
        (machine("ring", 8), 8),
        (machine("ring", 5), 5),
        (torus((4, 4)), 16),
        (torus((3, 4), wrap=False), 12),
        (torus((2, 4, 4)), 32),
        (machine("host", 8, accelerators_per_bridge="2", bridge_bandwidth="50 GB/s"), 8),
        (machine("host", 8, accelerators_per_bridge="4", bridge_bandwidth="20 GB/s"), 8),
        (machine(per_node=4, nodes=4), 16),
        (machine(per_node=4, nodes=4, out={"oversubscription": "4", "nodes_per_block": "2"}), 16),
        (machine(per_node=4, nodes=4, out={"topology": "rail_optimised", "rails": "4"}), 16),
    ],
    ids=lambda value: value.scale_up.topology if hasattr(value, "scale_up") else str(value),
)
def test_all_to_all(system, n):
    members, fabric = placed(system, n)
    form = float(all_to_all(a(BYTES), members, fabric).seconds[0])
    assert played(system, n, direct_rounds("all_to_all", list(range(n)), BYTES)) == pytest.approx(
        form, rel=1e-9
    )


def test_a_skewed_all_to_all_waits_for_its_hottest_rank():
    """Rank 0 receives twice its share from each other rank."""
    system, n = machine(per_node=8), 8
    share = BYTES / n
    rounds = [[(i, j, share * (2.0 if j == 0 else 1.0)) for i in range(n) for j in range(n) if i != j]]
    members, fabric = placed(system, n)
    form = float(all_to_all(a(BYTES), members, fabric, a(2.0)).seconds[0])
    assert played(system, n, rounds) == pytest.approx(form, rel=1e-9)


@pytest.mark.parametrize("algorithm", ["ring", "tree", "halving_doubling", "direct", "one_shot", "two_shot"])
@pytest.mark.parametrize("system", [machine(per_node=8), machine("fully_connected", 8)])
def test_closed_forms_stay_above_the_bisection(algorithm, system):
    """Half of the devices must hear what the other half holds: half the message into each half, at the very least."""
    half = set(range(4))
    graph = topology_graph(system, 8)
    cut = sum(
        d["bytes_per_s"] for x, y, d in graph.edges(data=True) if x[0] == "device" and x[1] in half and y[1] not in half
    ) if system.scale_up.topology == "fully_connected" else 4 * 200e9  # fmt: skip
    assert closed(system, 8, "all_reduce", algorithm) >= BYTES / 2 / cut


@st.composite
def small_systems(draw):
    """A system of at most 32 devices, and one axis of a plan on it: ranks and stride."""
    kind = draw(
        st.sampled_from(
            ["switch", "fully_connected", "host", "torus", "mesh", "blocks", "dragonfly", "rails"]
        )
    )
    if kind in ("torus", "mesh"):
        # Of the first four all groups lie along axes; of the others many lie across.
        shapes = [(2, 4), (4, 4), (2, 2, 4), (4, 8), (3, 4), (6, 4), (4, 6), (5, 4), (2, 3, 4), (4, 3, 2)]
        shape = draw(st.sampled_from(shapes))
        system, n = torus(shape, kind == "torus", "1 us"), int(np.prod(shape))
    elif kind in ("blocks", "dragonfly", "rails"):
        out = {
            "blocks": {"oversubscription": draw(st.sampled_from(["1", "2", "4"])), "nodes_per_block": "2"},
            "dragonfly": {"topology": "dragonfly", "oversubscription": "2", "nodes_per_block": "2"},
            "rails": {"topology": "rail_optimised", "rails": "4"},
        }[kind]
        nodes = draw(st.sampled_from([2, 4, 8]))
        system, n = machine(per_node=4, nodes=nodes, latency="1 us", out=out), 4 * nodes
    elif kind == "host":
        n = 8
        bridges = draw(st.sampled_from([{}, {"accelerators_per_bridge": "2", "bridge_bandwidth": "60 GB/s"}]))
        system = machine("host", 8, latency="1 us", **bridges)
    else:
        nodes = draw(st.sampled_from([1, 2, 4]))
        system, n = machine(kind, 4, nodes, latency="1 us"), 4 * nodes
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    ranks = draw(st.sampled_from([d for d in divisors if d > 1]))
    stride = draw(st.sampled_from([d for d in divisors if (n // ranks) % d == 0]))
    return system, n, ranks, stride


def messages(rounds):
    """All messages of a process, those of branches too."""
    for one in rounds:
        if isinstance(one, tuple):
            for branch in one:
                yield from messages(branch)
        else:
            yield from one


def rounds_of(system, n, ranks, stride, members, collective):
    """The engine's meaning of a ring on this topology, for one group."""
    from simulator.network.scenario_traffic import Traffic, _rounds

    class Columns:
        fabric = system_fabric(system, n, fidelity="datasheet")

    traffic = Traffic(
        axis="data", collective=collective, message_bytes=BYTES, count=1.0, ranks=ranks, stride=stride
    )
    group = place(a(ranks), a(stride), a(n), Columns.fabric)
    return _rounds(traffic, members, group, Columns), group


@laws(60)
@given(small_systems(), st.sampled_from(COLLECTIVES))
def test_closed_form_is_at_most_two_percent_faster_than_the_replay_of_all_groups(drawn, collective):
    """All groups of the axis run at once. Where no two share a link, form and replay agree."""
    system, n, ranks, stride = drawn
    block = ranks * stride
    groups = [
        list(range(start + offset, start + block, stride))
        for start in range(0, n, block)
        for offset in range(stride)
    ]
    routes = Routes(topology_graph(system, n))
    processes = [rounds_of(system, n, ranks, stride, members, collective)[0] for members in groups]
    meshed = system.scale_up.topology == "fully_connected" and block <= 4
    form = closed(system, n, collective, "direct" if meshed else "ring", ranks=ranks, stride=stride)
    together = max(replay(processes, routes).finish_s)
    assert together <= form * 1.02
    used = [
        {link for s, t, _ in messages(rounds) for link, _ in routes.between(s, t)[0]} for rounds in processes
    ]
    shared = any(x & y for x, y in itertools.combinations(used, 2))
    # Rings through several meshed nodes use links that the form counts as idle: it is up to G / (G - 1) slower there.
    several = system.scale_up.topology == "fully_connected" and block > 4
    grid = [column(side) for side in (*(system.scale_up.shape or ()), 1, 1, 1)[:3]]
    along = bool(along_axes(a(ranks), a(stride), tuple(grid))[0])  # elsewhere the form is an upper bound
    if not shared and stride == 1 and not several and along:
        assert together == pytest.approx(form, rel=0.01)


def wired(n, wires, latency="1 us", **more):
    ports = {}
    for one, other in wires:
        for end in (one, other):
            ports[end] = ports.get(end, 0) + 1
    links = max(count for end, count in ports.items() if isinstance(end, int))
    wiring = [{"between": [one, other]} for one, other in wires]
    return machine("wired", n, latency=latency, links=links, wiring=wiring, **more)


@st.composite
def wired_systems(draw):
    """Accelerators on any connected set of links, some of them to switches."""
    n = draw(st.sampled_from([4, 6, 8]))
    places = [*range(n), *draw(st.sampled_from([[], ["left"], ["left", "right"]]))]
    # Each place hangs on an earlier one; further links come on top, some of them side by side.
    tree = [(places[draw(st.integers(0, k - 1))], places[k]) for k in range(1, len(places))]
    pairs = st.sampled_from(list(itertools.combinations(places, 2)))
    system = wired(n, [*tree, *draw(st.lists(pairs, max_size=2 * n))])
    ranks = draw(st.sampled_from([d for d in range(2, n + 1) if n % d == 0]))
    stride = draw(st.sampled_from([d for d in range(1, n + 1) if (n // ranks) % d == 0]))
    return system, n, ranks, stride


@laws(40)
@given(wired_systems(), st.sampled_from((*COLLECTIVES, "all_to_all")))
def test_links_declared_one_by_one_are_never_faster_than_the_replay(drawn, collective):
    system, n, ranks, stride = drawn
    block = ranks * stride
    groups = [list(range(s + o, s + block, stride)) for s in range(0, n, block) for o in range(stride)]
    if collective == "all_to_all":
        members, fabric = placed(system, n, ranks=ranks, stride=stride)
        form = float(all_to_all(a(BYTES), members, fabric).seconds[0])
        processes = [direct_rounds(collective, group, BYTES) for group in groups]
    else:
        form = closed(system, n, collective, ranks=ranks, stride=stride)
        processes = [rounds_of(system, n, ranks, stride, group, collective)[0] for group in groups]
    assert played(system, n, *processes) <= form * 1.02


def test_known_topologies_as_links():
    """A ring, a switch and a fully connected node written link by link take what they take by name."""
    n = 6
    around = wired(n, [(i, (i + 1) % n) for i in range(n)], "5 us")
    star = wired(n, [(i, "hub") for i in range(n)], "5 us")
    for collective in COLLECTIVES:
        ring = closed(machine("ring", n, latency="5 us"), n, collective)
        assert closed(around, n, collective) == pytest.approx(ring, rel=1e-12)
        switch = closed(machine("switch", n, latency="5 us", links=1), n, collective)
        assert closed(star, n, collective) == pytest.approx(switch, rel=1e-12)
    mesh = wired(n, list(itertools.combinations(range(n), 2)))
    named = machine("fully_connected", n, latency="1 us")
    forms = []
    for system in (mesh, named):
        members, fabric = placed(system, n)
        forms.append(float(all_to_all(a(BYTES), members, fabric).seconds[0]))
    assert forms[0] == pytest.approx(forms[1], rel=1e-12)


@laws(40)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12), st.integers(0, 2**31)
)
def test_fair_rates_fill_links_and_starve_nobody(pairs, seed):
    """No link carries more than it can, and each flow crosses a full link on which no other flow is faster."""
    rates_of = np.random.default_rng(seed).uniform(1.0, 10.0, 6)
    flows = [
        Flow(source=0, target=1, size_bytes=1.0, latency_s=0.0, links=tuple({x: 1.0, y: 1.0}.items()))
        for x, y in pairs
    ]
    rates = max_min_rates(flows, rates_of)
    load = np.zeros(6)
    for flow, rate in zip(flows, rates, strict=True):
        for link, share in flow.links:
            load[link] += share * rate
    assert np.all(load <= rates_of * (1 + 1e-9))
    for flow, rate in zip(flows, rates, strict=True):
        full = [link for link, _ in flow.links if load[link] >= rates_of[link] * (1 - 1e-9)]
        assert any(
            all(rate >= r * (1 - 1e-9) for f, r in zip(flows, rates, strict=True) if link in dict(f.links))
            for link in full
        )


@laws(30)
@given(small_systems())
def test_graphs_are_connected_and_links_have_both_ways(drawn):
    system, n, *_ = drawn
    graph = topology_graph(system, n)
    assert is_connected(graph)
    for x, y, data in graph.edges(data=True):
        assert graph.edges[y, x]["bytes_per_s"] == data["bytes_per_s"] > 0


def test_bytes_on_links_are_those_of_the_messages():
    system, n = machine(per_node=4, nodes=2), 8
    routes = Routes(topology_graph(system, n))
    rounds = ring_rounds("all_reduce", [list(range(n))], BYTES)
    done = replay([rounds], routes)
    sent = sum(size for one in rounds for _, _, size in one)
    edges = list(routes.index)
    out = sum(b for e, b in zip(edges, done.link_bytes, strict=True) if e[0][0] == "device")
    back = sum(b for e, b in zip(edges, done.link_bytes, strict=True) if e[1][0] == "device")
    assert out == pytest.approx(sent, rel=1e-9)
    assert back == pytest.approx(sent, rel=1e-9)

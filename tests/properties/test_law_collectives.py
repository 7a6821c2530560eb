"""Collectives: the closed forms against the algorithm played out, lower bounds, limits, monotony."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws
from played_collectives import play_hierarchical_all_reduce, play_ring

from simulator.arrays.columns import AlgorithmColumns, FabricColumns, TierColumns
from simulator.communication.collective_algorithms import (
    ALGORITHMS,
    RING_PASSES,
    ring_sent_bytes,
    ring_steps,
    tree_steps,
)
from simulator.communication.collective_time import collective_time, transfer_time
from simulator.communication.collectives import exchange, rooted_exchange
from simulator.communication.direct_messages import all_to_all, stage_message
from simulator.communication.placement import FULLY_CONNECTED, RING, TORUS, place, rank_bandwidth

COLLECTIVES = tuple(RING_PASSES)
OFFERED = ("ring", "direct", "tree", "in_switch", "one_shot", "two_shot", "halving_doubling")
messages = st.floats(1.0, 1e11)


def a(value):
    return np.array([float(value)])


COEFFICIENTS = tuple(AlgorithmColumns.__dataclass_fields__)


def algorithm(**numbers):
    """An algorithm on offer at full bandwidth, without latency where nothing else is said."""
    ideal = {"offered": 1.0, "efficiency": 1.0, "bridge_efficiency": 1.0}
    return AlgorithmColumns(**{name: a(numbers.get(name, ideal.get(name, 0.0))) for name in COEFFICIENTS})


def tier(**numbers):
    """A tier whose figures are 1 where nothing else is said; it has no host bridges and offers every algorithm."""
    plain = {"in_switch": 0.0, "topology": 0.0, "bridge_bytes_per_s": math.inf}
    names = [name for name in TierColumns.__dataclass_fields__ if name not in ("algorithms", "wired")]
    figures = {name: a(numbers.get(name, plain.get(name, 1.0))) for name in names}
    offered = numbers.get("algorithms", {n: algorithm() for n in OFFERED})
    return TierColumns(**figures, algorithms=offered)


@st.composite
def fits(draw):
    return algorithm(
        efficiency=draw(st.floats(0.1, 1.0)),
        bridge_efficiency=draw(st.floats(0.1, 1.0)),
        base_latency_s=draw(st.floats(0.0, 1e-4)),
        step_latency_s=draw(st.floats(0.0, 1e-4)),
        ramp=draw(st.floats(0.0, 2.0)),
        own_chunk=draw(st.floats(0.0, 1.0)),
    )


@st.composite
def tiers(draw):
    return tier(
        topology=draw(st.sampled_from([0.0, FULLY_CONNECTED, RING])),
        link_bytes_per_s=draw(st.floats(1e8, 1e12)),
        links=draw(st.integers(1, 18)),
        in_switch=draw(st.booleans()),
        oversubscription=draw(st.sampled_from([1.0, 2.0, 4.0])),
        block=draw(st.sampled_from([1, 2, 4])),
        bridge=draw(st.sampled_from([1, 2, 4])),
        bridge_bytes_per_s=draw(st.sampled_from([math.inf, 1e10])),
        algorithms={
            name: draw(fits()) for name in draw(st.sampled_from([OFFERED, OFFERED[:2], OFFERED[:4]]))
        },
        compute_share=0.0,
    )


@st.composite
def fabrics(draw):
    return FabricColumns(
        accelerators_per_node=a(draw(st.sampled_from([1, 2, 4, 8]))),
        max_devices=a(1e6),
        inner=draw(tiers()),
        outer=draw(tiers()),
    )


groups = st.tuples(st.sampled_from([1, 2, 4, 8, 16, 32]), st.sampled_from([1, 2, 4, 8, 16]))


def put(ranks, stride, fabric):
    """Placement of a group that fills the devices in use, with whole nodes where there are several."""
    node = float(fabric.accelerators_per_node[0])
    devices = ranks * stride if ranks * stride <= node else math.ceil(ranks * stride / node) * node
    return place(a(ranks), a(stride), a(devices), fabric)


def seconds(collective, message, group, fabric):
    return float(exchange(collective, a(message), put(*group, fabric), fabric).seconds[0])


@laws(60)
@given(st.sampled_from(COLLECTIVES), st.integers(1, 12), messages)
def test_ring_closed_form_is_the_ring_played_out(collective, n, message):
    played = play_ring(collective, n, message)
    passes = RING_PASSES[collective]
    volume = float(ring_sent_bytes(message_bytes=a(message), ranks=a(n), passes=passes)[0])
    for rank in range(n):
        assert played.sent[rank] == pytest.approx(volume, rel=1e-12)
        assert played.received[rank] == pytest.approx(volume, rel=1e-12)
    assert sum(played.link_bytes.values()) == pytest.approx(n * volume, rel=1e-12)
    assert played.n_steps == float(ring_steps(ranks=a(n), passes=passes)[0])
    everyone = frozenset(range(n))
    for rank in range(n):
        held = played.held[rank]
        if collective == "all_reduce":
            assert held == dict.fromkeys(range(n), everyone)
        elif collective == "all_gather":
            assert held == {c: frozenset([c]) for c in range(n)}
        else:
            assert sum(held[c] == everyone for c in held) >= 1


@laws(30)
@given(st.integers(1, 8), st.integers(1, 5), messages)
def test_hierarchical_all_reduce_is_the_algorithm_played_out(inner, outer, message):
    """Inside: reduce-scatter and all-gather of the message; across: all-reduce of the message over ranks per node."""
    played_inner, played_outer = play_hierarchical_all_reduce(inner, outer, message)
    everyone = frozenset(range(inner * outer))
    for held in played_outer.held.values():
        assert held == dict.fromkeys(range(inner * outer), everyone)
    plain = tier(link_bytes_per_s=1e9, algorithms={"ring": algorithm(), "direct": algorithm()})
    fabric = FabricColumns(accelerators_per_node=a(inner), max_devices=a(1e6), inner=plain, outer=plain)
    layered = a(ALGORITHMS.index("hierarchical"))
    done = exchange("all_reduce", a(message), put(inner * outer, 1, fabric), fabric, layered)
    for rank in everyone:
        assert played_inner.sent[rank] == pytest.approx(float(done.inner_bytes[0]), rel=1e-12)
        assert played_outer.sent[rank] == pytest.approx(float(done.outer_bytes[0]), rel=1e-12)
        assert played_inner.sent[rank] == played_inner.received[rank]
        assert played_outer.sent[rank] == played_outer.received[rank]
    # Without latencies the time is the bytes over the bandwidth of each tier.
    rate = 1e9
    total = (played_inner.sent[0] + played_outer.sent[0]) / rate
    assert float(done.seconds[0]) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("n", range(1, 33))
def test_tree_depth(n):
    """Up and down a binary tree of n leaves: the depth is counted by halving."""
    depth, left = 0, n
    while left > 1:
        left, depth = (left + 1) // 2, depth + 1
    assert float(tree_steps(ranks=a(n))[0]) == 2 * depth


@laws(100)
@given(st.sampled_from(COLLECTIVES), messages, groups, fabrics(), st.sampled_from(range(len(ALGORITHMS))))
def test_never_below_the_lower_bound_of_its_class(collective, message, group, fabric, forced):
    """A rank takes in all that it lacks through its own ports; a node through the ports that its ranks share.

    Where no switch adds, an all-reduce needs both halves: 2 (n - 1)/n of the message; where one does, the message.
    """
    ranks, stride = group
    placed = put(ranks, stride, fabric)
    inner, outer = float(placed.inner[0]), float(placed.outer[0])
    passes = RING_PASSES[collective]
    adds = collective == "all_reduce" and fabric.inner.in_switch[0] > 0 and inner > 1 and outer == 1
    own = message if adds else passes * (ranks - 1) / ranks * message
    links = fabric.inner.links[0] * fabric.inner.link_bytes_per_s[0]
    bound = own / links if outer == 1 else 0.0
    if outer > 1:
        shared = inner * fabric.outer.links[0] * fabric.outer.link_bytes_per_s[0]
        added = collective == "all_reduce" and fabric.outer.in_switch[0] > 0
        bound = max(bound, (message if added else passes * (outer - 1) / outer * message) / shared)
    took = exchange(collective, a(message), placed, fabric, a(forced)).seconds[0]
    assert took >= bound * (1 - 1e-12)
    assert took < math.inf


@laws(40)
@given(st.sampled_from(COLLECTIVES), messages, st.sampled_from([1, 2, 8]), fabrics())
def test_one_rank_and_no_bytes_take_no_time(collective, message, stride, fabric):
    alone = exchange(collective, a(message), put(1, stride, fabric), fabric)
    assert (alone.seconds[0], alone.inner_bytes[0], alone.outer_bytes[0]) == (0.0, 0.0, 0.0)
    nothing = exchange(collective, a(0), put(8, stride, fabric), fabric)
    assert (nothing.seconds[0], nothing.inner_bytes[0], nothing.outer_bytes[0]) == (0.0, 0.0, 0.0)
    for done in (
        all_to_all(a(message), put(1, stride, fabric), fabric),
        all_to_all(a(0), put(8, stride, fabric), fabric),
        rooted_exchange("broadcast", a(message), put(1, stride, fabric), fabric),
        rooted_exchange("reduce", a(0), put(8, stride, fabric), fabric),
    ):
        assert (done.seconds[0], done.inner_bytes[0], done.outer_bytes[0]) == (0.0, 0.0, 0.0)
    message = stage_message(a(0), a(stride), a(4), fabric)
    assert (message.inside_s[0], message.across_s[0]) == (0.0, 0.0)


@laws(100)
@given(st.sampled_from(COLLECTIVES), messages, st.floats(1.0, 100.0), groups, fabrics())
def test_more_bytes_are_never_faster(collective, message, factor, group, fabric):
    more = seconds(collective, message * factor, group, fabric)
    assert more >= seconds(collective, message, group, fabric) * (1 - 1e-12)
    placed = put(*group, fabric)
    little, much = (all_to_all(a(m), placed, fabric).seconds[0] for m in (message, message * factor))
    assert much >= little * (1 - 1e-12)


@laws(100)
@given(
    st.sampled_from(COLLECTIVES),
    messages,
    groups,
    fabrics(),
    st.sampled_from(["inner", "outer"]),
    st.sampled_from(["link_bytes_per_s", "links", "bridge_bytes_per_s", "efficiency", "bridge_efficiency"]),
    st.floats(1.0, 10.0),
)
def test_more_bandwidth_is_never_slower(collective, message, group, fabric, side, name, factor):
    one = getattr(fabric, side)
    if name in COEFFICIENTS:
        better = {
            key: replace(fit, **{name: np.minimum(getattr(fit, name) * factor, 1.0)})
            for key, fit in one.algorithms.items()
        }
        faster = replace(fabric, **{side: replace(one, algorithms=better)})
    else:
        faster = replace(fabric, **{side: replace(one, **{name: getattr(one, name) * factor})})
    limit = seconds(collective, message, group, fabric) * (1 + 1e-12)
    assert seconds(collective, message, group, faster) <= limit
    here, there = (stage_message(a(message), a(group[1]), a(group[0]), f) for f in (fabric, faster))
    assert there.inside_s[0] <= here.inside_s[0] * (1 + 1e-12)
    assert there.across_s[0] <= here.across_s[0] * (1 + 1e-12)


@laws(60)
@given(st.sampled_from(COLLECTIVES), messages, groups, fabrics())
def test_a_switch_that_adds_is_never_slower(collective, message, group, fabric):
    without = replace(fabric, inner=replace(fabric.inner, in_switch=a(0)))
    with_it = replace(fabric, inner=replace(fabric.inner, in_switch=a(1)))
    limit = seconds(collective, message, group, without) * (1 + 1e-12)
    assert seconds(collective, message, group, with_it) <= limit


@laws(60)
@given(st.sampled_from(COLLECTIVES), messages, groups, fabrics(), st.floats(1e-3, 1e3))
def test_time_unit(collective, message, group, fabric, k):
    def stretched(one):
        return replace(
            one,
            link_bytes_per_s=one.link_bytes_per_s / k,
            bridge_bytes_per_s=one.bridge_bytes_per_s / k,
            algorithms={
                name: replace(
                    fit, base_latency_s=fit.base_latency_s * k, step_latency_s=fit.step_latency_s * k
                )
                for name, fit in one.algorithms.items()
            },
        )

    other = replace(fabric, inner=stretched(fabric.inner), outer=stretched(fabric.outer))
    expected = k * seconds(collective, message, group, fabric)
    assert seconds(collective, message, group, other) == pytest.approx(expected, rel=1e-9, abs=0.0)


@laws(60)
@given(
    st.floats(0, 1e12), st.integers(0, 100), st.floats(1e6, 1e12), st.floats(0.1, 1.0),
    st.floats(0, 1e-3), st.floats(0, 1e-3), st.floats(0, 3),
)  # fmt: skip
def test_time_of_a_transfer_is_at_least_its_bytes_and_its_latency(sent, n, rate, eff, base, step, ramp):
    moving = transfer_time(sent_bytes=a(sent), bandwidth_bytes_per_s=a(rate), efficiency=a(eff))
    took = float(
        collective_time(
            transfer_s=moving, n_steps=a(n), base_latency_s=a(base), step_latency_s=a(step), ramp=a(ramp)
        )[0]
    )
    if sent == 0:
        assert took == 0.0
    else:
        assert took >= max(sent / rate, base + n * step) * (1 - 1e-12)


@laws(60)
@given(st.integers(1, 64), st.sampled_from([1, 2, 4, 8, 16]), tiers(), st.booleans())
def test_bandwidth_of_a_rank_is_at_most_all_its_links(ranks, stride, one, wrap):
    for code in (0.0, FULLY_CONNECTED, RING, TORUS):
        rate = rank_bandwidth(
            ranks=a(ranks), stride=a(stride), accelerators_per_node=a(64), topology=a(code),
            link_bytes_per_s=one.link_bytes_per_s, links=one.links, axis_0=a(4), axis_1=a(4), axis_2=a(8),
            wrap=a(wrap),
        )  # fmt: skip
        assert 0 < rate[0] <= one.links[0] * one.link_bytes_per_s[0] * (1 + 1e-12)


@laws(100)
@given(st.integers(1, 256), st.sampled_from([1, 2, 3, 4, 6, 8, 16]), st.sampled_from([1, 2, 4, 8]))
def test_a_group_shares_no_more_of_a_node_than_it_can(ranks, stride, node):
    """Groups of consecutive blocks are laid out one by one; the worst placed one decides.

    ``inner`` ranks are together wherever a group lies, and no group touches more than ``outer`` nodes, unless each
    rank is alone anyway.
    """
    fabric = FabricColumns(accelerators_per_node=a(node), max_devices=a(1e6), inner=tier(), outer=tier())
    placed = put(ranks, stride, fabric)
    inner, outer = int(placed.inner[0]), int(placed.outer[0])
    assert 1 <= inner <= ranks
    block = ranks * stride
    groups = [range(start, start + block, stride) for start in range(0, block * node, block)]
    touched = [len({device // node for device in group}) for group in groups]
    if block <= node and node % block == 0:
        assert (inner, outer) == (ranks, 1)
    if block % node == 0 and (stride % node == 0 or node % stride == 0):
        assert inner * outer == ranks
        assert max(touched) == outer
    assert outer >= max(touched) or inner == ranks

"""Overlap inside a layer and across layers against schedules that are played out explicitly."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws, scenarios

from simulator.composition.blocks import cost_block, layer_sizes
from simulator.composition.streams import chain_of, issue_order, layer_chain, longest_path
from simulator.estimates.estimate import single_partition
from simulator.per_device.sharding import ShardDegrees, shard
from simulator.spaces.space import space_from
from workloads.backward_pass import backward
from workloads.decoder_graph import decoder_layer
from workloads.operator_graph import Operator, operators

seconds = st.floats(0.0, 10.0)


def unrolled_stack(n_layers, layer_s, gather_s, reduce_s, overlap_gather, overlap_reduce):
    """Finish of a stack of layers on one compute stream and one data stream, task by task [s].

    Issue order on the data stream: the gather of layer 0, then per layer the gather of the next one (issued
    when the layer starts) and its own reduction (when it ends). Nothing is gathered behind the last layer.
    """
    stream = compute = 0.0
    gathered = {}
    if overlap_gather:
        stream = gathered[0] = gather_s
    for i in range(n_layers):
        start = max(compute, gathered.get(i, 0.0))
        compute = start
        if not overlap_gather:
            compute += gather_s
        elif i + 1 < n_layers and gather_s > 0:
            stream = gathered[i + 1] = max(stream, start) + gather_s
        compute += layer_s
        if not overlap_reduce:
            compute += reduce_s
        elif reduce_s > 0:
            stream = max(stream, compute) + reduce_s
    return max(compute, stream if overlap_reduce and reduce_s > 0 else 0.0)


def engine_stack(n_layers, layer_s, gather_s, reduce_s, overlap_gather, overlap_reduce):
    one = [np.array([x]) for x in (layer_s, gather_s, reduce_s)]
    chain = layer_chain(
        *one,
        overlap_gather=np.array([float(overlap_gather)]),
        overlap_reduce=np.array([float(overlap_reduce)]),
    )
    return float(chain_of(np.array([float(n_layers)]), chain)[0])


@laws(200)
@given(st.integers(1, 40), seconds, seconds, seconds, st.booleans(), st.booleans())
def test_chain_of_layers_is_the_unrolled_stack(n, layer, gather, reduce, overlap_gather, overlap_reduce):
    args = (n, layer, gather, reduce, overlap_gather, overlap_reduce)
    assert engine_stack(*args) == pytest.approx(unrolled_stack(*args), rel=1e-9, abs=1e-12)


def event_simulation(issues, durations, overlap, displaced):
    """Every stream is a process that takes its operators in issue order; time advances event by event."""
    graph = nx.DiGraph()
    finish = {}
    compute = network = 0.0
    on_network = []
    exposed_total = 0.0
    for i, issue in enumerate(issues):
        d = durations[i]
        graph.add_node(i)
        for j in issue.after:
            graph.add_edge(j, i)
        if issue.is_exchange:
            # What runs again starts when its part of the layer does, unless exchanges run beside compute.
            there = compute if issue.operator.phase == "recompute" and not overlap else 0.0
            if d == 0:  # switched off: done when what it reads is done
                finish[i] = max([there, *(finish[j] for j in issue.after)])
                continue
            start = max([network, there, *(finish[j] for j in issue.after)])
            network = finish[i] = start + d
            on_network.append(i)
            if not overlap and finish[i] > compute:
                exposed_total += finish[i] - compute
                compute = finish[i]
        else:
            # Everything on the way to this kernel that ran on the network must have arrived.
            needed = [j for j in nx.ancestors(graph, i) if issues[j].is_exchange]
            arrived = max([compute, *(finish[j] for j in needed)])
            exposed_total += arrived - compute
            compute = finish[i] = arrived + d
    end = max([compute, *(finish[i] for i in finish if issues[i].is_exchange)])
    exposed_total += end - compute
    hidden = sum(durations[i] for i in on_network) - exposed_total
    return end, end + displaced * max(hidden, 0.0)


def sharded_layer(scenario, *, backwards):
    """Sharded graph of a scenario's layer and its inputs, of length one."""
    partition = single_partition(space_from(scenario))
    inputs, plan = partition.inputs, partition.inputs.plan
    graph = decoder_layer(partition.structure.layer, layer_sizes(inputs))
    if backwards:
        again = {
            op.name: plan.recompute_core if op.module == "attention_core" else plan.recompute_all
            for op in operators(graph)
        }
        graph = backward(graph, run_again=again)
    degrees = ShardDegrees(
        tensor=plan.tensor_parallel, kv_heads=inputs.model.kv_heads, sequence=plan.sequence_parallel
    )
    return shard(graph, degrees), inputs


@laws(40)
@given(scenarios(tasks=("training",)), st.booleans(), st.data())
def test_longest_path_is_the_event_simulation_on_real_graphs(scenario, backwards, data):
    graph, _ = sharded_layer(scenario, backwards=backwards)
    issues = issue_order(graph)
    n = len(issues)
    durations = data.draw(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0)), min_size=n, max_size=n))
    durations = [d if i.is_exchange else max(d, 1e-6) for d, i in zip(durations, issues, strict=True)]
    for overlap in (0.0, 1.0):
        total, exposed = longest_path(issues, [np.array([d]) for d in durations], np.array([overlap]))
        end, _ = event_simulation(issues, durations, overlap, 0.0)
        assert float(total[0]) == pytest.approx(end, rel=1e-12)
        assert sum(float(e[0]) for e in exposed) == pytest.approx(end, rel=1e-12)
        assert all(float(e[0]) >= 0 for e in exposed)


@laws(40)
@given(scenarios(tasks=("training",)), st.booleans(), st.floats(0.0, 1.0))
def test_exposed_times_sum_to_the_block_and_stay_within_it(scenario, backwards, displaced):
    graph, inputs = sharded_layer(scenario, backwards=backwards)
    block = cost_block("layer.test", graph, inputs)
    exposed = [float(c.exposed_s[0]) for c in block.operators]
    assert sum(exposed) == pytest.approx(float(block.seconds[0]), rel=1e-12)
    assert all(e >= 0 for e in exposed)
    kernels = sum(float(c.busy_s[0]) for c in block.operators if c.operator.kind != "collective")
    everything = sum(float(c.busy_s[0]) for c in block.operators)
    assert kernels * (1 - 1e-12) <= float(block.seconds[0]) <= everything * (1 + 1e-12)
    for cost in block.operators:
        if cost.operator.kind == "collective" and not scenario["plan"]["overlap_tensor_parallel"]:
            assert float(cost.exposed_s[0]) <= float(cost.busy_s[0]) * (1 + 1e-9)


def kernel(name):
    return Operator(name=name, kind="pointwise", module="test")


def test_hidden_exchanges_cost_their_share_of_the_units():
    """Kernels of 3 s and 2 s, an exchange of 2 s between them read by nobody else: 5 s, plus a quarter of 2 s."""
    graph = nx.DiGraph()
    for name in ("first", "second"):
        graph.add_node(name, operator=kernel(name))
    exchange = Operator(name="x", kind="collective", module="test", collective="all_reduce")
    graph = nx.DiGraph()
    graph.add_node("first", operator=kernel("first"))
    graph.add_node("x", operator=exchange)
    graph.add_node("second", operator=kernel("second"))
    graph.add_edge("first", "x")
    total, exposed = longest_path(
        issue_order(graph), [np.array([3.0]), np.array([2.0]), np.array([2.0])], np.ones(1), 0.25
    )
    assert float(total[0]) == 3.0 + 2.0 + 0.25 * 2.0
    assert [float(e[0]) for e in exposed] == [3.0, 0.5, 2.0]

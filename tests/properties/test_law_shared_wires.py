"""Exchanges of different axes on the same wires: against flows that share links, and the laws of sharing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from simulator import simulate
from simulator.communication.wires import Wires, wire_queue, wire_wait
from simulator.composition.data_parallel import exposed_exchange
from simulator.composition.shared_wires import StageTraffic, crowded_s
from simulator.composition.streams import layer_chain
from simulator.network.scenario_traffic import replay_scenario

SCENARIO = {
    "model": "llama-3.1-8b",
    "task": {"kind": "training", "sequence_length": 4096, "global_batch_size": 64},
    "system": "dgx-h100",
    "devices": 32,
}
seconds = st.floats(0.0, 10.0)
positive = st.floats(1e-3, 10.0)


def a(value):
    return np.array([float(value)])


def wires(inside, across):
    return Wires(inside_s=a(inside), across_s=a(across))


@pytest.mark.parametrize(
    ("plan", "least"),
    [
        # data and pipeline fill the ports, tensor has the links inside for itself: as flows
        ({"tensor_parallel": 8, "pipeline_parallel": 2}, 0.0),
        ({"tensor_parallel": 8, "pipeline_parallel": 4, "virtual_pipeline": 2}, 0.0),
        # tensor and data share the links inside; the ports of the data ring are not full, messages get more than half
        ({"tensor_parallel": 2, "pipeline_parallel": 4, "zero_stage": 1}, -0.5),
        ({"tensor_parallel": 4, "pipeline_parallel": 2, "zero_stage": 3}, -0.5),
        ({"tensor_parallel": 4, "context_parallel": 2, "zero_stage": 1}, -0.5),
    ],
)
def test_exchanges_that_start_together_take_no_longer_than_the_form_says(plan, least):
    together = [row for row in replay_scenario({**SCENARIO, "plan": plan}) if row["together"]]
    assert (
        len(together) >= (2 if plan.get("pipeline_parallel", 1) * plan["tensor_parallel"] < 32 else 1)
        or least is None
    )
    for row in together:
        assert row["gap_fraction"] <= 0.02, row
        assert row["gap_fraction"] >= (-0.02 if least == 0.0 else (least or -0.5)), row


def test_messages_beside_a_longer_exchange_take_twice_as_long():
    plan = {"tensor_parallel": 8, "pipeline_parallel": 2, "zero_stage": 1}
    rows = replay_scenario({**SCENARIO, "plan": plan})
    alone, beside = (
        next(r for r in rows if r["axis"] == "pipeline" and r["together"] == both) for both in (False, True)
    )
    assert beside["closed_form_s"] == pytest.approx(2 * alone["closed_form_s"], rel=0.02)
    assert beside["replay_s"] == pytest.approx(2 * alone["replay_s"], rel=0.02)


@laws(40)
@given(positive, seconds, seconds, seconds, seconds, st.floats(1.0, 3.0))
def test_waiting_never_falls_with_work_and_never_beats_the_wire(period, b1, b2, u1, u2, more):
    """Kernels and exchanges that they wait for take a period in which the latter fit."""
    period = period + b1 + b2

    def done(b, u, p):
        return p + float(wire_wait(wires(*b), wires(*u), a(p))[0])

    plain = done((b1, b2), (u1, u2), period)
    assert period <= plain <= period + b1 + b2 + 1e-12
    assert done((b1, b2), (u1 * more, u2), period) >= plain * (1 - 1e-12)
    assert done((b1, b2), (u1, u2), period * more) >= plain * (1 - 1e-12)
    # more of the exchange that is waited for is a longer period, too
    extra = b1 * (more - 1)
    assert done((b1 * more, b2), (u1, u2), period + extra) >= plain * (1 - 1e-12)
    for alone in ((b1, b2, 0, 0), (0, 0, u1, u2), (b1, 0, 0, u2)):
        assert done(alone[:2], alone[2:], period) == period


@laws(40)
@given(positive, positive, st.floats(0, 1), st.floats(0, 1), seconds, seconds, st.floats(1.0, 50.0))
def test_a_hidden_exchange_waits_for_no_more_than_the_others(window, exchange, f1, f2, b1, b2, buckets):
    hidden, others = wires(f1 * exchange, f2 * exchange), wires(b1, b2)
    queue = wire_queue(a(exchange), hidden, others)
    assert 0 <= queue[0] <= max(b1, b2)
    inside, across = f1 * exchange + b1 * (f1 > 0), f2 * exchange + b2 * (f2 > 0)
    assert exchange + queue[0] >= max(inside, across) * (1 - 1e-12)
    kinds = {"exchange_s": a(exchange), "window_s": a(window), "buckets": a(buckets), "compute_share": a(0)}
    plain, beside = (
        float(exposed_exchange(**kinds, overlap=a(1), queue_s=q, wait_s=w)[0])
        for q, w in ((a(0), a(0)), (queue, wire_wait(others, hidden, a(window))))
    )
    open_s = float(exposed_exchange(**kinds, overlap=a(0))[0])
    assert plain <= beside <= open_s * (1 + 1e-12)


@laws(40)
@given(positive, seconds, seconds, st.floats(0, 1))
def test_a_chain_of_layers_is_no_shorter_than_its_wire_is_busy(kernels, exchanges, gather, part):
    """Layers of kernels and exchanges that they wait for, parameters of the next one gathered meanwhile on one wire."""
    layer, on_wire = kernels + exchanges, part * gather
    own, hidden = wires(exchanges, 0), wires(on_wire, 0)
    _, two, three = layer_chain(
        a(layer) + wire_wait(own, hidden, a(layer)),
        a(gather),
        a(0),
        overlap_gather=a(1),
        overlap_reduce=a(0),
        queue_s=wire_queue(a(gather), hidden, own),
    )
    period = float((three - two)[0])
    busy = exchanges + on_wire if on_wire > 0 else 0.0
    assert period >= max(layer, gather, busy) * (1 - 1e-9)
    assert period <= (layer + gather + exchanges) * (1 + 1e-9)


def _overlap(on):
    return {"overlap_param_gather": on, "overlap_grad_reduce": on}


def test_tensor_exchanges_and_parameters_share_the_links_of_a_node():
    plan = {"tensor_parallel": 4, "zero_stage": 3, "sequence_parallel": True}
    one_node = {**SCENARIO, "devices": 8, "plan": plan}
    narrow = {"system.scale_up.link_bandwidth": "0.2x"}
    together = simulate({**one_node, **narrow})
    apart = simulate(
        {**one_node, **narrow, "plan": {**plan, "overlap_param_gather": False, "overlap_grad_reduce": False}}
    )
    # hidden exchanges still pay, but not as if the tensor ranks had left them the links
    assert together.step_time_s < apart.step_time_s
    assert together.time["data_parallel_s"] > 0
    alone = simulate({**one_node, **narrow, "plan": {"zero_stage": 3, "tensor_parallel": 1}})
    assert alone.time["tensor_parallel_s"] == 0.0


def test_messages_between_stages_are_slower_beside_sharded_parameters():
    plan = {"tensor_parallel": 8, "pipeline_parallel": 2, "zero_stage": 3}
    times = [
        simulate({**SCENARIO, "plan": {**plan, **_overlap(on)}}).time["pipeline_p2p_s"]
        for on in (True, False)
    ]
    assert times[1] < times[0] <= 2 * times[1]


def test_hidden_messages_wait_for_full_wires():
    """Of 8.5 s of a stage the ports are busy for 6 + 2: half of a message of 1 s finds no room."""
    traffic = StageTraffic(hidden=wires(0, 6), own=wires(0, 2), period_s=a(8.5))
    assert crowded_s(wires(0, 1), traffic)[0] == pytest.approx(0.5)
    assert crowded_s(wires(0, 0.25), traffic)[0] == 0.0
    assert crowded_s(wires(1, 0), traffic)[0] == 0.0


def test_a_replay_runs_on_the_figures_of_the_scenario():
    plan = {"tensor_parallel": 8, "pipeline_parallel": 2}
    narrow = {"system.scale_out.link_bandwidth": "0.5x", "system.scale_up.links": "9"}
    rows = replay_scenario({**SCENARIO, "plan": plan, **narrow})
    wide = replay_scenario({**SCENARIO, "plan": plan})
    for row, before in zip(rows, wide, strict=True):
        assert abs(row["gap_fraction"]) < 0.02
        if row["message_bytes"] > 1e6:  # others are latency
            assert row["replay_s"] > 1.5 * before["replay_s"]

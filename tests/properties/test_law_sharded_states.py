"""ZeRO: what each stage stores and sends, counted from memory and from the energy of the network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from hardware_specs import load_system
from simulator import simulate
from workloads.catalog import load_model
from workloads.parameter_counts import parameters

N_LAYERS = 4
E_PER_BYTE = load_system("dgx-a100-80gb").scale_up.energy_per_byte.value


def plan(stage, data, micro_batches, precision="bf16", recompute="none"):
    return {
        "model": "llama-2-7b",  # the head has its own matrix: every parameter is held once
        "model.n_layers": N_LAYERS,  # so few that every plan fits, and no search for one that does takes place
        "task": {
            "kind": "training",
            "sequence_length": 128,
            "global_batch_size": data * micro_batches,
        },
        "system": "dgx-a100-80gb",
        "devices": data,
        "plan": {"zero_stage": stage, "precision": precision, "recompute": recompute},
    }


N = parameters(load_model("llama-2-7b").model_copy(update={"n_layers": N_LAYERS}))["total"]


@laws(40)
@given(
    st.integers(0, 3),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 6),
    st.sampled_from([("bf16", 2, 4), ("fp16", 2, 2), ("fp32", 4, 4)]),
    st.sampled_from(["none", "full"]),
)
def test_bytes_sent_per_device_and_step(stage, d, m, types, recompute):
    """(d - 1)/d of the parameters, in passes, each in the width of what is sent.

    Stage 0: an all-reduce of gradients, two passes. Stage 1: gradients scattered, weights gathered. Stage 2: gradients
    scattered every micro-batch. Stage 3: weights gathered every micro-batch forward and again backward.
    """
    precision, weight, grad = types
    e = simulate(plan(stage, d, m, precision, recompute))
    sent = e.energy["network_j"] / E_PER_BYTE / d
    passes = {
        0: 2 * grad,
        1: grad + weight,
        2: m * grad + weight,
        3: m * (grad + 2 * weight),
    }[stage]
    assert sent == pytest.approx((d - 1) / d * N * passes, rel=1e-9, abs=1e-6)


@laws(30)
@given(st.integers(0, 3), st.sampled_from([1, 2, 4, 8]))
def test_bytes_stored_per_device(stage, d):
    """bf16 weights 2, fp32 gradients 4, fp32 master copy and two moments 12 bytes; divided from stages 3, 2, 1 on."""
    memory = simulate(plan(stage, d, 2)).memory
    assert memory["weights_bytes"] == pytest.approx(2 * N / (d if stage >= 3 else 1), rel=1e-12)
    assert memory["gradients_bytes"] == pytest.approx(4 * N / (d if stage >= 2 else 1), rel=1e-12)
    assert memory["optimizer_bytes"] == pytest.approx(12 * N / (d if stage >= 1 else 1), rel=1e-12)


@laws(30)
@given(st.integers(1, 3), st.sampled_from([(4, 2), (8, 2), (8, 4), (8, 1), (8, 8)]), st.integers(1, 3))
def test_hybrid_sharding_sends_shards_between_copies(stage, ranks, m):
    """Sharded over g ranks as before; then the d/g holders of a shard sum its N/g gradients, in two passes."""
    d, g = ranks
    scenario = plan(stage, d, m)
    scenario["plan"]["zero_group"] = g
    e = simulate(scenario)
    inside = (g - 1) / g * N
    copies = 2 * (d / g - 1) / (d / g) * N / g
    times = 1 if stage == 1 else m
    gathers = 2 * m if stage == 3 else 1
    sent = times * 4 * (inside + copies) + gathers * 2 * inside
    assert e.energy["network_j"] / E_PER_BYTE / d == pytest.approx(sent, rel=1e-9, abs=1e-6)
    assert e.memory["optimizer_bytes"] == pytest.approx(12 * N / g, rel=1e-12)
    assert e.memory["gradients_bytes"] == pytest.approx(4 * N / (g if stage >= 2 else 1), rel=1e-12)
    assert e.memory["weights_bytes"] == pytest.approx(2 * N / (g if stage == 3 else 1), rel=1e-12)


def test_sharding_within_a_node_sends_gradients_alone_between_nodes():
    """Two nodes, slow network, 16-bit gradients: halves of three passes of 2 N/8 bytes, against those of two.

    A node is sent the other one's half of weights twice and of gradients once; in hybrid sharding its halves of
    gradients' shards go there and come back.
    """
    scenario = {**plan(3, 16, 1, "fp16"), "system.scale_out.link_bandwidth": "0.01x"}
    scenario["plan"] |= {"overlap_grad_reduce": False, "overlap_param_gather": False}
    whole = simulate(scenario).time["data_parallel_s"]
    scenario["plan"]["zero_group"] = 8
    assert simulate(scenario).time["data_parallel_s"] / whole == pytest.approx(2 / 3, rel=0.1)
    scenario["plan"]["zero_group"] = 16
    assert simulate(scenario).time["data_parallel_s"] == whole


@laws(20)
@given(st.integers(0, 3), st.sampled_from([2, 4, 8]), st.integers(1, 4))
def test_time_of_the_exchanges_is_at_least_their_bytes_over_the_links(stage, d, m):
    """Nothing hidden: exposed data-parallel time >= bytes sent / one-way bandwidth of a device."""
    scenario = plan(stage, d, m)
    scenario["plan"] |= {"overlap_grad_reduce": False, "overlap_param_gather": False}
    e = simulate(scenario)
    fabric = load_system("dgx-a100-80gb").scale_up
    rate = fabric.link_bandwidth.value * fabric.links.value
    sent = e.energy["network_j"] / E_PER_BYTE / d
    assert e.time["data_parallel_s"] >= sent / rate * (1 - 1e-9)


def test_weights_are_gathered_once_per_micro_batch_and_pass():
    """Stage 3 sends four times as much for four times the micro-batches; stage 1 once per step."""
    one, four = (simulate(plan(3, 8, m)).energy["network_j"] for m in (1, 4))
    assert four == pytest.approx(4 * one, rel=1e-9)
    first, second = (simulate(plan(1, 8, m)).energy["network_j"] for m in (1, 4))
    assert first == pytest.approx(second, rel=1e-12)


def sharded(m=2, **keys):
    base = plan(3, 8, m)
    base["task"]["sequence_length"] = 1024
    return {**base, "plan": {**base["plan"], **keys}}


def test_weights_that_are_kept_are_gathered_once_a_micro_batch():
    """16-bit gradients are sent as such: two passes of 2 bytes and one of gradients, against one and one."""
    kept, again = (simulate(sharded(reshard_after_forward=r)) for r in (False, True))
    sent = [e.energy["network_j"] / E_PER_BYTE / 8 / (N * 7 / 8) for e in (kept, again)]
    assert sent[1] - sent[0] == pytest.approx(2 * 2, rel=1e-9)
    assert kept.step_time_s < again.step_time_s


def test_memory_of_weights_that_are_kept_or_prefetched():
    """Two bytes a parameter of all layers and ends; ahead are as many layers as the plan says, if there are."""
    deep = {"model.n_layers": 24, "model.vocab": 8}
    shape = load_model("llama-2-7b").model_copy(update={"n_layers": 24, "vocab": 8})
    one = 2 * parameters(shape)["total"] / 24  # the ends are tiny

    def buffers(**keys):
        return simulate({**sharded(**keys), **deep}).memory["buffers_bytes"]

    assert buffers(prefetch_layers=5) - buffers(prefetch_layers=1) == pytest.approx(4 * one, rel=1e-3)
    assert buffers(prefetch_layers=99) - buffers(prefetch_layers=1) == pytest.approx(22 * one, rel=1e-3)
    kept = buffers(reshard_after_forward=False)
    assert kept - buffers(prefetch_layers=1) == pytest.approx(22 * one, rel=1e-3)


def test_gathers_without_prefetch_are_in_the_open():
    """One layer ahead is as good as three; none is as slow as no overlap."""
    none, one, three = (simulate(sharded(prefetch_layers=n)).step_time_s for n in (0, 1, 3))
    assert three == one < none
    open_s = simulate(sharded(overlap_param_gather=False)).step_time_s
    assert none == pytest.approx(open_s, rel=1e-12)


@laws(20)
@given(st.integers(0, 1), st.sampled_from([2, 8]), st.integers(5, 9), st.booleans())
def test_buckets_send_the_same_bytes_and_start_more_often(stage, d, exponent, overlap):
    base = plan(stage, d, 1)
    base["plan"]["overlap_grad_reduce"] = overlap
    whole = simulate(base)
    base["plan"]["gradient_bucket"] = 10**exponent
    parts = simulate(base)
    assert parts.energy["network_j"] == pytest.approx(whole.energy["network_j"], rel=1e-9)
    if not overlap:
        assert parts.step_time_s >= whole.step_time_s * (1 - 1e-12)
    finer = simulate({**base, "plan": {**base["plan"], "gradient_bucket": 10 ** (exponent - 1)}})
    busy = [e.operators.set_index("name").loc["gradients.exchange"].busy_s for e in (parts, finer)]
    assert busy[1] >= busy[0] * (1 - 1e-12)


def test_a_bucket_that_is_sent_narrower_is_a_copy():
    """10^6 gradients of 4 bytes that are sent in 2."""
    wide = plan(1, 8, 1, precision={"gradients": "fp32", "communication": "bf16"})
    bucketed = {**wide, "plan": {**wide["plan"], "gradient_bucket": 10**6}}
    before, after = (simulate(s).memory["buffers_bytes"] for s in (wide, bucketed))
    assert after - before == pytest.approx(2e6, rel=1e-9)

"""Offload: what leaves the device, what copies cost, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import changed, laws

from hardware_specs import ScenarioError
from simulator import simulate, sweep
from simulator.composition.memory import OWNERS
from simulator.scenarios.offload import OFFLOADED, offload_text, offload_tiers

STEP = {
    "model": "gpt3-175b",
    "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": 16},
    "system": "dgx-a100-80gb",
    "devices": 64,
    "plan": {"tensor_parallel": 8, "pipeline_parallel": 8, "recompute": "full"},
}
LINK = 15.75e9


def step(offload, **changes):
    return simulate(changed(STEP, plan__offload=offload, **changes))


@laws(20)
@given(st.sets(st.sampled_from(OFFLOADED)), st.sampled_from(("host", "nvme")))
def test_what_leaves_the_device_is_elsewhere(owners, tier):
    """Bytes that an owner loses are on the tier, less what passes through; nothing gets faster."""
    here, away = step("none"), step({owner: tier for owner in owners})
    gone = sum(here.memory[f"{o}_bytes"] - away.memory[f"{o}_bytes"] for o in OFFLOADED)
    assert away.offload[f"{tier}_bytes"] == pytest.approx(gone, rel=1e-9)
    assert away.memory["peak_bytes"] <= here.memory["peak_bytes"]
    assert away.step_time_s >= here.step_time_s
    assert away.time["offload_s"] >= 0
    assert sum(away.time.values()) == pytest.approx(away.step_time_s, rel=1e-9)
    assert sum(away.memory[f"{o}_bytes"] for o in OWNERS) == pytest.approx(away.memory["peak_bytes"])
    assert away.operators["exposed_s"].sum() == pytest.approx(away.step_time_s, rel=1e-9)


def test_an_optimizer_on_the_host_is_read_and_written_once():
    """Both directions at once: the states of the stage over the link, less the update that runs beside."""
    here, away = step("none"), step("optimizer", plan__overlap_offload=False)
    states = here.memory["optimizer_bytes"]
    assert away.time["offload_s"] == pytest.approx(states / LINK, rel=1e-9)
    beside = step("optimizer").time["offload_s"]
    layers = 12
    hidden = away.time["optimizer_s"] * (1 - 1 / layers)
    assert beside == pytest.approx(states / LINK - hidden, rel=1e-9)


def test_activations_go_and_come_once_for_each_micro_batch():
    """Without overlap, m micro-batches times both ways times what one keeps on the slowest stage."""
    away = step("activations", plan__overlap_offload=False, plan__pipeline_parallel=1, devices=8)
    held = step("none", plan__pipeline_parallel=1, devices=8)
    kept = held.memory["activations_bytes"] - away.memory["activations_bytes"]  # one micro-batch in flight
    assert away.time["offload_s"] == pytest.approx(16 * 2 * kept / LINK, rel=1e-9)


HOST_BYTES_PER_S = 409.6e9 / 8


def on_host(offload="optimizer", **changes):
    return step(offload, **{"plan__optimizer_step": "host", "plan__zero_stage": 1, **changes})


def test_a_host_updates_at_the_speed_of_its_memory():
    """Each pass moves what it moves on the device, over a device's share of the host's channels."""
    here, there = step("none", plan__zero_stage=1), on_host()
    update = here.operators[here.operators["phase"] == "optimizer"]
    assert there.time["optimizer_s"] == pytest.approx(update["bytes"].sum() / HOST_BYTES_PER_S, rel=1e-9)
    rows = there.operators[there.operators["phase"] == "optimizer"]
    assert set(rows["stream"]) == {"host"} and set(rows["bound"]) == {"memory"}
    assert rows["bytes"].sum() == pytest.approx(update["bytes"].sum())
    assert there.step_time_s == pytest.approx(there.operators["exposed_s"].sum(), rel=1e-9)


def test_a_host_that_computes_slowly_is_bound_by_that():
    slow = {"base": "dgx-a100-80gb", "host_memory.vector_rate": "0.08 TFLOP/s"}
    there = on_host(system=slow)
    rows = there.operators[there.operators["phase"] == "optimizer"]
    bound = rows["bound"] == "compute"
    assert bound.any()
    assert rows["busy_s"][bound].sum() == pytest.approx(rows["flop"][bound].sum() / 1e10, rel=1e-9)


TWO = {"plan__zero_stage": 1, "devices": 128}


def test_gradients_go_down_and_weights_come_back_around_an_update_on_the_host():
    """Two replicas share the states: fp32 gradients and bf16 weights of a shard move. Hidden, all but a part."""
    shard = step("none", **TWO).memory["optimizer_bytes"] / 12
    apart = on_host(plan__overlap_offload=False, devices=128)
    down, up = 4 * shard / LINK, 2 * shard / LINK
    assert apart.time["offload_s"] == pytest.approx(down + up, rel=1e-6)
    fast = {"base": "dgx-a100-80gb", "host_memory.bandwidth": f"{LINK * 100} B/s"}
    beside, layers = on_host(system=fast, devices=128), 12
    assert beside.time["offload_s"] == pytest.approx((down + up) / 100 / layers, rel=1e-6)
    (copies,) = beside.operators[beside.operators["stream"] == "offload"].to_dict("records")
    assert copies["busy_s"] == pytest.approx((down + up) / 100, rel=1e-6)
    assert copies["message_bytes"] == pytest.approx(6 * shard, rel=1e-6)
    # What is on the host for good is not copied for the update.
    for owner, rest in (("gradients", up), ("weights", down)):
        copied = on_host(f"optimizer {owner}", plan__overlap_offload=False, devices=128).time["offload_s"]
        whole = step(owner, plan__overlap_offload=False, **TWO).time["offload_s"]
        assert copied == pytest.approx(whole - passing(owner) + rest, rel=1e-6)


def passing(owner):
    """What an update on the device waits for where only gradients, or weights, are elsewhere [s]."""
    return step("none", **TWO).memory[f"{owner}_bytes"] / LINK


def test_a_host_that_updates_holds_the_gradients():
    here = step("none", plan__zero_stage=1)
    shard = here.memory["optimizer_bytes"] / 12
    assert on_host().offload["host_bytes"] == pytest.approx(16 * shard, rel=1e-6)
    # Nothing passes through the device.
    assert on_host().memory["optimizer_bytes"] == 0
    assert on_host().memory["buffers_bytes"] == here.memory["buffers_bytes"]


def test_states_on_drives_pass_through_the_host_that_updates():
    drives = 3.5e9
    states = step("none", plan__zero_stage=1).memory["optimizer_bytes"]
    away = on_host("optimizer:nvme", plan__overlap_offload=False)
    near = on_host(plan__overlap_offload=False)
    assert away.time["offload_s"] - near.time["offload_s"] == pytest.approx(states / drives, rel=1e-6)


@laws(10)
@given(st.floats(20.0, 2000.0), st.floats(1.01, 10.0))
def test_faster_host_memory_is_never_slower(gb, factor):
    slow, fast = (
        on_host(system={"base": "dgx-a100-80gb", "host_memory.memory_bandwidth": f"{g} GB/s"}).step_time_s
        for g in (gb, gb * factor)
    )
    assert fast <= slow


def test_who_updates_can_be_swept():
    found = sweep(changed(STEP, plan__offload="optimizer", plan__optimizer_step=["device", "host"]))
    for word, seconds, energy in zip(
        found["plan.optimizer_step"], found["step_time_s"], found["energy_j"], strict=True
    ):
        alone = step("optimizer", plan__optimizer_step=word)
        assert seconds == pytest.approx(alone.step_time_s, rel=1e-12)
        assert energy == pytest.approx(alone.energy_j, rel=1e-12)


@pytest.mark.parametrize(("tier", "joule"), [("host", 215e-12), ("nvme", 3e-9)])
def test_copies_take_energy_by_the_byte(tier, joule):
    """States go and come once, those of all ranks; of a pipeline those of all stages."""
    whole = {"plan__pipeline_parallel": 1, "devices": 8}
    states = 8 * step("none", **whole).memory["optimizer_bytes"]
    away = step(f"optimizer:{tier}", **whole)
    assert away.energy["offload_j"] == pytest.approx(2 * states * joule, rel=1e-9)
    # The last stage has the matrix of the embedding again: 51,200 x 12,288 of 175e9 parameters.
    stages = step(f"optimizer:{tier}")
    assert stages.energy["offload_j"] == pytest.approx(2 * states * joule * (1 + 0.629 / 175), rel=2e-4)
    assert step("none").energy["offload_j"] == 0
    parts = [v for k, v in away.energy.items() if k.endswith("_j")]
    assert away.energy_j == pytest.approx(sum(parts), rel=1e-12)


def test_hidden_copies_have_a_row():
    """Weights come twice for each micro-batch, beside compute that takes longer."""
    link = {"base": "dgx-a100-80gb", "host_memory.bandwidth": "4 TB/s"}
    away = step("weights", system=link, plan__pipeline_parallel=1, devices=8)
    here = step("none", plan__pipeline_parallel=1, devices=8)
    (row,) = away.operators[away.operators["stream"] == "offload"].to_dict("records")
    weights = here.memory["weights_bytes"]
    assert row["exposed_s"] == pytest.approx(away.time["offload_s"]) and row["exposed_s"] < row["busy_s"] / 50
    # 16 micro-batches, two passes each, and the new weights go once.
    assert row["busy_s"] == pytest.approx((16 * 2 + 1) * weights / 4e12, rel=1e-9)
    assert row["message_bytes"] == pytest.approx((16 * 2 + 1) * weights, rel=1e-9)


def test_a_faster_link_is_never_slower_and_hides_copies():
    times = [
        simulate(
            changed(
                STEP,
                plan__offload="activations optimizer",
                system={"base": "dgx-a100-80gb", "host_memory.bandwidth": f"{gb} GB/s"},
            )
        )
        for gb in (4, 16, 64, 4096)
    ]
    seconds = [e.step_time_s for e in times]
    assert seconds == sorted(seconds, reverse=True)
    assert times[-1].time["offload_s"] < 0.01 * times[0].time["offload_s"]


def test_the_host_may_be_full():
    small = simulate(
        changed(
            STEP,
            plan__offload="optimizer",
            system={"base": "dgx-a100-80gb", "host_memory.capacity": "100 GB"},
        )
    )
    assert not small.feasible
    assert "on host but its share of a node's is 12.5 GB" in small.reasons[0]


def test_offload_can_be_swept():
    found = sweep(changed(STEP, plan__offload=["none", "optimizer", "activations:nvme"]))
    for offload, seconds in zip(found["plan.offload"], found["step_time_s"], strict=True):
        assert seconds == pytest.approx(step(offload).step_time_s, rel=1e-12)


def test_an_owner_may_be_an_axis_of_its_own():
    """A list inside the mapping, and a dotted key beside it: each row is the step with that mapping."""
    tiers = ["none", "host", "nvme"]
    inside = changed(STEP, plan__offload={"optimizer": tiers, "weights": "host"})
    dotted = {**changed(STEP, plan__offload={"weights": "host"}), "plan.offload.optimizer": tiers}
    for space in (inside, dotted):
        found = sweep(space)
        assert found["plan.offload.optimizer"].tolist() == tiers
        for tier, seconds in zip(tiers, found["step_time_s"], strict=True):
            alone = step({"optimizer": tier, "weights": "host"}).step_time_s
            assert seconds == pytest.approx(alone, rel=1e-12)
        assert found["step_time_s"].nunique() == len(tiers)


def test_words_and_mappings_say_the_same():
    assert offload_tiers("optimizer activations:nvme") == {"optimizer": "host", "activations": "nvme"}
    assert offload_tiers({"optimizer": "host", "weights": "none"}) == {"optimizer": "host"}
    assert offload_text(offload_tiers("none")) == "none"
    for wrong in (None, "optimiser", "optimizer:disk", "optimizer optimizer:nvme", " "):
        with pytest.raises(ValueError, match=r"is no owner|is no tier|twice|empty"):
            offload_tiers(wrong)
    with pytest.raises(ScenarioError, match="disk is no tier"):
        step("optimizer:disk")

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

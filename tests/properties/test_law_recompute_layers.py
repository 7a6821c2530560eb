"""Recomputation of some layers of each stage lies between none and all, in time and in memory, layer by layer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import changed, laws

from simulator import simulate, sweep

STEP = {
    "model": "gpt3-175b",
    "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": 16},
    "system": "dgx-a100-80gb",
    "devices": 64,
    "plan": {"tensor_parallel": 8, "pipeline_parallel": 8},
}
LAYERS = 12


def step(recompute, n=None):
    return simulate(changed(STEP, plan__recompute=recompute, plan__recompute_layers=n))


@laws(20)
@given(st.sampled_from(("selective", "full")), st.integers(0, LAYERS))
def test_each_layer_adds_its_share(recompute, n):
    """Step time and kept bytes are straight lines from none of the layers to all of them."""
    none, some, everything = step("none"), step(recompute, n), step(recompute)
    share = n / LAYERS
    for value in (lambda e: e.time["compute_s"], lambda e: e.hfu * e.step_time_s):
        expected = value(none) + share * (value(everything) - value(none))
        assert value(some) == pytest.approx(expected, rel=1e-9)
    # Besides the straight line one layer is rebuilt at a time, unless none recomputes or logits are more.
    kept = [e.memory["activations_bytes"] for e in (none, some, everything)]
    assert min(kept[0], kept[2]) * (1 - 1e-12) <= kept[1] <= kept[0] + (kept[2] if n else 0)
    assert sum(some.time.values()) == pytest.approx(some.step_time_s, rel=1e-9)


def test_all_layers_are_all_layers():
    assert step("full", LAYERS).step_time_s == step("full").step_time_s
    assert step("full", 10**6).memory == step("full").memory
    assert step("full", 0).step_time_s == pytest.approx(step("none").step_time_s, rel=1e-12)


def test_a_sweep_sees_stages():
    """The share follows the layers of a stage, so blocks are not shared among numbers of stages."""
    space = changed(
        STEP, plan__recompute="full", plan__recompute_layers=[3, 6], plan__pipeline_parallel=[4, 8]
    )
    space["plan"]["tensor_parallel"] = 8
    found = sweep({**space, "devices": 64})
    for row in found.to_dict("records"):
        plan = {
            "pipeline_parallel": row["plan.pipeline_parallel"],
            "recompute_layers": row["plan.recompute_layers"],
        }
        alone = simulate(
            changed(STEP, plan__recompute="full", **{f"plan__{k}": int(v) for k, v in plan.items()})
        )
        assert row["step_time_s"] == pytest.approx(alone.step_time_s, rel=1e-12)

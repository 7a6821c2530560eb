"""Parts sum to totals: time by cause, operators, memory by owner, energy by cause."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from law_scenarios import EXACT, TASKS, laws, scenarios

from simulator import simulate
from simulator.composition.memory import OWNERS

ENERGY_PARTS = ("static_j", "compute_j", "memory_j", "network_j", "host_j", "offload_j")


@pytest.mark.parametrize("kind", TASKS)
def test_parts_sum_to_totals(kind):
    @laws(30)
    @given(scenarios(tasks=(kind,)))
    def law(scenario):
        e = simulate(scenario).to_dict()
        step = e["step_time_s"]
        assert sum(e["time"].values()) == pytest.approx(step, rel=EXACT)
        assert all(seconds >= -step * 1e-12 for seconds in e["time"].values()), e["time"]
        exposed = {row["name"]: row["exposed_s"] for row in e["operators"]}
        assert len(exposed) == len(e["operators"])  # every row has a name of its own
        assert sum(exposed.values()) == pytest.approx(step, rel=EXACT)
        assert all(seconds >= 0 for seconds in exposed.values())
        for row in e["operators"]:
            assert all(math.isfinite(v) for v in row.values() if isinstance(v, float)), row
            if row["phase"] not in ("communication", "bubble"):
                assert row["exposed_s"] == pytest.approx(row["busy_s"], rel=EXACT)
        memory = e["memory"]
        owned = sum(memory[f"{owner}_bytes"] for owner in OWNERS)
        assert owned == pytest.approx(memory["peak_bytes"], rel=EXACT)
        assert all(memory[f"{owner}_bytes"] >= 0 for owner in OWNERS)
        assert e["feasible"] == (memory["peak_bytes"] <= memory["capacity_bytes"]) == (not e["reasons"])
        energy = e["energy"]
        assert sum(energy[part] for part in ENERGY_PARTS) == pytest.approx(e["energy_j"], rel=EXACT)
        assert all(energy[part] >= 0 for part in ENERGY_PARTS)
        power = e["energy_j"] / step / e["devices"]
        assert energy["average_power_w_per_device"] == pytest.approx(power, rel=EXACT)
        assert e["tokens_per_s"] / e["devices"] == pytest.approx(e["tokens_per_s_per_device"], rel=EXACT)
        if kind == "generation":
            rest = e["time_per_output_token_s"] or 0.0
            n = scenario["task"]["output_length"] - 1
            assert e["time_to_first_token_s"] + n * rest == pytest.approx(step, rel=EXACT)

    law()


@laws(40)
@given(scenarios())
def test_operators_add_up_to_their_causes(scenario):
    e = simulate(scenario).to_dict()
    step = e["step_time_s"]

    def total(*, stream=None, phase=None):
        return sum(
            r["exposed_s"]
            for r in e["operators"]
            if (stream is None or r["stream"] == stream) and (phase is None or r["phase"] == phase)
        )

    time, near = e["time"], {"rel": EXACT, "abs": step * 1e-12}
    assert total(stream="tensor_parallel") == pytest.approx(time["tensor_parallel_s"], **near)
    assert total(stream="data_parallel") == pytest.approx(time["data_parallel_s"], **near)
    assert total(phase="optimizer") == pytest.approx(time["optimizer_s"], **near)
    assert total(phase="bubble") == pytest.approx(time["bubble_s"], **near)
    kernels = total(stream="compute") - time["optimizer_s"]
    assert kernels == pytest.approx(time["compute_s"], **near)


@laws(40)
@given(scenarios())
def test_utilisation_is_a_fraction(scenario):
    e = simulate(scenario)
    assert 0 < e.mfu <= e.hfu * (1 + 1e-12)
    # Attention counts in full for MFU while flash attention leaves out half, so only matmuls are bounded by 1.
    assert e.hfu <= 1.5


@laws(40)
@given(scenarios())
def test_exchanges_are_exposed_no_longer_than_busy(scenario):
    """Where exchanges block the kernels; beside them, one that queues behind another is charged for both."""
    e = simulate(scenario).to_dict()
    rows = [r for r in e["operators"] if r["phase"] == "communication"]
    if not scenario["plan"]["overlap_tensor_parallel"]:
        for row in rows:
            assert row["exposed_s"] <= row["busy_s"] * (1 + 1e-9), row["name"]
    tensor = [r for r in rows if r["stream"] == "tensor_parallel"]
    assert sum(r["exposed_s"] for r in tensor) <= sum(r["busy_s"] for r in tensor) * (1 + 1e-9)

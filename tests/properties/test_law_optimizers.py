"""Optimizers: bytes of state per parameter, passes of the update, and Muon's products."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import changed, laws

from hardware_specs import load_system
from simulator import simulate, sweep
from simulator.per_device.optimizers import OPTIMIZERS
from workloads.catalog import load_model
from workloads.parameter_counts import parameters

MODEL = "llama-3.1-8b"
STEP = {
    "model": MODEL,
    "task": {"kind": "training", "sequence_length": 4096, "global_batch_size": 8},
    "system": "dgx-h100",
    "devices": 8,
    "plan": {"zero_stage": 1, "recompute": "full"},
}
COUNT = parameters(load_model(MODEL))["total"]
ENDS = 2 * 128256 * 4096


def step(optimizer, **changes):
    return simulate(changed(STEP, plan__optimizer=optimizer, **changes))


@pytest.mark.parametrize(
    ("optimizer", "bytes_per_parameter"),
    [
        ("adam", 12.0),
        ("adamw", 12.0),
        ("adam_8bit", 4 + 2 * (1 + 4 / 2048)),
        ("adafactor", 4 + 2 * 4 / 4096),
        ("sgd", 4.0),
        ("sgd_momentum", 8.0),
        ("muon", 8 + 4 * ENDS / COUNT),
    ],
)
def test_states_per_parameter(optimizer, bytes_per_parameter):
    """A master copy of 4 bytes and moments; Muon's embedding and head have AdamW's two."""
    held = step(optimizer).memory["optimizer_bytes"]
    assert held == pytest.approx(COUNT * bytes_per_parameter / 8, rel=1e-3)


def test_an_update_streams_what_it_holds():
    """Less state, less time; Adam and AdamW are the same passes; Adafactor's two sweeps cost more than SGD's none."""
    took = {name: step(name).time["optimizer_s"] for name in OPTIMIZERS}
    assert took["adam"] == took["adamw"]
    assert took["sgd"] < took["adam_8bit"] < took["sgd_momentum"] < took["adam"] < took["muon"]
    assert took["sgd"] < took["adafactor"] < took["sgd_momentum"] + 2 * (took["adam"] - took["sgd_momentum"])


def muon_flop():
    """Five steps of three products for each matrix of a layer of Llama 3.1 8B: 4 s s l + 2 s s s."""
    matrices = [(4096, 4096 + 2 * 1024), (4096, 4096), (4096, 2 * 14336), (4096, 14336)]
    return 32 * 5 * sum(4 * s * s * n + 2 * s**3 for s, n in matrices)


def test_muon_takes_its_products_at_the_rate_of_products():
    """Between the peak and half of it; shards share the matrices."""
    fast = 989.4e12
    seconds = step("muon").time["optimizer_s"] - step("sgd_momentum").time["optimizer_s"]
    assert muon_flop() / 8 / fast < seconds < 2 * muon_flop() / 8 / fast
    alone = {"plan__zero_stage": 0}
    whole = step("muon", **alone).time["optimizer_s"] - step("sgd_momentum", **alone).time["optimizer_s"]
    assert whole == pytest.approx(8 * seconds, rel=1e-6)


def products(**changes):
    rows = step("muon", **changes).operators
    (row,) = rows[rows.name == "optimizer.newton_schulz"].to_dict("records")
    return row


def test_muon_orthogonalises_in_16_bits_whatever_the_products_of_the_layers():
    """By data sheet the products of an update take as long under fp8 as under bf16, and say what they compute in."""
    wide, narrow = (products(plan__precision=p, fidelity="datasheet") for p in ("bf16", "fp8"))
    assert narrow["busy_s"] == wide["busy_s"] == pytest.approx(muon_flop() / 8 / 989.4e12, rel=0.02)
    assert narrow["dtype"] == wide["dtype"] == "bf16" and wide["bound"] == "compute"
    # Fitted efficiencies are those of the recipe's products.
    assert products(plan__precision="fp8")["busy_s"] > muon_flop() / 8 / 989.4e12


def test_products_of_an_update_are_counted():
    """FLOP by hand; a product reads both operands and writes its result, in bf16; energy takes both."""
    row, sides = products(), [(4096, 6144), (4096, 4096), (4096, 28672), (4096, 14336)]
    assert row["flop"] == pytest.approx(muon_flop() / 8, rel=1e-12)
    # X and A; A, A (read once as one operand of two) and its square; A, X and the new X.
    moved = 32 * 5 * 2 * sum((s * n + s * s) + (2 * s * s) + (s * s + 2 * s * n) for s, n in sides) / 8
    assert row["bytes"] == pytest.approx(moved, rel=1e-12)
    more, less = (step(name) for name in ("muon", "sgd_momentum"))
    energy = more.energy["compute_j"] - less.energy["compute_j"]
    per_flop = load_system("dgx-h100").accelerator.energy_per_flop["bf16"].value
    assert energy == pytest.approx(muon_flop() * per_flop, rel=1e-6)


@laws(15)
@given(st.sampled_from(OPTIMIZERS), st.sampled_from(("bf16", "fp32", "fp16")))
def test_sums_hold_under_every_optimizer(optimizer, precision):
    found = step(optimizer, plan__precision=precision)
    assert sum(found.time.values()) == pytest.approx(found.step_time_s, rel=1e-9)
    assert found.operators["exposed_s"].sum() == pytest.approx(found.step_time_s, rel=1e-9)
    rows = found.operators
    assert rows[rows.phase == "optimizer"]["exposed_s"].sum() == pytest.approx(found.time["optimizer_s"])


def test_weights_without_a_copy_are_read_and_written():
    """In fp32 nothing is held beside the weights by plain SGD, and its update still touches them."""
    rows = step("sgd", plan__precision="fp32").operators
    (update,) = rows[rows.name == "optimizer.weights_update"].to_dict("records")
    assert update["bytes"] == pytest.approx(2 * 4 * COUNT / 8, rel=1e-3)
    assert "optimizer.weights_update" not in set(step("sgd").operators.name)


def test_optimizers_can_be_swept():
    found = sweep(changed(STEP, plan__optimizer=list(OPTIMIZERS)))
    for name, seconds in zip(found["plan.optimizer"], found["step_time_s"], strict=True):
        assert seconds == pytest.approx(step(name).step_time_s, rel=1e-12)


def test_a_mixture_deals_matrices_of_experts_among_fewer():
    """Ranks that hold copies of the same experts share those; all others share the rest."""
    plan = {"zero_stage": 1, "expert_parallel": 8, "recompute": "full"}
    many = changed(STEP, model="qwen3-30b-a3b", devices=64, task__global_batch_size=64, plan=plan)
    one, some, all_of_them = (
        simulate(changed(many, plan__expert_parallel=n, plan__optimizer="muon")).time["optimizer_s"]
        for n in (1, 8, 64)
    )
    assert some == pytest.approx(one, rel=0.05)
    # Two experts at once fill the device less than sixteen do.
    assert some < all_of_them < 1.5 * some

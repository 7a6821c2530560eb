"""Recomputation of what is needed: what a plan keeps by name is neither run again nor rebuilt."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import simulate
from workloads.rematerialisation import KEPT_WORDS, kept_tensors

MODEL = "llama-3.1-8b"
LAYERS, HIDDEN, FFN, WIDTH, KV_WIDTH = 32, 4096, 14336, 4096, 1024
TOKENS = 2048


def step(recompute: str, keeps: str = "", **plan):
    return simulate(
        {
            "model": MODEL,
            "task": {"kind": "training", "sequence_length": TOKENS, "global_batch_size": 8},
            "system": "dgx-h100",
            "devices": 8,
            "plan": {"zero_stage": 3, "recompute": recompute, "recompute_keeps": keeps, **plan},
        }
    )


def repeated(estimate) -> dict[str, float]:
    """FLOP that run again, by the operator's name."""
    rows = estimate.operators
    again = rows[rows.phase == "recompute"]
    return {
        name.removeprefix("layer.recompute."): flop for name, flop in zip(again.name, again.flop, strict=True)
    }


def test_the_last_product_of_a_layer_is_not_needed():
    full, needed = repeated(step("full")), repeated(step("needed"))
    assert set(full) - set(needed) == {"mlp_down", "mlp_residual"}
    assert all(needed[name] == full[name] for name in needed)


def test_torchtitan_leaves_out_every_second_product():
    """Of query, keys, values, way back, gate, up and down the second, fourth and sixth run again."""
    again = repeated(step("needed", "query values context gate"))
    per_layer = 2.0 * TOKENS * LAYERS
    assert again["qkv"] == pytest.approx(per_layer * HIDDEN * KV_WIDTH, rel=1e-12)
    assert again["attention_projection"] == pytest.approx(per_layer * WIDTH * HIDDEN, rel=1e-12)
    assert again["mlp_up"] == pytest.approx(per_layer * HIDDEN * FFN, rel=1e-12)
    assert "attention" not in again and "mlp_down" not in again


def test_kept_bytes_are_those_of_the_named_tensors():
    few, more = step("needed"), step("needed", "query gate")
    # The logits of the head are more than what one layer rebuilds, and are there when no layer is rebuilt.
    kept = LAYERS * TOKENS * 2.0 * (WIDTH + FFN)
    assert more.memory["activations_bytes"] - few.memory["activations_bytes"] == pytest.approx(kept, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from(list(KEPT_WORDS))), st.sampled_from(list(KEPT_WORDS)), st.booleans())
def test_keeping_more_is_never_slower(words, further, split):
    plan = {"tensor_parallel": 2, "sequence_parallel": True} if split else {}
    less, more = step("needed", " ".join(words), **plan), step("needed", " ".join({*words, further}), **plan)
    assert more.step_time_s <= less.step_time_s * (1 + 1e-12)
    assert more.hfu * more.step_time_s <= less.hfu * less.step_time_s * (1 + 1e-12)
    assert more.memory["peak_bytes"] >= less.memory["peak_bytes"] * (1 - 1e-12)
    assert less.step_time_s <= step("full", **plan).step_time_s


def test_model_flop_do_not_depend_on_what_is_kept():
    full, needed = step("full"), step("needed", "query keys values context gate up attention_out")
    assert needed.mfu * needed.step_time_s == pytest.approx(full.mfu * full.step_time_s, rel=1e-12)
    # Nothing that multiplies is left to repeat.
    assert needed.hfu == pytest.approx(needed.mfu, rel=1e-3)


def test_without_a_gate_one_word_is_the_whole_projection():
    ones = {"gate": 1.0, "up": 1.0}
    assert kept_tensors(ones, joined=True)["mlp_up_out"] == 1.0
    assert kept_tensors({"up": 1.0}, joined=True)["mlp_up_out"] == 0.5
    assert kept_tensors({"up": 1.0}, joined=False)["mlp_up_out"] == 1.0
    assert kept_tensors({"gate": 1.0}, joined=False)["mlp_up_out"] == 0.0

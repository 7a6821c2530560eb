"""Activations and buffers are the sum of their parts, and memory over time peaks at what the estimate says."""

from __future__ import annotations

import pytest
from hypothesis import given
from law_scenarios import changed, laws, scenarios

from simulator import simulate
from simulator.composition.memory import STAGES
from simulator.estimates.pipeline_timeline import pipeline_timeline

STEP = {
    "model": "llama-3.1-8b",
    "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": 16},
    "system": "dgx-h100",
    "devices": 16,
    "plan": {"tensor_parallel": 4, "sequence_parallel": True, "pipeline_parallel": 4},
}


@laws(40)
@given(scenarios(tasks=("training",)))
def test_parts_sum_to_their_owner(scenario):
    found = simulate(scenario)
    assert set(found.memory_parts) == {"activations", "buffers"}
    for owner, parts in found.memory_parts.items():
        assert all(size > 0 for size in parts.values())
        whole = found.memory[f"{owner}_bytes"]
        assert sum(parts.values()) == pytest.approx(whole, rel=1e-9, abs=1e-3)


@pytest.mark.parametrize(
    "plan",
    [
        {"recompute": "needed", "recompute_keeps": "query keys gate"},
        {"recompute": "modules", "recompute_modules": "layernorm mlp"},
        {"recompute": "full", "recompute_layers": 3},
        {"offload": "activations weights", "fragmentation": 0.1},
        {"engine": "deepspeed", "fragmentation": 0.2, "loss": "plain"},
        {"schedule": "gpipe"},
        {"loss": "chunked", "recompute": "full"},
        # The heaviest is the third stage, a middle one unlike the second.
        {"stage_layers": "5 6 16 5", "zero_stage": 3},
    ],
)
def test_parts_sum_under_every_kind_of_keeping(plan):
    found = simulate(changed(STEP, **{f"plan__{k}": v for k, v in plan.items()}))
    for owner, parts in found.memory_parts.items():
        assert sum(parts.values()) == pytest.approx(found.memory[f"{owner}_bytes"], rel=1e-9)


def test_parts_by_hand():
    """First of 4 stages: 4 micro-batches in flight, 8 layers, 512 of 2,048 tokens in norms, 4 ranks, bf16."""
    parts = simulate(STEP).memory_parts["activations"]
    held, tokens, hidden, ffn = 4 * 8, 2048, 4096, 14336
    shard = 2 * tokens * hidden / 4
    # Input of the layer; output of both norms and of the attention branch; gate and up, and their product.
    assert parts["layer input"] == held * shard
    assert parts["mlp"] == held * (shard + 2 * tokens * 3 * ffn / 4)
    projected = 2 * tokens * (32 + 2 * 8) * 128 / 4
    assert parts["attention"] == held * (2 * shard + projected)
    assert parts["attention_core"] == held * (2 * tokens * 32 * 128 / 4 + 4 * tokens * 32 / 4)


def test_inference_has_no_parts():
    task = {"kind": "prefill", "batch_size": 4, "prompt_length": 64}
    assert simulate({**STEP, "task": task, "plan": {"tensor_parallel": 8}, "devices": 8}).memory_parts == {}


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb_h1"])
@pytest.mark.parametrize(
    "plan", [{}, {"fragmentation": 0.1}, {"recompute": "full"}, {"offload": "activations"}]
)
def test_memory_over_time_peaks_at_the_estimate(schedule, plan):
    """The largest of a stage's moments is its memory; the heaviest stage's is the estimate's peak."""
    scenario = changed(STEP, plan__schedule=schedule, **{f"plan__{k}": v for k, v in plan.items()})
    found, passes = simulate(scenario), pipeline_timeline(scenario)
    most = [max(p["memory_bytes"] for p in passes if p["stage"] == s) for s in range(4)]
    assert max(most) == pytest.approx(found.memory["peak_bytes"], rel=1e-9)
    heaviest = STAGES.index(found.memory["heaviest_stage"])
    assert most[(0, 1, 3)[heaviest]] == pytest.approx(max(most), rel=1e-9)
    # Before the first backward pass memory only grows.
    first = [p for p in passes if p["stage"] == 0]
    warm = [p["memory_bytes"] for p in first[:4]]
    assert warm == sorted(warm)


def test_a_loss_in_chunks_holds_no_logits():
    """One stage of Llama 3.1 8B, full recompute: input of the head and gradients in place of logits in 32 bits."""
    one = changed(
        STEP,
        plan__tensor_parallel=1,
        plan__sequence_parallel=False,
        plan__pipeline_parallel=1,
        plan__recompute="full",
        task__sequence_length=16384,
    )
    whole, chunks = (simulate(changed(one, plan__loss=loss)) for loss in ("in_place", "chunked"))
    tokens, hidden, vocab = 16384, 4096, 128256
    # The head's input and that of its norm; in chunks the gradients of input and matrix too.
    kept = {"in_place": 2 * 2 * tokens * hidden + 4 * tokens * vocab}
    kept["chunked"] = 2 * 2 * tokens * hidden + 2 * (tokens + vocab) * hidden
    assert whole.memory_parts["activations"]["head and logits"] == kept["in_place"]
    layer = chunks.memory_parts["activations"].get("layer that runs again", kept["chunked"])
    assert max(layer, kept["chunked"]) == pytest.approx(
        chunks.memory["activations_bytes"]
        - chunks.memory_parts["activations"]["layer input"]
        - chunks.memory_parts["activations"]["embedding"]
    )
    assert chunks.memory["peak_bytes"] < whole.memory["peak_bytes"] - 4 * tokens * vocab
    assert chunks.step_time_s == whole.step_time_s

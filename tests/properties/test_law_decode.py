"""Decode: bytes of the cache by hand, windows, replicated heads, and generation as the sum of its steps."""

from __future__ import annotations

import numpy as np
import pytest
from blocks_of import blocks_of
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from simulator import simulate, sweep
from simulator.composition.evaluate import decode_contexts
from workloads.attention import attended_pairs
from workloads.catalog import load_model


def decode(model, *, batch=8, context=1000, tensor=1, system="dgx-h100", **plan):
    return {
        "model": model,
        "task": {"kind": "decode", "batch_size": batch, "context_length": context},
        "system": system,
        "devices": tensor,
        "plan": {"tensor_parallel": tensor, **plan},
    }


@laws(40)
@given(
    st.sampled_from(["llama-2-7b", "llama-2-70b", "llama-3.1-8b", "mistral-7b", "qwen3-8b"]),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(1, 64),
    st.sampled_from([10, 1000, 5000, 30000]),
    st.sampled_from([("bf16", 2), ({"kv_cache": "fp8"}, 1)]),
)
def test_bytes_of_the_cache(name, t, batch, context, types):
    """2 L n_kv d w per token that stays visible, divided by the ranks up to the KV heads; the new token counts."""
    model = load_model(name)
    precision, width = types
    memory = simulate(decode(name, tensor=t, batch=batch, context=context, precision=precision)).memory
    tokens = min(context + 1, model.sliding_window or np.inf)
    per_token = 2 * model.n_layers * max(model.kv_heads / t, 1) * model.head_dim * width
    assert memory["kv_cache_bytes"] == pytest.approx(batch * tokens * per_token, rel=1e-12)


@pytest.mark.parametrize("name", ["llama-2-70b", "mistral-7b"])
@pytest.mark.parametrize("t", [1, 8, 16])
@pytest.mark.parametrize("context", [999, 8000])
def test_decode_attention_reads_the_cache_once(name, t, context):
    """Bytes: visible tokens x 2 KV heads' widths, plus the query and the context of one token; FLOP: 4 a d each."""
    model, batch = load_model(name), 4
    blocks = blocks_of(decode(name, tensor=t, batch=batch, context=context))
    (attention,) = [c for c in blocks.forward["layer"].operators if c.operator.kind == "attention_decode"]
    seen = min(context + 1, model.sliding_window or np.inf)
    heads, kv_heads = model.heads / t, max(model.kv_heads / t, 1)
    moved = batch * 2 * model.head_dim * (seen * 2 * kv_heads + 2 * heads)
    assert float(attention.work.moved_bytes[0]) == pytest.approx(moved, rel=1e-12)
    assert float(attention.work.flop[0]) == pytest.approx(
        4 * batch * seen * heads * model.head_dim, rel=1e-12
    )


@laws(100)
@given(st.integers(1, 300), st.integers(0, 300), st.one_of(st.integers(1, 400), st.just(np.inf)))
def test_attended_pairs_are_counted_one_by_one(queries, cached, window):
    counted = sum(min(cached + i + 1, window) for i in range(queries))
    found = attended_pairs(
        np.array([queries * 1.0]), np.array([queries * 1.0 + cached]), np.array([window * 1.0])
    )
    assert float(found[0]) == counted


@laws(40)
@given(st.integers(1, 5000), st.integers(1, 5000), st.one_of(st.just(np.inf), st.integers(1, 8000)))
def test_nodes_stand_for_all_steps(prompt, output, window):
    """The rule is exact for polynomials of the context: count, sum and sum of squares of the attended tokens.

    It integrates over steps widened by half a step each; a sum of squares exceeds that integral by n / 12.
    """
    contexts, weights = decode_contexts(
        np.array([float(prompt)]), np.array([float(output)]), np.array([float(window)])
    )
    tokens = np.arange(prompt + 1, prompt + output)
    assert np.sum(weights) == pytest.approx(len(tokens), rel=1e-12)
    assert np.sum(weights * contexts) == pytest.approx(tokens.sum(), rel=1e-12)
    squares = float(np.sum(tokens.astype(float) ** 2))
    assert np.sum(weights * contexts**2) == pytest.approx(squares + len(tokens) / 12, rel=1e-12)


def explicit(scenario):
    """Prefill and every decode step by itself, summed: time [s] and energy [J]."""
    task = scenario["task"]
    prompt, output = task["prompt_length"], task["output_length"]
    common = {"batch_size": task["batch_size"]}
    first = simulate({**scenario, "task": {"kind": "prefill", **common, "prompt_length": prompt}})
    contexts = list(range(prompt, prompt + output - 1))
    steps = sweep({**scenario, "task": {"kind": "decode", **common, "context_length": contexts}})
    return first.step_time_s + steps["step_time_s"].sum(), first.energy_j + steps["energy_j"].sum()


@pytest.mark.parametrize(
    ("name", "prompt", "output", "tensor", "pipeline"),
    [
        ("llama-2-7b", 100, 2, 1, 1),
        ("llama-2-7b", 1, 900, 1, 1),
        ("llama-3.1-8b", 100, 3000, 1, 1),
        ("llama-2-70b", 2000, 500, 8, 1),
        ("llama-2-70b", 10, 2000, 4, 2),
        ("gpt2-xl", 24, 1000, 1, 2),
        ("mistral-7b", 5000, 500, 1, 1),
    ],
)
def test_generation_is_the_sum_of_its_steps(name, prompt, output, tensor, pipeline):
    """Five nodes against all steps, to 1e-3: kernels work on tiles of the cache, so their time goes up in steps."""
    scenario = decode(name, tensor=tensor, pipeline_parallel=pipeline)
    scenario |= {"devices": tensor * pipeline}
    scenario["task"] = {
        "kind": "generation",
        "batch_size": 16,
        "prompt_length": prompt,
        "output_length": output,
    }
    seconds, joules = explicit(scenario)
    estimate = simulate(scenario)
    assert estimate.step_time_s == pytest.approx(seconds, rel=1e-3)
    assert estimate.energy_j == pytest.approx(joules, rel=1e-3)


@pytest.mark.parametrize(
    ("prompt", "output"), [(1000, 6000), (3000, 2000), (4000, 200), (4095, 3), (100, 8000)]
)
def test_generation_is_the_sum_of_its_steps_where_a_window_fills(prompt, output):
    """The cost has a kink at 4,096 tokens; with one set of nodes over it the gap was 1 % of the step."""
    scenario = decode("mistral-7b")
    scenario["task"] = {
        "kind": "generation",
        "batch_size": 64,
        "prompt_length": prompt,
        "output_length": output,
    }
    seconds, joules = explicit(scenario)
    estimate = simulate(scenario)
    assert estimate.step_time_s == pytest.approx(seconds, rel=1e-3)
    assert estimate.energy_j == pytest.approx(joules, rel=1e-3)
    assert sum(row["exposed_s"] for row in estimate.operator_rows) == pytest.approx(
        estimate.step_time_s, rel=1e-9
    )

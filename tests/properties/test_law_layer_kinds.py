"""Layers of several kinds in one model: a stack unrolled by hand, masks counted one by one, limits that bind nobody."""

from __future__ import annotations

import numpy as np
import pytest
from blocks_of import blocks_of, partition_of, training
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import changed, laws

from simulator import simulate, sweep
from simulator.composition.evaluate import decode_contexts
from simulator.composition.layer_table import layer_table
from workloads.attention import AttentionShape, attended_pairs, keys_in_cache, keys_seen_last
from workloads.catalog import load_model
from workloads.layer_kinds import KINDS, spec_layers

SHAPES = {
    "n_layers": 6, "hidden": 512, "heads": 8, "kv_heads": 4, "ffn": 2048, "vocab": 4096, "max_positions": 65536,
}  # fmt: skip
EXPERTS = {"experts": 8, "topk": 2, "moe_ffn": 1024, "shared_experts": 1}
TIMES = ("compute_s", "tensor_parallel_s", "context_parallel_s", "expert_parallel_s")
JOULES = ("compute_j", "memory_j")
STATES = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes")
# Small sequences, so that windows and chunks end within them and beyond.
LIMITS = st.sampled_from(["sliding_window", "attention_chunk"])


def kind_of(place, model):
    """Keys of a model all of whose layers are like the one at a place, counted from 1."""
    keys = {
        k: v
        for k, v in model.items()
        if k not in ("global_attention_every", "global_rotary", "experts_every")
    }
    every, step = model.get("global_attention_every"), model.get("experts_every", 1)
    if every and place % every == 0:
        keys.pop("sliding_window", None)
        keys.pop("attention_chunk", None)
        keys["positions"] = "rotary" if model.get("global_rotary", True) else "none"
    if place <= model.get("first_dense_layers", 0) or place % step:
        keys = {k: v for k, v in keys.items() if k not in (*EXPERTS, "router_bias")}
    keys.pop("first_dense_layers", None)
    return keys


def numbers(estimate):
    """What adds up over layers: seconds, joules and bytes."""
    found = {f"time.{k}": estimate.time[k] for k in TIMES}
    found |= {f"energy.{k}": estimate.energy[k] for k in JOULES}
    return found | {f"memory.{k}": estimate.memory[k] for k in (*STATES, "kv_cache_bytes")}


def unrolled(model, scenario):
    """The same numbers of the stack, layer by layer: what one more layer of each kind adds to a model of one layer."""

    def run(keys, layers):
        plan = dict(scenario.get("plan", {}))
        if "experts" not in keys:
            plan.pop("expert_parallel", None)
        return numbers(simulate({**scenario, "plan": plan, "model": {**keys, "n_layers": layers}}))

    stack = [kind_of(place, model) for place in range(1, model["n_layers"] + 1)]
    total = run(stack[0], 1)
    rest = stack[1:]
    while rest:
        kind = rest[0]
        one, two = (run(kind, n) for n in (1, 2))
        total = {name: total[name] + rest.count(kind) * (two[name] - one[name]) for name in total}
        rest = [other for other in rest if other != kind]
    return total


@pytest.mark.parametrize(
    ("limit", "tokens", "every", "experts", "sinks", "recompute", "degrees"),
    [
        ("sliding_window", 64, 2, (0, 1), True, "none", (1, 1, 1)),
        ("attention_chunk", 200, 4, (0, 2), False, "none", (2, 1, 1)),
        ("attention_chunk", 64, 3, (0, 2), True, "full", (1, 2, 2)),
        ("sliding_window", 200, None, (0, 3), False, "selective", (1, 1, 4)),
        ("sliding_window", 1024, 2, (2, 3), True, "none", (2, 2, 1)),
    ],
)
def test_a_stack_is_the_sum_of_its_layers(limit, tokens, every, experts, sinks, recompute, degrees):
    """One stage: times, energies, states and kept bytes of a mixed stack are those of its layers one by one."""
    dense, step = experts
    tensor, context, expert = degrees
    model = {**SHAPES, **EXPERTS, limit: tokens, "first_dense_layers": dense, "experts_every": step}
    model |= {"attention_sinks": sinks, "qkv_bias": sinks, "router_bias": sinks, "mlp_bias": sinks}
    if every:
        model |= {"global_attention_every": every, "global_rotary": not sinks}
    scenario = training(model, tensor=tensor, length=512, recompute=recompute, context_parallel=context)
    scenario["devices"] = tensor * context * expert
    scenario["plan"] |= {"expert_parallel": expert, "optimizer": "muon", "zero_stage": 1}
    scenario["task"]["global_batch_size"] = scenario["devices"]
    e = simulate(scenario)
    found, expected = numbers(e), unrolled(model, scenario)
    # One layer is rebuilt at a time: the largest of any, which the sum over layers does not hold.
    if recompute != "none":
        found.pop("memory.activations_bytes"), expected.pop("memory.activations_bytes")
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert e.operators["exposed_s"].sum() == pytest.approx(e.step_time_s, rel=1e-9)


@laws(6)
@given(
    LIMITS, st.sampled_from([7, 64, 200]), st.sampled_from([None, 2, 3]), st.sampled_from([50, 64, 129, 1000])
)
def test_the_cache_of_a_stack_is_the_sum_of_its_layers(limit, tokens, every, context):
    model = {**SHAPES, limit: tokens, "global_attention_every": every}
    task = {"kind": "decode", "batch_size": 2, "context_length": context}
    scenario = {"model": model, "task": task, "system": "dgx-h100", "devices": 1}
    assert numbers(simulate(scenario)) == pytest.approx(unrolled(model, scenario), rel=1e-9, abs=1e-15)
    local = model["n_layers"] - (model["n_layers"] // every if every else 0)
    held = local * min(context + 1, tokens) + (model["n_layers"] - local) * (context + 1)
    per_token = 2 * 4 * 64 * 2 * 2  # keys and values of 4 heads of 64, 2 bytes, 2 sequences
    assert simulate(scenario).memory["kv_cache_bytes"] == pytest.approx(held * per_token, rel=1e-12)


def test_layers_in_front_have_a_cache_too():
    model = {**SHAPES, **EXPERTS, "first_dense_layers": 2}
    task = {"kind": "decode", "batch_size": 2, "context_length": 100}
    scenario = {"model": model, "task": task, "system": "dgx-h100", "devices": 1}
    plain = {**scenario, "model": SHAPES}
    assert simulate(scenario).memory["kv_cache_bytes"] == simulate(plain).memory["kv_cache_bytes"]


def totals_of(estimate):
    """All numbers of an estimate but those of single operators."""
    data = estimate.to_dict()
    flat = {k: v for k, v in data.items() if isinstance(v, float)}
    for part in ("time", "memory", "energy"):
        flat |= {f"{part}.{k}": v for k, v in data[part].items() if isinstance(v, float)}
    limits = {f"{k}.{side}": v[side] for k, v in data["interval"].items() for side in ("low", "high")}
    return flat | limits


@laws(10)
@given(
    LIMITS,
    st.sampled_from([512, 700, 10**6]),
    st.sampled_from([None, 2, 4, 5]),
    st.sampled_from(["training", "prefill", "decode", "generation"]),
    st.sampled_from(["llama-3.1-8b", "mixtral-8x7b", "gpt-oss-20b"]),
)
def test_a_limit_that_binds_nobody_is_none(limit, tokens, every, kind, name):
    """A window or a chunk as long as the sequence equals none, in all layers or in some, intervals included."""
    whole = {"base": name, "sliding_window": None, "global_attention_every": None}
    tasks = {
        "training": {"kind": "training", "sequence_length": 512, "global_batch_size": 16},
        "prefill": {"kind": "prefill", "batch_size": 8, "prompt_length": 512},
        "decode": {"kind": "decode", "batch_size": 8, "context_length": 511},
        "generation": {"kind": "generation", "batch_size": 8, "prompt_length": 400, "output_length": 112},
    }
    scenario = {"model": whole, "task": tasks[kind], "system": "dgx-h100", "devices": 8}
    mixed = {**scenario, "model": {**whole, limit: tokens, "global_attention_every": every}}
    assert totals_of(simulate(mixed)) == pytest.approx(totals_of(simulate(scenario)), rel=1e-12, nan_ok=True)


@laws(6)
@given(LIMITS, st.sampled_from([100, 512, 2048]), st.sampled_from(["training", "prefill", "decode"]))
def test_fewer_layers_that_see_all_are_never_slower(limit, tokens, kind):
    tasks = {
        "training": {"kind": "training", "sequence_length": 4096, "global_batch_size": 8},
        "prefill": {"kind": "prefill", "batch_size": 8, "prompt_length": 4096},
        "decode": {"kind": "decode", "batch_size": 8, "context_length": 4095},
    }
    models = [
        {"base": "llama-2-7b", limit: tokens, "global_attention_every": n} for n in (2, 3, 4, 8, 32, None)
    ]
    frame = sweep(
        {"model": {"sweep": ["llama-2-7b", *models]}, "task": tasks[kind], "system": "dgx-h100", "devices": 8}
    )
    for column in ("step_time_s", "energy_j", "kv_cache_bytes"):
        assert np.all(np.diff(frame[column]) <= 1e-12 * frame[column].to_numpy()[:-1]), column
    wider = [{"base": "llama-2-7b", limit: tokens * n, "global_attention_every": 4} for n in (1, 2, 4, 8)]
    if limit == "sliding_window":  # a longer chunk may begin anew where a shorter one goes on
        frame = sweep({"model": {"sweep": wider}, "task": tasks[kind], "system": "dgx-h100", "devices": 8})
        assert np.all(np.diff(frame["step_time_s"]) >= 0)


@laws(60)
@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 400))
def test_pairs_of_chunks_are_counted_one_by_one(queries, cached, chunk):
    def column(value):
        return np.array([float(value)])

    places = range(cached, cached + queries)
    found = attended_pairs(column(queries), column(cached + queries), column(np.inf), chunk=column(chunk))
    assert float(found[0]) == sum(place % chunk + 1 for place in places)
    one = column(1)
    shape = AttentionShape(
        batch=one, query_length=one, kv_length=column(places[-1] + 1), heads=one, kv_heads=one, head_dim=one,
        window=column(np.inf), chunk=column(chunk),
    )  # fmt: skip
    assert float(keys_seen_last(shape)[0]) == places[-1] % chunk + 1
    held = keys_in_cache(column(places[-1] + 1), column(np.inf), column(chunk))
    assert float(held[0]) == min(places[-1] + 1, chunk) >= places[-1] % chunk + 1


def test_rows_with_and_without_limits_stand_side_by_side():
    """Windows, chunks and neither in one column: each row as if it were alone."""
    lengths, windows = np.array([10.0, 10.0, 10.0]), np.array([4.0, np.inf, np.inf])
    chunks = np.array([np.inf, 4.0, np.inf])
    found = attended_pairs(lengths, lengths, windows, chunk=chunks)
    assert found.tolist() == [1 + 2 + 3 + 7 * 4, 2 * 10 + 3, 55]


@laws(40)
@given(st.integers(1, 5000), st.integers(1, 9000), st.integers(1, 3000))
def test_nodes_in_chunks_stand_for_all_steps(prompt, output, chunk):
    """Count of steps, sum of contexts, and sum and sum of squares of the places in chunks, step by step."""
    contexts, weights = decode_contexts(*(np.array([float(n)]) for n in (prompt, output, np.inf, chunk)))
    steps = np.arange(prompt + 1, prompt + output)
    places = contexts - chunk * np.floor((contexts - 0.5) / chunk)
    counted = (steps - 1) % chunk + 1
    assert weights.sum() == pytest.approx(len(steps))
    assert (weights * contexts).sum() == pytest.approx(float(steps.sum()), rel=1e-9)
    assert (weights * places).sum() == pytest.approx(float(counted.sum()), rel=1e-9)
    # Each part is widened by half a step at both ends: squares exceed the integral by a twelfth of a step.
    squares = float((counted**2).sum()) + len(steps) / 12
    assert (weights * places**2).sum() == pytest.approx(squares, rel=1e-6, abs=1.0)


def test_generation_in_chunks_is_the_sum_of_its_steps():
    """Three chunks end on the way; every fourth layer sees all."""
    model = {**SHAPES, "attention_chunk": 100, "global_attention_every": 4, "n_layers": 8}
    base = {"model": model, "system": "dgx-h100", "devices": 1, "task": {"kind": "decode", "batch_size": 64}}
    contexts = list(range(150, 150 + 299))
    steps = sweep(changed(base, task__context_length=contexts))["step_time_s"]
    request = {"kind": "generation", "batch_size": 64, "prompt_length": 150, "output_length": 300}
    e = simulate({**base, "task": request})
    assert e.step_time_s - e.time_to_first_token_s == pytest.approx(float(steps.sum()), rel=1e-3)


def test_kinds_of_the_catalog():
    """Layers by kind: GPT-OSS alternates; of Maverick's 48 every 2nd has experts, and every 4th sees all."""
    local, dense, seeing, _ = KINDS
    assert spec_layers(load_model("gpt-oss-120b")) == {local: 18, seeing: 18}
    assert spec_layers(load_model("llama-4-maverick")) == {local: 12, dense: 24, seeing: 12}
    assert spec_layers(load_model("llama-4-scout")) == {local: 36, seeing: 12}
    assert spec_layers(load_model("deepseek-v3")) == {local: 58, dense: 3}
    assert [kind.name for kind in KINDS] == ["layer", "dense_layer", "global_layer", "global_dense_layer"]
    small = {
        "base": "llama-4-maverick",
        "n_layers": 4,
        "experts": 2,
        "hidden": 512,
        "heads": 8,
        "vocab": 1024,
    }
    names = set(simulate(training(small, length=128)).operators["name"])
    assert {"layer.rotary", "dense_layer.rotary", "global_layer.qkv"} <= names
    assert not {"global_layer.rotary", "dense_layer.router", "global_dense_layer.qkv"} & names


@pytest.mark.parametrize("name", ["llama-4-maverick", "gpt-oss-20b"])
def test_counts_of_the_operator_table_are_the_layers(name):
    small = {"base": name, "experts": 4, "moe_ffn": 512, "ffn": 512, "hidden": 640, "vocab": 1024}
    e = simulate(training(small, length=128))
    rows = e.operators.set_index("name")["count"]
    for kind, layers in spec_layers(load_model(name)).items():
        assert rows[f"{kind.name}.qkv"] == pytest.approx(layers)


def test_model_flop_counts_attention_in_full_over_what_a_layer_sees():
    """6 FLOP per weight and token, 12 per head element and key that a layer sees at most, whatever the mask."""
    model = {**SHAPES, **EXPERTS, "sliding_window": 128, "global_attention_every": 2, "experts_every": 3}
    length = 512
    e = simulate(training(model, length=length))
    attention = 512 * (2 * 512 + 2 * 256)
    mixed, dense = 512 * (3 * 1024 * (2 + 1) + 8), 512 * 3 * 2048
    weights = 6 * attention + 2 * mixed + 4 * dense + 512 * 4096
    keys = 3 * 128 + 3 * length
    flop = 6 * length * weights + 12 * length * 512 * keys
    peak = e.to_dict()["peak_flop_per_s"]
    assert e.mfu == pytest.approx(flop / e.step_time_s / peak, rel=1e-12)


def test_one_layer_at_a_time_is_the_largest():
    """ZeRO-3 holds two layers whole; with experts in every second layer these are one of each kind."""
    model = {**SHAPES, **EXPERTS, "experts_every": 2}
    scenario = training(model, length=128, zero_stage=3)
    scenario |= {"devices": 8, "task": {**scenario["task"], "global_batch_size": 8}}
    blocks = blocks_of(scenario).parameters
    one, other = (float(blocks[n].stored_bytes[0]) for n in ("layer", "dense_layer"))
    gradients = 4 * float(blocks["layer"].count[0])
    buffers = simulate(scenario).memory["buffers_bytes"]
    working = simulate(changed(scenario, plan__zero_stage=1)).memory["buffers_bytes"]
    assert buffers - working == pytest.approx(one + other + gradients, rel=1e-9)
    every = simulate({**scenario, "model": {**model, "experts_every": 1}}).memory["buffers_bytes"]
    assert every - working == pytest.approx(2 * one + gradients, rel=1e-9)


def test_stages_whose_kinds_differ_are_noted():
    scenario = training("gpt-oss-20b", length=128, pipeline_parallel=8)
    scenario |= {"devices": 8, "task": {**scenario["task"], "global_batch_size": 8}}
    assert any("pattern of 2 layers" in note for note in simulate(scenario).notes)
    scenario["plan"] = {**scenario["plan"], "pipeline_parallel": 4}
    assert not any("pattern" in note for note in simulate(scenario).notes)
    # 24 layers by hand: what counts are those of each stage, not their mean.
    for layers, noted in (("4 8 8 4", False), ("5 7 7 5", True)):
        laid = changed(scenario, plan__stage_layers=layers)
        assert any("pattern of 2 layers" in note for note in simulate(laid).notes) == noted
    laid = {**changed(scenario, plan__stage_layers="2 4 4 2 2 4 4 2"), "devices": 8}
    laid["plan"] = {**laid["plan"], "pipeline_parallel": 8}
    assert not any("pattern" in note for note in simulate(laid).notes)
    even = simulate(scenario)
    assert even.operators["exposed_s"].sum() == pytest.approx(even.step_time_s, rel=1e-9)


def test_a_sweep_over_kinds_is_the_loop_of_its_rows():
    """Numbers of the pattern are axes; rows with another set of kinds are another structure."""
    base = {**SHAPES, **EXPERTS, "sliding_window": 64}
    models = [
        base,
        {**base, "global_attention_every": 2},
        {**base, "global_attention_every": 3, "experts_every": 2},
        {**base, "global_attention_every": 2, "experts_every": 2},
        {**base, "sliding_window": None, "attention_chunk": 100, "global_attention_every": 5},
        {**base, "first_dense_layers": 1, "experts_every": 2, "global_attention_every": 4},
        SHAPES,
    ]
    for task in (
        {"kind": "training", "sequence_length": 512, "global_batch_size": 16},
        {"kind": "generation", "batch_size": 8, "prompt_length": 200, "output_length": 300},
    ):
        scenario = {"task": task, "system": "dgx-h100", "devices": 8}
        frame = sweep({"model": {"sweep": models}, **scenario, "plan": {"tensor_parallel": [1, 2]}})
        for i, (model, tensor) in enumerate((m, t) for m in models for t in (1, 2)):
            alone = simulate({"model": model, **scenario, "plan": {"tensor_parallel": tensor}})
            for column in (
                "step_time_s",
                "energy_j",
                "peak_bytes",
                "mfu",
                "kv_cache_bytes",
                "step_time_high_s",
            ):
                data = {**alone.to_dict(), **alone.memory}
                data["step_time_high_s"] = data["interval"]["step_time_s"]["high"]
                assert frame[column][i] == pytest.approx(data[column], rel=1e-12), (i, column)


def test_the_same_kernels_err_alike_in_layers_of_all_kinds():
    """Deviations are averaged, not their squares; the shared part is a mean as well."""

    def table(keys):
        partition = partition_of(training({**SHAPES, **keys}, length=2048))
        return layer_table(partition.structure, partition.inputs)[0]

    mixed, dense, experts = (table(keys) for keys in ({**EXPERTS, "experts_every": 3}, {}, EXPERTS))
    for column, power in (("layer_variance_s2", 0.5), ("layer_shared_s", 1.0)):
        parts = [float(getattr(t, column)[0]) ** power for t in (mixed, dense, experts)]
        assert parts[1] < parts[2]
        assert parts[0] == pytest.approx((4 * parts[1] + 2 * parts[2]) / 6, rel=1e-12), column


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("global_attention_every", [2, 3, None]),
        ("sliding_window", [64, 128]),
        ("experts_every", [1, 3]),
        ("global_rotary", [True, False]),
    ],
)
def test_a_number_of_the_pattern_is_an_axis(key, values):
    """By its dotted key, switches and keys that may be null among them."""
    model = {**SHAPES, **EXPERTS, "sliding_window": 100, "global_attention_every": 2}
    task = {"kind": "training", "sequence_length": 256, "global_batch_size": 8}
    scenario = {"model": model, "task": task, "system": "dgx-h100", "devices": 8}
    frame = sweep({**scenario, f"model.{key}": values})
    for value, found in zip(values, frame["step_time_s"], strict=True):
        alone = simulate({**scenario, "model": {**model, key: value}})
        assert found == pytest.approx(alone.step_time_s, rel=1e-12), value


def test_a_pattern_that_contradicts_its_model_is_left_out():
    frame = sweep(
        {
            "model": {**SHAPES, **EXPERTS}, "model.experts_every": [1, 2, 99], "system": "dgx-h100", "devices": 8,
            "task": {"kind": "training", "sequence_length": 256, "global_batch_size": 8},
        }
    )  # fmt: skip
    assert list(frame["model.experts_every"]) == [1, 2]

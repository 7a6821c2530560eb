"""Products in 8-bit floats: what their types weigh, what narrows their operands, and on which devices they run."""

from __future__ import annotations

import pytest
from blocks_of import blocks_of
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import laws

from hardware_specs import ScenarioError, load_accelerator, load_calibration
from simulator import simulate

SHAPES = {"n_layers": 2, "hidden": 1024, "heads": 16, "kv_heads": 4, "ffn": 2048, "vocab": 32000}
EXPERTS = {**SHAPES, "experts": 16, "topk": 2, "moe_ffn": 512, "max_positions": 4096}
TOKENS = 1024
# One byte and one byte of scale for 32 values.
MX_BYTES = 1 + 1 / 32


def step(model, precision, *, system="dgx-b200", devices=1, **task):
    known = {"kind": "training", "sequence_length": TOKENS, "global_batch_size": devices}
    plan = {"precision": precision, **({"expert_parallel": devices} if devices > 1 else {})}
    return {"model": model, "task": task or known, "system": system, "devices": devices, "plan": plan}


def passes(block):
    """Bytes that passes in front of products move, by operator."""
    return {
        c.operator.name: float(c.work.moved_bytes[0])
        for c in block.operators
        if c.operator.kind == "quantise" and c.operator.scale[0] > 0
    }


def test_a_product_and_its_pass_by_hand():
    """1,024 x 1,024 activations: two bytes read and a block's bytes written; the product reads both so narrow."""
    layer = blocks_of(step({**SHAPES, "max_positions": 4096}, "mxfp8")).forward["layer"]
    assert passes(layer)["qkv.quantise.attention_norm_out"] == pytest.approx(TOKENS * 1024 * (2 + MX_BYTES))
    (qkv,) = (c for c in layer.operators if c.operator.name == "qkv")
    wide = 1024 + 2 * 4 * 64
    moved = MX_BYTES * (TOKENS * 1024 + 1024 * wide) + 2 * TOKENS * wide
    assert float(qkv.work.moved_bytes[0]) == pytest.approx(moved)


def test_a_block_is_read_once_and_no_row_waits_for_its_scale():
    """The pass streams as a pointwise kernel of the calibration does: 1.286 us + 3.18 MB at 0.8524 of 7.7 TB/s."""
    fits = load_calibration("blackwell").kernels
    block, whole = (fits.quantise[name].coefficients() for name in ("mxfp8", "fp8"))
    pointwise = fits.pointwise["any"].coefficients()
    assert block["row_unit_s"] == 0 < whole["row_unit_s"]
    assert block["memory_efficiency"] == min(pointwise["read_efficiency"], pointwise["write_efficiency"])
    layer = blocks_of(step({**SHAPES, "max_positions": 4096}, "mxfp8")).forward["layer"]
    (first,) = (c for c in layer.operators if c.operator.name == "qkv.quantise.attention_norm_out")
    stream = TOKENS * 1024 * (2 + MX_BYTES) / (block["memory_efficiency"] * 7.7e12)
    assert float(first.busy_s[0]) == pytest.approx(block["fixed_s"] + stream)


@pytest.mark.parametrize("precision", ["fp8", "mxfp8"])
def test_rows_of_experts_are_narrowed_in_training(precision):
    """One pass in front of each grouped product; backward for gradients and for what was kept."""
    blocks = blocks_of(step(EXPERTS, precision, devices=8))
    width = MX_BYTES if precision == "mxfp8" else 1
    rows = TOKENS * 2
    forward = {k: v for k, v in passes(blocks.forward["layer"]).items() if "experts" in k}
    assert forward == {
        "experts_up.quantise.expert_rows": pytest.approx(rows * 1024 * (2 + width)),
        "experts_down.quantise.experts_activated": pytest.approx(rows * 512 * (2 + width)),
    }
    backward = {k for k in passes(blocks.backward["layer"]) if "experts" in k}
    assert len(backward) == 4, backward
    # Serving stacks narrow rows in the kernels that sort them; 16-bit products narrow nothing.
    prefill = step(EXPERTS, precision, devices=8, kind="prefill", batch_size=8, prompt_length=TOKENS)
    assert not any("experts" in name for name in passes(blocks_of(prefill).forward["layer"]))
    assert passes(blocks_of(step(EXPERTS, "bf16", devices=8)).forward["layer"]) == {}


@laws(12)
@given(st.sampled_from([1, 8]), st.sampled_from([SHAPES, EXPERTS]), st.integers(1, 4))
def test_scales_cost_bytes_and_never_time_saved_in_products(devices, model, doubled):
    """The same peak with wider operands: every product takes as long or longer than in fp8."""
    if model is SHAPES:
        devices = 1
    shape = {**model, "max_positions": 8192, "hidden": 512 * doubled, "head_dim": 64}
    times = {}
    for precision in ("fp8", "mxfp8"):
        blocks = blocks_of(step(shape, precision, devices=devices))
        times[precision] = {
            (name, c.operator.name): (c.operator.kind, float(c.busy_s[0]))
            for name, block in (*blocks.forward.items(), *((f"{n}^", b) for n, b in blocks.backward.items()))
            for c in block.operators
        }
    for key, (kind, seconds) in times["fp8"].items():
        if kind in ("matmul", "grouped_matmul"):
            assert times["mxfp8"][key][1] >= seconds * (1 - 1e-12), key


def test_weights_of_inference_are_stored_with_their_scales():
    task = {"kind": "prefill", "batch_size": 1, "prompt_length": TOKENS}
    sizes = {
        p: simulate(step({**SHAPES, "max_positions": 4096}, p, **task)).memory["weights_bytes"]
        for p in ("fp8", "mxfp8", "bf16")
    }
    # Only products of layers are narrowed: half of their 16-bit bytes, and 1/32 of that for scales.
    products = sizes["bf16"] - sizes["fp8"]
    assert sizes["mxfp8"] - sizes["fp8"] == pytest.approx(products / 32)


def test_devices_without_block_scales_say_so():
    for name in ("b200-sxm", "b300-sxm", "gb200", "gb300", "mi355x"):
        peaks = load_accelerator(name).matmul_flop_per_unit_clock
        assert peaks["mxfp8"].value == peaks["fp8"].value, name
    with pytest.raises(ScenarioError, match="mxfp8.*fallback"):
        simulate(step({**SHAPES, "max_positions": 4096}, "mxfp8", system="dgx-h100"))
    allowed = step({**SHAPES, "max_positions": 4096}, "mxfp8", system="dgx-h100")
    found = simulate({**allowed, "plan": {**allowed["plan"], "fallback": "allow"}})
    assert any("bf16" in note for note in found.notes)

"""Which coefficients a precision takes: kernels that widen what they read are kernels of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hardware_specs import load_calibration
from simulator import simulate
from simulator.certainty.evidence import kernel_evidence, kernel_format
from simulator.kernels.models import KERNEL_MODELS
from simulator.scenarios.precision import RECIPES

BF16 = RECIPES["bf16"]


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("matmul", {}, "bf16"),
        ("matmul", {"weights": "int4"}, "int4_wo"),
        ("matmul", {"weights": "int8"}, "int8_wo"),
        ("matmul", {"weights": "fp8"}, "fp8_wo"),
        ("matmul", {"weights": "fp8", "matmul": "fp8"}, "fp8"),
        ("batched_matmul", {"weights": "int4"}, "bf16"),  # it has no weights
        ("grouped_matmul", {"weights": "int4"}, "int4_wo"),
        ("attention_prefill", {"kv_cache": "fp8"}, "fp8_cache"),
        ("attention_prefill", {"kv_cache": "fp8", "attention": "fp8"}, "fp8"),
        ("attention_decode", {"kv_cache": "fp8"}, "fp8"),
        ("rms_norm", {"weights": "int4", "kv_cache": "fp8"}, "bf16"),
    ],
)
def test_format_of_a_family(family: str, changes: dict[str, str], expected: str) -> None:
    assert family in KERNEL_MODELS
    assert kernel_format(family, replace(BF16, **changes)) == expected


def test_a_scenario_takes_them() -> None:
    """The prompt's attention takes the time that its row's own coefficients give, not those of 16 bits."""
    base = {
        "model": "llama-3.1-8b",
        "task": {"kind": "prefill", "batch_size": 1, "prompt_length": 4096},
        "system": "dgx-h100",
        "system.calibration": "h100-sxm-vllm",
        "devices": 1,
    }
    wide = simulate({**base, "plan": {"precision": {"kv_cache": "bf16"}}})
    narrow = simulate({**base, "plan": {"precision": {"kv_cache": "fp8"}}})
    seconds = [float(e.operators.set_index("name").loc["layer.attention", "busy_s"]) for e in (wide, narrow)]
    fits = load_calibration("h100-sxm-vllm").kernels.attention_prefill
    assert "fp8_cache" in fits and fits["fp8_cache"].coefficients() != fits["bf16"].coefficients()
    assert seconds[1] > 1.05 * seconds[0]  # the same products, and the cache must be widened first


def test_evidence_is_that_of_the_format() -> None:
    calibration = load_calibration("a100-sxm-trtllm")
    narrow = kernel_evidence(calibration, replace(BF16, weights="int4"), "a100-sxm-80gb")["matmul"]
    own = calibration.kernels.matmul["int4_wo"]
    assert narrow.label == "fitted" and narrow.spread == own.spread
    # No kernel with weights in fp8 was measured there: the one with 8-bit integers lends its own, and says so.
    lent = kernel_evidence(calibration, replace(BF16, weights="fp8"), "a100-sxm-80gb")["matmul"]
    assert lent.label == "assumed" and lent.floor > 0

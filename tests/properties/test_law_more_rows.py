"""One more row never makes a kernel faster, operator by operator, in every kernel family and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from law_scenarios import laws

from hardware_specs import list_calibrations
from simulator import simulate
from simulator.kernels.counting import OPERATOR_KINDS
from simulator.kernels.models import KERNEL_MODELS

ROUNDING = 1 + 1e-12
# Between them they run norms of both kinds, rotary and learned positions, gates, experts and latents.
MODELS = ("gpt2-xl", "llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v2-lite")
SWITCHES: Mapping[str, Mapping[str, str]] = {
    "plain": {},
    "fp8": {"precision": "fp8"},
    "unfused": {"attention_kernel": "unfused"},
    "eager": {"kernel_fusion": "eager"},
}
# What grows, one row at a time.
SIZES = {"decode": "batch_size", "prefill": "prompt_length", "training": "sequence_length"}
# No catalog model scans, nor decodes latents yet; both rules have laws of their own.
ELSEWHERE = {"scan", "mla_decode"}


def scenario(model: str, kind: str, switch: str, calibration: str, rows: int) -> dict[str, Any]:
    tasks: dict[str, dict[str, Any]] = {
        "decode": {"context_length": 300},
        "prefill": {"batch_size": 1},
        "training": {"global_batch_size": 1},
    }
    # Latents are trained only; of layers with experts only products and recipes of fused code are modelled.
    kind = "training" if model == "deepseek-v2-lite" else kind
    fused_only = model in ("qwen3-30b-a3b", "deepseek-v2-lite") and switch != "fp8"
    return {
        "model": model,
        "model.n_layers": 2,  # fits in training: no time goes into a plan that would
        "task": {"kind": kind, SIZES[kind]: rows, **tasks[kind]},
        "system": "dgx-h100",
        "devices": 1,
        "plan": {} if fused_only else dict(SWITCHES[switch]),
        "system.calibration": calibration,
    }


def kernels(which: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, float]]:
    """Family and seconds of each operator by name and phase, without exchanges."""
    frame = simulate(which).operators
    own = frame[frame["kind"].isin(OPERATOR_KINDS)]
    rows = zip(own["name"], own["phase"], own["kind"], own["busy_s"], strict=True)
    return {(name, phase): (OPERATOR_KINDS[kind].family, seconds) for name, phase, kind, seconds in rows}


@laws(40)
@given(
    st.sampled_from(MODELS),
    st.sampled_from(sorted(SIZES)),
    st.sampled_from(sorted(SWITCHES)),
    st.sampled_from(list_calibrations()),
    st.one_of(st.integers(1, 40), st.integers(1, 800)),
    st.one_of(st.just(1), st.integers(1, 100)),
)
@example("llama-3.1-8b", "decode", "plain", "h100-sxm-vllm", 1, 1)  # a norm's weights on idle units
def test_more_rows_are_never_faster(
    model: str, kind: str, switch: str, calibration: str, rows: int, more: int
) -> None:
    few, many = (kernels(scenario(model, kind, switch, calibration, n)) for n in (rows, rows + more))
    assert set(few) == set(many)
    faster = {name: (t, many[name][1]) for name, (_, t) in few.items() if many[name][1] * ROUNDING < t}
    assert not faster, (rows, rows + more, faster)


def test_every_family_is_among_them() -> None:
    seen = {
        family
        for model in MODELS
        for kind in ("decode", "training")
        for switch in SWITCHES
        for family, seconds in kernels(scenario(model, kind, switch, "h100-sxm-vllm", 2)).values()
        if seconds > 0
    }
    assert seen | ELSEWHERE >= set(KERNEL_MODELS), set(KERNEL_MODELS) - seen

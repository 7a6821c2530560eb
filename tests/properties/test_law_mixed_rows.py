"""A row of a sweep is what it is alone, whatever operators the rows beside it have."""

from __future__ import annotations

import pytest

from simulator import simulate, sweep

STEP = {
    "model": "gpt-oss-20b",
    "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": 64},
    "system": "dgx-h100",
    "devices": 16,
}
MODULES = {"recompute": "modules", "recompute_modules": "moe_act layernorm"}
PAIRS = {
    # Passes that narrow a product's operand hand on what a norm or an activation made.
    "a pass that narrows": ({**MODULES, "precision": "bf16"}, {**MODULES, "precision": "fp8"}),
    # Rows from other ranks are copied into the order of their experts.
    "rows that are sorted": (
        {"pipeline_parallel": 8, "expert_parallel": 1},
        {"pipeline_parallel": 8, "expert_parallel": 2},
    ),
    # Either exchange is there for both rows, and only that of a ring is hidden by the kernel in front.
    "ways of context": tuple(
        {"context_parallel": 2, "context_parallel_kind": kind} for kind in ("ring", "all_gather", "ulysses")
    ),
}
COLUMNS = ("step_time_s", "peak_bytes", "activations_bytes", "buffers_bytes", "energy_j")


@pytest.mark.parametrize("pair", PAIRS.values(), ids=list(PAIRS))
def test_a_row_is_what_it_is_alone(pair):
    keys = {f"plan.{k}": [plan[k] for plan in pair] for k in pair[0]}
    frame = sweep({**STEP, "zip": [keys]})
    for row, plan in enumerate(pair):
        alone = simulate({**STEP, "plan": plan}).to_dict()
        flat = {**alone, **alone["memory"]}
        for name in COLUMNS:
            assert frame[name][row] == pytest.approx(flat[name], rel=1e-12), name


def test_narrow_products_leave_modules_what_they_give_back():
    """Activations are kept in bf16 under fp8 products too, so a norm that runs again frees as much."""

    def kept(precision: str, modules: str) -> dict[str, float]:
        choice = {"recompute": "modules", "recompute_modules": modules} if modules else {}
        plan = {"tensor_parallel": 1, "precision": precision, **choice}
        return simulate({**STEP, "model": "llama-3.1-8b", "plan": plan}).memory_parts["activations"]

    for modules in ("layernorm", "mlp", "layernorm mlp"):
        freed = {p: sum(kept(p, "").values()) - sum(kept(p, modules).values()) for p in ("bf16", "fp8")}
        assert freed["bf16"] > 0
        assert freed["fp8"] == pytest.approx(freed["bf16"], rel=1e-9)

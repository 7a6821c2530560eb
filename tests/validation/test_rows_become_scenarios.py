"""Rows as scenarios: what maps where, what is skipped and why, and that scores are what ``simulate`` gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from measured_rows import ENERGY_ROW, FSDP_ROW, MEGATRON_ROW, write_rows

from hardware_specs.errors import ScenarioError, SpecError
from simulator import simulate
from simulator.measured_tables.measured_table import read_table
from simulator.validation import Validation, validate
from simulator.validation.predictions import scenario_of
from simulator.validation.training_figures import superseded


def scored(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> Validation:
    return validate(write_rows(tmp_path / "rows.csv", *rows), **options)


def reason(tmp_path: Path, **changes: Any) -> str:
    return scored(tmp_path, {**MEGATRON_ROW, **changes}).scores[0].skipped_because


def test_scenario_of_a_megatron_row(tmp_path: Path) -> None:
    case = scored(tmp_path, MEGATRON_ROW).scores[0].case
    assert case.scenario["plan.attention_kernel"] == "unfused" and case.scenario["plan.precision"] == "fp16"
    assert case.scenario["plan.overlap_tensor_parallel"] and not case.scenario["plan.overlap_grad_reduce"]
    model = case.scenario["model"]
    assert model["dropout"] == 0.1 and model["tied_embeddings"] and model["max_positions"] == 2048
    assert case.scenario["system.scale_out.links"] == 8


def test_scenario_of_an_fsdp_row(tmp_path: Path) -> None:
    case = scored(tmp_path, FSDP_ROW).scores[0].case
    assert case.scenario["plan.zero_stage"] == 3 and case.scenario["plan.overlap_param_gather"]
    # PURE reduces gradients in 16 bits, which no recipe of this name does.
    assert case.scenario["plan.precision"]["communication"] == "bf16"
    assert case.size_class == "small" and case.assumed == ""
    default = scored(tmp_path, {**FSDP_ROW, "notes": "mp_mode=DEFAULT"}).scores[0].case
    assert default.scenario["plan.precision"] == "bf16"


def test_a_mode_of_a_framework_has_a_calibration_of_its_own(tmp_path: Path) -> None:
    rows = [{**FSDP_ROW, "id": f"lf-{mode}", "notes": f"mp_mode={mode}"} for mode in ("PURE", "DEFAULT")]
    rows.append({**rows[0], "id": "lf-h100", "accelerator": "h100_sxm_80gb", "interconnect": ""})
    named = [entry.case.scenario["system.calibration"] for entry in scored(tmp_path, *rows).scores]
    assert named == ["a100-sxm-fsdp-pure", "a100-sxm-fsdp", "h100-sxm-fsdp"]


def test_checkpoints_of_fsdp_stop_at_the_last_tensor_that_is_needed(tmp_path: Path) -> None:
    case = scored(tmp_path, {**FSDP_ROW, "recompute": "full"}).scores[0].case
    assert case.scenario["plan.recompute"] == "needed" and not case.scenario.get("plan.recompute_keeps")


def test_all_rows_together_equal_simulate_of_each(tmp_path: Path) -> None:
    rows = [
        MEGATRON_ROW,
        FSDP_ROW,
        {**FSDP_ROW, "id": "lf-test-002", "recompute": "full", "notes": "mp_mode=DEFAULT"},
        {
            **FSDP_ROW,
            "id": "lf-test-003",
            "accelerator": "h100_sxm_80gb",
            "interconnect": "",
            "n_accelerators": 8,
            "dp": 8,
            "global_batch": 64,
        },
        {**MEGATRON_ROW, "id": "meg-test-002", "sequence_parallel": True, "recompute": "selective"},
    ]
    for entry in scored(tmp_path, *rows).scores:
        assert entry.predicted == pytest.approx(simulate(scenario_of(entry.case)).step_time_s, rel=1e-12)


def test_step_time_follows_from_tokens_per_second(tmp_path: Path) -> None:
    row = {**MEGATRON_ROW, "measured_step_time_s": "", "measured_tokens_per_s_per_device": 731.4}
    # 2048 tokens x 4 sequences over 731.4 tokens/s on each of 8 devices
    assert scored(tmp_path, row).scores[0].measured == pytest.approx(2048 * 4 / (731.4 * 8))


def test_step_time_follows_from_flop_whose_count_is_known(tmp_path: Path) -> None:
    """MaxText counted attention of all pairs; a row that does not say what it counted states no time."""
    known = "MaxText pre-PR1988: full (non-causal) attention"
    row = {**MEGATRON_ROW, "measured_step_time_s": "", "measured_model_tflops_per_device": 150.0}
    # Per layer: four square projections, two of the MLP, their biases and two norms; the head; 2 s h of attention.
    layer = 12 * 6144**2 + (4 + 4 + 1 + 4) * 6144
    per_token = 6 * (48 * layer + 51200 * 6144 + 48 * 2 * 2048 * 6144)
    found = scored(tmp_path, {**row, "flops_convention": known}).scores[0]
    assert found.measured == pytest.approx(2048 * 4 * per_token / (150e12 * 8), rel=1e-9)
    assert scored(tmp_path, {**row, "flops_convention": "not said"}).scores[0].measured is None


def test_a_policy_keeps_what_the_model_has(tmp_path: Path) -> None:
    """MaxText's minimal keeps the gate of an MLP; a plain one has none, and the row is scored."""
    row = {**MEGATRON_ROW, "recompute": "minimal", "framework": "JAX MaxText", "flash_attention": True}
    for gated, keeps in (
        (False, "query keys values attention_out up"),
        (True, "query keys values attention_out gate up"),
    ):
        (entry,) = scored(tmp_path, {**row, "gated_mlp": gated}).scores
        assert entry.case.scenario["plan.recompute_keeps"] == keeps
        assert entry.predicted is not None


def test_peak_memory_counts_what_the_framework_counts(tmp_path: Path) -> None:
    rows = [
        {**MEGATRON_ROW, "measured_peak_memory_gib": 60},
        {
            **MEGATRON_ROW,
            "id": "deepspeed-1",
            "framework": "Megatron-DeepSpeed",
            "measured_peak_memory_gib": 60,
        },
    ]
    allocated, device = [s for s in scored(tmp_path, *rows).scores if s.quantity == "peak_memory"]
    memory = simulate(scenario_of(allocated.case)).memory
    assert isinstance(memory["peak_bytes"], float) and isinstance(memory["reserved_bytes"], float)
    assert allocated.unit == "GiB"
    assert allocated.predicted == pytest.approx((memory["peak_bytes"] - memory["reserved_bytes"]) / 2**30)
    # What DeepSpeed and the allocator hold on top is the plan's; the context counts as well.
    whole = simulate(scenario_of(device.case)).memory
    assert device.predicted == pytest.approx(whole["peak_bytes"] / 2**30)
    assert whole["peak_bytes"] > memory["peak_bytes"] * 1.14 - whole["reserved_bytes"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"experts": 8, "topk": ""}, "topk is blank"),
        ({"workload": "lora"}, "workload lora is not modelled yet"),
        ({"cp": 2, "tp": 4, "dp": ""}, "illegal: context ranks use fused attention"),
        ({"recompute": ""}, "recompute is blank"),
        ({"micro_batch": ""}, "micro_batch is blank"),
        ({"tp": ""}, "tp is blank"),
        ({"precision": "bf16 (not stated)"}, "the precision is not stated"),
        ({"precision": "fp3"}, "precision 'fp3' is not in the table of spellings"),
        ({"recompute": "selective (per-op)"}, "this choice of recomputed operators is not modelled yet"),
        ({"accelerator": "tpu_v3"}, "the catalog has no system with tpu-v3"),
        ({"accelerator": "abacus_9000"}, "device = abacus_9000: is not a known device"),
        ({"interconnect": "NVL72"}, "interconnect 'NVL72' does not belong to a100_sxm_80gb"),
        ({"framework": "abacus"}, "framework 'abacus' is not in the table of frameworks"),
        ({"model": "abacus-1b"}, "of its family are not known"),
        ({"outcome": "oom"}, "the run ended out of memory"),
        ({"measured_step_time_s": ""}, "step_time is not stated"),
        ({"dp": 2}, "illegal: degrees multiply to devices"),
        (
            {"tp": 1, "dp": 8, "zero_stage": "zero1 group 3", "global_batch": 32},
            "illegal: sharing ranks divide the replicas",
        ),
    ],
)
def test_rows_are_skipped_with_the_reason(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in reason(tmp_path, **changes)


def test_an_illegal_row_does_not_spoil_the_others(tmp_path: Path) -> None:
    rows = [MEGATRON_ROW, {**MEGATRON_ROW, "id": "meg-test-002", "heads": 60, "head_dim": ""}]
    good, bad = scored(tmp_path, *rows).scores
    assert good.predicted is not None and bad.skipped_because.startswith("model: ")
    good, bad = scored(
        tmp_path, rows[0], {**rows[1], "heads": 48, "kv_heads": 48, "head_dim": 128, "ffn": 24577}
    ).scores
    assert good.predicted is not None and bad.skipped_because == "illegal: tensor divides ffn"


def test_a_group_of_all_replicas_is_plain_sharding(tmp_path: Path) -> None:
    row = {**MEGATRON_ROW, "tp": 1, "dp": 8, "zero_stage": "zero1 group 8", "global_batch": 32}
    assert scored(tmp_path, row).scores[0].case.scenario["plan.zero_stage"] == 1


def test_a_group_of_some_replicas_is_hybrid_sharding(tmp_path: Path) -> None:
    row = {**MEGATRON_ROW, "tp": 1, "dp": 8, "zero_stage": "zero1 group 4", "global_batch": 32}
    score = scored(tmp_path, row).scores[0]
    assert score.case.scenario["plan.zero_group"] == 4 and score.predicted is not None


def test_context_ranks_of_a_framework_meet_as_it_has_them_meet(tmp_path: Path) -> None:
    shared = {**MEGATRON_ROW, "cp": 2, "dp": "", "tp": 4, "flash_attention": True}
    ring, gathered = scored(tmp_path, shared, {**shared, "id": "titan-1", "framework": "torchtitan"}).scores
    assert ring.case.scenario["plan.context_parallel"] == 2
    assert "plan.context_parallel_kind" not in ring.case.scenario
    assert gathered.case.scenario["plan.context_parallel_kind"] == "all_gather"


def test_rows_with_experts_become_mixtures(tmp_path: Path) -> None:
    gated = {**MEGATRON_ROW, "model": "llama-mixture", "gated_mlp": True}
    shapes = {"experts": 8, "topk": 2, "moe_ffn": 6144}
    split = {**gated, **shapes, "id": "meg-test-002", "ep": 8}
    whole, parallel = scored(tmp_path, {**gated, **shapes}, split).scores
    model = simulate(scenario_of(whole.case)).scenario["model"]
    assert {key: model[key] for key in shapes} == shapes
    assert whole.predicted is not None
    assert parallel.case.scenario["plan.expert_parallel"] == 8
    assert parallel.skipped_because == "illegal: tensor ranks route tokens of their own"


def test_assumptions_make_groups_of_their_own(tmp_path: Path) -> None:
    blank = {**MEGATRON_ROW, "id": "meg-test-002", "recompute": ""}
    without = scored(tmp_path, MEGATRON_ROW, blank)
    assert [(g["rows"], g["skipped"]) for g in without.groups()] == [(1, 1)]
    found = scored(tmp_path, MEGATRON_ROW, blank, assume={"recompute": "full"})
    assert [(g["assumed"], g["rows"]) for g in found.groups()] == [(None, 1), ("recompute=full", 1)]
    assert found.scores[0].predicted == found.scores[1].predicted


def test_a_fabric_that_is_not_stated_is_named(tmp_path: Path) -> None:
    several, one = (
        scored(tmp_path, {**FSDP_ROW, "interconnect": "", **changes}).scores[0].case.assumed
        for changes in ({}, {"n_accelerators": 8, "dp": 8})
    )
    assert (several, one) == ("interconnect=catalog", "")


def test_energy_rows(tmp_path: Path) -> None:
    rows = [
        ENERGY_ROW,
        {**ENERGY_ROW, "isl": 128, "avg_output_len": 64, "itl_median_ms": ""},
        {**ENERGY_ROW, "isl": 1024, "avg_output_len": 1024, "batch": 4096, "itl_median_ms": ""},
        {**ENERGY_ROW, "model": "deepseek-ai/DeepSeek-V3"},
    ]
    energy, latency, request, too_big, experts, _ = scored(tmp_path, *rows).scores
    step = simulate(scenario_of(energy.case))
    # The hosts are not metered: 16 tokens share what the device uses.
    assert step.energy["host_j"] == 0 and energy.predicted == pytest.approx(step.energy_j / 16)
    assert latency.quantity == "inter_token_latency" and latency.measured == pytest.approx(9e-3)
    assert latency.predicted == pytest.approx(step.step_time_s)
    assert energy.case.assumed == "context=256 + half of the output"
    assert request.case.kind == "generation" and request.case.assumed == ""
    whole = simulate(scenario_of(request.case))
    assert request.predicted == pytest.approx(whole.energy_j / (16 * 64))
    assert "does not fit" in too_big.skipped_because
    assert "latent attention" in experts.skipped_because


def test_a_rack_is_one_node_however_a_table_counts_it(tmp_path: Path) -> None:
    row = {**FSDP_ROW, "accelerator": "gb200", "interconnect": "NVL72", "accelerators_per_node": 4}

    def machine(devices: int, **changes: Any) -> dict[str, Any]:
        sized = {**row, "n_accelerators": devices, "dp": devices, "global_batch": 8 * devices, **changes}
        scenario = scored(tmp_path, sized).scores[0].case.scenario
        return {k: v for k, v in scenario.items() if k.startswith("system")}

    whole = {"system": "gb200-nvl72"}
    assert machine(8) == machine(72) == machine(144) == whole
    # 256 are no whole racks of 72: four of them with 64 at work
    part = {**whole, "system.accelerators_per_node": 64, "system.scale_out.links": 64}
    assert machine(256) == machine(256, interconnect="") == part
    assert machine(64, interconnect="") == whole


B200_ROW = {
    **MEGATRON_ROW,
    "id": "simu-test-001",
    "date": "2026-04",
    "framework": "Megatron-LM 23e00ed0 + TE 2.11, torch 2.10",
    "accelerator": "b200_sxm_180gb",
    "interconnect": "single HGX B200 node (NVLink)",
    "precision": "bf16",
    "recompute": "none",
    "flash_attention": True,
}


def test_an_assumed_calibration_is_taken_by_rows_of_its_device_and_named(tmp_path: Path) -> None:
    assume = {"calibration": "b200-sxm-megatron"}
    (blind,) = scored(tmp_path, B200_ROW).scores
    calibrated, other = scored(tmp_path, B200_ROW, MEGATRON_ROW, assume=assume).scores
    assert "system.calibration" not in blind.case.scenario and blind.case.assumed == ""
    assert calibrated.case.scenario["system.calibration"] == assume["calibration"]
    assert calibrated.case.assumed == "calibration=b200-sxm-megatron"
    assert calibrated.predicted != pytest.approx(blind.predicted, rel=1e-3)
    # Kernels of a B200 say nothing of an A100.
    assert "system.calibration" not in other.case.scenario and other.case.assumed == ""


def test_an_unknown_calibration_and_another_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="b200-sxm-megatro"):
        scored(tmp_path, B200_ROW, assume={"calibration": "b200-sxm-megatro"})
    with pytest.raises(ScenarioError, match="is not a field to assume"):
        scored(tmp_path, ENERGY_ROW, assume={"calibration": "b200-sxm-megatron"})


def test_notes_say_how_context_ranks_meet(tmp_path: Path) -> None:
    row = {**B200_ROW, "tp": 1, "dp": 1, "cp": 8, "global_batch": 4}
    plain, notes = scored(tmp_path, row, {**row, "id": "simu-test-002", "notes": "mbs=1; CP a2a"}).scores
    assert "plan.context_parallel_kind" not in plain.case.scenario
    assert notes.case.scenario["plan.context_parallel_kind"] == "ulysses"


def test_a_newer_release_supersedes_a_row_however_it_spells_the_recipe(tmp_path: Path) -> None:
    row = {**B200_ROW, "framework": "Megatron-Bridge"}
    changes = {
        "old": {"precision": "fp8-mx", "notes": "release 25.11; x"},
        "new": {"precision": "mxfp8", "notes": "release 26.04.01; x"},
        "middle": {"precision": "mxfp8", "notes": "release 26.04; x"},
        "other-recipe": {"precision": "fp8", "notes": "release 25.09; x"},
        "other-length": {"precision": "mxfp8", "seq_len": 8192, "notes": "release 25.11; x"},
        "more-devices": {"precision": "mxfp8", "n_accelerators": 64, "notes": "release 25.11; x"},
    }
    table = write_rows(tmp_path / "rows.csv", *({**row, **c, "id": name} for name, c in changes.items()))
    assert superseded(read_table(table, None).rows) == {"old", "middle"}

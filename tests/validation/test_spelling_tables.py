"""The committed tables name things that exist, and cover the spellings of the measured tables."""

from __future__ import annotations

import csv

import pytest
from measured_rows import measured

from hardware_specs import list_accelerators, load_system
from simulator.measured_tables.table_kinds import KINDS, UNSCORED
from simulator.scenarios.precision import RECIPES
from simulator.scenarios.scenario import Plan
from simulator.validation.known_words import (
    _table,
    catalog_model,
    family_keys,
    framework_of,
    notes_of,
    spelling,
    system_of,
)
from workloads import ModelSpec, list_models


def test_devices_have_systems() -> None:
    assert system_of("NVIDIA H100 80GB HBM3") == system_of("h100_sxm_80gb") == ("dgx-h100", "")
    assert system_of("A100", "llm_inference_bench_power")[0] == "dgx-a100-40gb"
    assert system_of("A100", "trtllm_performance_md")[0] == "dgx-a100-80gb"
    assert system_of("tpu_v3") == (None, "device tpu_v3: the catalog has no system with tpu-v3")
    assert system_of("h100_sxn")[1].startswith(
        "device = h100_sxn: is not a known device; did you mean h100-sxm"
    )


def test_racks_and_fabrics_name_the_catalog() -> None:
    for name, entry in _table("spellings")["racks"].items():
        system = load_system(name)
        assert system.accelerators_per_node.value % entry["tray"] == 0
        assert entry["filled"] < system.accelerators_per_node.value
        assert system.scale_out is not None  # one NIC per accelerator
        assert system.scale_out.links.value == system.accelerators_per_node.value
    for entry in _table("spellings")["interconnect"]:
        assert set(entry.get("only_on", [])) <= set(list_accelerators())


def test_entries_name_plan_keys_recipes_and_model_keys() -> None:
    for entry in _table("spellings")["precision"]:
        assert entry.get("recipe", "bf16") in RECIPES
    for entry in (*_table("frameworks")["frameworks"], *_table("frameworks")["notes"]):
        assert set(entry.get("plan", {})) <= set(Plan.model_fields)
    for entry in _table("frameworks")["frameworks"]:
        assert len(entry["source"]) > 20 and entry["memory"] in ("allocated", "reserved", "device")
    for entry in _table("families")["families"]:
        assert set(entry["keys"]) <= set(ModelSpec.model_fields) and len(entry["source"]) > 20
    assert set(_table("families")["catalog"].values()) <= set(list_models())


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("zero_stage", "fsdp_full_shard (zero3)", {"stage": 3}),
        ("zero_stage", "zero1 group 8", {"stage": 1, "group": 8}),
        ("zero_stage", "fsdp2 group 64", {"stage": 3, "group": 64}),
        ("zero_stage", "megatron-fsdp group 16", {"stage": 3, "group": 16}),
        ("zero_stage", "fsdp 256 in slice, DP across slices", {"stage": 3, "group": 256}),
        ("zero_stage", "fsdp 8 x DP 4", {"stage": 3, "group": 8}),
        ("zero_stage", "zero9", None),
        ("recompute", "selective", {"plan": "selective"}),
        ("recompute", "minimal", {"plan": "needed", "keeps": "query keys values attention_out gate up"}),
        ("precision", "fp8 hybrid", {"recipe": "fp8", "dtype": "fp8"}),
        ("precision", "fp8-mx", {"recipe": "mxfp8", "dtype": "mxfp8"}),
        (
            "interconnect",
            "4 x 100Gb RoCE per node",
            {"figures": {"scale_out.links": "4", "scale_out.link_bandwidth": "100 Gbit/s"}},
        ),
        (
            "interconnect",
            "NVLink node; 400 Gb/s RDMA per GPU",
            {"figures": {"scale_out.link_bandwidth": "400 Gbit/s", "scale_out.links": 8}},
        ),
    ],
)
def test_spellings(column: str, text: str, expected: object) -> None:
    assert spelling(column, text) == expected


def test_frameworks_depend_on_the_date() -> None:
    early, late = framework_of("Megatron-LM", "2021-04"), framework_of("Megatron-LM", "2022-05")
    assert early is not None and "overlap_tensor_parallel" not in early.plan and early.attention == "unfused"
    assert late is not None and late.plan["overlap_tensor_parallel"]
    today = framework_of("Megatron-LM", "2025-08")
    assert today is not None and today.attention == "flash"
    assert framework_of("abacus", "") is None
    assert [note["plan"] for note in notes_of("--overlap-grad-reduce, --tp-comm-overlap")] == [
        {"overlap_tensor_parallel": True, "tensor_parallel_split": "ring_pipelined"},
        {"overlap_grad_reduce": True},
    ]


def test_families() -> None:
    assert family_keys("mpt-7b", "PyTorch FSDP (llm-foundry/Composer)") is not None
    assert family_keys("mpt-7b", "another framework") is None
    assert catalog_model("meta-llama/Llama-3.3-70B-Instruct") == ("llama-3.1-70b", "")
    assert catalog_model("Qwen/Qwen3-30B-A3B-Instruct-2507") == ("qwen3-30b-a3b", "")
    assert "not in the catalog" in catalog_model("Qwen/Qwen3-77B-A7B")[1]
    assert catalog_model("Qwen/Qwen3-VL-8B-Instruct")[1] == "images and sound are not modelled"


def test_an_entry_may_hold_for_some_sources_and_frameworks_only() -> None:
    assert spelling("recompute", "full", framework="Megatron-LM") == {"plan": "full"}
    assert spelling("recompute", "full", framework="JAX MaxText") == {"plan": "needed"}
    custom = "custom (remat policy)"
    assert spelling("recompute", custom, "config llama3_1-70b-8192") == {
        "plan": "needed",
        "keeps": "query keys values",
    }
    assert "skip" in (spelling("recompute", custom, "another recipe") or {})


def test_kinds_do_not_overlap() -> None:
    assert not set(KINDS) & set(UNSCORED)


@pytest.mark.parametrize("column", ["zero_stage", "recompute", "precision", "interconnect", "accelerator"])
def test_every_spelling_of_the_open_table_is_known(column: str) -> None:
    with measured("training_runs.csv").open(newline="") as file:
        spellings = {row[column] for row in csv.DictReader(file) if row[column]}
    if column == "accelerator":
        assert not [text for text in spellings if system_of(text)[0] is None]
    else:
        assert not [text for text in spellings if spelling(column, text) is None]

"""``llmsim sweep``: order, columns, exclusions, files, and rows that turn back into scenarios."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from simulator import simulate, sweep
from simulator.spaces.space import space_from
from simulator.sweeps.saved_sweep import read_result
from simulator.sweeps.sweeping import run_space
from workloads.catalog import load_model

BASE = {
    "model": "llama-3.1-70b",
    "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": 256},
    "system": "dgx-h100",
    "devices": 128,
    "plan": {"tensor_parallel": 8, "pipeline_parallel": 4, "zero_stage": 1},
}
INFERENCE = {"model": "llama-3.1-8b", "system": "dgx-h100", "devices": 8, "plan": {"tensor_parallel": 4}}


def with_plan(**keys: object) -> dict:
    return {**BASE, "plan": {**BASE["plan"], **keys}}


def test_rows_come_in_file_order_the_last_axis_fastest() -> None:
    space = {
        **BASE,
        "devices": [128, 64],
        "plan": {"tensor_parallel": [8, 4], "pipeline_parallel": 4, "zero_stage": [1, 0]},
        "zip": [{"task.global_batch_size": [256, 512], "plan.micro_batch_size": [1, 2]}],
    }
    frame = sweep(space)
    keys = [
        "devices",
        "plan.tensor_parallel",
        "plan.zero_stage",
        "task.global_batch_size",
        "plan.micro_batch_size",
    ]
    assert list(frame.columns[:5]) == keys
    expected = [
        (*row[:3], *row[3]) for row in itertools.product([128, 64], [8, 4], [1, 0], [(256, 1), (512, 2)])
    ]
    assert [tuple(row) for row in frame[keys].to_numpy().tolist()] == expected


def test_the_frame_is_swept_keys_then_totals() -> None:
    frame = sweep(with_plan(zero_stage=[0, 1]))
    assert list(frame.columns[:3]) == ["plan.zero_stage", "data_parallel", "micro_batch_size"]
    estimate = simulate(with_plan(zero_stage=0))
    row = frame.iloc[0]
    for name in (
        "step_time_s",
        "tokens_per_s",
        "tokens_per_s_per_device",
        "mfu",
        "hfu",
        "energy_j",
        "feasible",
    ):
        assert row[name] == pytest.approx(getattr(estimate, name), rel=1e-12)
    for name, value in {**estimate.time, **estimate.memory}.items():
        if name != "heaviest_stage":
            assert row[name] == pytest.approx(value, rel=1e-12), name


HUGGING_FACE = {
    "model_type": "llama", "eos_token_id": [1, 2], "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": {"sweep": [16, 32]},
    "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip
SPACES = {
    "a list": (with_plan(tensor_parallel=[4, 8]), 2),
    "a sweep": (with_plan(tensor_parallel={"sweep": [4, 8]}), 2),
    "whole systems": (
        {
            **BASE,
            "system": {
                "sweep": [
                    "dgx-h100",
                    {"base": "dgx-h100", "accelerators_per_node": 4},
                    {"base": "dgx-h100", "accelerator": "h200-sxm"},
                ]
            },
        },
        3,
    ),
    "whole models": (
        {**BASE, "model": {"sweep": ["llama-2-70b", load_model("gpt3-175b").model_dump(mode="json")]}},
        2,
    ),
    "whole tasks of one kind": (
        {**BASE, "task": {"sweep": [BASE["task"], {**BASE["task"], "sequence_length": 4096}]}},
        2,
    ),
    "whole tasks of all kinds": (
        {
            **INFERENCE,
            "task": [
                {"kind": "training", "sequence_length": 512, "global_batch_size": 8},
                {"kind": "prefill", "batch_size": 4, "prompt_length": 512},
                {"kind": "decode", "batch_size": 4, "context_length": 512},
                {"kind": "generation", "batch_size": 4, "prompt_length": 512, "output_length": 9},
            ],
        },
        4,
    ),
    "whole plans": (
        {**BASE, "plan": [{"tensor_parallel": 8, "zero_stage": 1}, {"pipeline_parallel": 8}, {}]},
        3,
    ),
    "whole plans in zip": (
        {**BASE, "zip": [{"plan": [{"tensor_parallel": 8}, {"pipeline_parallel": 8}], "devices": [64, 128]}]},
        2,
    ),
    "precisions": (with_plan(precision=["bf16", "fp16", "fp8"]), 3),
    "precision mappings": (
        with_plan(precision={"sweep": ["bf16", {"gradients": "bf16"}, {"weights": "fp16"}]}),
        3,
    ),
    "inside a precision": (with_plan(precision={"gradients": ["bf16", "fp32"]}), 2),
    "compression lists": (
        with_plan(compression={"sweep": [[], [{"name": "layer_drop", "fraction": 0.25}]]}),
        2,
    ),
    "inside a compression": (
        with_plan(compression=[{"name": "layer_drop", "fraction": {"sweep": [0.05, 0.25, 0.5]}}]),
        3,
    ),
    "figures": ({**BASE, "system.accelerator.memory_bandwidth": ["3.35 TB/s", "1.5x"]}, 2),
    "figures of every system": (
        {
            **BASE,
            "system": ["dgx-h100", "dgx-a100-80gb"],
            "system.accelerator.memory_bandwidth": ["3.35 TB/s", "1.5x"],
        },
        4,
    ),
    "a figure before the systems": (
        {**BASE, "system.accelerator.clock": "0.5x", "system": ["dgx-h100", "dgx-h200"]},
        2,
    ),
    "a key before the systems": (
        {**BASE, "system.accelerators_per_node": 4, "system": ["dgx-h100", "dgx-h200"]},
        2,
    ),
    "a model key before the models": (
        {**BASE, "model.n_layers": 40, "model": ["llama-2-70b", "llama-3.1-70b"]},
        2,
    ),
    "a model key on an axis": (
        {**BASE, "model.n_layers": [40, 80], "model": ["llama-2-70b", "llama-3.1-70b"]},
        4,
    ),
    "a figure of a changed system": (
        {**BASE, "system": {"base": "dgx-h100", "accelerator": {"clock": ["1 GHz", "0.5x"]}}},
        2,
    ),
    "fixed and swept figures": (
        {
            **BASE,
            "system": {"base": "dgx-h100", "accelerator": {"clock": "1 GHz", "units": {"sweep": [132, 100]}}},
        },
        2,
    ),
    "inside Hugging Face keys": (
        {
            **INFERENCE,
            "model": HUGGING_FACE,
            "task": {"kind": "decode", "batch_size": 4, "context_length": 512},
        },
        2,
    ),
    "fidelities": ({**BASE, "fidelity": ["bound", "datasheet", "calibrated"]}, 3),
    "switches": (
        {
            **BASE,
            "plan.attention_kernel": ["flash", "unfused"],
            "plan.overlap_tensor_parallel": [True, False],
        },
        4,
    ),
    "null for derived degrees": (with_plan(data_parallel=[None, 4], micro_batch_size=[None, 1, 2]), 6),
    "arrays": (
        with_plan(
            tensor_parallel=np.array([4, 8]),
            sequence_parallel=np.array([True, False]),
            zero_stage=np.int64(1),
        ),
        4,
    ),
    "arrays of figures": ({**BASE, "system.accelerator.memory_bandwidth": np.array([3e12, 4e12])}, 2),
    "a figure from NumPy": ({**BASE, "system.accelerator.memory_bandwidth": np.float64(3e12)}, 1),
    "counts and factors": ({**BASE, "system.accelerators_per_node": [4, "2x"]}, 2),
    "many models": ({**BASE, "model": ["gpt3-175b", "llama-2-70b", "mpt-70b", "qwen2.5-72b"]}, 4),
    "no axis": (BASE, 1),
}


@pytest.mark.parametrize(("space", "n_rows"), SPACES.values(), ids=SPACES)
def test_every_row_is_a_scenario(space: dict, n_rows: int) -> None:
    parsed = space_from(space)
    assert parsed.n_rows == n_rows
    result = run_space(parsed)
    assert len(result.rows) == n_rows
    for place, row in enumerate(result.rows):
        estimate = simulate(parsed.scenario_mapping(int(row)))
        assert estimate.step_time_s == pytest.approx(result.columns["step_time_s"][place], rel=1e-12)
        assert estimate.energy_j == pytest.approx(result.columns["energy_j"][place], rel=1e-12)
        assert estimate.memory["peak_bytes"] == pytest.approx(result.columns["peak_bytes"][place], rel=1e-12)
        again = simulate(yaml.safe_load(yaml.safe_dump(estimate.to_dict()["scenario"])))
        assert again.step_time_s == pytest.approx(estimate.step_time_s, rel=1e-12)


DISTINCT = [
    name
    for name in SPACES
    if name not in ("null for derived degrees", "no axis", "a figure from NumPy", "precision mappings")
]


@pytest.mark.parametrize("name", DISTINCT)
def test_the_axis_has_an_effect(name: str) -> None:
    frame = sweep(SPACES[name][0])
    assert len(set(zip(frame["step_time_s"], frame["peak_bytes"], frame["energy_j"], strict=True))) == len(
        frame
    )


def test_left_out_rows_are_counted_by_rule(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    space = {
        **with_plan(precision=["bf16", "fp8", "fp16"]),
        "model": ["llama-3.1-70b", "gpt3-175b"],
        "system": ["dgx-h100", "dgx-a100-80gb"],
    }
    path.write_text(yaml.safe_dump(space, sort_keys=False))
    found = llmsim("sweep", path, "--out", tmp_path / "rows.parquet")
    assert found.status == 0, found.err
    assert found.out.startswith("12 combinations: 10 legal, 7 fit")
    assert "left out: device has the compute type (2)" in found.out
    frame = read_result(tmp_path / "rows.parquet")
    assert frame.attrs["excluded"] == {"device has the compute type": 2}
    assert (frame.attrs["rows_in_space"], frame.attrs["rows_kept"]) == (12, 10)
    dropped = {("gpt3-175b", "dgx-a100-80gb", "fp8"), ("llama-3.1-70b", "dgx-a100-80gb", "fp8")}
    kept = set(frame[["model", "system", "plan.precision"]].itertuples(index=False, name=None))
    assert kept == set(itertools.product(space["model"], space["system"], ["bf16", "fp8", "fp16"])) - dropped


def test_shapes_that_contradict_each_other_are_left_out() -> None:
    """64 heads have no 7 key-value heads; the other rows stay."""
    frame = sweep({**BASE, "model": ["llama-3.1-70b", "llama-2-70b"], "model.kv_heads": [8, 7, 64]})
    assert frame.attrs["excluded"] == {"model is consistent": 2}
    assert frame["model.kv_heads"].tolist() == [8, 64, 8, 64]


def test_a_row_that_does_not_fit_stays(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(with_plan(micro_batch_size=[1, 64])))
    found = llmsim("sweep", path, "--out", tmp_path / "rows.csv")
    assert "2 combinations: 2 legal, 1 fit" in found.out
    frame = read_result(tmp_path / "rows.csv")
    assert frame["feasible"].tolist() == [True, False]
    assert frame["peak_bytes"][1] > frame["capacity_bytes"][1]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_files_hold_the_frame_and_its_metadata(llmsim, tmp_path: Path, suffix: str) -> None:
    space = {
        **with_plan(tensor_parallel=[4, 8, 3], sequence_parallel=[True, False]),
        "plan.precision": {"sweep": ["bf16", {"gradients": "bf16"}]},
        "plan.data_parallel": [None],
        "system.accelerators_per_node": [8, "1x"],
    }
    path, out = tmp_path / "sweep.yaml", tmp_path / f"rows{suffix}"
    path.write_text(yaml.safe_dump(space, sort_keys=False))
    found = llmsim("sweep", path, "--out", out)
    assert found.status == 0, found.err
    saved, made = read_result(out), sweep(space)
    assert list(saved.columns) == list(made.columns)
    for name in made.columns:
        assert (
            saved[name].tolist() == made[name].tolist() or (saved[name].isna() & made[name].isna()).all()
        ), name
    assert saved.attrs == json.loads(json.dumps(made.attrs))
    # Three ranks divide neither the heads nor the devices; the first axis is asked first.
    assert saved.attrs["excluded"] == {"tensor divides heads": 8}
    beside = [out.name, f"{out.name}.json"] if suffix == ".csv" else [out.name]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*beside, "sweep.yaml"])
    if suffix == ".csv":
        assert len(pd.read_csv(out)) == len(made)


def test_conditions_over_inputs_and_derived_degrees() -> None:
    space = {
        **BASE,
        "devices": [64, 128],
        "plan": {"tensor_parallel": [2, 4, 8], "pipeline_parallel": [2, 4]},
        "where": [
            "plan.tensor_parallel * plan.pipeline_parallel >= 16",
            "data_parallel <= 8 and micro_batches >= task.global_batch_size / 8",
            "model.n_layers % plan.pipeline_parallel == 0",
            "not (plan.zero_stage > 0) or max(devices, 3) > 1",
            "8 <= tensor_parallel * 2 <= 16",
        ],
    }
    frame = sweep(space)
    rows = itertools.product([64, 128], [2, 4, 8], [2, 4])
    expected = [(n, t, p) for n, t, p in rows if t * p >= 16 and n / t / p <= 8 and 8 <= 2 * t <= 16]
    assert [
        tuple(r) for r in frame[["devices", "plan.tensor_parallel", "plan.pipeline_parallel"]].to_numpy()
    ] == expected
    assert frame.attrs["excluded"] == {"where does not hold": 12 - len(expected)}


def test_names_of_conditions_are_those_that_rows_have() -> None:
    """The list that conditions are checked against is what the engine supplies."""
    from simulator.spaces.conditions import DERIVED_NAMES

    for name in sorted(DERIVED_NAMES):
        frame = sweep({**with_plan(zero_stage=[0, 1]), "where": f"{name} > -1"})
        assert len(frame) == 2, name


def test_tables_of_a_sweep_fit_the_terminal(llmsim, monkeypatch: pytest.MonkeyPatch) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "gpt3-plans-sweep.yaml"
    for columns in (80, 100, 140):
        monkeypatch.setenv("COLUMNS", str(columns))
        found = llmsim("sweep", example, "--top", "5")
        assert found.status == 0
        assert found.err == ""
        assert max(map(len, found.out.splitlines())) <= columns
        assert "…" not in found.out
        for words in ("step time", "memory", " s ", " GB", "Pareto front", "left out: interleaving needs"):
            assert words in found.out
        assert "plan." not in found.out


def test_nothing_fits(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**BASE, "devices": 32, "plan": {"pipeline_parallel": [1, 2]}}))
    found = llmsim("sweep", path)
    assert found.status == 0
    assert "2 legal, 0 fit" in found.out
    assert "Nothing fits; the nearest first" in found.out

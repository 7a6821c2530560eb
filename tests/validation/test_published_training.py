"""Training steps against published tables: blind, nothing was fitted to a training run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from simulator import simulate, sweep
from simulator.estimates.pipeline_timeline import pipeline_timeline

EXAMPLES = Path(__file__).parents[2] / "examples"
PUBLISHED = Path(__file__).parent / "published"
EACH_WITHIN = 0.08
SPEED_UP_WITHIN = 0.03
SC21_MAPE_AT_MOST = 0.08
SEQUENCE, VOCABULARY = 2048, 51200


def rows_of(name: str) -> list[dict[str, str]]:
    """Rows of a published table; lines that start with # are its citation."""
    lines = (PUBLISHED / name).read_text().splitlines()
    assert any("arXiv" in line for line in lines if line.startswith("#")), "a table carries its citation"
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def predicted_s(scenarios: list[dict[str, Any]]) -> np.ndarray:
    """Step times of scenarios that differ in anything, as one space with one zip axis [s]."""
    keys = list(scenarios[0])
    base = {
        "task": {"kind": "training", "sequence_length": SEQUENCE, "global_batch_size": 1},
        "system": "dgx-a100-80gb",
        "plan": {"precision": "fp16", "attention_kernel": "unfused"},
    }
    frame = sweep({**base, "zip": [{key: [s[key] for s in scenarios] for key in keys}]})
    assert len(frame) == len(scenarios)
    return frame["step_time_s"].to_numpy()


def plan_of(row: dict[str, str]) -> dict[str, Any]:
    keys = ("tensor_parallel", "pipeline_parallel", "virtual_pipeline", "micro_batch_size")
    return {
        "devices": int(row["devices"]),
        "task.global_batch_size": int(row["global_batch_size"]),
        **{f"plan.{key}": int(row[key]) for key in keys},
    }


def test_korthikanti_table_5() -> None:
    rows = rows_of("korthikanti_2022_table_5.csv")
    scenarios = [
        {
            "model": row["model"],
            **plan_of(row),
            "plan.recompute": "full" if row["variant"] == "full" else "selective",
            "plan.sequence_parallel": row["variant"] == "present",
            # The paper overlaps exchanges with weight gradients (section 4.2.2).
            "plan.overlap_tensor_parallel": True,
        }
        for row in rows
    ]
    measured = np.array([float(row["iteration_time_s"]) for row in rows])
    predicted = predicted_s(scenarios)
    errors = predicted / measured - 1.0
    print("korthikanti table 5, signed errors:", np.round(errors, 4))
    assert np.max(np.abs(errors)) <= EACH_WITHIN
    gain = (predicted[0::2] / predicted[1::2]) / (measured[0::2] / measured[1::2]) - 1.0
    print("full over present, signed errors:", np.round(gain, 4))
    assert np.max(np.abs(gain)) <= SPEED_UP_WITHIN


def test_narayanan_table_1() -> None:
    rows = rows_of("narayanan_2021_table_1.csv")
    scenarios, measured = [], []
    for row in rows:
        layers, hidden, batch = int(row["n_layers"]), int(row["hidden"]), int(row["global_batch_size"])
        model = {
            "base": "megatron-22b",
            "name": f"megatron-{hidden}",
            "n_layers": layers,
            "hidden": hidden,
            "heads": int(row["heads"]),
            "kv_heads": int(row["heads"]),
            "head_dim": hidden // int(row["heads"]),
            "ffn": 4 * hidden,
            "published_parameters": None,
        }
        scenarios.append({"model": model, **plan_of(row), "plan.recompute": "full"})
        correction = 1 + SEQUENCE / (6 * hidden) + VOCABULARY / (16 * layers * hidden)
        flop = 96 * batch * SEQUENCE * layers * hidden**2 * correction
        measured.append(flop / (float(row["tera_flop_per_s_per_device"]) * 1e12 * int(row["devices"])))
    # The 2021 code neither hides its gradient all-reduce nor its tensor-parallel exchanges.
    for scenario in scenarios:
        scenario["plan.overlap_grad_reduce"] = False
    errors = predicted_s(scenarios) / np.array(measured) - 1.0
    print("narayanan table 1, signed errors:", np.round(errors, 4))
    assert np.mean(np.abs(errors)) <= SC21_MAPE_AT_MOST
    assert np.max(np.abs(errors)) <= 0.10


def test_deepseek_v3_table_1() -> None:
    """The published plan as it is, of which nothing was tuned: 17 % too fast (docs/decisions.md says why)."""
    (row,) = rows_of("deepseek_v3_table_1.csv")
    scenario = yaml.safe_load((EXAMPLES / "deepseek-v3-published-plan.yaml").read_text())
    assert scenario["devices"] == int(row["devices"])
    assert scenario["task"]["global_batch_size"] == int(row["global_batch_size"])
    estimate = simulate(scenario)
    steps = float(row["tokens"]) / (int(row["sequence_length"]) * int(row["global_batch_size"]))
    hours = steps * estimate.step_time_s * int(row["devices"]) / 3600.0
    error = hours / float(row["h800_hours"]) - 1.0
    print(f"DeepSeek-V3: {hours / 1e6:.2f} million H800 hours, signed error {error:.3f}")
    # Not a limit to be proud of: a change of the gap is to be said in docs/decisions.md.
    assert -0.24 < error < -0.12
    # Uneven stages under DualPipe: the closed form against the same step played out.
    ended = max(passed["end_s"] for passed in pipeline_timeline(scenario))
    outside = ("optimizer_s", "pipeline_p2p_s", "data_parallel_s")
    inside = sum(seconds for name, seconds in estimate.time.items() if name not in outside)
    assert inside / ended - 1.0 == pytest.approx(0.0, abs=0.005)


@pytest.mark.parametrize("name", sorted(p.name for p in PUBLISHED.glob("*.csv")))
def test_tables_are_cited_and_complete(name: str) -> None:
    rows = rows_of(name)
    assert rows
    assert all(value for row in rows for value in row.values())

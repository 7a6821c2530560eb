"""``llmsim run``: formats, files, paths, and a plan that does not fit."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from hardware_specs import load_system, to_mapping
from simulator import simulate
from workloads.catalog import load_model

SAME = ("step_time_s", "tokens_per_s", "mfu", "hfu", "energy_j")


def agrees(a: dict, b: dict) -> None:
    for key in SAME:
        assert a[key] == pytest.approx(b[key], rel=1e-12), key
    for section in ("memory", "time", "energy"):
        for key, value in a[section].items():
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-12)
            assert b[section][key] == expected, key


@pytest.mark.parametrize("name", ["training", "decode", "generation"])
def test_json_is_exactly_to_dict(llmsim, request, name: str) -> None:
    path = request.getfixturevalue(name)
    found = llmsim("run", path, "--format", "json")
    assert found.status == 0
    assert found.err == ""
    data = simulate(path).to_dict()
    assert found.out == json.dumps(data, indent=2) + "\n"
    assert json.loads(found.out, parse_constant=pytest.fail) == data  # no NaN, no Infinity


def test_csv_is_the_operator_table(llmsim, training: Path) -> None:
    found = llmsim("run", training, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(found.out)))
    estimate = simulate(training)
    assert [r["name"] for r in rows] == list(estimate.operators["name"])
    assert sum(float(r["exposed_s"]) for r in rows) == pytest.approx(estimate.step_time_s, rel=1e-9)


@pytest.mark.parametrize("name", ["training", "decode", "generation"])
def test_the_four_files(llmsim, request, tmp_path: Path, name: str) -> None:
    path, out = request.getfixturevalue(name), tmp_path / "deep" / "results"
    assert llmsim("run", path, "--out", out).status == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "estimate.json",
        "memory.csv",
        "operators.csv",
        "scenario.yaml",
    ]
    estimate = json.loads((out / "estimate.json").read_text())
    assert estimate == simulate(path).to_dict()
    memory = {
        r["owner"]: float(r["bytes"]) for r in csv.DictReader(io.StringIO((out / "memory.csv").read_text()))
    }
    peak = memory.pop("peak_bytes")
    memory.pop("capacity_bytes")
    assert sum(memory.values()) == pytest.approx(peak)
    text = (out / "scenario.yaml").read_text()
    assert text.startswith("# llmsim ")
    assert "# catalog model: " in text
    assert "# catalog system: " in text
    assert yaml.safe_load(text)["plan"]["overlap_grad_reduce"] is True  # a default, written out
    agrees(estimate, json.loads(llmsim("run", out / "scenario.yaml", "--format", "json").out))


def inline(training: Path, **changes: object) -> dict:
    return {**yaml.safe_load(training.read_text()), **changes}


HUGGING_FACE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "eos_token_id": [128001, 128008],
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_hidden_layers": 80,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}


def _plain_quantities(value: object) -> object:
    """A system with plain quantity strings in place of sourced figures."""
    if isinstance(value, dict):
        return value["value"] if "basis" in value else {k: _plain_quantities(v) for k, v in value.items()}
    return value


def scenarios(training: Path) -> dict[str, dict]:
    system = to_mapping(load_system("dgx-h100"))
    model = load_model("llama-3.1-70b").model_dump(mode="json")
    return {
        "inline system": inline(training, system=system),
        "inline system of plain quantities": inline(training, system=_plain_quantities(system)),
        "changed system": inline(training, system={"base": "dgx-h100", "accelerators_per_node": 4}),
        "changed figure": inline(training, system={"base": "dgx-h100", "accelerator": {"clock": "0.5x"}}),
        "inline model": inline(training, model=model),
        "changed model": inline(training, model={"base": "llama-3.1-70b", "n_layers": 40}),
        "Hugging Face keys": inline(training, model=HUGGING_FACE),
        "dotted keys": inline(
            training, **{"plan.zero_stage": 2, "system.accelerator.clock": "1 GHz", "devices": 64}
        ),
        "override of an inline system": inline(
            training, system=system, **{"system.accelerator.clock": "0.5x"}
        ),
        "half of the layers": inline(
            training, **{"plan.compression": [{"name": "layer_drop", "fraction": 0.5}]}
        ),
        "precision by class": inline(
            training, **{"plan.precision": {"gradients": "bf16", "communication": "bf16"}}
        ),
    }


@pytest.mark.parametrize("name", range(11))
def test_every_way_to_write_a_scenario_reads_back(llmsim, training: Path, tmp_path: Path, name: int) -> None:
    written = list(scenarios(training).values())[name]
    path = tmp_path / "written.yaml"
    path.write_text(yaml.safe_dump(written))
    found = llmsim("run", path, "--out", tmp_path / "out", "--format", "json")
    assert found.status == 0, found.err
    agrees(found.json(), llmsim("run", tmp_path / "out" / "scenario.yaml", "--format", "json").json())


def test_equal_ways_to_write_give_equal_results(training: Path) -> None:
    ways = scenarios(training)
    plain = simulate(training).to_dict()
    for name in ("inline system", "inline system of plain quantities", "inline model", "Hugging Face keys"):
        found = simulate(ways[name]).to_dict()
        agrees(plain, found)


def test_paths_are_relative_to_the_scenario(llmsim, training: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "folder"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "config.json").write_text(json.dumps(HUGGING_FACE))
    (folder / "machine.yaml").write_text(yaml.safe_dump(to_mapping(load_system("dgx-h100"))))
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(inline(training, model="models/config.json", system="machine.yaml")))
    monkeypatch.chdir(tmp_path)
    found = llmsim("run", path, "--format", "json")
    assert found.status == 0, found.err
    agrees(found.json(), simulate(training).to_dict())
    axes = inline(
        training,
        model=["models/config.json", "llama-2-70b"],
        system={"sweep": ["machine.yaml", {"base": "machine.yaml", "accelerators_per_node": 4}]},
    )
    path.write_text(yaml.safe_dump(axes))
    assert "4 combinations: 4 legal" in llmsim("sweep", path).out


INFEASIBLE = [
    ("plan.micro_batch_size=8", "plan.recompute=none"),
    ("plan.tensor_parallel=2", "plan.pipeline_parallel=2", "plan.zero_stage=0"),
    ("devices=8", "plan.pipeline_parallel=1"),
    ("system=dgx-a100-40gb", "plan.data_parallel=4"),
    ("model=gpt3-175b", "task.sequence_length=2048", "plan.tensor_parallel=1", "plan.data_parallel=32"),
    ("plan.sequence_parallel=false", "plan.micro_batch_size=4"),
]


@pytest.mark.parametrize("settings", INFEASIBLE)
def test_a_plan_that_does_not_fit(llmsim, training: Path, settings: tuple[str, ...]) -> None:
    """Exit status 0, the amounts, and a change that does fit when it is applied as it is written."""
    arguments = [a for s in settings for a in ("--set", s)]
    found = llmsim("run", training, *arguments, "--format", "json")
    assert found.status == 0
    data = found.json()
    assert data["feasible"] is False
    assert data["step_time_s"] > 0
    memory = data["memory"]
    assert memory["peak_bytes"] > memory["capacity_bytes"]
    (reason,) = data["reasons"]
    assert (
        f"needs {memory['peak_bytes'] / 1e9:.1f} GB per device but there are {memory['capacity_bytes'] / 1e9:.1f} GB"
        in reason
    )
    change = yaml.safe_load("{" + data["smallest_change"] + "}")
    applied = [a for k, v in change.items() for a in ("--set", f"{k}={json.dumps(v)}")]
    after = llmsim("run", training, *arguments, *applied, "--format", "json")
    assert after.status == 0, after.err
    assert after.json()["feasible"] is True
    shown = " ".join(llmsim("run", training, *arguments).out.split())
    assert "Does not fit." in shown
    assert f"Smallest change that fits: {data['smallest_change']}" in shown


def test_a_model_that_nothing_holds(llmsim, tmp_path: Path) -> None:
    """One device that cannot take more tensor ranks: no change, and no crash."""
    path = tmp_path / "one.yaml"
    path.write_text(
        "model: {base: llama-3.1-8b, hidden: 33, heads: 1, kv_heads: 1, head_dim: 2, ffn: 1000000001, n_layers: 1}\n"
        "task: {kind: prefill, batch_size: 1, prompt_length: 1}\nsystem: dgx-h100\ndevices: 1\n"
    )
    found = llmsim("run", path, "--format", "json")
    assert found.status == 0, found.err
    assert found.json()["feasible"] is False
    assert found.json()["smallest_change"] is None


def test_a_step_of_extremes_has_finite_numbers(llmsim, training: Path) -> None:
    settings = [
        "task.global_batch_size=1000000000",
        "task.sequence_length=1000000000",
        "model.max_positions=2000000000",
        "plan.data_parallel=4",
        "plan.micro_batch_size=250000000",
    ]
    found = llmsim("run", training, *[a for s in settings for a in ("--set", s)], "--format", "json")
    assert found.status == 0, found.err
    json.loads(found.out, parse_constant=pytest.fail)

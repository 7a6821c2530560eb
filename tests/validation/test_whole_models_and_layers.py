"""Readers of whole eager models and of layer operators, on tables of a few rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from measured_rows import write_rows

from hardware_specs import list_calibrations, list_systems
from hardware_specs.errors import SpecError
from simulator import simulate
from simulator.scenarios.scenario import Plan
from simulator.validation import validate
from simulator.validation.known_words import _table, eager_word, layer_calibration
from simulator.validation.layer_rows import LAYER_OPERATORS
from workloads import list_models, load_model

MODEL_ROW: dict[str, Any] = {
    "device": "Tesla_V100-PCIE-32GB",
    "model": "gpt2_large",
    "phase": "inference",
    "seq": 1024,
    "batch": 4,
    "option": "",
    "measured_ms": 700.0,
    "dtype": "fp32",
}
LAYER_ROW: dict[str, Any] = {
    "device": "a100",
    "model": "some/model-7b",
    "tp": 2,
    "tokens": 512,
    "op": "add",
    "median_us": 10.0,
    "hidden": 4096,
    "ffn": 11008,
    "heads": 32,
    "kv_heads": 32,
    "vocab": 32768,
    "gated": True,
    "source": "a test",
}


def scores(path: Path, *rows: dict[str, Any]) -> list[Any]:
    return list(validate(write_rows(path / "rows.csv", *rows)).scores)


def test_a_row_is_the_forward_pass_of_its_model(tmp_path: Path) -> None:
    (found,) = scores(tmp_path, MODEL_ROW)
    estimate = simulate(
        {
            "model": "gpt2-large",
            "task": {"kind": "prefill", "batch_size": 4, "prompt_length": 1024, "logits": "all"},
            "system": "v100-pcie-1",
            "devices": 1,
            "plan": {"precision": "fp32", "attention_kernel": "unfused", "kernel_fusion": "eager"},
        }
    )
    assert (found.quantity, found.unit, found.measured) == ("forward_time", "s", pytest.approx(0.7))
    assert found.predicted == pytest.approx(estimate.step_time_s, rel=1e-12)
    assert (found.case.stack, found.case.size_class) == ("PyTorch eager", "forward")


def test_training_is_forward_and_backward_without_the_optimizer(tmp_path: Path) -> None:
    (found,) = scores(tmp_path, {**MODEL_ROW, "phase": "train", "batch": 2})
    estimate = simulate(
        {
            "model": "gpt2-large",
            "task": {"kind": "training", "global_batch_size": 2, "sequence_length": 1024},
            "system": "v100-pcie-1",
            "devices": 1,
            "plan": {
                "precision": "fp32", "attention_kernel": "unfused", "kernel_fusion": "eager", "micro_batch_size": 2,
            },
        }
    )  # fmt: skip
    optimizer = estimate.to_dict()["time"]["optimizer_s"]
    assert optimizer > 0 and found.quantity == "forward_backward_time"
    assert found.predicted == pytest.approx(estimate.step_time_s - optimizer, rel=1e-12)


def test_options_stand_apart_and_change_the_plan(tmp_path: Path) -> None:
    plain, fused = scores(tmp_path, MODEL_ROW, {**MODEL_ROW, "option": "fusion"})
    assert fused.predicted < plain.predicted and fused.case.size_class == "forward fusion"
    train = {**MODEL_ROW, "device": "NVIDIA_H100_80GB_HBM3", "phase": "train", "batch": 4}
    one, data, tensor, unknown = scores(
        tmp_path, train, *({**train, "option": option} for option in ("dp4", "tp4", "pp4"))
    )
    assert one.predicted / 4 < data.predicted < one.predicted and one.predicted / 4 < tensor.predicted
    assert data.case.scenario["plan.data_parallel"] == 4 and data.case.scenario["plan.micro_batch_size"] == 1
    assert tensor.case.scenario["plan.tensor_parallel"] == 4 == tensor.case.scenario["devices"]
    assert unknown.skipped_because == "option 'pp4' is not in the table"
    assert one.case.scenario["system.calibration"] == "h100-sxm-eager"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "abacus"}, "abacus"),
        ({"model": "unheard_of"}, "model unheard_of is not in the table"),
        ({"model": "switchxl4"}, "mixture of experts"),
        ({"phase": "decode"}, "phase 'decode' is not one of inference, train"),
        ({"dtype": "fp16"}, "only fp32"),
    ],
)
def test_rows_that_stand_for_nothing_say_why(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    (found,) = scores(tmp_path, {**MODEL_ROW, **changes})
    assert reason in found.skipped_because and found.predicted is None


def test_wrong_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="row 1, column measured_ms"):
        scores(tmp_path, {**MODEL_ROW, "measured_ms": -1.0})


def test_a_layer_is_the_sum_of_its_operators(tmp_path: Path) -> None:
    rows = [{**LAYER_ROW, "op": op, "median_us": 10.0 + n} for n, op in enumerate([*LAYER_OPERATORS, "emb"])]
    repeated = {**rows[0], "median_us": 12.0}
    layer, embedding = scores(tmp_path, *rows, repeated)
    # nine operators of 10 ... 18 us, the first measured twice: 11 us on average
    assert layer.measured == pytest.approx((sum(range(10, 19)) + 1) * 1e-6)
    assert embedding.measured == pytest.approx(19e-6) and embedding.quantity == "embedding_time"
    assert layer.case.id == "a100/some/model-7b/tp2/tokens512" and layer.case.size_class == "prefill"
    estimate = simulate({"task.kind": "prefill", **layer.case.scenario})
    busy = {row["name"]: row["busy_s"] for row in estimate.to_dict()["operators"]}
    assert layer.predicted == pytest.approx(sum(busy[f"layer.{name}"] for name in LAYER_OPERATORS.values()))
    assert embedding.predicted == pytest.approx(busy["embedding.embedding"])


def test_a_layer_with_a_gap_is_not_summed(tmp_path: Path) -> None:
    layer, embedding = scores(tmp_path, LAYER_ROW, {**LAYER_ROW, "op": "emb"})
    assert layer.skipped_because.startswith("rows of input_layernorm, attn_pre_proj")
    assert layer.measured is None and embedding.predicted > 0


def test_layers_of_many_sizes_equal_those_of_one(tmp_path: Path) -> None:
    rows = [
        {**LAYER_ROW, "op": op, "tokens": tokens, "tp": tp, "model": model, "hidden": hidden}
        for op in LAYER_OPERATORS
        for tokens, tp, model, hidden in ((64, 1, "a", 4096), (512, 2, "b", 8192), (2048, 1, "a", 4096))
    ]
    together = {s.case.id: s.predicted for s in scores(tmp_path, *rows) if s.quantity == "layer_time"}
    assert len(together) == 3
    for name, predicted in together.items():
        tokens = int(name.rpartition("tokens")[2])
        alone = scores(tmp_path, *(row for row in rows if row["tokens"] == tokens))[0]
        assert alone.predicted == pytest.approx(predicted, rel=1e-12)


def test_the_word_table_names_things_that_exist() -> None:
    table = _table("eager_models")
    for name, entry in table["models"].items():
        model = entry["model"]
        assert (model["base"] if isinstance(model, dict) else model) in list_models(), name
        assert load_model(model).max_positions >= 512 and entry["logits"] in ("all", "none")
        assert len(entry["source"]) > 20
    for section in ("calibrations", "layer_calibrations"):
        for system, calibration in table[section].items():
            assert system in list_systems() and calibration in list_calibrations()
    for option in table["options"]:
        assert {key.removeprefix("plan.") for key in option["keys"]} <= set(Plan.model_fields)
    assert (
        eager_word("options", "dp8")["ways"] == "plan.data_parallel" and eager_word("models", "none") is None
    )
    assert layer_calibration("dgx-b200") is None

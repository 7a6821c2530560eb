"""Mistakes in sweeps and searches: axes, zip, where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TRAINING = """\
model: llama-3.1-70b
task: {kind: training, sequence_length: 8192, global_batch_size: 256}
system: dgx-h100
devices: 128
plan: {tensor_parallel: TENSOR, pipeline_parallel: 4, zero_stage: 1}
"""
TWO = TRAINING.replace("TENSOR", "[4, 8]")
LONG = ", ".join(map(str, range(1, 2001)))
LONG_KEYS = ("micro_batch_size", "pipeline_parallel", "virtual_pipeline")
AXES = {
    "empty list": (TRAINING.replace("TENSOR", "[]"), ["plan.tensor_parallel = []", "at least one value"]),
    "empty sweep": (TRAINING.replace("TENSOR", "{sweep: []}"), ["plan.tensor_parallel = []", "at least one value"]),
    "sweep of a number": (TRAINING.replace("TENSOR", "{sweep: 3}"), ["sweep takes a list", "{sweep: [first, second]}"]),
    "twice, in zip": (TWO + "zip: [{plan.tensor_parallel: [4, 8]}]\n", ["plan.tensor_parallel: is swept twice"]),
    "twice, dotted": (TWO + "plan.tensor_parallel: [4, 8]\n", ["plan.tensor_parallel: is swept twice"]),
    "zip of unequal lists": (
        TWO + "zip: [{devices: [64, 128], plan.zero_stage: [1]}]\n",
        ["zip[0] = devices: 2, plan.zero_stage: 1", "one length"],
    ),
    "zip of a value": (TWO + "zip: [{devices: 64}]\n", ["zip[0] = devices: no list", "one length"]),
    "zip of nothing": (TWO + "zip:\n", ["zip[0] = null", "must be a mapping"]),
    "unknown key in zip": (TWO + "zip: [{plan.zero_stag: [1]}]\n", ["plan.zero_stag = 1", "zero_stage"]),
    "wrong type in an axis": (TRAINING.replace("TENSOR", "[4, eight]"), ["= eight", "whole number"]),
    "unknown name in an axis": (
        TRAINING.replace("TENSOR", "8").replace("llama-3.1-70b", "[llama-3.1-70b, lama-3]"),
        ["model = lama-3", "llama-3.1-8b"],
    ),
    "unknown precision in an axis": (TWO + "plan.precision: [bf16, bf61]\n", ["plan.precision = bf61"]),
    "wrong shape in an axis": (TWO + "model.n_layers: [80, -1]\n", ["model.n_layers = -1"]),
    "unknown shape in an axis": (TWO + "model.layers: [80, 40]\n", ["model.layers = 80", "n_layers"]),
    "wrong unit in an axis": (
        TWO + 'system.accelerator.memory_bandwidth: ["3 TB/s", "3 GB"]\n',
        ["system.accelerator.memory_bandwidth", "3 GB"],
    ),
    "too many rows": (
        TWO + "".join(f"plan.{k}: [{LONG}]\n" for k in LONG_KEYS),
        ["16,000,000,000 rows", "limit of 1,000,000,000"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", ["sweep", "search"])
@pytest.mark.parametrize(("text", "parts"), AXES.values(), ids=AXES)
def test_a_wrong_axis(llmsim, tmp_path: Path, command: str, text: str, parts: list[str]) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    found = llmsim(command, path)
    assert (found.status, found.out) == (2, "")
    for part in parts:
        assert part in found.err
    assert len(found.messages) <= 2


def test_every_wrong_value_of_every_axis(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(TRAINING.replace("TENSOR", "[0, x, 4]").replace("dgx-h100", "[dgx-h1, dgx-h100, dgx-h2]"))
    found = llmsim("sweep", path)
    assert found.status == 2
    assert len(found.messages) == 4


def test_the_far_end_of_a_long_axis_is_checked_too(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    batches = [*range(4, 40_000, 4)]
    for wrong in (-4, 2.5, "x", True):
        path.write_text(TRAINING.replace("TENSOR", "8").replace("256", json.dumps([*batches, wrong])))
        found = llmsim("sweep", path)
        assert (found.status, len(found.messages)) == (2, 1)
        assert "task.global_batch_size = " in found.err


NOT_UNDERSTOOD = [
    "().__class__", '__import__("os")', "exit()", "lambda: 3", "[1, 2]", "devices in [1, 2]", '"a" == "a"',
    'plan.recompute == "full"', "~devices", "1j > 0", 'f"{devices}"', "devices[0]", "devices if 1 else 2",
    "max(1)", "max(1, 2, key=3)", "(lambda x: x)(3)", "{}", "devices and print(1)", "...",
]  # fmt: skip
NOT_AN_EXPRESSION = [
    "devices <",
    "x := 3",
    "*devices",
    "import os",
    "devices ==",
    ")",
    "a b",
    "",
    "devices = 3",
]
NO_NUMBER = [
    "devices.__class__ == 3",
    "__class__",
    "plan.foo > 3",
    "step_time_s < 3",
    "model == 1",
    "plan.precision",
    "os.system",
]
NO_TEXT = [3, {"a": 3}, None, "devices > 1 or " * 60 + "1", True]


@pytest.mark.parametrize("condition", [*NOT_UNDERSTOOD, *NOT_AN_EXPRESSION, *NO_NUMBER, *NO_TEXT], ids=repr)
def test_a_wrong_condition(llmsim, tmp_path: Path, condition: object) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(TWO + f"where: {json.dumps([condition])}\n")
    found = llmsim("sweep", path)
    assert (found.status, len(found.messages), found.out) == (2, 1, "")
    assert found.err.startswith("where")


@pytest.mark.parametrize("command", ["run", "sweep", "search"])
def test_all_wrong_conditions_at_once(llmsim, tmp_path: Path, command: str) -> None:
    path = tmp_path / "sweep.yaml"
    text = TRAINING.replace("TENSOR", "8")
    path.write_text(text + "where: ['devices <', 'plan.foo > 3', 'exit()', 'devices > 1']\n")
    found = llmsim(command, path)
    assert (found.status, len(found.messages)) == (2, 3)


@pytest.mark.parametrize(
    "condition", ["9**9**9**9 > devices", "2**2**2**2**2**2 > 1", "1/0 > devices", "devices % 0 < 1 or 1"]
)
def test_arithmetic_that_overflows_costs_nothing(llmsim, tmp_path: Path, condition: str) -> None:
    """Numbers are float64: a tower of powers is infinite, not a gigabyte of digits."""
    path = tmp_path / "sweep.yaml"
    path.write_text(TWO + f"where: {json.dumps(condition)}\n")
    assert llmsim("sweep", path).status == 0


def test_a_condition_that_leaves_everything_out(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(TWO + "plan.pipeline_parallel: [3, 4]\nwhere: [devices > 200]\n")
    found = llmsim("sweep", path, "--out", tmp_path / "rows.csv")
    assert found.status == 2
    assert "4 rows: no combination is legal" in found.err
    assert "where does not hold: 4" in found.err
    assert "3 pipeline" in found.err  # the first row's own rules
    assert not (tmp_path / "rows.csv").exists()


def test_a_condition_that_leaves_nothing_out(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(TWO + "where: devices > 2\n")
    found = llmsim("sweep", path)
    assert found.status == 0
    assert "2 combinations: 2 legal" in found.out
    assert "left out" not in found.out


def test_an_unknown_objective(llmsim, training: Path) -> None:
    found = llmsim("search", training, "--objective", "beauty")
    assert (found.status, len(found.messages)) == (2, 1)
    assert "--objective = beauty: is not known; use step_time or throughput" in found.err


@pytest.mark.parametrize("arguments", [["--devices", "0"], ["--devices", "x"], ["--top", "0"]])
def test_wrong_options(llmsim, training: Path, arguments: list[str]) -> None:
    assert llmsim("search", training, *arguments).status == 2


def test_a_list_of_whole_plans_is_no_search(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(TRAINING.split("plan:")[0] + "plan: [{tensor_parallel: 8}, {tensor_parallel: 4}]\n")
    found = llmsim("search", path)
    assert found.status == 2
    assert "plan: is a list of whole plans" in found.err
    assert llmsim("sweep", path).status == 0

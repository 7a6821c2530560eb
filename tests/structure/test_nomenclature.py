"""Every quantity that a user can meet is defined in docs/nomenclature.md, once per table group."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import simulator
from simulator import simulate, sweep
from simulator.rules import RULES

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs" / "nomenclature.md").read_text(encoding="utf-8")
SCENARIO = {
    "model": "llama-3.1-8b",
    "task": {"kind": "training", "sequence_length": 4096, "global_batch_size": 16},
    "system": "dgx-h100",
    "devices": 16,
    "plan": {"tensor_parallel": 4, "pipeline_parallel": 2, "zero_stage": 1, "recompute": "selective"},
}


def _rows(section: str) -> list[list[str]]:
    part = TEXT.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.split("\n") if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def _names(section: str) -> list[str]:
    return [name for row in _rows(section) for name in re.findall(r"`([^`]+)`", row[0])]


def _load_all_rules() -> None:
    for module in walk_packages(simulator.__path__, "simulator."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


def test_results_of_one_scenario() -> None:
    result = simulate(SCENARIO).to_dict()
    defined = set(_names("Results"))
    groups = ("memory", "offload", "time", "energy", "operators")
    assert {key for key in result if key not in groups} <= defined
    for group in ("memory", "offload", "time", "energy"):
        assert result[group].keys() <= defined
        assert f"`{group}`:" in TEXT
    assert result["operators"][0].keys() <= defined


def test_columns_of_a_sweep() -> None:
    frame = sweep({**SCENARIO, "devices": [16, 32]})
    assert set(frame.columns) - {"devices"} <= set(_names("Results"))
    assert frame.attrs.keys() <= {*_names("Results")}


@pytest.mark.parametrize("section", ["Results", "Inputs of rules"])
def test_rows_have_a_meaning(section: str) -> None:
    assert all(len(row) == 4 and row[2] for row in _rows(section))


def test_inputs_and_names_of_rules() -> None:
    _load_all_rules()
    inputs = {name for rule in RULES.values() for name in inspect.signature(rule.function).parameters}
    defined = _names("Inputs of rules")
    assert inputs - set(defined) == set()
    assert set(defined) - inputs == set(), "defined but no longer an input"
    assert len(defined) == len(set(defined))
    assert {row[0].strip("`") for row in _rows("Rules")} == set(RULES)


def test_names_end_in_their_unit() -> None:
    """A name that ends in a unit says the same as the unit column."""
    suffixes = {"_s": "s", "_bytes": "B", "_j": "J", "_w": "W", "_hz": "Hz", "_flop_per_s": "FLOP/s"}
    suffixes["_bytes_per_s"] = "B/s"
    for section in ("Results", "Inputs of rules"):
        for row in _rows(section):
            unit = row[-1]
            for name in re.findall(r"`([^`]+)`", row[0]):
                longest = max((s for s in suffixes if name.endswith(s)), key=len, default=None)
                if longest is not None and not name.startswith("tokens_per"):
                    assert unit == suffixes[longest], f"{name} [{unit}]"

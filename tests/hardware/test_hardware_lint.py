"""The linter finds the usual mistakes of hardware files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware_specs import (
    LintWarning,
    Problem,
    detect_kind,
    lint,
    load_accelerator,
    load_calibration,
    load_system,
    to_mapping,
)


def _file(tmp_path: Path, data: dict[str, Any]) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        data = data[key]
    if isinstance(data.get(last), dict) and "value" in data[last]:
        data[last]["value"] = value
    else:
        data[last] = value


ACCELERATOR_DOUBTS = [
    ("h100-sxm", "datasheet_peak.bf16", "1979 TFLOP/s", "is this the peak with sparsity?"),
    (
        "h100-sxm",
        "matmul_flop_per_unit_clock.bf16",
        8192,
        "per unit and clock the one with sparsity",
    ),
    ("h100-sxm", "matmul_flop_per_unit_clock.fp8", 16384, "is one of them the rate with sparsity?"),
    ("h100-sxm", "clock", "1.98 GHz", "correct the factors"),
    ("h100-sxm", "memory_capacity", "80 GiB", 'did the data sheet say "80 GB"?'),
    ("h100-sxm", "energy_per_flop.bf16", "5 pJ/FLOP", "above the power limit of 700 W"),
    ("h100-sxm", "energy_per_memory_byte", "1 nJ/B", "above the power limit of 700 W"),
]


@pytest.mark.parametrize(("name", "path", "value", "doubt"), ACCELERATOR_DOUBTS)
def test_doubts_about_accelerators(tmp_path: Path, name: str, path: str, value: Any, doubt: str) -> None:
    data = to_mapping(load_accelerator(name))
    _set(data, path, value)
    found = lint(_file(tmp_path, data))
    assert any(doubt in str(finding) for finding in found), [str(finding) for finding in found]
    assert all(isinstance(finding, LintWarning) for finding in found)


SYSTEM_DOUBTS = [
    ("dgx-h100", "scale_up.link_bandwidth", "50 GB/s", "is what one link of hopper carries both ways"),
    ("dgx-h100", "scale_up.link_bandwidth", "900 GB/s", "both directions, or all links together?"),
    ("dgx-h100", "scale_up.link_bandwidth", "450 GB/s", "both directions, or all links together?"),
    ("dgx-h800", "scale_up.link_bandwidth", "400 GB/s", "both directions, or all links together?"),
    ("mi300x-8", "scale_up.link_bandwidth", "128 GB/s", "is what one link of cdna3 carries both ways"),
    ("tpu-v5p", "scale_up.link_bandwidth", "200 GB/s", "is what one link of tpu-v5 carries both ways"),
    ("dgx-h100", "scale_out.links", 64, "NICs are counted per node"),
    ("dgx-h100", "scale_out.link_bandwidth", "400 GB/s", "bits or bytes?"),
]


@pytest.mark.parametrize(("name", "path", "value", "doubt"), SYSTEM_DOUBTS)
def test_doubts_about_systems(tmp_path: Path, name: str, path: str, value: Any, doubt: str) -> None:
    data = to_mapping(load_system(name))
    _set(data, path, value)
    found = lint(_file(tmp_path, data))
    assert any(doubt in str(finding) for finding in found), [str(finding) for finding in found]


def test_a_figure_without_source_is_a_doubt(tmp_path: Path) -> None:
    data = to_mapping(load_accelerator("h100-sxm"))
    data["memory_bandwidth"] = "3.35 TB/s"
    (found,) = lint(_file(tmp_path, data))
    assert isinstance(found, LintWarning)
    assert str(found).startswith("memory_bandwidth = 3.35 TB/s: has no source")


def test_calibration_doubts(tmp_path: Path) -> None:
    data = to_mapping(load_calibration("default"))
    data["applies_to"] = ["h100-sxn"]
    data["kernels"]["matmul"]["any"]["fixed_s"] = "3 ms"
    text = "\n".join(map(str, lint(_file(tmp_path, data))))
    assert "applies_to = h100-sxn: is not in the catalog" in text
    assert "is longer than 1 ms" in text


def test_mistakes_are_problems_and_all_are_listed(tmp_path: Path) -> None:
    data = to_mapping(load_accelerator("h100-sxm"))
    data["clock"] = 3
    data["colour"] = "green"
    found = lint(_file(tmp_path, data))
    assert [type(finding) for finding in found] == [Problem, Problem]


def test_files_that_are_no_hardware(tmp_path: Path) -> None:
    (found,) = lint(_file(tmp_path, {"hidden": 4096, "n_layers": 32}))
    assert "is not an accelerator, a system or a calibration" in str(found)
    (found,) = lint(tmp_path)
    assert "is a directory" in str(found)
    assert detect_kind({"hidden": 1}) is None
    assert detect_kind(to_mapping(load_system("dgx-h100"))) == "system"
    assert detect_kind(to_mapping(load_accelerator("mi300x"))) == "accelerator"
    assert detect_kind(to_mapping(load_calibration("default"))) == "calibration"

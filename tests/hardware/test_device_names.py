"""One map from the spellings of the measured tables to the catalog: complete, without idle or ambiguous entries."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from hardware_specs import SpecError, device_named, find_device, list_accelerators, list_systems, load_system
from hardware_specs.device_names import _table, plain, spellings

MEASUREMENTS = Path(__file__).resolve().parents[3] / "shared" / "measurements"
COLUMNS = ("device", "accelerator")


def table_names() -> set[tuple[str, str]]:
    """Every device name of every measured table, with the source of its row."""
    parquet = pytest.importorskip("pyarrow.parquet")
    if not MEASUREMENTS.is_dir():
        pytest.skip(f"no measured tables at {MEASUREMENTS}")
    found: set[tuple[str, str]] = set()
    for path in sorted(MEASUREMENTS.iterdir()):
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
        elif path.suffix == ".parquet":
            held = parquet.read_schema(path).names
            rows = parquet.read_table(
                path, columns=[c for c in (*COLUMNS, "source") if c in held]
            ).to_pylist()
        else:
            continue
        found |= {(row[c], row.get("source") or "") for row in rows for c in COLUMNS if row.get(c)}
    return found


@pytest.mark.measurements
def test_every_device_name_of_the_tables_resolves() -> None:
    unnamed = set(_table()["not_a_device"])
    names = table_names()
    assert len(names) > 40
    assert sorted({text for text, source in names if find_device(text, source) is None}) == sorted(unnamed)
    for text, source in names:
        device = find_device(text, source)
        assert device is None or device.system, text  # rows can be scored on a machine
    for text in unnamed:
        with pytest.raises(SpecError, match="names no device"):
            device_named(text)


@pytest.mark.measurements
def test_no_spelling_of_the_tables_is_idle() -> None:
    names = table_names()
    used = {text.lower() for text, _ in names}
    for spelling in spellings():
        if spelling.kind == "tables":
            assert spelling.text.lower() in used, spelling.text
        if spelling.kind == "in_source":
            assert any(
                text.lower() == spelling.text.lower() and re.fullmatch(spelling.source, source)
                for text, source in names
            ), spelling.text


def test_every_accelerator_is_in_the_map_with_a_system_of_its_own() -> None:
    devices = {spelling.device.accelerator: spelling.device.system for spelling in spellings()}
    assert sorted(devices) == list_accelerators()
    for accelerator, system in devices.items():
        assert not system or load_system(system).accelerator.name == accelerator
    with_machine = {load_system(name).accelerator.name for name in list_systems()}
    assert {a for a, system in devices.items() if system} == with_machine


def test_no_spelling_means_two_things_or_repeats_another() -> None:
    general = [s for s in spellings() if s.kind != "in_source"]
    exact = [s.text.lower() for s in general]
    assert len(exact) == len(set(exact))
    by_letters: dict[str, set[str]] = {}
    for spelling in general:
        by_letters.setdefault(plain(spelling.text), set()).add(spelling.device.accelerator)
    # PyTorch calls one die of this part by the name of the package; only the whole text tells them apart.
    assert {k: v for k, v in by_letters.items() if len(v) > 1} == {"mi250": {"mi250", "mi250-gcd"}}
    names = {plain(name): name for name in list_accelerators()}
    for spelling in general:
        if spelling.kind in ("tables", "also") and plain(spelling.text) != "mi250":
            assert names.get(plain(spelling.text)) is None, f"{spelling.text} needs no entry"


@pytest.mark.parametrize(
    ("text", "source", "accelerator"),
    [
        ("h100_sxm", "", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "", "h100-sxm"),
        ("NVIDIA_A100-PCIE-40GB", "", "a100-pcie-40gb"),
        ("A100-80GB-SXM", "", "a100-sxm-80gb"),
        ("A100", "llm_inference_bench_ttft", "a100-sxm-40gb"),
        ("A100", "trtllm_performance_md", "a100-sxm-80gb"),
        ("RTXPRO6000", "", "rtx-pro-6000"),
        ("Tesla_V100-PCIE-32GB", "", "v100-pcie-32gb"),
        ("AMD_Instinct_MI250", "", "mi250-gcd"),
        ("MI250", "", "mi250"),
        ("  H200_SXM ", "", "h200-sxm"),
    ],
)
def test_spellings(text: str, source: str, accelerator: str) -> None:
    assert device_named(text, source).accelerator == accelerator


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h100_sxn", "device = h100_sxn: is not a known device; did you mean h100-sxm"),
        ("abacus", "device = abacus: is not a known device; see llmsim list accelerators"),
        ("NVIDIA", "is not a known device"),  # a maker alone is no device
        ("", "is not a known device"),
        ("A10G", "is not a known device; did you mean a10"),  # another chip than the A10
    ],
)
def test_unknown_devices(text: str, message: str) -> None:
    assert find_device(text) is None
    with pytest.raises(SpecError) as caught:
        device_named(text)
    assert message in str(caught.value)


def test_a_spelling_is_no_catalog_name_but_leads_to_it() -> None:
    for text, system in (
        ("h100_sxm", "dgx-h100"),
        ("NVIDIA H100 80GB HBM3", "dgx-h100"),
        ("gb200", "gb200-nvl72"),
    ):
        with pytest.raises(SpecError, match=f"did you mean {system}"):
            load_system(text)

"""Catalog figures against published tables, worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from published_figures import MEMORY_AND_POWER, PEAKS, SCALE_OUT, SCALE_UP

from hardware_specs import (
    SpecError,
    calibration_for,
    catalog,
    catalog_files,
    catalog_hash,
    dense_peak_flop_per_s,
    figures,
    lint,
    list_accelerators,
    list_calibrations,
    list_systems,
    load_accelerator,
    load_calibration,
    load_system,
    to_mapping,
)
from hardware_specs.calibration import Task
from hardware_specs.catalog_files import catalog_file

ACCELERATORS, SYSTEMS = list_accelerators(), list_systems()


def test_the_catalog_holds_what_it_promises() -> None:
    # every entry is checked against figures that were typed a second time
    assert set(ACCELERATORS) == set(MEMORY_AND_POWER) == {*PEAKS, "a100-sxm-40gb"}
    assert set(SYSTEMS) == set(SCALE_UP)
    assert {name for name in SYSTEMS if load_system(name).scale_out} == set(SCALE_OUT)
    assert "default" in list_calibrations()


@pytest.mark.parametrize(("name", "dtype"), [(n, d) for n, peaks in PEAKS.items() for d in peaks])
def test_dense_peaks(name: str, dtype: str) -> None:
    peak = dense_peak_flop_per_s(load_accelerator(name), dtype)
    assert peak == pytest.approx(PEAKS[name][dtype] * 1e12, rel=0.015)


def test_the_a100_peak_factor_by_factor() -> None:
    # 108 SMs x 1.41e9 clocks/s x 1024 multiply-adds x 2 FLOP = 311.9e12
    assert dense_peak_flop_per_s(load_accelerator("a100-sxm-80gb"), "bf16") == pytest.approx(
        108 * 1.41e9 * 1024 * 2, rel=1e-12
    )


@pytest.mark.parametrize("name", ACCELERATORS)
def test_memory_and_power(name: str) -> None:
    accelerator = load_accelerator(name)
    capacity, bandwidth, power = MEMORY_AND_POWER[name]
    assert accelerator.memory_capacity.value == pytest.approx(capacity * 1e9, rel=1e-9)
    assert accelerator.memory_bandwidth.value == pytest.approx(bandwidth * 1e9, rel=1e-9)
    assert accelerator.power_limit.value == power


@pytest.mark.parametrize("name", ACCELERATORS)
def test_full_rate_never_exceeds_the_power_limit(name: str) -> None:
    accelerator = load_accelerator(name)
    limit, idle = accelerator.power_limit.value, accelerator.idle_power.value
    memory = accelerator.memory_bandwidth.value * accelerator.energy_per_memory_byte.value
    assert idle + memory <= limit
    for dtype, energy in accelerator.energy_per_flop.items():
        compute = dense_peak_flop_per_s(accelerator, dtype) * energy.value
        assert idle + compute + 0.25 * memory <= limit * (1 + 1e-12)
        assert idle + compute + 0.25 * memory >= 0.97 * limit  # and it is not far below either
    vector = accelerator.units.value * accelerator.clock.value * accelerator.vector_flop_per_unit_clock.value
    assert idle + vector * accelerator.energy_per_vector_flop.value + 0.25 * memory <= limit * (1 + 1e-12)


@pytest.mark.parametrize("name", SYSTEMS)
def test_links_are_one_way(name: str) -> None:
    links, one_way, both_ways = SCALE_UP[name]
    fabric = load_system(name).scale_up
    assert fabric.links.value == links
    assert fabric.link_bandwidth.value == one_way * 1e9
    # the printed total counts both directions: the injected one-way bandwidth is half of it
    assert fabric.links.value * fabric.link_bandwidth.value == pytest.approx(both_ways * 1e9 / 2, rel=0.01)


@pytest.mark.parametrize("name", SCALE_OUT)
def test_nics_belong_to_nodes(name: str) -> None:
    nics, gbit, accelerators = SCALE_OUT[name]
    system = load_system(name)
    assert system.scale_out is not None
    assert system.scale_out.links.value == nics
    assert system.scale_out.link_bandwidth.value == gbit * 1e9 / 8
    assert system.accelerators_per_node.value == accelerators


def test_reduction_in_the_switch_came_with_hopper() -> None:
    for name in SYSTEMS:
        system = load_system(name)
        able = system.scale_up.topology == "switch" and system.accelerator.generation in (
            "hopper",
            "blackwell",
        )
        assert system.scale_up.in_switch_reduction == able, name


@pytest.mark.parametrize("name", ["tpu-v5e", "tpu-v6e"])
def test_flat_tpu_slices(name: str) -> None:
    # a pod is 16 x 16; only there do both axes close
    shapes = {part.devices: (part.shape, part.wrap) for part in load_system(name).slices}
    assert sorted(shapes) == [1, 4, 8, 16, 32, 64, 128, 256]
    assert shapes[128] == ([8, 16], False)
    assert shapes[256] == ([16, 16], True)


def test_tpu_slices() -> None:
    system = load_system("tpu-v5p")
    shapes = {part.devices: part.shape for part in system.slices}
    assert shapes[4] == [2, 2, 1]
    assert shapes[6144] == [16, 16, 24]
    assert max(shapes) <= system.max_devices.value
    # rings close from 4 x 4 x 4 on
    assert all(part.wrap == (min(part.shape) >= 4) for part in system.slices)


@pytest.mark.parametrize("kind", ["accelerator", "system", "calibration"])
def test_every_file_is_clean_and_bears_its_name(kind: str) -> None:
    names = {"accelerator": list_accelerators, "system": list_systems, "calibration": list_calibrations}
    loaders = {"accelerator": load_accelerator, "system": load_system, "calibration": load_calibration}
    for name in names[kind]():
        assert [str(finding) for finding in lint(catalog_file(kind, name))] == []
        spec = loaders[kind](name)
        assert spec.name == name
        assert loaders[kind](to_mapping(spec)) == spec  # text and back, to the last digit
        for figure, _ in figures(spec, reference=True).values():
            assert len(figure.source) >= 8
            assert figure.source != "given by the user"


@pytest.mark.parametrize("name", ACCELERATORS)
def test_figures_agree_with_each_other(name: str) -> None:
    accelerator = load_accelerator(name)
    vector = accelerator.vector_flop_per_unit_clock.value
    rates: dict[str, float] = {k: v.value for k, v in accelerator.matmul_flop_per_unit_clock.items()}
    # fewer bits are never slower, and matrix units never slower than plain code
    ladder = [rates[d] for d in ("fp64", "fp32", "tf32", "bf16", "fp8", "fp4") if d in rates]
    assert ladder == sorted(ladder)
    assert all(rates[d] >= vector for d in ("fp32", "tf32", "bf16", "fp16") if d in rates)
    # a published peak is dense: what 2:4 sparsity adds is stated apart
    for dtype, published in accelerator.datasheet_peak.items():
        assert dense_peak_flop_per_s(accelerator, dtype) == pytest.approx(published.value, rel=0.015)
    # balance: every part reads 1 to 45 bytes per 1000 FLOP of its best peak of 16 bits or more; GB/s for TB/s would not
    best = max(dense_peak_flop_per_s(accelerator, d) for d in ("fp32", "fp16", "bf16") if d in rates)
    assert 1e-3 < accelerator.memory_bandwidth.value / best < 45e-3


def test_families_share_the_assumed_calibration_of_their_generation() -> None:
    named = {name for c in list_calibrations() for name in load_calibration(c).applies_to}
    for name in set(ACCELERATORS) - named:
        accelerator = load_accelerator(name)
        own = accelerator.generation in list_calibrations()
        assert calibration_for(accelerator).name == (accelerator.generation if own else "default")
    generation = {name: load_accelerator(name).generation for name in ACCELERATORS}
    for sibling, known in (("tpu-v5e", "tpu-v5p"), ("gb200", "b200-sxm"), ("mi325x", "mi300x")):
        assert generation[sibling] == generation[known]
    # boards of the same years that are other chips do not
    assert generation["rtx-pro-6000"] != generation["b200-sxm"]
    assert generation["a40"] != generation["a100-sxm-80gb"]


def test_aliases_load_the_same_entry_and_do_not_clash() -> None:
    seen: set[str] = set(list_accelerators())
    for name in list_accelerators():
        for alias in load_accelerator(name).aliases:
            assert alias not in seen
            seen.add(alias)
            assert load_accelerator(alias) == load_accelerator(name)
    assert load_system("hgx-h800").name == "dgx-h800"


def test_unknown_names_offer_near_ones() -> None:
    with pytest.raises(SpecError, match="did you mean h100-sxm"):
        load_accelerator("h100")
    with pytest.raises(SpecError, match="did you mean dgx-h100"):
        load_system("DGX_H100")


def test_every_accelerator_has_a_calibration() -> None:
    for name in list_accelerators():
        accelerator = load_accelerator(name)
        for task in get_args(Task):
            calibration = calibration_for(accelerator, task)
            fits = accelerator.name in calibration.applies_to
            assert fits or calibration.name in (accelerator.generation, "default")
            assert task in calibration.tasks


def test_calibrations_are_chosen_by_device_and_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = to_mapping(load_calibration("default"))
    (tmp_path / "calibrations").mkdir()
    for name, applies_to, tasks, date in (
        ("default", [], ["training", "inference"], "2020-01"),
        ("hopper", [], ["training", "inference"], "2020-01"),
        ("old", ["h100-sxm"], ["training"], "2024-01"),
        ("new", ["h100-sxm", "h200-sxm"], ["training"], "2025-01"),
        ("h200-sxm", ["h200-sxm"], ["training", "inference"], "2023-01"),
    ):
        head = {"name": name, "applies_to": applies_to, "tasks": tasks, "date": date}
        text = yaml.safe_dump({**data, **head}, sort_keys=False)
        (tmp_path / "calibrations" / f"{name}.yaml").write_text(text)
    caches = (
        catalog_files._names_cached,
        catalog._matching_calibration,
        catalog._calibration_head,
        catalog._catalog_calibration,
    )
    devices = {name: load_accelerator(name) for name in ("h100-sxm", "h200-sxm", "h800-sxm", "tpu-v5p")}
    monkeypatch.setattr(catalog_files, "_HOME", tmp_path)
    for cache in caches:
        cache.cache_clear()
    try:
        chosen = {
            (name, task): calibration_for(device, task).name
            for name, device in devices.items()
            for task in get_args(Task)
        }
    finally:
        for cache in caches:
            cache.cache_clear()
    assert chosen["h100-sxm", "training"] == "new"  # the newest that names it
    assert chosen["h100-sxm", "inference"] == "hopper"  # none for the task: its generation
    assert chosen["h200-sxm", "training"] == "h200-sxm"  # the namesake, though older
    assert chosen["h200-sxm", "inference"] == "h200-sxm"
    assert chosen["h800-sxm", "training"] == "hopper"
    assert chosen["tpu-v5p", "training"] == "default"


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(SpecError, match="use training or inference"):
        calibration_for(load_accelerator("h100-sxm"), "serving")  # type: ignore[arg-type]


def test_hashes_tell_entries_apart() -> None:
    hashes = {catalog_hash(name) for name in [*list_accelerators(), *list_systems(), "default"]}
    # `tpu-v5p` is a system and an accelerator; the system wins
    assert len(hashes) == len({*list_accelerators(), *list_systems(), "default"})
    assert all(len(text) == 12 for text in hashes)
    with pytest.raises(SpecError, match="unknown catalog entry"):
        catalog_hash("nothing")


def test_loads_import_nothing_heavy() -> None:
    program = """
import sys
import hardware_specs
system = hardware_specs.load_system("dgx-h100")
hardware_specs.calibration_for(system.accelerator)
print(sorted({"numpy", "pandas", "networkx", "matplotlib"} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_an_entry_is_read_once() -> None:
    assert load_system("dgx-h100") is load_system("dgx-h100")

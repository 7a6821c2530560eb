"""Catalog figures against published tables, worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

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

ACCELERATORS = [
    "a100-sxm-40gb",
    "a100-sxm-80gb",
    "b200-sxm",
    "h100-sxm",
    "h200-sxm",
    "h800-sxm",
    "mi300x",
    "tpu-v5p",
    "xeon-8480",
]
SYSTEMS = [
    "dgx-a100-40gb",
    "dgx-a100-80gb",
    "dgx-b200",
    "dgx-h100",
    "dgx-h200",
    "dgx-h800",
    "mi300x-8",
    "tpu-v5p",
    "xeon-2s",
]

# dense peaks in TFLOP/s: data sheets that print peaks with sparsity are halved here, by hand
PEAKS = {
    # 108 SMs x 1.41 GHz x {2048, 1024, 4096, 128, 128}
    "a100-sxm-80gb": {"bf16": 312, "fp16": 312, "tf32": 156, "int8": 624, "fp32": 19.5, "fp64": 19.5},
    # 1979 / 2, 989 / 2, 3958 / 2; 67 of CUDA cores and of fp64 tensor cores
    "h100-sxm": {
        "bf16": 989.4,
        "fp16": 989.4,
        "tf32": 494.7,
        "fp8": 1979,
        "int8": 1979,
        "fp32": 67,
        "fp64": 67,
    },
    "h200-sxm": {"bf16": 989.4, "fp8": 1979, "int8": 1979},
    "h800-sxm": {"bf16": 989.4, "fp8": 1979, "fp64": 1.0},
    # HGX B200, 8 GPUs: 36 PF sparse bf16 -> 36 / 2 / 8 = 2.25; 72 / 2 / 8 = 4.5; fp4 72 dense / 8 = 9
    "b200-sxm": {"bf16": 2250, "tf32": 1125, "fp8": 4500, "int8": 4500, "fp4": 9000, "fp32": 75, "fp64": 37},
    "mi300x": {"bf16": 1307.4, "fp8": 2614.9, "int8": 2614.9, "tf32": 653.7, "fp32": 163.4, "fp64": 163.4},
    "tpu-v5p": {"bf16": 459, "int8": 918},
    # 56 cores x 2.0 GHz x 1024 FLOP = 114.7
    "xeon-8480": {"bf16": 114.7, "int8": 229.4, "fp32": 7.17},
}

# capacity [GB], bandwidth [GB/s], power limit [W]
MEMORY_AND_POWER = {
    "a100-sxm-40gb": (40, 1555, 400),
    "a100-sxm-80gb": (80, 2039, 400),
    "h100-sxm": (80, 3350, 700),
    "h200-sxm": (141, 4800, 700),
    "h800-sxm": (80, 3350, 700),
    "b200-sxm": (180, 7700, 1000),
    "mi300x": (192, 5300, 750),
    "tpu-v5p": (95 * 1.073741824, 2765, 320),
    "xeon-8480": (512 * 1.073741824, 8 * 38.4, 350),  # 8 channels x 8 B x 4.8 GT/s
}

# scale-up: links, one-way GB/s of one link, both-way total of one accelerator as data sheets print it
SCALE_UP = {
    "dgx-a100-40gb": (12, 25, 600),
    "dgx-a100-80gb": (12, 25, 600),
    "dgx-h100": (18, 25, 900),
    "dgx-h200": (18, 25, 900),
    "dgx-h800": (8, 25, 400),
    "dgx-b200": (18, 50, 1800),
    "mi300x-8": (7, 64, 896),
    "tpu-v5p": (6, 100, 1200),
    "xeon-2s": (4, 32, 256),
}

# NICs per node, Gbit/s of one, accelerators of a node
SCALE_OUT = {
    "dgx-a100-40gb": (8, 200, 8),
    "dgx-a100-80gb": (8, 200, 8),
    "dgx-h100": (8, 400, 8),
    "dgx-h200": (8, 400, 8),
    "dgx-h800": (8, 400, 8),
    "dgx-b200": (8, 400, 8),
    "mi300x-8": (8, 400, 8),
    "tpu-v5p": (1, 200, 4),  # 50 Gbit/s per chip
    "xeon-2s": (1, 200, 2),
}


def test_the_catalog_holds_what_it_promises() -> None:
    assert set(ACCELERATORS) <= set(list_accelerators())
    assert set(SYSTEMS) <= set(list_systems())
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


@pytest.mark.parametrize("name", SYSTEMS)
def test_nics_belong_to_nodes(name: str) -> None:
    nics, gbit, accelerators = SCALE_OUT[name]
    system = load_system(name)
    assert system.scale_out is not None
    assert system.scale_out.links.value == nics
    assert system.scale_out.link_bandwidth.value == gbit * 1e9 / 8
    assert system.accelerators_per_node.value == accelerators


def test_reduction_in_the_switch_came_with_hopper() -> None:
    inside = {name: load_system(name).scale_up.in_switch_reduction for name in SYSTEMS}
    assert [name for name, able in inside.items() if able] == ["dgx-b200", "dgx-h100", "dgx-h200", "dgx-h800"]


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

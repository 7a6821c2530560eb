"""What the schema refuses, and how it says so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware_specs import (
    TIME_EXPONENT,
    AcceleratorSpec,
    CalibrationSpec,
    Figure,
    SpecError,
    SystemSpec,
    dense_peak_flop_per_s,
    figure_dimension,
    figures,
    load_accelerator,
    load_calibration,
    load_fabric_calibration,
    load_system,
    to_mapping,
    with_figures,
)

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def system() -> dict[str, Any]:
    return copy.deepcopy(to_mapping(load_system("dgx-h100")))


def _messages(data: dict[str, Any]) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_system(data)
    return [str(problem) for problem in caught.value.problems]


def test_all_mistakes_of_a_system_are_reported_at_once(system: dict[str, Any]) -> None:
    accelerator = system["accelerator"]
    accelerator["memory_bandwith"] = "3 TB/s"
    accelerator["memory_bandwidth"] = {"value": "3 TB", "basis": "datashet", "source": "x", "extra": 1}
    accelerator["clock"] = 3
    accelerator["kind"] = "gpuu"
    accelerator["matmul_flop_per_unit_clock"]["bf17"] = 100
    accelerator["energy_per_flop"]["bf16"] = "-1 pJ/FLOP"
    del accelerator["units"]
    system["scale_up"]["topology"] = "swich"
    system["scale_up"]["links"] = 1.5
    system["scale_out"]["in_switch_reduction"] = "yes"
    system["max_devices"] = 0
    text = "\n".join(_messages(system))
    for expected in (
        "system.accelerator.memory_bandwith: is an unknown key; did you mean memory_bandwidth",
        'memory_bandwidth.value = "3 TB": has a unit of bytes, but bytes_per_s is due',
        'memory_bandwidth.basis = "datashet": is not one of datasheet, measured, derived or assumed',
        'memory_bandwidth.source = "x": must have at least 8 characters',
        "memory_bandwidth.extra: is an unknown key",
        "system.accelerator.clock = 3: is a number without a unit",
        'system.accelerator.kind = "gpuu": is not one of gpu, tpu, npu or cpu',
        "matmul_flop_per_unit_clock.bf17: is not one of fp64",
        'energy_per_flop.bf16 = "-1 pJ/FLOP": must not be negative',
        "system.accelerator.units: is missing",
        'system.scale_up.topology = "swich": is not one of',
        "system.scale_up.links = 1.5: must be a whole number",
        'system.scale_out.in_switch_reduction = "yes": must be true or false',
        "system.max_devices = 0: must be at least 1",
    ):
        assert expected in text


def _set(path: str, value: Any) -> Edit:
    def edit(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data[key]
        if value is None:
            del data[last]
        else:
            data[last] = value

    return edit


RULES: list[tuple[Edit, str]] = [
    (_set("accelerator.energy_per_flop.bf16", None), "energy_per_flop.bf16: is missing for a dtype"),
    (_set("accelerator.peak", {"fp4": "1 TFLOP/s"}), "peak.fp4: is given for a dtype without matmul units"),
    (_set("accelerator.idle_power", "800 W"), "must be below power_limit, which is 700 W"),
    (_set("accelerator.reserved_memory", "90 GB"), "must be below memory_capacity, which is 80 GB"),
    (_set("accelerator.memory_bandwidth", "0 B/s"), "must be above 0"),
    (
        _set("accelerator.memory_bandwidth", {"value": "3 TB/s", "source": "a data sheet"}),
        "basis: is missing",
    ),
    (_set("accelerator.schema_version", 2), "schema_version = 2: is not one of 1"),
    (_set("accelerator.name", "H100 SXM"), "must be lower case letters"),
    (_set("accelerator.sparse_matmul_speedup", 0.5), "must be at least 1"),
    (
        _set("accelerator", "h10"),
        "system.accelerator = h10: is an unknown accelerator; did you mean h100-sxm",
    ),
    (_set("accelerator", 3), "must be a catalog name, a path or a mapping"),
    (_set("accelerator", None), "system.accelerator: is missing"),
    (_set("scale_out", None), "without scale_out no more than the 8 accelerators"),
    (_set("max_devices", 4), "must be at least the 8 of one node"),
    (_set("scale_up.shape", [2, 4]), "is for a torus or mesh, not for switch"),
    (_set("slices", [{"devices": 4, "shape": [2, 2]}]), "is for a torus or mesh, not for switch"),
    (_set("scale_up.topology", "ring"), "a ring has no switch that could reduce"),
    (_set("scale_up.latency", "-1 us"), "must not be negative"),
    (_set("scale_out.oversubscription", 0.5), "must be at least 1"),
]


@pytest.mark.parametrize(("edit", "rule"), RULES)
def test_each_rule_holds(system: dict[str, Any], edit: Edit, rule: str) -> None:
    edit(system)
    messages = _messages(system)
    assert any(rule in message for message in messages), messages
    assert len(messages) == 1, messages


def test_torus_rules() -> None:
    data = to_mapping(load_system("tpu-v5p"))
    data["slices"][0]["devices"] = 5
    data["slices"][1]["shape"] = [2, 4]
    data["slices"][2]["shape"] = [0, 4, 4]
    text = "\n".join(_messages(data))
    assert "slices[0].devices = 5: must be 2 x 2 x 1 = 4" in text
    data = to_mapping(load_system("tpu-v5p"))
    data["slices"][1] = {"devices": 8, "shape": [2, 4]}
    assert "slices[1].shape = [2, 4]: must have 3 dimensions" in "\n".join(_messages(data))
    data = to_mapping(load_system("tpu-v5p"))
    del data["slices"]
    assert "a torus needs slices or scale_up.shape" in "\n".join(_messages(data))
    data["scale_up"]["shape"] = [4, 4, 4]
    assert load_system(data).scale_up.shape == [4, 4, 4]


def test_plain_quantities_are_enough_inline(system: dict[str, Any]) -> None:
    system["accelerator"]["memory_bandwidth"] = "4 TB/s"
    figure = load_system(system).accelerator.memory_bandwidth
    assert figure == Figure(value=4e12, basis="assumed", source="given by the user")
    del system["schema_version"]  # an inline mapping follows the present schema
    assert load_system(system).name == "dgx-h100"


def test_a_file_may_name_its_accelerator_by_a_path_beside_it(tmp_path: Path, system: dict[str, Any]) -> None:
    accelerator = system["accelerator"]
    accelerator["name"] = "my-chip"
    system["accelerator"] = "./chip.yaml"
    (tmp_path / "chip.yaml").write_text(yaml.safe_dump(accelerator))
    (tmp_path / "box.yaml").write_text(yaml.safe_dump(system))
    assert load_system(tmp_path / "box.yaml").accelerator.name == "my-chip"
    assert load_system(str(tmp_path / "box.yaml")).accelerator.name == "my-chip"
    (tmp_path / "chip.yaml").write_text("name: my-chip\n")
    with pytest.raises(SpecError, match=r"accelerator\.memory_bandwidth: is missing"):
        load_system(tmp_path / "box.yaml")


@pytest.mark.parametrize("load", [load_system, load_accelerator, load_calibration])
def test_sources_that_are_no_description(load: Callable[[Any], Any], tmp_path: Path) -> None:
    for source, rule in (
        (str(tmp_path), "is a directory"),
        (str(tmp_path / "none.yaml"), "does not exist"),
        ("no-such-thing", "is an unknown"),
        ("", "is an unknown"),
        ("x" * 5000, "is an unknown"),
        ("a\0b", "is an unknown"),
        (3, "must be a catalog name, a path or a mapping"),
        (None, "must be a catalog name, a path or a mapping"),
    ):
        with pytest.raises(SpecError, match=rule) as caught:
            load(source)
        assert len(caught.value.problems) == 1


def test_calibration_refusals() -> None:
    data = to_mapping(load_calibration("default"))
    data["kernels"]["matmul"]["any"]["compute_efficiency"] = 85
    data["kernels"]["pointwise"]["any"]["fixed_s"] = "3 GB"
    data["kernels"]["attention_prefill"]["any"]["sharpness"] = 0.5
    data["kernels"]["mamtul"] = {}
    data["tasks"] = ["trainign"]
    with pytest.raises(SpecError) as caught:
        load_calibration(data)
    text = str(caught.value)
    assert "matmul.any.compute_efficiency = 85: a fraction must lie between 0 and 1; was 0.85 meant?" in text
    assert "has a unit of bytes, but s is due" in text
    assert "must be at least 1" in text
    assert "did you mean matmul" in text
    assert 'tasks[0] = "trainign": is not one of training or inference' in text
    data = to_mapping(load_calibration("default"))
    del data["tasks"]
    bare = load_calibration(data)
    assert bare.tasks == ["training", "inference"]
    with pytest.raises(SpecError, match="tasks"):
        load_calibration({**data, "tasks": []})
    data = to_mapping(load_calibration("default"))
    del data["kernels"]["rms_norm"]
    with pytest.raises(SpecError, match=r"kernels\.rms_norm: is missing"):
        load_calibration(data)


def test_fabric_calibration_refusals() -> None:
    data = to_mapping(load_fabric_calibration("nvswitch-hopper-training"))
    data["scale_up"]["in_switch"]["efficiency"] = 0
    data["scale_out"]["compute_share"] = 1.2
    data["scale_up"]["rign"] = {}
    data["scale_out"]["ring"]["step_latency_s"] = "3 GB"
    data["topologies"] = ["swich"]
    with pytest.raises(SpecError) as caught:
        load_fabric_calibration(data)
    text = str(caught.value)
    assert "scale_up.in_switch.efficiency = 0: must be above 0" in text
    assert "scale_out.compute_share = 1.2: a fraction must lie between 0 and 1" in text
    assert "did you mean ring?" in text
    assert "has a unit of bytes, but s is due" in text
    assert "topologies[0]" in text
    data = to_mapping(load_fabric_calibration("nvswitch-hopper-training"))
    del data["scale_up"]["in_switch"], data["scale_up"]["compute_share"]
    bare = load_fabric_calibration(data)
    assert bare.scale_up.in_switch is None
    assert bare.scale_up.compute_share == 0.0
    assert [name for name, _ in bare.scale_up.algorithms()] == ["ring", "direct"]


def test_figures_lists_every_number_with_a_dimension_that_has_a_time_exponent() -> None:
    system = load_system("dgx-h100")
    table = figures(system)
    assert table["accelerator.memory_bandwidth"][0].value == 3.35e12
    assert table["accelerator.memory_bandwidth"][1] == "bytes_per_s"
    assert table["accelerator.matmul_flop_per_unit_clock.bf16"][1] == "count"
    assert table["scale_up.link_bandwidth"][0].value == 25e9
    assert table["scale_out.latency"][1] == "s"
    assert not any("datasheet_peak" in path for path in table)
    assert "accelerator.datasheet_peak.bf16" in figures(system, reference=True)
    calibration = load_calibration("default")
    for spec in (system, system.accelerator, calibration, load_system("tpu-v5p")):
        for path, (figure, dimension) in figures(spec).items():
            assert dimension in TIME_EXPONENT
            assert figure_dimension(spec, path) == dimension
            assert isinstance(figure, Figure)
    assert figures(calibration)["kernels.matmul.any.fixed_s"][1] == "s"
    fabric = load_fabric_calibration("default")
    assert figures(fabric)["scale_up.ring.base_latency_s"][1] == "s"
    assert figures(fabric)["scale_up.compute_share"][1] == "fraction"


def test_unset_figures_have_a_dimension_too() -> None:
    assert figure_dimension(SystemSpec, "accelerator.peak.bf16") == "flop_per_s"
    assert figure_dimension(AcceleratorSpec, "price") == "usd"
    assert figure_dimension(CalibrationSpec, "kernels.rms_norm.bf16.fixed_s") == "s"
    with pytest.raises(SpecError, match=r"did you mean accelerator\.memory_bandwidth"):
        figure_dimension(SystemSpec, "accelerator.memory_bandwith")


def test_replaced_figures_are_checked() -> None:
    system = load_system("dgx-h100")
    changed = with_figures(system, {"accelerator.peak.bf16": 4e14, "scale_up.link_bandwidth": 5e10})
    assert dense_peak_flop_per_s(changed.accelerator, "bf16") == 4e14
    assert changed.scale_up.link_bandwidth.value == 5e10
    assert system.accelerator.peak == {}
    with pytest.raises(SpecError, match="must be above 0"):
        with_figures(system, {"accelerator.memory_bandwidth": 0.0})


def test_units_scale_every_peak_that_is_not_set() -> None:
    accelerator = load_accelerator("h100-sxm")
    twice = with_figures(accelerator, {"units": 264})
    for dtype in accelerator.matmul_flop_per_unit_clock:
        ratio = dense_peak_flop_per_s(twice, dtype) / dense_peak_flop_per_s(accelerator, dtype)
        assert ratio == pytest.approx(2.0)
    with pytest.raises(SpecError, match="h100-sxm has no matmul units for fp4"):
        dense_peak_flop_per_s(accelerator, "fp4")


def test_specs_and_errors_survive_a_pickle() -> None:
    system = load_system("dgx-h100")
    assert pickle.loads(pickle.dumps(system)) == system
    with pytest.raises(SpecError) as caught:
        load_system("dgx-h10")
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems

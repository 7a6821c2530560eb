"""``--set`` reaches every kind of key, and means what the same key in the file means."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from simulator import simulate

EFFECTS = [
    ("plan.tensor_parallel=4", ("plan", "tensor_parallel"), 4),
    ("plan.sequence_parallel=false", ("plan", "sequence_parallel"), False),
    ("plan.precision=fp16", ("plan", "precision"), "fp16"),
    ("plan.precision={gradients: bf16}", ("plan", "precision"), {"gradients": "bf16"}),
    ("plan.compression=[{name: layer_drop}]", ("plan", "compression"), [{"name": "layer_drop"}]),
    ("task.global_batch_size=128", ("task", "global_batch_size"), 128),
    ("devices=256", ("devices",), 256),
    ("fidelity=datasheet", ("fidelity",), "datasheet"),
    ("model=llama-2-70b", ("model",), "llama-2-70b"),
    ("system=dgx-h200", ("system",), "dgx-h200"),
    ("model.n_layers=40", ("model", "n_layers"), 40),
    ("system.accelerator.memory_bandwidth=4 TB/s", ("system.accelerator.memory_bandwidth",), "4 TB/s"),
    ("system.accelerator.memory_bandwidth=1.5x", ("system.accelerator.memory_bandwidth",), "1.5x"),
    ("system.scale_out.oversubscription=2", ("system.scale_out.oversubscription",), 2),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "keys", "value"), EFFECTS, ids=[e[0] for e in EFFECTS])
def test_a_setting_reaches_its_key(
    llmsim, training: Path, setting: str, keys: tuple[str, ...], value: object
) -> None:
    before = llmsim("run", training, "--format", "json").json()
    found = llmsim("run", training, "--set", setting, "--format", "json")
    assert found.status == 0, found.err
    after = found.json()
    here = after["scenario"]
    for key in keys:
        here = here[key]
    assert here == value
    if "oversubscription" not in setting:
        assert (after["step_time_s"], after["memory"]) != (before["step_time_s"], before["memory"])


def test_a_factor_multiplies_the_catalog_figure(llmsim, decode: Path) -> None:
    plain, scaled = (
        llmsim("run", decode, *options, "--format", "json").json()
        for options in ([], ["--set", "system.accelerator.memory_bandwidth=1.5x"])
    )
    assert scaled["memory_bandwidth_bytes_per_s"] == pytest.approx(
        1.5 * plain["memory_bandwidth_bytes_per_s"]
    )


def test_units_scale_every_peak(llmsim, decode: Path) -> None:
    """Peak = units x clock x FLOP per unit and clock."""
    plain, half = (
        llmsim("run", decode, *options, "--format", "json").json()
        for options in ([], ["--set", "system.accelerator.units=66"])
    )
    assert half["peak_flop_per_s"] == pytest.approx(plain["peak_flop_per_s"] * 66 / 132)


def test_the_last_setting_wins(llmsim, training: Path) -> None:
    found = llmsim("run", training, "--set", "devices=256", "--set", "devices=64", "--format", "json")
    assert found.json()["devices"] == 64


def test_settings_equal_the_file(llmsim, training: Path) -> None:
    settings = {
        "plan.zero_stage": 2,
        "task.global_batch_size": 128,
        "model.n_layers": 40,
        "system.accelerator.clock": "1 GHz",
    }
    arguments = [a for k, v in settings.items() for a in ("--set", f"{k}={v}")]
    found = llmsim("run", training, *arguments, "--format", "json").json()
    assert simulate({**yaml.safe_load(training.read_text()), **settings}).step_time_s == found["step_time_s"]


def test_fidelity_is_an_option_too(llmsim, training: Path) -> None:
    times = {}
    for level in ("bound", "datasheet", "calibrated"):
        times[level] = llmsim("run", training, "--fidelity", level, "--format", "json").json()["step_time_s"]
    assert times["bound"] < times["datasheet"] < times["calibrated"]
    assert llmsim("run", training, "--fidelity", "exact").status == 2


def test_a_setting_on_an_axis_replaces_it(llmsim, sweep_file: Path) -> None:
    found = llmsim("sweep", sweep_file, "--set", "plan.tensor_parallel=8")
    assert found.out.startswith("2 combinations")
    found = llmsim(
        "sweep", sweep_file, "--set", "plan.tensor_parallel=[8]", "--set", "plan.micro_batch_size=[1, 2]"
    )
    assert found.out.startswith("4 combinations")


def test_a_setting_below_a_swept_model(llmsim, training: Path) -> None:
    """It holds for every model on the axis."""
    found = llmsim(
        "sweep", training, "--set", "model=[llama-3.1-70b, llama-2-70b]", "--set", "model.n_layers=40"
    )
    assert found.status == 0
    both = llmsim(
        "sweep", training, "--set", "model=[llama-3.1-70b, llama-2-70b]", "--set", "model.n_layers=80"
    )
    assert found.out != both.out


def test_a_setting_on_a_zip_is_refused(llmsim, training: Path) -> None:
    training.write_text(training.read_text() + "zip: [{devices: [64, 128]}]\n")
    found = llmsim("sweep", training, "--set", "devices=64")
    assert (found.status, len(found.messages)) == (2, 1)
    assert "--set devices: is swept by zip[0] of the file; change it there" in found.err

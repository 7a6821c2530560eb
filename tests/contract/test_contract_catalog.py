"""``llmsim list``, ``show`` and ``lint`` for everything that the catalogs hold."""

from __future__ import annotations

import pytest
import yaml

from hardware_specs import list_accelerators, list_calibrations, list_systems
from hardware_specs.catalog_files import catalog_file
from simulator.scenarios.precision import RECIPES
from workloads.catalog import _FOLDER, list_models

NAMES = {
    "models": list_models(),
    "accelerators": list_accelerators(),
    "systems": list_systems(),
    "precisions": list(RECIPES),
    "calibrations": list_calibrations(),
}


@pytest.mark.parametrize("kind", NAMES)
def test_list(llmsim, kind: str) -> None:
    found = llmsim("list", kind)
    assert (found.status, found.err) == (0, "")
    assert max(map(len, found.out.splitlines())) <= 80
    for name in NAMES[kind]:
        assert name in found.out


@pytest.mark.parametrize("name", sorted({n for names in NAMES.values() for n in names}))
def test_show(llmsim, name: str) -> None:
    found = llmsim("show", name)
    assert (found.status, found.err) == (0, "")
    data = yaml.safe_load(found.out)
    assert data.get("name", name) == name


def test_figures_are_shown_with_their_source(llmsim) -> None:
    data = yaml.safe_load(llmsim("show", "h100-sxm").out)
    figure = data["memory_bandwidth"]
    assert (figure["basis"], bool(figure["source"])) == ("datasheet", True)


@pytest.mark.parametrize(
    ("name", "near"),
    [("h100", "h100-sxm"), ("gpt3", "gpt3-175b"), ("lama-2-7b", "llama-2-7b"), ("bf61", "bf16")],
)
def test_show_of_an_unknown_name(llmsim, name: str, near: str) -> None:
    found = llmsim("show", name)
    assert (found.status, len(found.messages), found.out) == (2, 1, "")
    assert near in found.err


def test_show_and_list_of_nonsense(llmsim) -> None:
    assert llmsim("show", "zzzzzzzz").status == 2
    assert "llmsim list" in llmsim("show", "zzzzzzzz").err
    assert llmsim("show", "").status == 2
    assert llmsim("list", "things").status == 2


@pytest.mark.parametrize("kind", ["accelerator", "system", "calibration"])
def test_lint_of_the_shipped_hardware(llmsim, kind: str) -> None:
    for name in NAMES[f"{kind}s"]:
        found = llmsim("lint", catalog_file(kind, name))
        assert (found.status, found.err) == (0, ""), name
        assert "no errors" in found.out


def test_lint_of_the_shipped_models(llmsim) -> None:
    for name in NAMES["models"]:
        found = llmsim("lint", _FOLDER / f"{name}.yaml")
        assert (found.status, found.err) == (0, ""), name

"""The wheel holds what the program reads at run time: every YAML file, and the marker that types are shipped."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("hardware_specs", "workloads", "simulator", "reports")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built by the build backend itself, without pip and without a network."""
    wheels = pytest.importorskip("hatchling.builders.wheel", reason="the build backend is not installed")
    folder = tmp_path_factory.mktemp("dist")
    (made,) = wheels.WheelBuilder(str(REPOSITORY)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(made) as archive:
        return set(archive.namelist())


def _in_repository(package: str, pattern: str) -> set[str]:
    return {p.relative_to(REPOSITORY).as_posix() for p in (REPOSITORY / package).rglob(pattern)}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_whole(package: str, wheel: set[str]) -> None:
    files = {
        name
        for pattern in ("*.py", "*.yaml", "*.html", "*.css", "*.js")
        for name in _in_repository(package, pattern)
    }
    assert files <= wheel
    assert f"{package}/py.typed" in wheel


def test_there_is_data_to_ship(wheel: set[str]) -> None:
    for folder in ("accelerators", "systems", "calibrations"):
        assert any(name.startswith(f"hardware_specs/{folder}/") for name in wheel)
    assert any(name.startswith("workloads/models/") for name in wheel)


def test_nothing_else_is_in_it(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    extra = {top for top in tops if top not in PACKAGES and not top.endswith(".dist-info")}
    assert not extra
    assert not any("__pycache__" in name or "/tests/" in name for name in wheel)


def test_the_command_and_the_licence_are_in_it(wheel: set[str]) -> None:
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel)
    assert any(name.endswith("LICENSE") for name in wheel)

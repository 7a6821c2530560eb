"""Find, read and cache descriptions: by catalog name, from a path, or from a mapping."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

from hardware_specs.calibration import CalibrationSpec, Task
from hardware_specs.catalog_files import as_path, catalog_file, find_file, looks_like_path, names, unknown
from hardware_specs.errors import Problem, SpecError, shorten
from hardware_specs.fabric_calibration import FabricCalibrationSpec
from hardware_specs.schema import AcceleratorSpec, SystemSpec
from hardware_specs.stack_rates import StackRatesSpec, rated
from hardware_specs.strict_yaml import load_yaml, parse_yaml
from hardware_specs.validation import build

__all__ = [
    "calibration_for",
    "catalog_hash",
    "fabric_calibration_for",
    "list_accelerators",
    "list_calibrations",
    "list_fabric_calibrations",
    "list_systems",
    "load_accelerator",
    "load_calibration",
    "load_fabric_calibration",
    "load_system",
]

_HASH_CHARACTERS = 12

Source = str | Path | Mapping[str, Any]


def list_accelerators() -> list[str]:
    """Names of the accelerators in the catalog, sorted. Raises nothing."""
    return names("accelerator")


def list_systems() -> list[str]:
    """Names of the systems in the catalog, sorted. Raises nothing."""
    return names("system")


def list_calibrations() -> list[str]:
    """Names of the shipped calibrations, sorted. Raises nothing."""
    return names("calibration")


def list_fabric_calibrations() -> list[str]:
    """Names of the shipped fabric calibrations, sorted. Raises nothing."""
    return names("fabric calibration")


def load_accelerator(source: Source | AcceleratorSpec) -> AcceleratorSpec:
    """One accelerator.

    Parameters
    ----------
    source : str, Path, mapping or AcceleratorSpec
        A catalog name or alias; a path (a text with a separator or ending in ``.yaml``); or the keys
        themselves, where a figure may be a plain quantity such as ``"3.35 TB/s"``.

    Returns
    -------
    AcceleratorSpec
        All figures in SI units.

    Raises
    ------
    SpecError
        With every mistake of the description, or near names for an unknown name.
    """
    if isinstance(source, AcceleratorSpec):
        return source
    if isinstance(source, Mapping):
        return build(AcceleratorSpec, _with_defaults(source), path="accelerator")
    path = as_path(source, "accelerator")
    if path is not None:
        return build(AcceleratorSpec, load_yaml(path))
    return _catalog_accelerator(str(source))


def load_system(source: Source | SystemSpec) -> SystemSpec:
    """One system with its accelerator.

    Parameters
    ----------
    source : str, Path, mapping or SystemSpec
        As in `load_accelerator`. The key ``accelerator`` is a catalog name, a path (relative to the
        file that names it) or a mapping.

    Returns
    -------
    SystemSpec
        All figures in SI units.

    Raises
    ------
    SpecError
        With every mistake of the description and of its accelerator, or near names.
    """
    if isinstance(source, SystemSpec):
        return source
    if isinstance(source, Mapping):
        return _build_system(_with_defaults(source), folder=None, path="system")
    path = as_path(source, "system")
    if path is not None:
        return _build_system(load_yaml(path), folder=path.parent, path="")
    return _catalog_system(str(source))


def load_calibration(source: Source | CalibrationSpec) -> CalibrationSpec:
    """One calibration.

    Parameters
    ----------
    source : str, Path, mapping or CalibrationSpec
        As in `load_accelerator`.

    Returns
    -------
    CalibrationSpec
        The fitted coefficients.

    Raises
    ------
    SpecError
        With every mistake of the description, or near names for an unknown name.
    """
    if isinstance(source, CalibrationSpec):
        return source
    if isinstance(source, Mapping):
        return _build_calibration(source, path="calibration")
    path = as_path(source, "calibration")
    if path is not None:
        try:
            status = path.stat()
        except OSError:
            return _build_calibration(load_yaml(path))  # which says what is wrong with the file
        return _calibration_file(path, (status.st_mtime_ns, status.st_size))
    return _catalog_calibration(str(source))


def load_fabric_calibration(source: Source | FabricCalibrationSpec) -> FabricCalibrationSpec:
    """One fabric calibration, from what `load_calibration` takes; raises SpecError as it does."""
    if isinstance(source, FabricCalibrationSpec):
        return source
    if isinstance(source, Mapping):
        return build(FabricCalibrationSpec, source, path="fabric calibration")
    path = as_path(source, "fabric calibration")
    if path is not None:
        return build(FabricCalibrationSpec, load_yaml(path))
    return _catalog_fabric_calibration(str(source))


def fabric_calibration_for(system: SystemSpec, task: Task = "training") -> FabricCalibrationSpec:
    """The fabric calibration that serves a system.

    Parameters
    ----------
    system : SystemSpec
        Its accelerator, and the topology of its nodes.
    task : str
        ``training`` or ``inference``.

    Returns
    -------
    FabricCalibrationSpec
        The one that the system names; else that of the calibration that it names, if that has one; else the one
        that fits best: a listed accelerator, a listed generation, a listed topology, in this order; else ``default``.
        Equal ones: the newest, then the last by name.

    Raises
    ------
    SpecError
        If a name is unknown or a file is wrong.
    """
    if system.fabric_calibration:
        return load_fabric_calibration(system.fabric_calibration)
    of_machine = load_calibration(system.calibration).fabric if system.calibration else None
    if of_machine:
        return load_fabric_calibration(of_machine)
    known = [_catalog_fabric_calibration(name) for name in list_fabric_calibrations()]
    what = (system.accelerator.name, system.accelerator.generation, system.scale_up.topology, task)
    ranked = [(c.serves(*what), c.date, c.name) for c in known]
    best = max((r for r in ranked if r[0]), default=(1, "", "default"))
    return load_fabric_calibration(best[2] if best[0] > 1 else "default")


def calibration_for(accelerator: AcceleratorSpec, task: Task = "training") -> CalibrationSpec:
    """The calibration that serves an accelerator.

    Parameters
    ----------
    accelerator : AcceleratorSpec
        The device.
    task : str
        ``training`` or ``inference``: the two run on different software.

    Returns
    -------
    CalibrationSpec
        One whose ``applies_to`` names the device and whose ``tasks`` contain the task (its namesake, else
        the newest); else the one named after the device's generation; else ``default``. Coefficients of
        another generation are not used.

    Raises
    ------
    SpecError
        If the task is unknown or a calibration file is wrong.
    """
    if task not in get_args(Task):
        fix = f"use {' or '.join(get_args(Task))}"
        raise SpecError([Problem(path="task", value=shorten(task), rule="is an unknown task", fix=fix)])
    return load_calibration(_matching_calibration(accelerator.name, accelerator.generation, task))


def catalog_hash(name: str) -> str:
    """Fingerprint of a catalog entry, for the record of a run.

    Parameters
    ----------
    name : str
        A system (its accelerator's file counts too), accelerator, calibration or fabric calibration, in this order.

    Returns
    -------
    str
        First 12 hexadecimal digits of the SHA-256 of the file or files.

    Raises
    ------
    SpecError
        If nothing in the catalog has this name.
    """
    if name in list_systems():
        files = [catalog_file("system", name)]
        accelerator = load_system(name).accelerator.name
        if accelerator in list_accelerators():
            files.append(catalog_file("accelerator", accelerator))
    elif name in list_accelerators():
        files = [catalog_file("accelerator", name)]
    elif name in list_calibrations():
        files = [catalog_file("calibration", name)]
        below = load_yaml(files[0]).get("like")
        files += [catalog_file("calibration", str(below))] if below else []
    elif name in list_fabric_calibrations():
        files = [catalog_file("fabric calibration", name)]
    else:
        known = [*list_systems(), *list_accelerators(), *list_calibrations(), *list_fabric_calibrations()]
        raise unknown("catalog entry", name, known)
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:_HASH_CHARACTERS]


@lru_cache(maxsize=256)
def _matching_calibration(accelerator_name: str, generation: str, task: Task) -> str:
    found: list[tuple[bool, str, str]] = []
    for name in list_calibrations():
        head = _calibration_head(name)
        if accelerator_name in head.applies_to and task in head.tasks:
            found.append((name == accelerator_name, head.date, name))
    if found:  # its namesake first, else the newest
        return max(found)[2]
    return generation if generation in list_calibrations() else "default"


class _Head(NamedTuple):
    """What a calibration says before its coefficients."""

    applies_to: list[str]
    tasks: list[str]
    date: str


@lru_cache(maxsize=256)
def _calibration_head(name: str) -> _Head:
    """Head of a calibration, read without its many coefficients where they come last."""
    path = catalog_file("calibration", name)
    text = path.read_text(encoding="utf-8").split("\nkernels:", 1)[0]
    head = parse_yaml(text, name=str(path))
    if {*_Head._fields} <= set(head):
        return _Head(head["applies_to"], head["tasks"], str(head["date"]))
    spec = load_calibration(name)
    return _Head(spec.applies_to, list(spec.tasks), spec.date)


@lru_cache(maxsize=256)
def _catalog_accelerator(name: str) -> AcceleratorSpec:
    return build(AcceleratorSpec, load_yaml(find_file("accelerator", name)))


@lru_cache(maxsize=256)
def _catalog_system(name: str) -> SystemSpec:
    path = find_file("system", name)
    return _build_system(load_yaml(path), folder=path.parent, path="")


@lru_cache(maxsize=16)
def _calibration_file(path: Path, state: tuple[int, int]) -> CalibrationSpec:
    """A calibration of the user's, which every estimate asks for several times; ``state`` tells a changed file."""
    return _build_calibration(load_yaml(path))


@lru_cache(maxsize=256)
def _catalog_calibration(name: str) -> CalibrationSpec:
    return _build_calibration(load_yaml(find_file("calibration", name)))


def _build_calibration(data: Mapping[str, Any], *, path: str = "") -> CalibrationSpec:
    """Coefficients of kernels, or a stack's rates over those of another calibration."""
    if "like" not in data:
        return build(CalibrationSpec, data, path=path)
    spec = build(StackRatesSpec, data, path=path)
    if "like" in load_yaml(find_file("calibration", spec.like)):
        rule, fix = "is itself a stack's rates", "name the calibration that those are over"
        raise SpecError([Problem(path=f"{path}.like".lstrip("."), value=spec.like, rule=rule, fix=fix)])
    return rated(_catalog_calibration(spec.like), spec)


@lru_cache(maxsize=256)
def _catalog_fabric_calibration(name: str) -> FabricCalibrationSpec:
    return build(FabricCalibrationSpec, load_yaml(find_file("fabric calibration", name)))


def _build_system(data: Mapping[str, Any], *, folder: Path | None, path: str) -> SystemSpec:
    """Load the accelerator first; report its mistakes together with those of the system."""
    filled = dict(data)
    problems: list[Problem] = []
    for key in ("calibration", "fabric_calibration"):
        written = filled.get(key)
        if folder is not None and isinstance(written, str) and looks_like_path(written):
            filled[key] = str(folder / written)
    try:
        if "accelerator" in filled:
            filled["accelerator"] = _system_accelerator(filled["accelerator"], folder)
    except SpecError as error:
        key = f"{path}.accelerator" if path else "accelerator"
        problems = [_below(problem, key) for problem in error.problems]
        filled["accelerator"] = _catalog_accelerator(list_accelerators()[0])  # so that the rest is checked
    try:
        system = build(SystemSpec, filled, path=path)
    except SpecError as error:
        problems += error.problems
    if problems:
        raise SpecError(problems)
    return system


def _system_accelerator(written: Any, folder: Path | None) -> AcceleratorSpec:
    if isinstance(written, str) and folder is not None and looks_like_path(written):
        return load_accelerator(folder / written)
    if isinstance(written, (str, Path, Mapping, AcceleratorSpec)):
        return load_accelerator(written)
    rule = "must be a catalog name, a path or a mapping"
    raise SpecError([Problem(path="", value=shorten(written), rule=rule, fix='write such as "h100-sxm"')])


def _below(problem: Problem, key: str) -> Problem:
    """The problem with its path set below ``key``."""
    inner = problem.path.removeprefix("accelerator").lstrip(".")
    path = f"{key}.{inner}" if inner else key
    return Problem(path=path, value=problem.value, rule=problem.rule, fix=problem.fix)


def _with_defaults(written: Mapping[str, Any]) -> dict[str, Any]:
    """An inline mapping follows the present schema; a file must say which one it follows."""
    return {"schema_version": 1, **written}

"""Where the catalog's files are, what they are called, and whether a text means a name or a path."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from hardware_specs.device_names import find_device
from hardware_specs.errors import Problem, SpecError, near_names, shorten
from hardware_specs.strict_yaml import load_yaml, parse_yaml

__all__ = ["as_path", "catalog_file", "find_file", "looks_like_path", "names", "unknown"]

_HOME = Path(__file__).parent
_FOLDERS = {
    "accelerator": "accelerators",
    "system": "systems",
    "calibration": "calibrations",
    "fabric calibration": "fabric_calibrations",
}
# The first key after the names of a file: what follows is not read to learn them.
_AFTER_NAMES = {"accelerator": "\nunits:", "system": "\naccelerator:"}


def names(kind: str) -> list[str]:
    """Names of the catalog files of one kind (accelerator, system, calibration, fabric calibration), sorted."""
    return list(_names_cached(kind))


def catalog_file(kind: str, name: str) -> Path:
    """Path of the file that holds ``name``; it need not exist."""
    return _HOME / _FOLDERS[kind] / f"{name}.yaml"


def find_file(kind: str, name: str) -> Path:
    """Path of the catalog file for a name or an alias.

    Parameters
    ----------
    kind : str
        accelerator, system, calibration or fabric calibration.
    name : str
        What the user wrote.

    Returns
    -------
    Path
        An existing file.

    Raises
    ------
    SpecError
        If the name is unknown; near names are offered.
    """
    if name in _names_cached(kind):
        return catalog_file(kind, name)
    by_alias = _aliases(kind)
    if name in by_alias:
        return catalog_file(kind, by_alias[name])
    raise unknown(kind, name, names(kind), also=by_alias)


def as_path(source: str | Path, kind: str) -> Path | None:
    """The path that is meant, or None if ``source`` is a name; SpecError if it is no text at all."""
    if isinstance(source, Path):
        return source
    if not isinstance(source, str):
        rule = "must be a catalog name, a path or a mapping"
        raise SpecError([Problem(path=kind, value=shorten(source), rule=rule)])
    if looks_like_path(source):
        return Path(source)
    if source not in _names_cached(kind) and source not in _aliases(kind) and _exists(source):
        return Path(source)  # such as a directory, which then gets its own message
    return None


def looks_like_path(text: str) -> bool:
    """Whether the text has a separator or the ending of a description."""
    separators = [separator for separator in (os.sep, os.altsep, "/") if separator]
    ending = text.endswith((".yaml", ".yml", ".json"))
    return ending or text in (".", "..") or any(separator in text for separator in separators)


def unknown(kind: str, name: str, known: list[str], *, also: Iterable[str] = ()) -> SpecError:
    """The error for a name that is neither among ``known`` nor ``also``, its aliases.

    A spelling of the measured tables is not taken in its place, but what it stands for is the first name offered.
    """
    device = find_device(name)
    meant = [n for n in (device.accelerator, device.system) if n in known] if device else []
    near = list(dict.fromkeys([*meant, *(near_names(name, known, n=4) or near_names(name, also, n=4))]))[:4]
    fix = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
    return SpecError([Problem(path=kind, value=shorten(name), rule=f"is an unknown {kind}", fix=fix)])


@lru_cache(maxsize=8)
def _names_cached(kind: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (_HOME / _FOLDERS[kind]).glob("*.yaml")))


@lru_cache(maxsize=8)
def _aliases(kind: str) -> dict[str, str]:
    """Alias to file name. Reads the head of every file of the kind, so it is called for unknown names only."""
    found: dict[str, str] = {}
    if kind in _AFTER_NAMES:
        for name in _names_cached(kind):
            path = catalog_file(kind, name)
            head = path.read_text(encoding="utf-8").split(_AFTER_NAMES[kind], 1)[0]
            written = parse_yaml(head, name=str(path))
            for alias in (written if "aliases" in written else load_yaml(path)).get("aliases", []):
                found[alias] = name
    return found


def _exists(text: str) -> bool:
    try:
        return bool(text.strip()) and Path(text).exists()
    except (OSError, ValueError):  # too long, or a NUL character
        return False

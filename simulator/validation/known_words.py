"""The committed tables: spellings, and what frameworks and model families do; device names are the catalog's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hardware_specs import device_named
from hardware_specs.errors import SpecError
from hardware_specs.strict_yaml import load_yaml

__all__ = [
    "Framework",
    "Rack",
    "catalog_model",
    "eager_word",
    "family_keys",
    "framework_of",
    "layer_calibration",
    "notes_of",
    "rack_of",
    "spelling",
    "system_of",
]

_FOLDER = Path(__file__).parent / "word_tables"


@lru_cache
def _table(name: str) -> dict[str, Any]:
    return load_yaml(_FOLDER / f"{name}.yaml")


def system_of(device: str, source: str = "") -> tuple[str | None, str]:
    """Catalog system of a device name in a table's source, or None and the reason why there is none."""
    try:
        named = device_named(device, source)
    except SpecError as error:
        return None, str(error)
    if not named.system:
        return None, f"device {device}: the catalog has no system with {named.accelerator}"
    return named.system, ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rack:
    """Accelerators of one tray, and those that a job takes of each rack when it does not fill whole ones [1]."""

    tray: int
    filled: int


def rack_of(system: str) -> Rack | None:
    """How tables count the nodes of a system whose node is a rack, or None for other systems. Raises nothing."""
    entry = _table("spellings")["racks"].get(system)
    return Rack(**entry) if entry else None


def _expanded(value: Any, match: re.Match[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _expanded(inner, match) for key, inner in value.items()}
    return match.expand(value) if isinstance(value, str) and "\\" in value else value


def _fits(entry: Mapping[str, Any], text: str) -> re.Match[str] | None:
    if "text" in entry:
        return re.fullmatch(".*", text, re.DOTALL) if str(entry["text"]) == text else None
    return re.fullmatch(str(entry["pattern"]), text)


# Keys of an entry that say when it holds.
_CONDITIONS = ("text", "pattern", "of_source", "of_framework")


def _holds(entry: Mapping[str, Any], source: str, framework: str) -> bool:
    return bool(
        re.search(str(entry.get("of_source", "")), source)
        and re.search(str(entry.get("of_framework", "")), framework)
    )


def spelling(column: str, text: str, source: str = "", framework: str = "") -> dict[str, Any] | None:
    """What a table's text means.

    Parameters
    ----------
    column : str
        ``zero_stage``, ``recompute``, ``precision`` or ``interconnect``.
    text : str
        The spelling in the table.
    source, framework : str
        Of the row: an entry may hold for some only.

    Returns
    -------
    dict or None
        The entry with the numbers of the text filled in; a ``group`` that the text names becomes a whole
        number of ranks [1]. None for an unknown spelling.

    Raises
    ------
    KeyError
        If the column has no spellings.
    """
    for entry in _table("spellings")[column]:
        match = _fits(entry, text)
        if match and _holds(entry, source, framework):
            found = {key: _expanded(value, match) for key, value in entry.items() if key not in _CONDITIONS}
            if found.get("group") == "text":
                found["group"] = int(match[1])
            return found
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """What a framework does where a table is silent; see ``word_tables/frameworks.yaml``."""

    plan: Mapping[str, bool | str | float]
    attention: str | None
    sequence_parallel: bool | None
    counts_context: bool
    calibrations: Mapping[str, str]
    precision: Mapping[str, str]
    ends_are_layers: bool = False


def framework_of(name: str, date: str) -> Framework | None:
    """Habits of a framework at a date (ISO, may be blank), or None where the table does not know it."""
    for entry in _table("frameworks")["frameworks"]:
        if re.fullmatch(entry["pattern"], name) and ("until" not in entry or ("" < date < entry["until"])):
            return Framework(
                plan=entry["plan"],
                attention=entry.get("attention"),
                sequence_parallel=entry.get("sequence_parallel"),
                counts_context=entry["memory"] == "device",
                calibrations=entry.get("calibrations", {}),
                precision=entry.get("precision", {}),
                ends_are_layers=entry.get("ends_are_layers", False),
            )
    return None


def notes_of(text: str) -> Sequence[Mapping[str, Any]]:
    """Entries of the notes table that a row's notes contain, in the table's order."""
    return [entry for entry in _table("frameworks")["notes"] if re.search(entry["pattern"], text)]


def family_keys(model: str, framework: str) -> Mapping[str, Any] | None:
    """Keys of a model that follow from its family, or None where the table does not know it."""
    for entry in _table("families")["families"]:
        if re.fullmatch(entry["pattern"], model) and re.fullmatch(entry.get("framework", ".*"), framework):
            keys: Mapping[str, Any] = entry["keys"]
            return keys
    return None


def eager_word(section: str, text: str) -> Any:
    """Entry of a section of the table of eager models for a text, by name or pattern; None where there is none.

    Raises KeyError for an unknown section.
    """
    entries = _table("eager_models")[section]
    if isinstance(entries, Mapping):
        return entries.get(text)
    return next((entry for entry in entries if re.fullmatch(entry["pattern"], text)), None)


def layer_calibration(system: str) -> str | None:
    """Calibration that layer operators on a catalog system are scored with; None: the one it uses unasked."""
    found = _table("eager_models")["layer_calibrations"].get(system)
    return None if found is None else str(found)


def catalog_model(name: str) -> tuple[str | None, str]:
    """Catalog model with the shape of a published one, or None and the reason why there is none."""
    table = _table("families")
    if name in table["catalog"]:
        return table["catalog"][name], ""
    for entry in table["not_modelled"]:
        if re.fullmatch(entry["pattern"], name):
            return None, str(entry["reason"])
    return None, f"model {name} is not in the table of catalog models"

"""What measured tables call the accelerators of the catalog: one map of spellings for all who read tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hardware_specs.errors import Problem, SpecError, near_names, shorten
from hardware_specs.strict_yaml import load_yaml

__all__ = ["NamedDevice", "device_named", "find_device", "spellings"]

_FILE = Path(__file__).parent / "aliases.yaml"
# They say who made a thing, not which thing it is.
_MAKERS = {"nvidia", "amd", "intel", "google", "aws", "apple", "tesla", "geforce", "instinct", "radeon"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedDevice:
    """What a spelling stands for.

    Attributes
    ----------
    accelerator : str
        A name of the catalog.
    system : str
        The catalog system that stands for a machine with it, or "" where the catalog has none.
    """

    accelerator: str
    system: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """One text of the map: the device that it names, and the source (a regular expression) it is limited to."""

    text: str
    device: NamedDevice
    source: str = ".*"
    kind: str = "name"


@lru_cache
def _table() -> Mapping[str, Any]:
    return load_yaml(_FILE)


@lru_cache
def spellings() -> tuple[Spelling, ...]:
    """Every spelling of the map, those of one source first; each accelerator's own name is one. Raises nothing."""
    found: list[Spelling] = []
    for name, entry in _table()["accelerators"].items():
        device = NamedDevice(accelerator=name, system=entry.get("system", ""))
        found.append(Spelling(text=name, device=device))
        found += [
            Spelling(text=str(text), device=device, kind=kind)
            for kind in ("tables", "also")
            for text in entry.get(kind, [])
        ]
        found += [
            Spelling(text=str(limited["name"]), device=device, source=limited["source"], kind="in_source")
            for limited in entry.get("in_source", [])
        ]
    return tuple(sorted(found, key=lambda spelling: spelling.kind != "in_source"))


def plain(text: str) -> str:
    """Letters and digits of a device name in lower case, without the names of makers; raises nothing.

    Examples
    --------
    >>> plain("NVIDIA_A100-PCIE-40GB")
    'a100pcie40gb'
    """
    words = re.split(r"[^a-z0-9]+", text.lower())
    return "".join(word for word in words if word not in _MAKERS)


@lru_cache(maxsize=1024)
def find_device(text: str, source: str = "") -> NamedDevice | None:
    """The device that a text names, or None; as it stands first, then by letters and digits. Raises nothing.

    Parameters
    ----------
    text : str
        Such as ``"h100_sxm"`` or ``"NVIDIA H100 80GB HBM3"``.
    source : str
        Where it stands, since some sources mean another part by the same word.
    """
    known = [s for s in spellings() if re.fullmatch(s.source, source, re.DOTALL)]
    exact, letters = text.strip().lower(), plain(text)
    for spelling in known:
        if spelling.text.lower() == exact:
            return spelling.device
    return next((s.device for s in known if letters and plain(s.text) == letters), None)


def device_named(text: str, source: str = "") -> NamedDevice:
    """The device that a text of a measured table names.

    Parameters
    ----------
    text : str
        The table's spelling.
    source : str
        The table's source of the row, where it has one.

    Returns
    -------
    NamedDevice
        Names of the catalog.

    Raises
    ------
    SpecError
        If the text names no device of the map; near names are offered.

    Examples
    --------
    >>> device_named("NVIDIA H100 80GB HBM3").accelerator
    'h100-sxm'
    """
    found = find_device(text, source)
    if found is not None:
        return found
    reason = _table()["not_a_device"].get(text)
    if reason:
        raise SpecError([Problem(path="device", value=shorten(text), rule=f"names no device: {reason}")])
    by_text = {s.text: s.device.accelerator for s in spellings()}
    near = list(dict.fromkeys(by_text[t] for t in near_names(text, by_text)))
    fix = f"did you mean {', '.join(near)}?" if near else "see llmsim list accelerators"
    raise SpecError([Problem(path="device", value=shorten(text), rule="is not a known device", fix=fix)])

"""What the name of a column says: its unit, its words, and how to write its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reports.human_numbers import (
    format_bytes,
    format_count,
    format_energy,
    format_fraction,
    format_rate,
    format_si,
    format_time,
)

__all__ = ["form_of", "heading_of", "unit_of", "words_of"]

_UNITS = {
    "_s": "s",
    "_bytes": "B",
    "_j": "J",
    "_w": "W",
    "_flop_per_s": "FLOP/s",
    "_bytes_per_s": "B/s",
    "_usd": "USD",
    "_flop": "FLOP",
    "_fraction": "1",
    "tokens_per_s": "tokens/s",
    "tokens_per_s_per_device": "tokens/s",
}
_WORDS = {
    "peak_bytes": "peak memory",
    "energy_j": "energy per step",
    "tokens_per_s": "tokens per second",
    "tokens_per_s_per_device": "tokens per second and device",
    "mfu": "MFU",
    "hfu": "HFU",
}
_FORMS: dict[str, Callable[[Any], str]] = {
    "s": format_time,
    "B": format_bytes,
    "J": format_energy,
    "tokens/s": format_rate,
}


def unit_of(column: str) -> str:
    """The unit that the name of a column ends in; ``"1"`` for counts and ratios."""
    last = column.rsplit(".", 1)[-1]
    endings = [ending for ending in _UNITS if last.endswith(ending)]
    return _UNITS[max(endings, key=len)] if endings else "1"


def words_of(column: str) -> str:
    """The name of a column for a person, without the unit; dotted keys of a scenario stay as they are."""
    last = column.rsplit(".", 1)[-1]
    if last in _WORDS:
        return _WORDS[last]
    if "." in column:
        return column
    endings = [ending for ending in _UNITS if ending.startswith("_") and column.endswith(ending)]
    return column.removesuffix(max(endings, key=len, default="")).replace("_", " ")


def heading_of(column: str) -> str:
    """``words_of`` with a capital, unless it is a key of a scenario."""
    words = words_of(column)
    return words if "." in words else words[:1].upper() + words[1:]


def form_of(column: str) -> Callable[[Any], str]:
    """How to write the values of a column, by its unit."""
    if column.rsplit(".", 1)[-1] in ("mfu", "hfu"):
        return format_fraction
    unit = unit_of(column)
    return _FORMS.get(unit) or (_plain if unit == "1" else lambda value: format_si(value, unit))


def _plain(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return format_count(value) if is_number else str(value)

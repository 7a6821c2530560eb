"""The figures that a person asks for first, as words: shared by the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.energy_parts import power_text
from reports.estimate_fields import number
from reports.human_numbers import (
    MISSING,
    format_bytes,
    format_count,
    format_energy,
    format_fraction,
    format_rate,
    format_time,
)
from reports.memory_by_owner import memory_verdict

__all__ = ["OPERATOR_COLUMNS", "headline"]


def _size(value: Any) -> str:
    """Bytes moved; an operator that moves none has a dash, so that the others stand out."""
    return format_bytes(value) if value else MISSING


# (key of the row, heading, how to write it); text columns are aligned left.
OPERATOR_COLUMNS = (
    ("operator", "Operator", str),
    ("count", "Count", format_count),
    ("busy_s", "Busy", format_time),
    ("exposed_s", "Exposed", format_time),
    ("fraction", "Share", format_fraction),
    ("bound", "Bound by", str),
    ("bytes", "Memory traffic", _size),
    ("message_bytes", "Messages", _size),
)
TEXT_COLUMNS = frozenset(
    {"operator", "label", "class", "owner", "part", "bound", "phase", "source", "quantity", "unit"}
)


def _interval(estimate: Mapping[str, Any], quantity: str, form: Any) -> str:
    """``" (12.1 ms to 13.0 ms, 90 % interval)"`` where the estimate states one."""
    interval = (estimate.get("interval") or {}).get(quantity)
    if not interval:
        return ""
    coverage = format_fraction(interval.get("coverage")).replace(".0 %", " %")
    return f" ({form(interval.get('low'))} to {form(interval.get('high'))}, {coverage} interval)"


def headline(estimate: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the main figures; a figure that the task does not have is left out.

    Parameters
    ----------
    estimate : mapping
        ``Estimate.to_dict()``.

    Returns
    -------
    list of (str, str)
        Written with units.
    """
    step, rate, energy = (number(estimate, key) for key in ("step_time_s", "tokens_per_s", "energy_j"))
    figures = [
        ("Step time", "step_time_s", format_time),
        ("Tokens per second", "tokens_per_s", format_rate),
        ("Tokens per second and device", "tokens_per_s_per_device", format_rate),
        ("Time to first token", "time_to_first_token_s", format_time),
        ("Time per output token", "time_per_output_token_s", format_time),
        ("Model FLOP utilisation (MFU)", "mfu", format_fraction),
        ("Hardware FLOP utilisation (HFU)", "hfu", format_fraction),
    ]
    rows = [
        (name, form(estimate[key]) + _interval(estimate, key, form))
        for name, key, form in figures
        if estimate.get(key) is not None
    ]
    if estimate.get("memory"):
        rows.append(("Peak memory per device", memory_verdict(estimate)))
    if energy:
        each = f", {format_energy(energy / (rate * step))} per token" if rate and step else ""
        rows += [
            ("Energy per step", format_energy(energy) + _interval(estimate, "energy_j", format_energy) + each)
        ]
        rows += [("Average power", power_text(estimate))] if power_text(estimate) else []
    return rows

"""Numbers for people: three significant digits, a prefix and a unit.

Plain ASCII on purpose (``us``, not a Greek letter): a terminal without UTF-8 must not fail, and the text of
a quantity can be pasted back into a scenario. Prefixes are decimal (GB is 1e9 bytes), after the SI
brochure, 9th edition, section 3.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = [
    "MISSING",
    "axis_unit",
    "format_bytes",
    "format_bytes_per_s",
    "format_count",
    "format_energy",
    "format_flop_per_s",
    "format_fraction",
    "format_power",
    "format_rate",
    "format_si",
    "format_time",
]

MISSING = "-"
_DIGITS = 3
_PREFIXES = (
    (1e18, "E"),
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "u"),
    (1e-9, "n"),
)
_WHOLE_ONLY = frozenset({"B", "FLOP/s", "B/s", "FLOP", "tokens/s", "tokens/s per device"})
_LONG_TIMES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def _known(value: Any) -> float | None:
    """The value as a float, or None for anything that is not a number."""
    if value is None or isinstance(value, (str, bytes)):
        return None
    number = float(value)
    return None if math.isnan(number) else number


def _rounded(value: float, digits: int) -> float:
    """Round to significant digits first, so that 999.9 ms becomes 1.00 s and not 1000 ms."""
    return float(f"{value:.{digits - 1}e}")


def _text(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def format_si(value: Any, unit: str, digits: int = _DIGITS) -> str:
    """Write a number with an SI prefix.

    Parameters
    ----------
    value : float or None
        In the unit itself, without a prefix.
    unit : str
        For example ``"s"``, ``"B"``, ``"W"``.
    digits : int
        Significant digits.

    Returns
    -------
    str
        ``"-"`` for None and NaN. Bytes, FLOP and rates of tokens get no prefix below one.

    Examples
    --------
    >>> format_si(3.35e12, "B/s")
    '3.35 TB/s'
    >>> format_si(None, "B/s")
    '-'
    """
    number = _known(value)
    if number is None:
        return MISSING
    if number == 0 or math.isinf(number):
        return f"{number:.0f} {unit}"
    number = _rounded(number, digits)
    for factor, prefix in _PREFIXES:
        whole_only = factor == 1.0 and unit in _WHOLE_ONLY
        if abs(number) >= factor or whole_only or factor == _PREFIXES[-1][0]:
            return f"{_text(number / factor, digits)} {prefix}{unit}"
    raise AssertionError("the last prefix always matches")  # pragma: no cover


def format_time(value: Any) -> str:
    """A time [s] as ns, us, ms, s, and from two minutes on as min, h or d."""
    number = _known(value)
    if number is not None and math.isfinite(number):
        for factor, unit in _LONG_TIMES:
            if abs(number) >= 2 * factor:
                return f"{_text(_rounded(number / factor, _DIGITS), _DIGITS)} {unit}"
    if number is not None and 1 <= abs(number) < 120:
        return f"{_text(_rounded(number, _DIGITS), _DIGITS)} s"
    return format_si(value, "s")


def format_bytes(value: Any) -> str:
    """A size [byte] as B, kB, MB, GB or TB (decimal)."""
    return format_si(value, "B")


def format_bytes_per_s(value: Any) -> str:
    """A bandwidth [byte/s] as GB/s or TB/s (decimal)."""
    return format_si(value, "B/s")


def format_flop_per_s(value: Any) -> str:
    """A rate of arithmetic [FLOP/s] as TFLOP/s or PFLOP/s."""
    return format_si(value, "FLOP/s")


def format_power(value: Any) -> str:
    """A power [W] as W, kW or MW."""
    return format_si(value, "W")


def format_energy(value: Any) -> str:
    """An energy [J] as J, kJ, MJ or GJ."""
    return format_si(value, "J")


def format_rate(value: Any, unit: str = "tokens/s") -> str:
    """A rate with thousands separators instead of a prefix, as people quote tokens per second."""
    number = _known(value)
    if number is None:
        return MISSING
    return f"{number:,.0f} {unit}" if abs(number) >= 1000 or number == 0 else format_si(number, unit)


def format_count(value: Any) -> str:
    """A count with thousands separators; halves are kept, since sharded counts need not be whole."""
    number = _known(value)
    if number is None:
        return MISSING
    return f"{number:,.0f}" if number == round(number) or math.isinf(number) else f"{number:,.2f}"


def format_fraction(value: Any) -> str:
    """A fraction [1] as a percentage; small non-zero shares become ``<0.1 %`` and never a plain zero."""
    number = _known(value)
    if number is None:
        return MISSING
    if 0 < number < 0.0005:
        return "<0.1 %"
    return f"{100 * number:.1f} %" if number else "0 %"


def axis_unit(largest: float, unit: str) -> tuple[float, str]:
    """The factor and the prefixed unit of an axis that must show numbers up to ``largest``.

    Returns
    -------
    tuple of float and str
        Divide the data by the first and name the axis with the second, for example ``(1e-3, "ms")``.
    """
    size = abs(largest)
    if not math.isfinite(size) or size == 0 or (unit == "s" and size >= 1):
        return 1.0, unit
    for factor, prefix in _PREFIXES:
        if size >= factor or (factor == 1.0 and unit in _WHOLE_ONLY):
            return factor, prefix + unit
    return _PREFIXES[-1][0], _PREFIXES[-1][1] + unit

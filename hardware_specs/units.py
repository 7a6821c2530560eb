"""Quantities as text with a unit, and the SI numbers they stand for.

A dimension is named by the suffix that names carry in the code: ``bytes_per_s``, ``flop``, ``w``.
Decimal prefixes are powers of ten (GB = 1e9 bytes); binary ones are powers of two (GiB = 2**30) and
exist for bytes and bits alone. One multiply-add counts as two FLOP.
"""

from __future__ import annotations

import math
import re

from hardware_specs.errors import Problem, SpecError, near_names, shorten
from hardware_specs.unit_table import UNITS, Unit

__all__ = ["TIME_EXPONENT", "exact_quantity", "format_quantity", "parse_override", "parse_quantity"]

TIME_EXPONENT: dict[str, int] = {name: unit.time_exponent for name, unit in UNITS.items()}
"""Power of k that a figure of this dimension takes when every duration is stretched k times.

Energy and bytes stay (0), a rate and a power fall (-1), a duration grows (+1). So does a price per time: -1.
"""

_NUMBER = r"[-+]?(?:[0-9]+(?:_[0-9]{3})*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_QUANTITY = re.compile(rf"^({_NUMBER})\s*(.*)$")
_FACTOR = re.compile(rf"^({_NUMBER})\s*[xX\u00d7]$")


def parse_quantity(text: object, dimension: str, *, path: str = "") -> float:
    """Turn text such as ``"3.35 TB/s"`` into an SI number.

    Parameters
    ----------
    text : str, or a number where the dimension has no unit
        Number, optional space, unit.
    dimension : str
        A key of `TIME_EXPONENT`, such as ``"bytes_per_s"``.
    path : str
        Where the text stands, for the message.

    Returns
    -------
    float
        The value in the SI unit that the dimension names. [the dimension]

    Raises
    ------
    SpecError
        If the unit is missing, unknown or of another dimension, or the number is not finite, is
        negative, or (for a fraction) above 1.

    Examples
    --------
    >>> parse_quantity("400 Gbit/s", "bytes_per_s")
    50000000000.0
    """
    unit = _unit_of(dimension)
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise _refuse(path, text, f"must be {_wanted(unit)}")
    if not isinstance(text, str):
        value = _checked(_as_float(text), unit, path, text)
        if not unit.bare:
            raise _without_unit(path, text, _number(value), unit)
        return value
    return _checked(_parse_text(text, unit, dimension, path), unit, path, text)


def parse_override(text_or_number: object, dimension: str, *, path: str = "") -> tuple[str, float]:
    """Read a replacement (``"3.35 TB/s"``) or a factor on the present value (``"1.5x"``).

    Parameters
    ----------
    text_or_number : str or number
        What the user wrote.
    dimension : str
        A key of `TIME_EXPONENT`.
    path : str
        Where it stands, for the message.

    Returns
    -------
    tuple of str and float
        ``("set", SI value)`` or ``("scale", factor)``. [the dimension; 1]

    Raises
    ------
    SpecError
        As `parse_quantity`; also for a factor that is not above 0.

    Examples
    --------
    >>> parse_override("1.5x", "bytes_per_s")
    ('scale', 1.5)
    """
    if isinstance(text_or_number, str) and (match := _FACTOR.match(text_or_number.strip())):
        factor = float(match[1])
        if not 0 < factor < math.inf:
            raise _refuse(path, text_or_number, "a factor must be above 0 and finite", 'write such as "1.5x"')
        return "scale", factor
    return "set", parse_quantity(text_or_number, dimension, path=path)


def format_quantity(value: float, dimension: str) -> str:
    """Text of an SI number that a person reads at once, and that `parse_quantity` accepts.

    Parameters
    ----------
    value : float
        In the SI unit of the dimension. [the dimension]
    dimension : str
        A key of `TIME_EXPONENT`.

    Returns
    -------
    str
        Four significant digits and a decimal prefix, such as ``"3.35 TB/s"``.

    Raises
    ------
    SpecError
        If the dimension is unknown.
    """
    unit = _unit_of(dimension)
    if not unit.prefixes:
        return _number(value)
    scale, prefix = next(
        ((scale, prefix) for scale, prefix in unit.prefixes if abs(value) >= scale * (1 - 5e-5)),
        unit.prefixes[-1] if value else (1.0, ""),
    )
    return f"{_number(value / scale)} {prefix}{unit.shown}"


def exact_quantity(value: float, dimension: str) -> str | float:
    """What to write in a file so that `parse_quantity` gives exactly ``value`` again.

    Parameters
    ----------
    value : float
        In the SI unit of the dimension. [the dimension]
    dimension : str
        A key of `TIME_EXPONENT`.

    Returns
    -------
    str or float
        All digits and the SI unit; a plain number where the dimension has no unit.

    Raises
    ------
    SpecError
        If the dimension is unknown.
    """
    unit = _unit_of(dimension)
    if unit.bare:
        return int(value) if value == int(value) and abs(value) < 1e15 else value
    base = next(name for name, factor in unit.factors.items() if factor == 1.0)
    return f"{value!r} {base}"


def _parse_text(text: str, unit: Unit, dimension: str, path: str) -> float:
    match = _QUANTITY.match(text.strip())
    if match is None:
        raise _refuse(path, text, f"must be {_wanted(unit)}")
    number, name = float(match[1].replace("_", "")), _normal(match[2])
    if name in unit.factors:
        return number * unit.factors[name]
    if not name:
        raise _without_unit(path, text, match[1], unit)
    for other_name, other in UNITS.items():
        if name in other.factors and other_name != dimension:
            rule = f"has a unit of {other_name}, but {dimension} is due"
            raise _refuse(path, text, rule, f'write such as "{unit.example}"')
    near = near_names(name, unit.factors, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise _refuse(path, text, f"has the unknown unit {shorten(name)}", f"{hint}accepted: {_accepted(unit)}")


def _checked(value: float, unit: Unit, path: str, text: object) -> float:
    if not math.isfinite(value):
        raise _refuse(path, text, "must be finite", f'write such as "{unit.example}"')
    if value < 0:
        raise _refuse(path, text, "must not be negative", f'write such as "{unit.example}"')
    if value > unit.maximum:
        fix = f"was {_number(value / 100)} meant?" if value <= 100 else "write such as 0.85"
        raise _refuse(path, text, "a fraction must lie between 0 and 1", fix)
    return value


def _unit_of(dimension: str) -> Unit:
    try:
        return UNITS[dimension]
    except KeyError:
        rule = "is not a dimension"
        raise _refuse("dimension", dimension, rule, f"known: {', '.join(UNITS)}") from None


def _normal(unit: str) -> str:
    """Undo harmless variants: spaces, ``/sec``, ``/second``, a hyphen."""
    unit = re.sub(r"\s+", "", unit)
    return re.sub(r"/(?:sec|second)$", "/s", unit)


def _wanted(unit: Unit) -> str:
    if unit.bare:
        return f"a number such as {unit.example}"
    return f'a number and a unit, such as "{unit.example}" (accepted: {_accepted(unit)})'


def _accepted(unit: Unit) -> str:
    """The spellings worth naming: those on the scale of catalog figures."""
    usual = [name for name in _SPELLINGS_SHOWN if name in unit.factors]
    return ", ".join(usual) if usual else unit.example


_SPELLINGS_SHOWN = (
    ("B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB")
    + ("B/s", "MB/s", "GB/s", "TB/s", "GiB/s", "Gbit/s", "Tbit/s")
    + ("FLOP", "GFLOP", "TFLOP", "GFLOP/s", "TFLOP/s", "PFLOP/s", "TOP/s")
    + ("Hz", "MHz", "GHz", "s", "ms", "us", "ns", "min", "h", "d", "W", "kW", "MW", "J", "kJ", "MJ", "kWh")
    + ("J/FLOP", "pJ/FLOP", "J/B", "pJ/B", "pJ/bit", "USD", "USD/s", "USD/h", "USD/J", "USD/kWh")
)


def _without_unit(path: str, text: object, number: str, unit: Unit) -> SpecError:
    usual = unit.example.split(" ", 1)[1]
    fix = f'write the unit too, such as "{number} {usual}" (accepted: {_accepted(unit)})'
    return _refuse(path, text, "is a number without a unit", fix)


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number of several hundred digits
        return math.inf


def _refuse(path: str, text: object, rule: str, fix: str = "") -> SpecError:
    shown = f'"{shorten(text)}"' if isinstance(text, str) else shorten(repr(text))
    return SpecError([Problem(path=path, value=shown, rule=rule, fix=fix)])

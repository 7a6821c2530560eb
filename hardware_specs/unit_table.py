"""The table behind `hardware_specs.units`: each dimension, its spellings, its limits, its time exponent."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["UNITS", "Unit"]

_SI = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21}
_SMALL = {"m": 1e-3, "u": 1e-6, "\u00b5": 1e-6, "\u03bc": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_PER_HOUR = {"h": 3600.0, "hour": 3600.0}
_BITS = 1 / 8


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One dimension: its unit for output, all accepted spellings with their factors, its limits."""

    shown: str  # base unit that output uses, with decimal prefixes
    factors: dict[str, float]
    example: str
    time_exponent: int
    prefixes: tuple[tuple[float, str], ...] = ()
    bare: bool = False  # a number without unit is legal
    maximum: float = math.inf


def _spellings(base_units: dict[str, float], *prefix_sets: dict[str, float]) -> dict[str, float]:
    """Every prefix before every base unit; a base unit may hold a denominator (``B/s``)."""
    return {
        prefix + unit: factor * scale
        for unit, scale in base_units.items()
        for prefixes in prefix_sets
        for prefix, factor in prefixes.items()
    }


_LARGE = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_TINY = ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"))
_BYTE_NAMES = {"B": 1.0, "byte": 1.0, "bytes": 1.0}
_BIT_NAMES = {"bit": _BITS, "bits": _BITS}
_FLOP_NAMES = {"FLOP": 1.0, "FLOPs": 1.0, "OP": 1.0, "OPs": 1.0}


def _byte_rates() -> dict[str, float]:
    names = {f"{unit}/s": scale for unit, scale in (_BYTE_NAMES | _BIT_NAMES).items()}
    return _spellings(names, _SI, _BINARY) | _spellings({"bps": _BITS}, _SI)


def _flop_rates() -> dict[str, float]:
    names = {f"{unit}/s": scale for unit, scale in _FLOP_NAMES.items()}
    # FLOPS and OPS are how datasheets write a rate; FLOPs (small s) is a count
    return _spellings(names | {"FLOPS": 1.0, "OPS": 1.0}, _SI)


def _energy_per(units: dict[str, float]) -> dict[str, float]:
    return _spellings({f"J/{unit}": 1 / scale for unit, scale in units.items()}, {"": 1.0}, _SMALL)


_SECONDS = _spellings({"s": 1.0}, {"": 1.0}, _SMALL) | {"min": 60.0, "d": 86400.0} | _PER_HOUR
_MONEY = {"USD": 1.0, "$": 1.0}
UNITS: dict[str, Unit] = {
    "bytes": Unit(
        shown="B",
        factors=_spellings(_BYTE_NAMES | _BIT_NAMES, _SI, _BINARY),
        example="80 GiB",
        time_exponent=0,
        prefixes=_LARGE,
    ),
    "bytes_per_s": Unit(
        shown="B/s", factors=_byte_rates(), example="3.35 TB/s", time_exponent=-1, prefixes=_LARGE
    ),
    "flop": Unit(
        shown="FLOP",
        factors=_spellings(_FLOP_NAMES, _SI),
        example="2 TFLOP",
        time_exponent=0,
        prefixes=_LARGE,
    ),
    "flop_per_s": Unit(
        shown="FLOP/s", factors=_flop_rates(), example="989 TFLOP/s", time_exponent=-1, prefixes=_LARGE
    ),
    "hz": Unit(
        shown="Hz",
        factors=_spellings({"Hz": 1.0}, _SI),
        example="1.41 GHz",
        time_exponent=-1,
        prefixes=_LARGE,
    ),
    "s": Unit(shown="s", factors=_SECONDS, example="2.5 us", time_exponent=1, prefixes=_TINY),
    "w": Unit(
        shown="W",
        factors=_spellings({"W": 1.0}, _SI, {"m": 1e-3}),
        example="700 W",
        time_exponent=-1,
        prefixes=_LARGE,
    ),
    "j": Unit(
        shown="J",
        factors=_spellings({"J": 1.0}, _SI, _SMALL) | _spellings({"Wh": 3600.0}, _SI),
        example="2 kJ",
        time_exponent=0,
        prefixes=_LARGE + _TINY[1:],
    ),
    "j_per_flop": Unit(
        shown="J/FLOP",
        factors=_energy_per(_FLOP_NAMES),
        example="0.6 pJ/FLOP",
        time_exponent=0,
        prefixes=_TINY,
    ),
    "j_per_byte": Unit(
        shown="J/B",
        factors=_energy_per(_BYTE_NAMES | _BIT_NAMES),
        example="35 pJ/B",
        time_exponent=0,
        prefixes=_TINY,
    ),
    "usd": Unit(
        shown="USD",
        factors=_MONEY | {"kUSD": 1e3, "MUSD": 1e6},
        example="30000 USD",
        time_exponent=0,
        prefixes=((1.0, ""),),
    ),
    "usd_per_s": Unit(
        shown="USD/h",
        factors={f"{m}/{t}": scale for m in _MONEY for t, scale in (("s", 1.0), ("h", 1 / 3600.0))},
        example="2.5 USD/h",
        time_exponent=-1,
        prefixes=((1 / 3600.0, ""),),
    ),
    "usd_per_j": Unit(
        shown="USD/kWh",
        factors={
            f"{m}/{e}": s for m in _MONEY for e, s in (("J", 1.0), ("kWh", 1 / 3.6e6), ("MWh", 1 / 3.6e9))
        },
        example="0.12 USD/kWh",
        time_exponent=0,
        prefixes=((1 / 3.6e6, ""),),
    ),
    "fraction": Unit(
        shown="", factors={"": 1.0, "%": 0.01}, example="0.85", time_exponent=0, bare=True, maximum=1.0
    ),
    "count": Unit(shown="", factors={"": 1.0}, example="132", time_exponent=0, bare=True),
}

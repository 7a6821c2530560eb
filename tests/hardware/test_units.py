"""Quantities: text with a unit to SI numbers and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware_specs.errors import SpecError
from hardware_specs.units import (
    TIME_EXPONENT,
    exact_quantity,
    format_quantity,
    parse_override,
    parse_quantity,
)

# SI by hand: decimal prefixes are powers of ten, binary ones powers of two, a byte is 8 bit
BY_HAND = [
    ("3.35 TB/s", "bytes_per_s", 3.35e12),
    ("400 Gbit/s", "bytes_per_s", 400e9 / 8),
    ("200 Gbps", "bytes_per_s", 200e9 / 8),
    ("2575 GiB/s", "bytes_per_s", 2575 * 1024**3),
    ("80 GB", "bytes", 80e9),
    ("80 GiB", "bytes", 80 * 1024**3),
    ("192KiB", "bytes", 192 * 1024),
    ("989 TFLOP/s", "flop_per_s", 989e12),
    ("989 TFLOPS", "flop_per_s", 989e12),
    ("3958 TOP/s", "flop_per_s", 3958e12),
    ("2 TFLOPs", "flop", 2e12),
    ("1.41 GHz", "hz", 1.41e9),
    ("1410 MHz", "hz", 1.41e9),
    ("2.5 us", "s", 2.5e-6),
    ("2.5 \u00b5s", "s", 2.5e-6),
    ("3 h", "s", 10800.0),
    ("700 W", "w", 700.0),
    ("10.2 kW", "w", 10200.0),
    ("0.6 pJ/FLOP", "j_per_flop", 0.6e-12),
    ("35 pJ/B", "j_per_byte", 35e-12),
    ("3.9 pJ/bit", "j_per_byte", 8 * 3.9e-12),
    ("1 kWh", "j", 3.6e6),
    ("2.5 USD/h", "usd_per_s", 2.5 / 3600),
    ("0.12 USD/kWh", "usd_per_j", 0.12 / 3.6e6),
    ("30000 USD", "usd", 30000.0),
    ("85 %", "fraction", 0.85),
    (0.85, "fraction", 0.85),
    ("1e3", "count", 1000.0),
    (132, "count", 132.0),
    ("1_000 GB", "bytes", 1e12),
]


@pytest.mark.parametrize(("text", "dimension", "expected"), BY_HAND)
def test_quantities_worked_out_by_hand(text: object, dimension: str, expected: float) -> None:
    assert parse_quantity(text, dimension) == pytest.approx(expected, rel=1e-15)


BAD = [
    ("80", "bytes", "number without a unit"),
    (80, "bytes", "number without a unit"),
    ("80 GB/s", "bytes", "unit of bytes_per_s, but bytes is due"),
    ("989 TFLOPs", "flop_per_s", "unit of flop, but flop_per_s is due"),
    ("nan W", "w", "must be a number and a unit"),
    (math.nan, "w", "must be finite"),
    (math.inf, "count", "must be finite"),
    ("1e400 GB", "bytes", "must be finite"),
    (10**400, "count", "must be finite"),
    ("-3 W", "w", "must not be negative"),
    (-1, "count", "must not be negative"),
    ("3 XB", "bytes", "unknown unit XB"),
    ("3 gb", "bytes", "unknown unit gb"),
    ("3 TiHz", "hz", "unknown unit TiHz"),
    ("GB", "bytes", "must be a number and a unit"),
    ("", "bytes", "must be a number and a unit"),
    ("1,000 GB", "bytes", "unknown unit"),
    (True, "count", "must be a number"),
    (None, "w", "must be a number and a unit"),
    ([1], "w", "must be a number and a unit"),
    (85, "fraction", "was 0.85 meant?"),
    ("85", "fraction", "was 0.85 meant?"),
    (1.5, "fraction", "between 0 and 1"),
]


@pytest.mark.parametrize(("text", "dimension", "rule"), BAD)
def test_bad_quantities_are_refused_with_their_path(text: object, dimension: str, rule: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_quantity(text, dimension, path="system.x")
    (problem,) = caught.value.problems
    assert problem.path == "system.x"
    assert rule in str(problem)


def test_the_message_says_what_is_accepted() -> None:
    with pytest.raises(SpecError, match=r'write the unit too, such as "80 GiB" \(accepted: B, kB, MB, GB'):
        parse_quantity("80", "bytes")


def test_an_unknown_dimension_is_an_error() -> None:
    with pytest.raises(SpecError, match="is not a dimension"):
        parse_quantity("3 W", "watt")


def test_overrides_set_or_scale() -> None:
    assert parse_override("3.35 TB/s", "bytes_per_s") == ("set", 3.35e12)
    assert parse_override("1.5x", "bytes_per_s") == ("scale", 1.5)
    assert parse_override(" 2 x ", "count") == ("scale", 2.0)
    assert parse_override(64, "count") == ("set", 64.0)


@pytest.mark.parametrize("text", ["0x", "-1x", "1e999x", "x", "1.5y", "nanx"])
def test_bad_factors_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_override(text, "bytes_per_s")


def test_time_exponents_follow_the_name() -> None:
    for dimension, exponent in TIME_EXPONENT.items():
        if dimension == "w" or dimension == "hz" or dimension.endswith("_per_s"):
            assert exponent == -1, dimension
        else:
            assert exponent == (1 if dimension == "s" else 0), dimension


@given(
    st.sampled_from(sorted(TIME_EXPONENT)),
    st.floats(min_value=1e-18, max_value=1e24, allow_nan=False),
)
def test_text_and_number_agree(dimension: str, value: float) -> None:
    value = min(value, 1.0) if dimension == "fraction" else value
    assert parse_quantity(exact_quantity(value, dimension), dimension) == value
    # four digits survive the text for people
    assert parse_quantity(format_quantity(value, dimension), dimension) == pytest.approx(value, rel=5.1e-4)


@given(st.text(max_size=30), st.sampled_from(sorted(TIME_EXPONENT)))
def test_any_text_is_a_number_or_a_spec_error(text: str, dimension: str) -> None:
    try:
        value = parse_quantity(text, dimension)
    except SpecError as error:
        assert len(error.problems) == 1
    else:
        assert math.isfinite(value) and value >= 0


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (3.35e12, "bytes_per_s", "3.35 TB/s"),
        (0.0, "w", "0 W"),
        (2.5e-6, "s", "2.5 us"),
        (999.99e9, "bytes", "1 TB"),
        (6e-13, "j_per_flop", "600 fJ/FLOP"),
        (132.0, "count", "132"),
        (2 / 3600, "usd_per_s", "2 USD/h"),
    ],
)
def test_text_for_people(value: float, dimension: str, text: str) -> None:
    assert format_quantity(value, dimension) == text
